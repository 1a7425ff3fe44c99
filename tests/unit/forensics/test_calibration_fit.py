"""What is fitted on simulated scores: known temperatures come back, and nothing changes without a certain gain."""

from itertools import pairwise

import numpy as np
import pytest

from ensemble.calibration import PAPER_VOTE, Isotonic, NoMap, Platt, Temperature, logit, round_to
from ensemble.streams import STREAMS
from forensics.calibrate import fit as fit_module
from forensics.calibrate.decisions import BRIER, ROC_AUC, Trial
from forensics.calibrate.fit import FOLDS, LEAST_OF_A_CLASS, Fit, assign_folds, count_rounds, fit_vote, fit_weights
from forensics.calibrate.maps import FITTERS, fit_isotonic, fit_platt, fit_temperature
from forensics.calibrate.operating_points import (
    find_operating_points,
    find_support,
    images_needed,
    proportion_interval,
)
from forensics.common.metrics import Estimate, brier_score, expected_calibration_error
from forensics.common.progress import silent
from forensics.common.scoring.scores import Scores
from tests.calibration_data import simulate


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_comes_back(temperature: float) -> None:
    scores = simulate(20_000, temperatures=(temperature, 1, 1))
    column = scores.streams[:, 0]
    fitted = fit_temperature(column, scores.labels)
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    assert expected_calibration_error(scores.labels, fitted(column).astype(float)) < 0.02


def test_a_known_slope_and_shift_come_back() -> None:
    scores = simulate(20_000, temperatures=(1, 2, 1), biases=(0, 1, 0))
    fitted = fit_platt(scores.streams[:, 1], scores.labels)
    assert fitted.slope == pytest.approx(0.5, rel=0.06)
    assert fitted.intercept == pytest.approx(-0.5, abs=0.05)


def test_isotonic_undoes_any_rising_distortion() -> None:
    scores = simulate(20_000)
    distorted = (scores.streams[:, 0] ** 3).astype(np.float32)
    fitted = fit_isotonic(distorted, scores.labels)
    assert expected_calibration_error(scores.labels, distorted.astype(float)) > 0.1
    assert expected_calibration_error(scores.labels, fitted(distorted).astype(float)) < 0.02


def test_separable_and_backward_streams_stay_finite_and_keep_their_direction() -> None:
    labels = np.arange(200) < 100
    for column in (np.where(labels, 1, 0), np.where(labels, 0.1, 0.9), np.full(200, 0.5)):
        for fit in (fit_temperature, fit_platt, fit_isotonic):
            mapped = fit(column.astype(np.float32), labels)(np.float32([0, 0.3, 0.7, 1]))
            assert np.isfinite(mapped).all()
            assert (np.diff(mapped) >= 0).all()


def test_folds_hold_each_class_evenly() -> None:
    labels = np.arange(103) < 33
    folds = assign_folds(labels, seed=3)
    for members in (folds[labels], folds[~labels]):
        counts = np.bincount(members, minlength=FOLDS)
        assert counts.max() - counts.min() <= 1


def test_weights_go_to_the_stream_that_knows_and_stay_the_papers_on_a_tie() -> None:
    scores = simulate(2000, strengths=(0.0, 3.0, 0.0))
    weights = fit_weights(scores.streams, scores.labels)
    assert weights[1] / sum(weights) >= 0.6
    same = np.repeat(scores.streams[:, 1:2], 3, axis=1)
    assert fit_weights(same, scores.labels) == (4, 2, 4)


def test_too_little_data_changes_nothing_and_says_so() -> None:
    fit = fit_vote(simulate(2 * LEAST_OF_A_CLASS - 2, temperatures=(9, 9, 9)), resamples=100)
    assert fit.vote == PAPER_VOTE
    assert fit.decisions == ()
    assert "too small to change anything (49 real and 49 fake images, at least 50 of each" in fit.conclusion


def test_scores_that_need_no_calibration_keep_the_papers_maps() -> None:
    for seed in range(2):
        fit = fit_vote(simulate(300, seed=seed), resamples=200, seed=seed)
        assert fit.vote.maps == (NoMap(), NoMap(), NoMap())


def test_labels_at_random_leave_weights_and_step_alone() -> None:
    for seed in range(3):
        vote = fit_vote(simulate(300, strengths=(0.0, 0.0, 0.0), seed=seed), resamples=100).vote
        assert (vote.weights, vote.rounding_step) == (PAPER_VOTE.weights, PAPER_VOTE.rounding_step)


