"""Every measure against known values, its definition done slowly, or its promise on simulated data."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

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
from forensics.evaluate.tables import evaluation_tables
from forensics.evaluate.videos import video_rules
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


def test_every_choice_of_weights_is_measured_by_its_own_mean_and_vote() -> None:
    scores = simulate(60, strengths=(3.0, 0.0, 1.0))
    result = evaluate(scores, (1.0, 3.0, 2.0), 0.2, resamples=20)
    in_force = roc_auc(scores.labels, scores.mean)
    for each in result.weight_choices:
        voted = ensemble_score(scores, each.weights, 0.2)
        mean, vote = (roc_auc(scores.labels, column.astype(float)) for column in (voted.probability, voted.score))
        assert (each.mean_auc.value, each.vote_auc.value) == pytest.approx((mean, vote))
        assert each.gain.value == pytest.approx(mean - in_force)
        assert each.gain.low - 0.05 < each.gain.value < each.gain.high + 0.05
    assert [each.weights for each in result.weight_choices[:4]] == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 1, 0)]
    alone = {each.weights: each for each in result.weight_choices}[0, 1, 0]
    assert alone.gain.high < -0.2
    assert result.rounding_cost.value == pytest.approx(in_force - roc_auc(scores.labels, scores.vote))
    again, other = (evaluate(scores, resamples=20, seed=seed) for seed in (0, 1))
    assert again.measures[MEAN].auc == result.measures[MEAN].auc != other.measures[MEAN].auc


def test_frames_of_videos_are_measured_as_videos_too() -> None:
    scores = replace(simulate(60), labels=np.arange(60) % 30 >= 10, videos=np.arange(60) // 10)
    result = evaluate(scores, frame_rate=2.5, resamples=20, seed=3)
    assert result.videos is not None
    assert result.videos == video_rules(scores, 2.5, resamples=20, seed=3)
    assert result.videos.window == 8
    tables = {table.title.split(":")[0]: table for table in evaluation_tables(result)}
    assert tables["Videos"].title == "Videos: 2 real and 4 fake ones, one score from many frames"
    assert "The worst window, 8 consecutive frames" in tables["Videos"].note
    for row, rule in zip(tables["Videos"].rows, result.videos.rules, strict=True):
        assert row[0] == rule.name
        assert row[1].startswith(f"{rule.auc.value:.3f} [")
        assert row[2].startswith(f"{rule.gain.value:+.4f} [")
        assert row[3:] == (f"{rule.accuracy:.2%}", f"{rule.accused}")
    numbers = tables["Challenge numbers"]
    for row, each in zip(numbers.rows, result.challenge.values(), strict=True):
        assert row[-2:] == (f"{each.rounded.video_auc:.4f}", f"{each.unrounded.video_auc:.4f}")
    assert numbers.header[-2:] == ("video AUC, rounded", "video AUC")


def test_agreement_is_cohen_s_and_spearman_s() -> None:
    rng = np.random.default_rng(0)
    scores = simulate(40)
    scores.votes[:] = rng.integers(0, 11, (40, 3)) / 10
    for pair, (a, b) in zip(pairwise_agreement(scores), ((0, 1), (0, 2), (1, 2)), strict=True):
        calls = scores.votes > 0.5
        assert pair.kappa == pytest.approx(cohen_kappa_score(calls[:, a], calls[:, b]))
        assert pair.rank_correlation == pytest.approx(spearmanr(scores.streams[:, a], scores.streams[:, b]).statistic)
        assert pair.both_wrong == np.mean((calls[:, [a, b]] != scores.labels[:, None]).all(axis=1))
    scores.streams[:, 1] = 0.5
    assert [pair.rank_correlation is None for pair in pairwise_agreement(scores)] == [True, False, True]


@pytest.mark.parametrize(
    ("labels", "scores", "threshold"),
    [
        ([0, 1], [0.2, 0.6], 0.4),
        ([0, 0, 1], [0.4, 0.4, 0.4], 0.4),  # none is called fake
        ([1, 1, 0], [0.4, 0.4, 0.4], 0.2),  # all are
        ([1, 1, 0], [0.0, 0.0, 0.0], -1.0),
        ([0, 1, 0, 1], [0.1, 0.3, 0.5, 0.7], 0.2),  # the lowest of two that are as good
    ],
)
def test_the_best_threshold_lies_midway(labels: list[int], scores: list[float], threshold: float) -> None:
    assert best_threshold(np.array(labels, np.bool_), np.array(scores)) == pytest.approx(threshold)
