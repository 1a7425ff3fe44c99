"""Every measure against known values, its definition done slowly, or its promise on simulated data."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ensemble.calibration import PAPER_VOTE
from ensemble.streams import STREAMS
from forensics.common.metrics import (
    average_precision,
    best_threshold,
    bootstrap_auc,
    bootstrap_mean,
    brier_score,
    confusion,
    equal_error_rate,
    estimate,
    expected_calibration_error,
    reliability,
    roc_auc,
)
from forensics.common.scoring.scores import MEAN, VOTE
from forensics.evaluate.agreement import ensemble_score, pairwise_agreement, weight_choices
from forensics.evaluate.measures import evaluate
from tests.calibration_data import simulate

TENTHS = st.integers(0, 10).map(lambda n: n / 10)
SAMPLES = st.lists(st.tuples(st.booleans(), TENTHS), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def arrays(rows: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([label for label, _ in rows]), np.array([score for _, score in rows])


@given(SAMPLES)
def test_auc_is_the_chance_of_the_right_order(rows: list[tuple[bool, float]]) -> None:
    labels, scores = arrays(rows)
    pairs = [(f > r) + 0.5 * (f == r) for f in scores[labels] for r in scores[~labels]]
    assert roc_auc(labels, scores) == pytest.approx(np.mean(pairs))
    assert roc_auc(labels, scores**3) == pytest.approx(roc_auc(labels, scores))  # any rising map
    assert roc_auc(~labels, scores) == pytest.approx(1 - roc_auc(labels, scores))


@given(SAMPLES)
def test_best_threshold_is_not_beaten(rows: list[tuple[bool, float]]) -> None:
    labels, scores = arrays(rows)
    best = confusion(labels, scores, best_threshold(labels, scores)).accuracy
    assert best == max(confusion(labels, scores, t).accuracy for t in [-1, *scores, *(scores + 0.05)])


@given(SAMPLES)
def test_equal_error_rate_lies_between_the_errors_around_it(rows: list[tuple[bool, float]]) -> None:
    labels, scores = arrays(rows)
    rate = equal_error_rate(labels, scores)
    errors = [(np.mean(scores[~labels] > t), np.mean(scores[labels] <= t)) for t in [-1, *np.unique(scores)]]
    assert max(min(pair) for pair in errors) - 1e-12 <= rate <= min(max(pair) for pair in errors) + 1e-12


def test_known_values() -> None:
    labels = np.array([False, False, True, True])
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    assert roc_auc(labels, scores) == 0.75
    assert average_precision(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert equal_error_rate(labels, scores) == 0.5
    assert brier_score(labels, scores) == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    counts = confusion(labels, scores, 0.5)
    assert (counts.true_fake, counts.false_real, counts.false_fake, counts.true_real) == (1, 1, 0, 2)
    assert confusion(labels, np.full(4, 0.5), 0.5).true_real == 2  # exactly at the threshold is called real


@pytest.mark.parametrize("rate", [0.2, 0.31])
def test_equal_error_rate_of_two_normals(rate: float) -> None:
    from scipy.stats import norm

    quantiles = norm.ppf((np.arange(4000) + 0.5) / 4000)
    scores = np.concatenate([quantiles, quantiles - 2 * norm.ppf(rate)])
    assert equal_error_rate(np.repeat([False, True], 4000), scores) == pytest.approx(rate, abs=1e-3)


def test_calibration_error_is_small_where_scores_are_probabilities_and_known_where_not() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    labels = rng.random(200_000) < scores
    assert expected_calibration_error(labels, scores) < 0.006
    assert expected_calibration_error(labels, np.full(200_000, 0.9)) == pytest.approx(0.4, abs=0.005)
    assert brier_score(labels, scores) == pytest.approx(1 / 6, abs=0.002)
    assert sum(each.count for each in reliability(labels, scores)) == 200_000


def test_bootstrap_equals_sklearn_on_the_same_draws() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3 == 0
    columns = [rng.random(60), rng.integers(0, 4, 60) / 4]
    areas = bootstrap_auc(labels, columns, 20, seed=5)
    draws = np.random.default_rng(5)
    for row in areas:
        fake = np.flatnonzero(labels)[draws.integers(20, size=20)]
        real = np.flatnonzero(~labels)[draws.integers(40, size=40)]
        drawn = np.concatenate([fake, real])
        np.testing.assert_allclose(row, [roc_auc_score(labels[drawn], column[drawn]) for column in columns])


def test_bootstrap_means_are_those_of_the_same_draws() -> None:
    labels = np.arange(50) < 20
    means = bootstrap_mean(labels, [labels.astype(float), np.arange(50.0)], 300, seed=2)
    assert np.all(means[:, 0] == 0.4)  # as many fake images in every resample
    assert means[:, 1].mean() == pytest.approx(24.5, abs=0.5)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = 0.7602  # Φ(1/√2) for two normals one apart
    assert truth == pytest.approx(0.5 * (1 + math.erf(0.5)), abs=1e-4)
    held = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels = np.arange(160) < 80
        scores = rng.normal(size=160) + labels
        interval = estimate(roc_auc(labels, scores), bootstrap_auc(labels, [scores], 150, seed)[:, 0])
        held += interval.low <= truth <= interval.high
    assert 0.90 <= held / 120 <= 0.992


def test_weight_choices_hold_every_subset_and_no_ratio_twice() -> None:
    choices = weight_choices()
    assert {tuple(map(bool, choice)) for choice in choices} == {
        tuple(bool(n >> bit & 1) for bit in range(3)) for n in range(1, 8)
    }
    ratios = {tuple(weight / sum(choice) for weight in choice) for choice in choices}
    assert len(ratios) == len(choices) == 19
    assert PAPER_VOTE.weights in choices


def test_a_stream_alone_votes_its_own_probability_rounded() -> None:
    scores = simulate(100)
    alone = ensemble_score(scores, (0, 1, 0), 0.1)
    np.testing.assert_array_equal(alone.probability, scores.streams[:, 1])
    np.testing.assert_array_equal(alone.score, scores.votes[:, 1])


def test_evaluation_says_what_was_simulated() -> None:
    scores = simulate(2000, strengths=(2.0, 0.0, 1.0))
    result = evaluate(scores, resamples=200)
    assert (result.real + result.fake, set(result.measures)) == (2000, {*(s.name for s in STREAMS), MEAN, VOTE})
    # Two unit normals s apart have the area Φ(s/√2).
    for stream, strength in zip(STREAMS, (2.0, 0.0, 1.0), strict=True):
        area = result.measures[stream.name].auc
        assert area.low - 0.01 < 0.5 * (1 + math.erf(strength / 2)) < area.high + 0.01
    assert result.contributions["global_texture"].low > 0.1
    assert abs(result.contributions["local_facial"].value) < 0.01
    assert result.rounding_cost.low > 0
    in_force = next(each for each in result.weight_choices if each.weights == (2, 1, 2))
    assert in_force.gain.value == pytest.approx(0, abs=1e-9)
    assert in_force.mean_auc == result.measures[MEAN].auc
    assert in_force.vote_auc == result.measures[VOTE].auc
    assert result.measures["local_facial"].calibration_error < 0.05


def test_agreement_of_equal_streams_is_whole_and_of_constant_ones_undefined() -> None:
    scores = simulate(300, strengths=(1.0, 1.0, 1.0))
    scores.streams[:, 1], scores.votes[:, 1] = scores.streams[:, 0], scores.votes[:, 0]
    scores.streams[:, 2], scores.votes[:, 2] = 0.2, 0.2
    same, constant, _ = pairwise_agreement(scores)
    assert (same.same_call, same.kappa, same.rank_correlation) == (1, 1, pytest.approx(1))
    assert constant.rank_correlation is None
    scores.votes[:] = 0.2
    assert pairwise_agreement(scores)[0].kappa is None


def test_a_score_of_one_shares_the_last_bin_and_a_border_belongs_to_the_bin_above() -> None:
    labels = np.array([True, True, False, False, True])
    scores = np.array([1.0, 0.95, 0.0, 0.05, 0.5])
    bins = reliability(labels, scores, bins=10)
    assert [(each.count, each.mean_score, each.fake_share) for each in bins] == [
        (2, pytest.approx(0.025), 0.0),
        (1, 0.5, 1.0),
        (2, pytest.approx(0.975), 1.0),
    ]
    assert expected_calibration_error(labels, scores, bins=10) == pytest.approx((2 * 0.025 + 0.5 + 2 * 0.025) / 5)


def test_counts_are_strictly_above_the_threshold() -> None:
    labels = np.array([True, True, True, False, False])
    counts = confusion(labels, np.array([0.9, 0.5, 0.1, 0.5, 0.6]), 0.5)
    assert (counts.true_fake, counts.false_real, counts.false_fake, counts.true_real) == (1, 2, 1, 1)
    assert counts.accuracy == 0.4
    assert brier_score(labels, np.array([1.0, 0.5, 0.0, 0.5, 0.0])) == pytest.approx((0.25 + 1 + 0.25) / 5)


def test_calibration_error_is_taken_over_fifteen_bins() -> None:
    """0.61 and 0.69 share a tenth, and no fifteenth."""
    labels = np.array([True, False])
    assert expected_calibration_error(labels, np.array([0.61, 0.69])) == pytest.approx((0.39 + 0.69) / 2)


def test_an_interval_leaves_as_much_out_on_either_side() -> None:
    for confidence, low in ((0.95, 25), (0.5, 250)):
        interval = estimate(1, np.arange(1001.0), confidence)
        assert (interval.value, interval.low, interval.high) == pytest.approx((1, low, 1000 - low))
    assert estimate(1, np.arange(1001.0)) == estimate(1, np.arange(1001.0), 0.95)


def test_what_a_stream_adds_is_over_the_others_by_the_weights_in_force() -> None:
    scores = simulate(200)
    for weights in (PAPER_VOTE.weights, (1.0, 3.0, 2.0)):
        added = evaluate(scores, weights, resamples=5).contributions
        for index, stream in enumerate(STREAMS):
            rest = tuple(weight * (n != index) for n, weight in enumerate(weights))
            without = ensemble_score(scores, rest, PAPER_VOTE.rounding_step).probability
            gained = roc_auc(scores.labels, scores.mean) - roc_auc(scores.labels, without.astype(np.float64))
            assert added[stream.name].value == pytest.approx(gained)


def test_a_vote_of_exactly_half_calls_real_in_agreement_too() -> None:
    scores = simulate(10)
    scores.votes[:] = [0.5, 0.4, 0.6]
    same, different, _ = pairwise_agreement(scores)
    assert (same.same_call, different.same_call) == (1, 0)
