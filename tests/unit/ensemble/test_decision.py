"""An early verdict is the full ensemble's, whatever the missing streams would have said."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.calibration import PAPER_VOTE, ROUNDING_STEPS, Isotonic, NoMap, Platt, ProbabilityMap, Temperature, Vote
from ensemble.decision import Bounds, bounds, late_streams, require_rising, verdicts

MASKS = np.array(list(product((False, True), repeat=3)))
TIES = np.float32([0.0, 0.1, 0.25, 0.5, 0.55, 0.65, 0.9, 1.0])
CALIBRATED = Vote(
    (Temperature(2.5), Platt(0.7, -0.3), Isotonic((0.1, 0.4, 0.8), (0.0, 0.5, 0.9))), (1.0, 3.0, 0.5), 0.05
)


def assert_certain(probabilities: np.ndarray, thresholds: np.ndarray, vote: Vote) -> None:
    """For every set of streams that ran: certain verdicts are the full vote's, and the ranges hold it."""
    full = vote.score(probabilities)
    expected = np.array(verdicts(full, thresholds), object)
    for mask in MASKS:
        ran = np.broadcast_to(mask, probabilities.shape)
        found = bounds(np.where(ran, probabilities, np.float32(np.nan)), ran, vote)
        early = np.array(found.verdicts(thresholds), object)
        decided = early != None  # noqa: E711
        np.testing.assert_array_equal(early[decided], expected[decided])
        for (low, high), value in (
            (found.score_range.T, full.score),
            (found.probability_range.T, full.probability),
        ):
            assert (low <= value).all()
            assert (value <= high).all()
        if mask.all():
            assert decided.all()
            np.testing.assert_array_equal(found.score_range, np.stack([full.score] * 2, axis=-1))
            np.testing.assert_array_equal(found.probability_range, np.stack([full.probability] * 2, axis=-1))


@pytest.mark.parametrize("vote", [PAPER_VOTE, CALIBRATED])
def test_every_combination_of_votes_and_ties(vote: Vote) -> None:
    tenths = np.array(list(product(np.arange(11) / 10, repeat=3)), np.float32)
    for threshold in (np.nan, *TIES):
        assert_certain(tenths, np.full(len(tenths), threshold, np.float32), vote)


@pytest.mark.parametrize("vote", [PAPER_VOTE, CALIBRATED])
def test_random_triples(vote: Vote) -> None:
    random = np.random.default_rng(4)
    probabilities = random.random((100_000, 3), np.float32)
    probabilities[::3] = random.choice(TIES, (len(probabilities[::3]), 3))
    thresholds = random.random(len(probabilities), np.float32)
    thresholds[::2] = np.nan
    # A threshold that equals the probability itself: the image is real.
    thresholds[1::4] = vote.score(probabilities[1::4]).probability
    assert_certain(probabilities, thresholds, vote)


MAPS: st.SearchStrategy[ProbabilityMap] = st.one_of(
    st.just(NoMap()),
    st.floats(0.05, 20).map(Temperature),
    st.tuples(st.floats(0.05, 20), st.floats(-5, 5)).map(lambda pair: Platt(*pair)),
)
VOTES = st.builds(
    Vote,
    st.tuples(MAPS, MAPS, MAPS),
    st.tuples(*[st.floats(0, 10)] * 3).filter(any),
    st.sampled_from(ROUNDING_STEPS),
)


@settings(max_examples=200, deadline=None)
@given(VOTES, st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 3), min_size=1, max_size=20), st.floats(0, 1, width=32))
def test_any_rising_vote(vote: Vote, rows: list[tuple[float, float, float]], threshold: float) -> None:
    require_rising(vote)
    probabilities = np.array(rows, np.float32)
    for value in (np.nan, threshold):
        assert_certain(probabilities, np.full(len(rows), value, np.float32), vote)


def decide(probabilities: list[float], ran: list[bool], threshold: float = np.nan) -> tuple[Bounds, str | None]:
    found = bounds(np.float32([probabilities]), np.array([ran]), PAPER_VOTE)
    return found, found.verdicts(np.float32([threshold]))[0]


def test_two_streams_that_agree_decide() -> None:
    found, verdict = decide([0.9, np.nan, 0.8], [True, False, True])
    assert verdict == "fake"
    np.testing.assert_allclose(found.score_range, [[0.7, 0.9]])
    assert decide([0.1, np.nan, 0.2], [True, False, True])[1] == "real"


def test_two_streams_that_disagree_do_not() -> None:
    assert decide([0.9, np.nan, 0.1], [True, False, True])[1] is None
    assert decide([0.6, np.nan, 0.6], [True, False, True])[1] is None


def test_a_threshold_is_decided_on_the_probability_alone() -> None:
    streams, ran = [0.9, np.nan, 0.9], [True, False, True]
    assert decide(streams, ran, 0.7)[1] == "fake"
    assert decide(streams, ran, 0.8)[1] is None
    assert decide(streams, ran, 0.95)[1] == "real"


def test_uncertain_is_said_when_all_ran() -> None:
    assert decide([0.5, 0.5, 0.5], [True, True, True])[1] == "uncertain"


def test_a_stream_without_a_number_leaves_no_verdict() -> None:
    found, verdict = decide([np.nan, 0.5, 0.9], [True, False, True])
    assert verdict is None
    assert np.isnan(found.score_range).all()
    assert np.isnan(found.probability_range).all()


@pytest.mark.parametrize(
    ("weights", "costs", "late"),
    [
        ((2, 1, 2), (0.76, 0.76, 0.76), (1,)),
        ((2, 1, 2), (0.76, 2.5, 0.76), (1,)),
        ((1, 3, 1), (1, 1, 1), (2, 0)),  # one stream has more than half of the weight
        ((2, 2, 2), (1, 1, 5), (2,)),  # equal weights: the dearest
        ((1, 1), (1, 1), ()),  # neither can decide alone
        ((2, 1, 2, 1), (1, 1, 1, 2), (1, 3)),
        ((2, 0, 2), (1, 1, 1), (1,)),  # no say at all
        ((1,), (1,), ()),
    ],
)
def test_which_streams_are_asked_last(
    weights: tuple[float, ...], costs: tuple[float, ...], late: tuple[int, ...]
) -> None:
    assert late_streams(weights, costs) == late


@pytest.mark.parametrize(
    "vote",
    [
        Vote((NoMap(), Platt(-0.1, 0), NoMap()), (2, 1, 2), 0.1),
        Vote((NoMap(), NoMap(), Temperature(-1.0)), (2, 1, 2), 0.1),
        Vote((Isotonic((0.1, 0.5), (0.6, 0.5)), NoMap(), NoMap()), (2, 1, 2), 0.1),
        Vote((Isotonic((0.5, 0.1), (0.2, 0.3)), NoMap(), NoMap()), (2, 1, 2), 0.1),
        Vote((NoMap(), NoMap(), NoMap()), (2, -1, 2), 0.1),
    ],
)
def test_a_vote_that_falls_is_refused(vote: Vote) -> None:
    with pytest.raises(ValueError, match="falls where its probability rises"):
        require_rising(vote)


@pytest.mark.parametrize("vote", [PAPER_VOTE, CALIBRATED])
def test_a_vote_that_rises_is_not(vote: Vote) -> None:
    require_rising(vote)
