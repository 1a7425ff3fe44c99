"""An evaluation as tables of text, for the terminal and for the page."""

from ensemble.streams import STREAMS
from forensics.common.report import Table, interval
from forensics.common.scoring.scores import TITLES
from forensics.evaluate.measures import Evaluation
from forensics.evaluate.videos import VideoRules

_TO = "\u2009:\u2009"


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """All tables, the most important first."""
    return [
        _ranking(evaluation),
        _decisions(evaluation),
        _challenge(evaluation),
        *([] if evaluation.videos is None else [_videos(evaluation.videos)]),
        _contributions(evaluation),
        _agreement(evaluation),
        _weights(evaluation),
    ]


def _ranking(evaluation: Evaluation) -> Table:
    return Table(
        "Ranking and calibration",
        "ROC AUC with its interval of 95 %, average precision and equal error rate say how well fake images are ranked "
        "above real ones; expected calibration error (ECE, 15 bins) and Brier score how far the scores can be read as "
        "probabilities.",
        ("", "ROC AUC", "AP", "EER", "ECE", "Brier"),
        [
            (
                TITLES[name],
                interval(each.auc),
                f"{each.average_precision:.4f}",
                f"{each.equal_error_rate:.2%}",
                f"{each.calibration_error:.4f}",
                f"{each.brier:.4f}",
            )
            for name, each in evaluation.measures.items()
        ],
    )


def _decisions(evaluation: Evaluation) -> Table:
    rows = []
    for name, each in evaluation.measures.items():
        counts = each.at_half
        numbers = (counts.true_fake, counts.false_real, counts.false_fake, counts.true_real, each.undecided)
        best = (f"{each.best_threshold:.4f}", f"{each.at_best.accuracy:.2%}")
        rows.append((TITLES[name], f"{counts.accuracy:.2%}", *(f"{number}" for number in numbers), *best))
    return Table(
        "Decisions",
        "Called fake above 0.5: fake images caught or missed, real ones accused or cleared; those at exactly 0.5 count "
        "as called real. Then the threshold of the highest accuracy on these very images: on others it does worse.",
        (
            *("", "accuracy", "caught", "missed", "accused", "cleared", "at 0.5"),
            *("best at", "accuracy"),
        ),
        rows,
    )


def _challenge(evaluation: Evaluation) -> Table:
    numbers = evaluation.challenge.values()
    videos = any(each.rounded.video_auc is not None for each in numbers)
    rows = []
    for name, each in evaluation.challenge.items():
        cells = [f"{each.rounded.auc:.4f}", f"{each.unrounded.auc:.4f}"]
        cells += [f"{each.rounded.accuracy:.2%}", f"{each.unrounded.accuracy:.2%}"]
        if videos:
            cells += [_optional(value.video_auc, ".4f") for value in (each.rounded, each.unrounded)]
        rows.append((TITLES[name], *cells))
    by_video = " A video's score is the mean of its frames'." if videos else ""
    return Table(
        "Challenge numbers",
        "As the authors compute them: every prediction is first rounded to one decimal, then ROC AUC is taken, and the "
        f"accuracy with fake above 0.5. Beside them the same numbers of the predictions as they are.{by_video}",
        (
            *("", "AUC, rounded", "AUC", "accuracy, rounded", "accuracy"),
            *(("video AUC, rounded", "video AUC") if videos else ()),
        ),
        rows,
    )


def _videos(videos: VideoRules) -> Table:
    return Table(
        f"Videos: {videos.real} real and {videos.fake} fake ones, one score from many frames",
        f"By the unrounded mean of the frames. The worst window, {videos.window} consecutive frames with the highest "
        "mean, is what the client judges videos by, there for each face. Gain: ROC AUC above it, on the same resampled "
        "videos; an interval that holds 0 shows nothing. Accuracy with fake above 0.5, and real videos accused by it.",
        ("", "ROC AUC", "gain", "accuracy", "accused"),
        [
            (each.name, interval(each.auc), interval(each.gain, True), f"{each.accuracy:.2%}", f"{each.accused}")
            for each in videos.rules
        ],
    )


def _contributions(evaluation: Evaluation) -> Table:
    rows = [(f"{TITLES[name]} adds", interval(each, True)) for name, each in evaluation.contributions.items()]
    return Table(
        "What each part is worth, in ROC AUC",
        "A stream: the unrounded mean of all streams, less the mean without it. Rounding: the unrounded mean, less the "
        "vote. Both on the same resampled images; an interval that holds 0 shows nothing.",
        ("", "ROC AUC"),
        [*rows, ("Rounding costs", interval(evaluation.rounding_cost, True))],
    )


def _agreement(evaluation: Evaluation) -> Table:
    return Table(
        "Agreement between streams",
        "Share of images that two votes call the same; that beyond chance (Cohen's κ); rank correlation of their "
        "probabilities (Spearman); share that both call wrongly, which no vote of the two can mend.",
        ("", "same call", "κ", "rank correlation", "both wrong"),
        [
            (
                " and ".join(TITLES[name] for name in each.streams),
                f"{each.same_call:.2%}",
                _optional(each.kappa),
                _optional(each.rank_correlation),
                f"{each.both_wrong:.2%}",
            )
            for each in evaluation.agreement
        ],
    )


def _weights(evaluation: Evaluation) -> Table:
    order = _TO.join(stream.title.split()[-1].lower() for stream in STREAMS)
    return Table(
        f"Every subset of streams, and other weights ({order})",
        "ROC AUC of the unrounded weighted mean and of the vote, and what the mean gains on the one in force, on the "
        "same resampled images. The best of so many is partly luck: `calibrate` tests it by cross-validation.",
        ("weights", "mean", "vote", "gain of the mean"),
        [
            (
                _TO.join(map(str, each.weights)),
                interval(each.mean_auc),
                interval(each.vote_auc),
                interval(each.gain, True),
            )
            for each in evaluation.weight_choices
        ],
    )


def _optional(value: float | None, form: str = ".3f") -> str:
    return "undefined" if value is None else f"{value:{form}}"
