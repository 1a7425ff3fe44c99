"""What is known of images while streams are asked one after the other, and what may be said of them meanwhile."""

import numpy as np

from ensemble import status
from ensemble.calibration import PAPER_VOTE
from ensemble.decision import Evidence
from ensemble.voting import fake_probability, score_logits

NAN = np.float32(np.nan)
FAKE, REAL = np.float32([[-9.0, 9.0]]), np.float32([[9.0, -9.0]])


def evidence(count: int = 1, statuses: list[str] | None = None, threshold: float = np.nan) -> Evidence:
    statuses = statuses or [status.OK] * count
    return Evidence.none(statuses, np.full(len(statuses), threshold, np.float32), PAPER_VOTE)


def test_at_first_nothing_is_certain() -> None:
    known = evidence(2)
    assert known.verdicts == [None, None]
    assert known.undecided == [0, 1]
    assert known.bounds.score_range.tolist() == [[0, 1], [0, 1]]
    assert known.probabilities.shape == known.ran.shape == (2, 3)
    assert np.isnan(known.probabilities).all()
    assert not known.ran.any()


def test_what_a_stream_says_goes_to_the_images_that_it_was_asked_about() -> None:
    known = evidence(3)
    known.add(2, [2, 0], np.float32([[-1.0, 2.0], [3.0, 1.0]]))
    expected = fake_probability(np.float32([[-1.0, 2.0], [3.0, 1.0]]))
    np.testing.assert_array_equal(known.probabilities[[2, 0], 2], expected)
    assert known.ran.tolist() == [[False, False, True], [False, False, False], [False, False, True]]


def test_two_streams_that_agree_leave_nothing_undecided_and_others_do() -> None:
    known = evidence(3)
    known.add(0, [0, 1, 2], np.concatenate([FAKE, REAL, FAKE]))
    assert known.undecided == [0, 1, 2]
    known.add(2, [0, 1, 2], np.concatenate([FAKE, REAL, REAL]))
    assert known.verdicts == ["fake", "real", None]
    assert known.undecided == [2]


def test_with_all_streams_the_ends_are_the_vote() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (5, 3, 2)).astype(np.float32)
    known = evidence(5)
    for stream in range(3):
        known.add(stream, range(5), logits[:, stream])
    expected = score_logits(logits)
    np.testing.assert_array_equal(known.bounds.low.score, expected.score)
    np.testing.assert_array_equal(known.bounds.high.score, expected.score)
    np.testing.assert_array_equal(known.bounds.low.probability, expected.probability)


def test_an_image_with_another_status_stays_out_whatever_is_said_of_it() -> None:
    known = evidence(statuses=[status.UNREADABLE_IMAGE, status.OK])
    known.add(0, [0, 1], np.concatenate([FAKE, FAKE]))
    known.add(2, [0, 1], np.concatenate([FAKE, FAKE]))
    assert known.statuses == [status.UNREADABLE_IMAGE, status.OK]
    assert not known.ran[0].any()
    assert np.isnan(known.bounds.score_range[0]).all()
    assert known.verdicts == [None, "fake"]
    assert known.undecided == []


def test_logits_that_are_no_numbers_end_the_image_s_way_and_no_other_s() -> None:
    known = evidence(2)
    known.add(0, [0, 1], np.float32([[np.inf, 0.0], [-9.0, 9.0]]))
    assert known.statuses == [status.NON_FINITE_LOGITS, status.OK]
    assert known.undecided == [1]
    assert known.ran[0].tolist() == [True, False, False]
    known.add(2, [0, 1], np.concatenate([FAKE, FAKE]))
    assert known.verdicts == [None, "fake"]
    assert not known.ran[0, 2]


def test_a_threshold_is_held_against_the_probability() -> None:
    known = evidence(threshold=0.3)
    known.add(0, [0], FAKE)
    assert known.verdicts == ["fake"]  # two fifths of the weight are above 0.3 already
    known = evidence(threshold=0.5)
    known.add(0, [0], FAKE)
    assert known.verdicts == [None]


def test_statuses_given_are_copied() -> None:
    given = [status.OK]
    known = evidence(statuses=given)
    known.add(0, [0], np.full((1, 2), NAN))
    assert given == [status.OK]
