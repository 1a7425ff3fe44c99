"""Where the streams look: the output ATTENTION against its definition, the golden entropies, and on the real server."""

import math
from copy import deepcopy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from deepfake_client import ServerUnavailableError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from ensemble import status
from ensemble.streams import GLOBAL_TEXTURE, SEMANTIC_FUSION, STREAMS, Stream
from forensics.common.attention import attention_entropy, cosine, side_of
from forensics.common.inspection import Inspector
from networks import load_stream, write_random_weights
from networks.dinov2 import Block
from tests.conftest import Server, free_ports
from tests.golden import BOXES, GOLDEN, IMAGES, ROWS
from tests.unit.networks.test_networks import FEATURES, KEYS, golden_pixels


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


def test_attention_has_the_golden_entropies(tiny: Path) -> None:
    network = load_stream(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint)
    attention = network(torch.stack([golden_pixels(GLOBAL_TEXTURE, row["image"]) for row in ROWS]))[2]
    entropies = [attention_entropy(each) for each in attention]
    np.testing.assert_allclose(entropies, [row["global_attention_entropy"] for row in ROWS], rtol=0, atol=1e-4)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
@torch.no_grad()
def test_attention_is_the_last_block_s_cls_row(stream: Stream, tiny: Path) -> None:
    """Against the whole attention matrix of the block, from the tokens that a hook sees."""
    network = load_stream(stream, tiny / stream.checkpoint)
    block = network.get_submodule("vision_model.encoder.layer.1")
    seen: list[Tensor] = []
    block.get_submodule("norm1").register_forward_hook(lambda module, inputs, output: seen.append(output))
    pixels = torch.stack([golden_pixels(stream, row["image"]) for row in ROWS[:2]])
    attention = network(pixels)[2]
    # In double: the reference itself is not to add to the difference.
    tokens, projections = seen[0].double(), deepcopy(block.get_submodule("attention.attention")).double()
    query, key = (
        projections.get_submodule(name)(tokens).unflatten(2, (-1, 64)).transpose(1, 2) for name in ("query", "key")
    )
    row = torch.softmax(query @ key.mT / 8, dim=-1)[:, :, 0, 1:].mean(dim=1)
    torch.testing.assert_close(attention.double(), row / row.sum(dim=1, keepdim=True), rtol=0, atol=1e-6)
    assert attention.shape == (2, (stream.pixels // 14) ** 2)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2))


@torch.no_grad()
def test_cls_token_alone_is_the_first_of_the_whole_block(tiny: Path) -> None:
    network = load_stream(SEMANTIC_FUSION, tiny / SEMANTIC_FUSION.checkpoint)
    block = cast(Block, network.get_submodule("vision_model.encoder.layer.1"))
    tokens = torch.randn(3, 20, 128, generator=torch.Generator().manual_seed(0))
    token, probabilities = block.cls_token(tokens)
    torch.testing.assert_close(token, block(tokens)[:, 0], rtol=1e-5, atol=1e-5)
    assert probabilities.shape == (3, 2, 20)


# The measures


def test_entropy_is_largest_for_even_attention_and_zero_for_one_patch() -> None:
    assert attention_entropy(np.full(324, 7.0)) == pytest.approx(math.log(324))
    assert attention_entropy([0, 5, 0, 0]) == 0
    assert attention_entropy([1, 1, 0, 0]) == pytest.approx(math.log(2))


@given(hnp.arrays(np.float32, 16, elements=st.floats(0.015625, 1, width=32)), st.floats(0.1, 1000))
def test_entropy_renormalises_and_keeps_its_bounds(attention: np.ndarray, factor: float) -> None:
    entropy = attention_entropy(attention)
    assert 0 <= entropy <= math.log(16) + 1e-9
    assert attention_entropy(attention.astype(np.float64) * factor) == pytest.approx(entropy)


@given(hnp.arrays(np.float32, 8, elements=st.floats(-8, 8, width=32)), st.sampled_from([0.5, 2.0, 32.0]))
def test_cosine_ignores_length_and_stays_in_range(feature: np.ndarray, factor: float) -> None:
    assert -1 <= cosine(feature, feature[::-1].copy()) <= 1
    if np.abs(feature).max() > 1e-3:
        assert cosine(feature, (factor * feature).astype(np.float32)) == pytest.approx(1)
        assert cosine(feature, -feature) == pytest.approx(-1)


def test_cosine_of_nothing_is_zero() -> None:
    assert cosine(np.zeros(4, np.float32), np.ones(4, np.float32)) == 0


def test_patches_that_form_no_square_are_refused() -> None:
    assert side_of(324) == 18
    with pytest.raises(ValueError, match="no square grid"):
        side_of(325)


# The real server


@pytest.mark.server
def test_inspection_gives_the_ensemble_s_verdict_with_golden_features_and_entropies(server: Server) -> None:
    with Inspector(server.url, batch_size=3) as inspector:
        found = inspector.inspect([path.read_bytes() for path in IMAGES], [BOXES[path.name] for path in IMAGES])
    for each, row in zip(found, ROWS, strict=True):
        assert each.status == status.OK
        assert each.score == row["vote"]
        assert (each.face is None) == row["local_is_original"]
        for stream in STREAMS:
            golden, seen = row[KEYS[stream.name]], each.streams[stream.name]
            assert seen.probability == pytest.approx(golden["prob_fake"], abs=1e-4)
            assert seen.vote == float(golden["quantised"])
            np.testing.assert_allclose(seen.features, FEATURES[f"{row['image']}:{KEYS[stream.name]}"], atol=1e-4)
            assert seen.attention.sum() == pytest.approx(1, abs=1e-5)
            assert seen.attention.min() >= 0
        entropy = attention_entropy(each.streams["global_texture"].attention)
        assert entropy == pytest.approx(row["global_attention_entropy"], abs=1e-3)


@pytest.mark.server
def test_an_image_that_cannot_be_scored_has_its_status_and_harms_no_neighbour(server: Server) -> None:
    good = (GOLDEN / "images" / "01_face_close.png").read_bytes()
    with Inspector(server.url) as inspector:
        bad, after = inspector.inspect([b"not an image", good], [None, BOXES["01_face_close.png"]])
    assert (bad.status, dict(bad.streams)) == (status.UNSUPPORTED_FORMAT, {})
    assert after.score == ROWS[1]["vote"]


def test_no_server_is_said_plainly() -> None:
    (port,) = free_ports(1)
    with (
        Inspector(f"localhost:{port}") as inspector,
        pytest.raises(ServerUnavailableError, match="preprocess at localhost"),
    ):
        inspector.inspect([b"any"])
