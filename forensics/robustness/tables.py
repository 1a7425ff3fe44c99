"""A robustness study as tables of text, for the terminal and for the page."""

from collections.abc import Callable, Sequence

from ensemble.streams import STREAMS
from forensics.common.metrics import Estimate
from forensics.common.report import Table, interval
from forensics.common.scoring.scores import TITLES
from forensics.robustness.measures import LevelMeasures, SweepMeasures

_STREAM_TITLES = tuple(stream.title for stream in STREAMS)


def summary_table(sweeps: Sequence[SweepMeasures]) -> Table:
    """What every sweep does at its worst, column by column: what fits a terminal."""
    if sweeps[0].clean.auc is not None:
        return Table(
            "ROC AUC, clean and at the level where it is lowest",
            "Lost: the first less the second, with its interval of 95 % on the same resampled images. The level was "
            "picked for being the lowest, so with few images part of the loss is luck.",
            ("", "clean", "lowest", "lost", "at"),
            [(f"{sweep.title}: {TITLES[name]}", *_fall(sweep, name)) for sweep in sweeps for name in TITLES],
        )
    return Table(
        "Calls and scores at the most severe level",
        "Flips: share of the images whose call (above, below or at 0.5; of a stream: its vote) is not the clean one. "
        "Shift: mean of the scores less the clean ones, with its interval of 95 %.",
        ("", "flips", "shift", "at"),
        [
            (
                f"{sweep.title}: {TITLES[name]}",
                f"{sweep.levels[-1].flips[name].value:.1%}",
                interval(sweep.levels[-1].shift[name], True),
                f"{sweep.levels[-1].level:g}",
            )
            for sweep in sweeps
            for name in TITLES
        ],
    )


def sweep_tables(sweep: SweepMeasures) -> list[Table]:
    """All numbers of one sweep."""
    tables = []
    if sweep.clean.auc is not None:
        tables += [
            _levels(
                sweep,
                "ROC AUC",
                "With its interval of 95 %.",
                lambda each: [interval((each.auc or {})[name]) for name in TITLES],
            ),
            _levels(
                sweep,
                "ROC AUC lost",
                "That of the clean images, less this one, on the same resampled images; an interval that holds 0 shows "
                "nothing.",
                lambda each: [interval((each.auc_loss or {})[name], True) for name in TITLES],
            ),
        ]
    return [
        *tables,
        _levels(
            sweep,
            "Flips",
            "Share of the images whose call is not the clean one, with its interval.",
            lambda each: [_share(each.flips[name]) for name in TITLES],
        ),
        _levels(
            sweep,
            "Shift of the scores",
            "Mean of the scores less the clean ones; then the mean distance, without sign.",
            lambda each: [f"{interval(each.shift[n], True)}  {each.distance[n].value:.4f}" for n in TITLES],
        ),
        _stability(sweep),
    ]


def _fall(sweep: SweepMeasures, name: str) -> tuple[str, str, str, str]:
    def auc(each: LevelMeasures) -> float:
        return (each.auc or {})[name].value

    worst = min(sweep.levels, key=auc)
    lost = (worst.auc_loss or {})[name]
    return (
        f"{auc(sweep.clean):.3f}",
        f"{auc(worst):.3f}",
        f"{lost.value:+.2f} [{lost.low:+.2f}, {lost.high:+.2f}]",
        f"{worst.level:g}",
    )


def _levels(sweep: SweepMeasures, title: str, note: str, cells: Callable[[LevelMeasures], list[str]]) -> Table:
    return Table(
        title, note, (sweep.quantity, *TITLES.values()), [(_level(each), *cells(each)) for each in _states(sweep)]
    )


def _stability(sweep: SweepMeasures) -> Table:
    return Table(
        "Features and attention",
        "Mean cosine of each stream's DINOv2 feature with that of the clean image; mean entropy of the last block's "
        "CLS attention over the patches, in nats (at most ln 324 = 5.781 at 252 px and ln 256 = 5.545 at 224 px); of "
        "the images with a face when clean, the share where it is still found in its place (overlap of 0.5 or more).",
        (
            sweep.quantity,
            *(f"cosine, {title}" for title in _STREAM_TITLES),
            *(f"entropy, {title}" for title in _STREAM_TITLES),
            "same face",
        ),
        [
            (
                _level(each),
                *(interval(each.cosine[stream.name]) for stream in STREAMS),
                *(interval(each.entropy[stream.name]) for stream in STREAMS),
                "no faces" if each.same_face is None else f"{each.same_face:.1%}",
            )
            for each in _states(sweep)
        ],
    )


def _states(sweep: SweepMeasures) -> list[LevelMeasures]:
    return [sweep.clean, *sweep.levels]


def _level(each: LevelMeasures) -> str:
    return "clean" if each.level is None else f"{each.level:g}"


def _share(value: Estimate) -> str:
    return f"{value.value:.1%} [{max(value.low, 0):.1%}, {min(value.high, 1):.1%}]"