def test_an_overconfident_stream_gets_its_temperature() -> None:
    calls = []
    scores = simulate(1600, temperatures=(3, 1, 1))
    fit = fit_vote(scores, resamples=200, advance=lambda: calls.append(None))
    assert [each.choice for each in fit.decisions[:3]] == ["temperature", "none", "none"]
    assert isinstance(fit.vote.maps[0], Temperature)
    assert fit.vote.maps[0].temperature == pytest.approx(3, rel=0.15)
    assert "map, Global Texture" in fit.conclusion
    assert fit.decisions[0].candidates[0].gain.low > 0
    assert {name.rpartition(", ")[2] for name in fit.gains} == {ROC_AUC, BRIER}
    assert len(calls) == count_rounds(scores) * 200


def test_isotonic_is_tried_with_data_enough_only() -> None:
    few, enough = (fit_vote(simulate(count), resamples=100).decisions[0] for count in (998, 1000))
    assert [each.name for each in few.candidates] == [Temperature.kind, Platt.kind]
    assert [each.name for each in enough.candidates] == [Temperature.kind, Platt.kind, Isotonic.kind]


def test_a_candidate_must_beat_the_one_in_force() -> None:
    labels = np.arange(400) < 200
    rng = np.random.default_rng(0)
    noisy, better = (labels + noise * rng.normal(size=400) for noise in (2.0, 0.3))
    decision = Trial(labels, 200, 0, silent).decide(
        "which", ROC_AUC, {"paper": noisy, "better": better, "no better than that": better, "worse": noisy}
    )
    assert [each.adopted for each in decision.candidates] == [True, False, False]
    assert decision.choice == "better"
    assert decision.candidates[1].gain.value == 0


def test_gain_in_brier_score_is_its_decrease() -> None:
    scores = simulate(500, temperatures=(4, 1, 1))
    old = scores.streams[:, 0].astype(float)
    new = 1 / (1 + np.exp(-logit(old) / 4))
    gain = Trial(scores.labels, 200, 0, silent).gain(BRIER, old, new)
    assert gain.value == pytest.approx(brier_score(scores.labels, old) - brier_score(scores.labels, new))
    assert 0 < gain.low < gain.value < gain.high


def test_clopper_pearson_of_known_counts() -> None:
    assert proportion_interval(0, 10) == (0.0, pytest.approx(0.3084971, abs=1e-6))
    assert proportion_interval(10, 10) == (pytest.approx(0.6915029, abs=1e-6), 1.0)
    assert proportion_interval(5, 10) == pytest.approx((0.1870860, 0.8129140), abs=1e-6)


def test_operating_points_keep_their_rate_by_the_lowest_threshold() -> None:
    scores = simulate(2000)
    points = find_operating_points(scores.labels, scores.mean, [0.1, 0.01, 0.0001], resamples=200)
    assert [point.far for point in points] == [0.01, 0.1]  # 1000 real images cannot tell 0.0001
    assert images_needed(0.0001) == 10_000
    real = scores.mean[~scores.labels]
    for point in points:
        assert point.threshold in real
        assert np.mean(real > point.threshold) == point.false_alarm_rate <= point.far
        assert np.mean(real >= point.threshold) > point.far  # any lower threshold breaks the rate
        assert point.false_alarm_interval[0] < point.far < point.false_alarm_interval[1]
        assert point.threshold_interval[0] <= point.threshold <= point.threshold_interval[1]
        assert point.detection_rate == np.mean(scores.mean[scores.labels] > point.threshold)


def test_ties_never_break_a_rate() -> None:
    labels = np.arange(40) < 20
    scores = np.where(labels, 0.9, np.repeat([0.1, 0.8], 20))
    (point,) = find_operating_points(labels, scores, [0.5], resamples=100)
    assert (point.threshold, point.false_alarm_rate, point.detection_rate) == (0.8, 0.0, 1.0)


def test_intervals_of_false_alarms_hold_the_true_rate() -> None:
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scores = rng.random(220)
        (point,) = find_operating_points(np.arange(220) < 20, scores, [0.05], resamples=1)
        held += point.false_alarm_interval[0] <= 1 - point.threshold <= point.false_alarm_interval[1]
    assert held / 300 >= 0.93


