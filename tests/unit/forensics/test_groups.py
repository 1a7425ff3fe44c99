"""Images of one person, photograph or video: counted, drawn and held out whole, in evaluation and calibration alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.calibration import PAPER_VOTE, Vote
from forensics.calibrate.decisions import BRIER, ROC_AUC, Trial
from forensics.calibrate.fit import FOLDS, LEAST_OF_A_CLASS, Fit, assign_folds, fit_vote
from forensics.calibrate.operating_points import find_operating_points, find_support, proportion_interval
from forensics.calibrate.report import NOT_SUPPORTED, calibration_tables, describe_groups, why_missing
from forensics.common.dataset import read_dataset
from forensics.common.groups import count_groups, count_independent, resample
from forensics.common.metrics import Estimate, brier_score, roc_auc
from forensics.common.progress import silent
from forensics.common.scoring.scores import Scores, collect
from forensics.evaluate.measures import evaluate
from tests.calibration_data import simulate

GROUPED = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def arrays(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for label, _ in rows]), np.array([group for _, group in rows])


def repeated(scores: Scores, times: int) -> Scores:
    """Every image as often as that, the copies of one being one group."""
    columns = {name: None if each is None else np.repeat(each, times, axis=0) for name, each in vars(scores).items()}
    return Scores(**columns | {"groups": np.repeat(np.arange(len(scores.labels)), times)})


def without_groups(scores: Scores) -> Scores:
    return replace(scores, groups=None)


def gained(vote: Vote, scores: Scores) -> tuple[float, float]:
    """What a vote gains over the paper's on images: ROC AUC of the vote, Brier score of the mean."""
    other = vote.score(scores.streams)
    return (
        roc_auc(scores.labels, other.score.astype(float)) - roc_auc(scores.labels, scores.vote),
        brier_score(scores.labels, scores.mean) - brier_score(scores.labels, other.probability.astype(float)),
    )


# Where groups come from


