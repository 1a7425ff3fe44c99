"""The vote equals the authors' in every golden row, and keeps its promises on any logits."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ensemble.streams import STREAMS
from ensemble.voting import fake_probability, quantise, score_logits, vote
from tests.golden import GOLDEN, ROWS

LOGITS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=1, max_side=8).map(lambda s: (*s, 3, 2)),
    elements=st.floats(width=32),
)


def test_quantise_and_vote_equal_every_golden_row() -> None:
    golden = np.load(GOLDEN / "method" / "voting.npz")
    np.testing.assert_array_equal(quantise(golden["prob_fake"]), golden["quantised"])
    np.testing.assert_array_equal(vote(golden["quantised"]), golden["vote"])


def test_the_score_equals_the_golden_images() -> None:
    logits = np.array([[row[key]["logits"] for key in ("global", "local", "semantic")] for row in ROWS], np.float32)
    scored = score_logits(logits)
    np.testing.assert_array_equal(scored.score, np.float32([row["vote"] for row in ROWS]))
    expected = [[row[key]["prob_fake"] for key in ("global", "local", "semantic")] for row in ROWS]
    np.testing.assert_allclose(scored.stream_probabilities, expected, atol=1e-6)
    votes = [[float(row[key]["quantised"]) for key in ("global", "local", "semantic")] for row in ROWS]
    np.testing.assert_array_equal(scored.stream_votes, np.float32(votes))


def test_weights_are_those_of_the_method() -> None:
    assert [(stream.name, stream.weight) for stream in STREAMS] == [
        ("global_texture", 2),
        ("local_facial", 1),
        ("semantic_fusion", 2),
    ]


@given(LOGITS)
def test_any_logits_give_probabilities_or_nan(logits: np.ndarray) -> None:
    scored = score_logits(logits)
    finite = np.isfinite(logits).all(axis=(1, 2))
    assert np.isnan(scored.score[~finite]).all()
    assert np.isnan(scored.probability[~finite]).all()
    for values in (scored.score, scored.probability, scored.stream_probabilities, scored.stream_votes):
        assert ((values[finite] >= 0) & (values[finite] <= 1)).all()
    np.testing.assert_array_equal(np.round(scored.score[finite], 1), scored.score[finite])


@given(LOGITS)
@example(np.float32([[[3e31, -3.4028233e38], [0, 0], [0, 0]]]))
def test_a_row_does_not_depend_on_its_neighbours(logits: np.ndarray) -> None:
    together = score_logits(logits)
    for index in range(len(logits)):
        alone = score_logits(logits[index : index + 1])
        np.testing.assert_array_equal(alone.score[0], together.score[index])
        np.testing.assert_array_equal(alone.stream_probabilities[0], together.stream_probabilities[index])


def test_a_stream_without_finite_logits_is_nan_alone() -> None:
    logits = np.float32([[0, 1], [np.inf, 0], [1, 0]])
    probabilities = fake_probability(logits)
    assert np.isnan(probabilities[1])
    assert np.isfinite(probabilities[[0, 2]]).all()
    np.testing.assert_array_equal(fake_probability(logits[None])[0], probabilities)