def test_a_vote_that_certainly_loses_ranking_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part gains for certain, and the whole loses for certain in one measure."""

    def fitted(whole: dict[str, Estimate]) -> Fit:
        def gain(self: Trial, measure: str, old: object, new: object, confidence: float | None = None) -> Estimate:
            return Estimate(0.1, 0.05, 0.15) if confidence is not None else whole[measure]

        monkeypatch.setattr(Trial, "gain", gain)
        return fit_vote(simulate(2 * LEAST_OF_A_CLASS), resamples=100)

    won, lost = Estimate(0.1, 0.05, 0.15), Estimate(-0.1, -0.15, -0.05)
    refused = fitted({ROC_AUC: lost, BRIER: won})
    assert refused.vote == PAPER_VOTE
    assert "loses for certain" in refused.conclusion
    assert all(decision.choice != decision.paper for decision in refused.decisions)
    adopted = fitted({ROC_AUC: won, BRIER: lost})
    assert adopted.vote != PAPER_VOTE
    assert "the price, also certain" in adopted.conclusion
    uncertain = fitted({ROC_AUC: Estimate(-0.1, -0.3, 0.0), BRIER: won})
    assert uncertain.vote != PAPER_VOTE
    assert "price" not in uncertain.conclusion


def test_a_small_loss_of_the_mean_does_not_undo_a_larger_gain_of_the_vote(monkeypatch: pytest.MonkeyPatch) -> None:
    """As weights that had learnt something showed: every map gains, the vote ranks better, the mean is a little off."""

    def fitted(vote: Estimate, mean: Estimate) -> Fit:
        whole = iter((vote, mean, Estimate(0.1, 0.05, 0.15)))

        def gain(self: Trial, measure: str, old: object, new: object, confidence: float | None = None) -> Estimate:
            return Estimate(0.1, 0.05, 0.15) if confidence is not None else next(whole)

        monkeypatch.setattr(Trial, "gain", gain)
        return fit_vote(simulate(2 * LEAST_OF_A_CLASS), resamples=100)

    gained, lost = Estimate(0.018, 0.005, 0.036), Estimate(-0.003, -0.007, -0.0002)
    adopted = fitted(gained, lost)
    assert adopted.vote != PAPER_VOTE
    assert "the price, also certain: Unrounded mean, ROC AUC" in adopted.conclusion
    assert fitted(lost, gained).vote != PAPER_VOTE
    assert fitted(Estimate(0.018, -0.001, 0.036), lost).vote == PAPER_VOTE
    assert fitted(gained, Estimate(-0.02, -0.03, -0.01)).vote == PAPER_VOTE


def test_images_needed_for_a_rate_are_one_over_it() -> None:
    """1 / (1 / n) is a little above n for some n: 49, 98, 103 …"""
    assert [images_needed(1 / n) for n in range(2, 1000)] == list(range(2, 1000))
    assert images_needed(0.03) == 34


def test_a_rate_is_used_up_though_its_product_falls_short_of_a_whole_number() -> None:
    """0.29 · 100 is 28.999999999999996 in floats, and allows 29 false alarms."""
    labels = np.arange(120) >= 100
    scores = np.concatenate([np.arange(100) / 100, np.full(20, 0.5)])
    (point,) = find_operating_points(labels, scores, [0.29], resamples=100)
    assert point.false_alarm_rate == 0.29
    assert point.threshold == 0.70
    assert point.detection_rate == 0


def test_platt_s_targets_are_smoothed() -> None:
    """Eight of ten fake count as 8 · 9/10 + 2 · 1/4 of ten."""
    fitted = fit_platt(np.full(10, 0.5, np.float32), np.arange(10) < 8)
    assert fitted.intercept == pytest.approx(np.log(0.77 / 0.23), abs=1e-3)


def test_an_interval_that_holds_zero_adopts_nothing_and_candidates_share_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def gain(self: Trial, measure: str, old: object, new: object, confidence: float) -> Estimate:
        asked.append((old, new, confidence))
        return Estimate(0.1, 0.05 if new in ("b", "c") else -0.05, 0.2)

    monkeypatch.setattr(Trial, "gain", gain)
    choices = {name: name for name in "pabcd"}
    decision = Trial(np.array([True]), 1, 0, silent).decide("which", BRIER, choices)  # type: ignore[arg-type]
    assert [each.adopted for each in decision.candidates] == [False, True, True, False]
    assert decision.choice == "c"
    assert [pair[:2] for pair in asked] == [("p", "a"), ("p", "b"), ("b", "c"), ("c", "d")]
    assert [pair[2] for pair in asked] == pytest.approx([1 - 0.05 / 4] * 4)


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The probabilities that weights are fitted on, which stay the paper's."""
    seen: list[np.ndarray] = []

    def fit(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
        seen.append(probabilities)
        return PAPER_VOTE.weights

    monkeypatch.setattr(fit_module, "fit_weights", fit)
    return seen


def test_maps_and_weights_are_tried_on_images_that_they_were_not_fitted_on(
    weighed: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = []

    def fit_nothing(column: np.ndarray, labels: np.ndarray) -> NoMap:
        mapped.append(len(column))
        return NoMap()

    for kind in list(FITTERS):
        monkeypatch.setitem(FITTERS, kind, fit_nothing)
    monkeypatch.setattr(Trial, "gain", lambda *_: Estimate(0, -1, 1))
    decisions = fit_vote(simulate(2 * LEAST_OF_A_CLASS), resamples=5).decisions
    assert {*mapped, *map(len, weighed)} == {2 * LEAST_OF_A_CLASS * (FOLDS - 1) // FOLDS}
    assert decisions[-1].paper == "0.1"
    assert [each.name for each in decisions[-1].candidates] == ["0.2", "0.05", "0.02", "0.01"]


def test_the_smaller_class_says_whether_there_are_images_enough() -> None:
    def scores(real: int, fake: int) -> Scores:
        many = simulate(2 * max(real, fake))
        keep = np.concatenate([np.flatnonzero(~many.labels)[:real], np.flatnonzero(many.labels)[:fake]])
        columns = {name: None if each is None else each[keep] for name, each in vars(many).items()}
        return Scores(**columns)

    assert count_rounds(scores(LEAST_OF_A_CLASS, LEAST_OF_A_CLASS)) > 0
    for few in (scores(LEAST_OF_A_CLASS - 1, 100), scores(100, LEAST_OF_A_CLASS - 1)):
        assert count_rounds(few) == 0
        assert "too small" in fit_vote(few, resamples=5).conclusion
    enough, uneven = (count_rounds(scores(500, fake)) for fake in (500, 499))
    assert enough == uneven + len(STREAMS)  # isotonic maps are tried too


def test_the_weights_in_the_vote_are_fitted_on_its_mapped_probabilities(
    weighed: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "gain", lambda *_: Estimate(0.1, 0.05, 0.15))
    scores = simulate(2 * LEAST_OF_A_CLASS, temperatures=(9, 1, 0.2))
    vote = fit_vote(scores, resamples=5).vote
    (fitted_on,) = (each for each in weighed if len(each) == len(scores.labels))
    np.testing.assert_array_equal(fitted_on, vote.score(scores.streams).stream_probabilities)
    assert not np.allclose(fitted_on, scores.streams)


def test_a_rate_needs_just_as_many_real_images_and_is_answered_once() -> None:
    labels = np.arange(30) >= 20
    scores = np.arange(30) / 30
    points = find_operating_points(labels, scores, [0.05, 0.07, 0.05], resamples=5)
    assert [point.far for point in points] == [0.05, 0.07]
    assert [point.false_alarm_rate for point in points] == [0.05, 0.05]  # 1.4 images are one


def test_a_fake_image_at_the_threshold_is_not_detected() -> None:
    (point,) = find_operating_points(np.arange(6) >= 2, np.array([0.1, 0.5, 0.5, 0.5, 0.6, 0.7]), [0.5], resamples=5)
    assert (point.threshold, point.detection_rate) == (0.1, 1)
    (point,) = find_operating_points(np.arange(6) >= 4, np.array([0.1, 0.2, 0.5, 0.6, 0.2, 0.7]), [0.5], resamples=5)
    assert (point.threshold, point.detection_rate) == (0.2, 0.5)


def test_each_rate_has_the_intervals_of_its_own_images() -> None:
    """30 real and 90 fake images; what is asked beside it changes nothing of a rate."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) >= 30
    scores = np.where(labels, 0.3, 0.0) + 0.7 * rng.random(120)
    low, high = find_operating_points(labels, scores, [0.1, 0.3], resamples=50)
    assert find_operating_points(labels, scores, [0.3], resamples=50) == (high,)
    assert find_operating_points(labels, scores, [0.3], resamples=50, seed=1) != (high,)
    assert low.threshold_interval[1] > high.threshold_interval[1]
    for point, alarms in ((low, 3), (high, 9)):
        assert point.false_alarm_interval == pytest.approx(proportion_interval(alarms, 30))
        detected = round(point.detection_rate * 90)
        assert point.detection_interval == pytest.approx(proportion_interval(detected, 90))


def test_the_rate_on_images_left_out_is_that_of_the_real_ones() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) >= 30
    scores = rng.random(120)
    folds = assign_folds(labels, seed=0)
    left_out = [(folds == fold, scores) for fold in range(FOLDS)]
    (low, high) = find_support(labels, [0.3, 0.1], left_out)
    assert (low.far, high.far) == (0.1, 0.3)
    assert high.left_out is not None
    alarms = round(high.left_out.value * 30)
    assert (high.left_out.low, high.left_out.high) == pytest.approx(proportion_interval(alarms, 30))
    (of_some,) = find_support(labels, [0.3], left_out[:2])  # of the 12 that were left out
    assert of_some.independent == 30
    assert of_some.left_out is not None
    alarms = round(of_some.left_out.value * 12)
    assert (of_some.left_out.low, of_some.left_out.high) == pytest.approx(proportion_interval(alarms, 12))
    (of_one_class,) = find_support(labels, [0.3], [(labels, scores)])  # no real image is left out
    assert of_one_class.left_out is None


def test_every_part_is_tried_on_what_was_chosen_before_and_the_whole_on_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every candidate is adopted: of the maps the last, all weight on the second stream, the finest step."""
    calls: list[tuple[str, np.ndarray, np.ndarray]] = []

    def gain(self: Trial, measure: str, old: np.ndarray, new: np.ndarray, confidence: float = 0) -> Estimate:
        assert (self.seed, self.resamples) == (7, 5)
        calls.append((measure, old, new))
        return Estimate(0.1, 0.05, 0.15)

    monkeypatch.setattr(Trial, "gain", gain)
    monkeypatch.setattr(fit_module, "fit_weights", lambda probabilities, labels: (0.0, 10.0, 0.0))
    scores = simulate(2 * LEAST_OF_A_CLASS, temperatures=(9, 3, 0.2))
    labels, raw = scores.labels, scores.streams
    fit = fit_vote(scores, resamples=5, seed=7)
    assert [each.measure for each in fit.decisions] == [BRIER] * 3 + [ROC_AUC] * 2
    assert [each.choice for each in fit.decisions] == ["platt"] * 3 + ["fitted", "0.01"]
    maps, weights, steps, whole = calls[:6], calls[6], calls[7:11], calls[11:]
    for index in range(3):
        np.testing.assert_array_equal(maps[2 * index][1], raw[:, index])
    mapped = np.stack([maps[2 * index + 1][2] for index in range(3)], axis=1)
    np.testing.assert_allclose(weights[1], np.average(mapped, axis=1, weights=PAPER_VOTE.weights))
    np.testing.assert_allclose(weights[2], mapped[:, 1])
    for (_, old, new), (before, after) in zip(steps, pairwise((0.1, 0.2, 0.05, 0.02, 0.01)), strict=True):
        np.testing.assert_allclose(old, round_to(mapped[:, 1], before), atol=1e-12)
        np.testing.assert_allclose(new, round_to(mapped[:, 1], after), atol=1e-12)
    assert [measure for measure, _, _ in whole] == [ROC_AUC, ROC_AUC, BRIER]
    for (_, old, new), expected in zip(
        whole, ((scores.vote, steps[-1][2]), (scores.mean, weights[2]), (scores.mean, weights[2])), strict=True
    ):
        np.testing.assert_array_equal(old, expected[0])
        np.testing.assert_array_equal(new, expected[1])
    assert fit.calibration_errors == (
        expected_calibration_error(labels, scores.mean),
        expected_calibration_error(labels, weights[2]),
    )
    everyone = np.zeros(len(labels), np.bool_)
    for held, vote in ((everyone, fit.vote), *fit.left_out):
        fitted = tuple(fit_platt(column, labels[~held]) for column in raw[~held].T)
        assert (vote.maps, vote.weights, vote.rounding_step) == (fitted, (0.0, 10.0, 0.0), 0.01)


def test_no_group_is_on_both_sides_of_a_fold() -> None:
    scores = simulate(60, per_group=6)
    assert scores.groups is not None
    fits = [fit_vote(scores, resamples=5, seed=seed) for seed in (0, 1)]
    held = np.array([each for each, _ in fits[0].left_out])
    assert (held.sum(axis=0) == 1).all()
    for each in held:
        assert not set(scores.groups[each]) & set(scores.groups[~each])
    assert not np.array_equal(held, [each for each, _ in fits[1].left_out])