def test_groups_are_named_by_a_column_by_the_video_or_by_a_subfolder(tmp_path: Path) -> None:
    for name in ("real/ann/1.png", "real/ann/2.png", "real/b.png", "fake/ann/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [image.group for image in read_dataset(tmp_path)] == ["real/ann", "real/ann", None, "fake/ann"]
    table = tmp_path / "labels.csv"
    table.write_text("path,label,group,video\na.png,real,ann,x\nb.png,fake,ann,y\nc.png,real,,z\nd.png,real,,\n")
    images = read_dataset(table)
    assert [image.group for image in images] == ["ann", "ann", "z", None]  # a person may be real and fake
    streams = {
        name: {"probability": 0.5, "vote": 0.5} for name in ("global_texture", "local_facial", "semantic_fusion")
    }
    rows = [{"path": str(i.path), "status": "ok", "score": 0.5, "probability": 0.5, "streams": streams} for i in images]
    scores, _ = collect(images, rows)
    assert scores.groups is not None
    assert scores.groups.tolist() == [0, 0, 1, 2]
    unnamed, _ = collect([replace(image, group=None) for image in images], rows)
    assert unnamed.groups is None
    assert (unnamed.independent_real, unnamed.independent_fake) == (3, 1)


# Counting, drawing, splitting


def test_a_group_counts_once_and_less_where_another_holds_most_images() -> None:
    everything = np.ones(80, np.bool_)
    assert count_independent(everything, None) == 80
    assert count_independent(everything, np.arange(80) // 4) == 20
    assert count_independent(everything, np.maximum(np.arange(80) - 60, 0)) == 1  # 61 of 80 in one of twenty groups
    assert count_independent(np.arange(80) < 40, np.arange(80) // 4) == 10
    assert count_independent(~everything, np.arange(80)) == 0


@given(GROUPED)
def test_images_are_worth_at_least_one_and_at_most_their_groups(rows: list[tuple[bool, int]]) -> None:
    labels, groups = arrays(rows)
    for kind in (labels, ~labels):
        assert 1 <= count_independent(kind, groups) <= count_groups(kind, groups) <= kind.sum()


@given(GROUPED)
def test_whole_groups_are_drawn_and_both_kinds_are_always_there(rows: list[tuple[bool, int]]) -> None:
    labels, groups = arrays(rows)
    for counts in resample(labels, groups, 20, seed=1):
        assert counts[labels].any()
        assert counts[~labels].any()
        drawn = [set(counts[groups == group]) for group in np.unique(groups)]
        assert all(len(each) == 1 for each in drawn)
        assert sum(each.pop() for each in drawn) == len(drawn)


@given(GROUPED)
def test_no_group_is_in_two_folds_and_folds_are_even(rows: list[tuple[bool, int]]) -> None:
    labels, groups = arrays(rows)
    folds = assign_folds(labels, groups, seed=2)
    by_group = {group: set(folds[groups == group]) for group in np.unique(groups)}
    assert all(len(each) == 1 for each in by_group.values())
    sizes = np.bincount([each.pop() for each in by_group.values()], minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 1


# Copies add nothing: what is said of groups is what is said of one image each


def test_copies_of_every_image_narrow_no_interval_and_change_no_decision() -> None:
    once = simulate(240, temperatures=(4, 1, 1))
    copied = repeated(once, 5)
    for measure in (ROC_AUC, BRIER):
        plain, grouped = (
            Trial(each.labels, 200, 3, silent, each.groups).gain(measure, each.vote, each.mean)
            for each in (once, copied)
        )
        assert (grouped.low, grouped.high) == pytest.approx((plain.low, plain.high))
    fits = [fit_vote(each, resamples=200) for each in (once, copied)]
    assert [each.choice for each in fits[0].decisions] == [each.choice for each in fits[1].decisions]
    assert fits[0].conclusion == fits[1].conclusion
    temperatures = [each.decisions[0].candidates[0].gain for each in fits]
    assert (temperatures[0].low, temperatures[0].high) == pytest.approx((temperatures[1].low, temperatures[1].high))
    assert "map, Global Texture" in fits[0].conclusion
    first, second = (
        find_operating_points(each.labels, each.mean, [0.05], resamples=200, groups=each.groups)
        for each in (once, copied)
    )
    assert first[0].false_alarm_interval == pytest.approx(second[0].false_alarm_interval)
    assert first[0].detection_interval == pytest.approx(second[0].detection_interval)
    assert first[0].threshold_interval == pytest.approx(second[0].threshold_interval)
    areas = [evaluate(each, resamples=100).measures["mean"].auc for each in (once, copied)]
    assert (areas[0].low, areas[0].high) == pytest.approx((areas[1].low, areas[1].high))


# Calibration


def test_few_groups_leave_the_vote_alone_however_many_their_images() -> None:
    """Two photographs call for a vote that other photographs do not; named as two, they change nothing."""
    others = simulate(4000, per_group=4, spread=2, seed=99)
    for seed in range(2):
        two = simulate(160, per_group=80, spread=2, seed=seed)
        fit = fit_vote(two, resamples=100)
        assert fit.vote == PAPER_VOTE
        assert f"(2 real and 2 fake groups, at least {LEAST_OF_A_CLASS} of each are needed)" in fit.conclusion
        assert "add images of other people, photographs or videos" in fit.conclusion
        taken_for_independent = fit_vote(without_groups(two), resamples=100).vote
        assert gained(taken_for_independent, others)[1] < -0.02


def test_many_groups_calibrate_and_it_helps_groups_never_seen() -> None:
    unsure = (0.3, 0.3, 0.3)  # as focal loss leaves them
    fit = fit_vote(simulate(600, temperatures=unsure, per_group=5, spread=0.5), resamples=200)
    assert fit.vote != PAPER_VOTE
    assert "map, Global Texture; map, Localized Facial; map, Hybrid Semantic Fusion" in fit.conclusion
    area, brier = gained(fit.vote, simulate(4000, temperatures=unsure, per_group=5, spread=0.5, seed=9))
    assert area > 0.01
    assert brier > 0.03
    assert len(fit.left_out) == FOLDS
    assert all(vote != PAPER_VOTE for _, vote in fit.left_out)


def test_a_vote_whose_whole_gains_nothing_for_certain_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(whole: Estimate) -> Fit:
        def gain(self: Trial, measure: str, old: object, new: object, confidence: float | None = None) -> Estimate:
            return Estimate(0.1, 0.05, 0.15) if confidence is not None else whole

        monkeypatch.setattr(Trial, "gain", gain)
        return fit_vote(simulate(2 * LEAST_OF_A_CLASS), resamples=100)

    kept = fitted(Estimate(0.1, -0.01, 0.15))
    assert kept.vote == PAPER_VOTE
    assert "in nothing for certain" in kept.conclusion
    assert fitted(Estimate(0.1, 0.01, 0.15)).vote != PAPER_VOTE


# Operating points


def test_a_rate_is_supported_by_groups_not_by_images() -> None:
    scores = simulate(2000, per_group=40, spread=1)  # 1000 real images of 50 groups
    points = find_operating_points(scores.labels, scores.mean, [0.01, 0.02], resamples=100, groups=scores.groups)
    assert [point.far for point in points] == [0.02]
    support = find_support(scores.labels, [0.02, 0.01], [], scores.groups)
    assert [(each.far, each.needed, each.independent, each.supported) for each in support] == [
        (0.01, 100, 50, False),
        (0.02, 50, 50, True),
    ]
    assert points[0].false_alarm_interval[1] > proportion_interval(0, 50)[1] > 3 / 50


def test_intervals_over_groups_hold_the_rate_of_further_groups() -> None:
    others = simulate(20_000, per_group=20, spread=1.5, seed=1000)
    real, held, held_as_images = others.mean[~others.labels], 0, 0
    for seed in range(100):
        scores = simulate(800, per_group=20, spread=1.5, seed=seed)
        for groups in (scores.groups, None):
            (point,) = find_operating_points(scores.labels, scores.mean, [0.1], resamples=1, groups=groups)
            low, high = point.false_alarm_interval
            if groups is None:
                held_as_images += low <= np.mean(real > point.threshold) <= high
            else:
                held += low <= np.mean(real > point.threshold) <= high
    assert held >= 93
    assert held_as_images < 80


def test_the_rate_on_groups_left_out_shows_what_one_photograph_says_of_another() -> None:
    labels = np.arange(200) % 2 == 1
    groups = np.arange(200) // 100
    scores = np.where(groups == 0, 0.2, 0.6) + 0.1 * np.random.default_rng(0).random(200)
    left_out = [(groups == group, scores) for group in (0, 1)]
    (support,) = find_support(labels, [0.05], left_out, groups)
    assert support.left_out is not None
    assert support.left_out.value == 0.5  # all of the second by the first's threshold, none of the first
    assert (support.left_out.low, support.left_out.high) == pytest.approx(proportion_interval(1, 2))
    (alone,) = find_support(labels, [0.05], left_out[:1], np.zeros(200, np.int64))
    assert alone.left_out is None


def test_independent_images_keep_their_rate_when_left_out() -> None:
    scores = simulate(4000)
    folds = assign_folds(scores.labels, seed=0)
    for support in find_support(scores.labels, [0.05, 0.1], [(folds == fold, scores.mean) for fold in range(FOLDS)]):
        assert support.left_out is not None
        assert support.left_out.value == pytest.approx(support.far, abs=0.015)
        assert support.left_out.low < support.far < support.left_out.high


# What is said


def test_what_is_not_supported_is_marked_with_its_reason() -> None:
    scores = simulate(160, per_group=80, spread=1)
    fit = fit_vote(scores, resamples=100)
    left_out = [(held, vote.score(scores.streams).probability.astype(float)) for held, vote in fit.left_out]
    support = find_support(scores.labels, [0.05], left_out, scores.groups)
    reason = why_missing(support[0], scores)
    assert "No operating point far=0.05: 20 real groups are needed, 2 are there." in reason
    assert "On groups left out, false alarms were" in reason
    assert "add real images of other people, photographs or videos" in reason
    (table,) = calibration_tables(fit, (), support)
    assert table.rows[0][:3] == ("far=0.05", "20", "2")
    assert table.rows[0][-1] == NOT_SUPPORTED
    assert table.rows[0][-2] in reason
    assert "which allow 1 in 2 at the lowest" in reason
    assert why_missing(replace(support[0], independent=20), scores) == ""
    alone = why_missing(replace(support[0], left_out=None), without_groups(scores))
    assert "20 real images are needed, 2 are there. The rate is" in alone


def test_it_is_said_what_is_taken_as_independent() -> None:
    assert "every image is taken as independent" in describe_groups(simulate(20))
    assert "10 real images are of 5 groups; 10 fake images are of 5 groups" in describe_groups(
        simulate(20, per_group=4)
    )
    uneven = replace(simulate(20), groups=np.maximum(np.arange(20) - 10, 0))
    assert "10 fake images are of 5 groups, which count as 2" in describe_groups(uneven)
