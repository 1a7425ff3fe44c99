"""Score-CAM against the maps of the authors' library."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.streams import GLOBAL_TEXTURE, Stream
from forensics.explain.score_cam import _scaled, forwards, score_cam, unit_range
from networks import StreamNetwork, load_stream, write_random_weights
from tests.golden import GOLDEN, IMAGES, read_rgb

GOLDEN_MAPS = np.load(GOLDEN / "studies" / "score_cam_global.npz")

SMALL = Stream("global_texture", "Global Texture", "dinov2_252.pth", 56, 2, "centre", False)
"""The Global Texture stream on a grid of 4×4 patches, to be fast."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def network(tiny: Path) -> StreamNetwork:
    return load_stream(SMALL, tiny / SMALL.checkpoint)


@pytest.mark.parametrize("name", GOLDEN_MAPS.files)
def test_a_map_is_that_of_the_authors_library(tiny: Path, name: str) -> None:
    network = load_stream(GLOBAL_TEXTURE, tiny / GLOBAL_TEXTURE.checkpoint)
    pixels = np.ascontiguousarray(read_rgb(GOLDEN / "images" / name)[2:254, 2:254])
    saliency = score_cam(network, pixels, batch_size=32)
    assert (saliency.shape, saliency.dtype) == ((252, 252), np.float32)
    np.testing.assert_allclose(saliency, GOLDEN_MAPS[name], rtol=0, atol=1e-4)


def test_progress_is_told_for_each_forward_and_no_hook_stays(network: StreamNetwork) -> None:
    calls = 0

    def advance() -> None:
        nonlocal calls
        calls += 1

    saliency = score_cam(network, read_rgb(IMAGES[1])[100:156, 100:156], batch_size=7, advance=advance)
    assert calls == forwards(network) == 129
    assert saliency.min() == 0
    assert saliency.max() == pytest.approx(1, abs=1e-6)
    assert not network.get_submodule("vision_model.encoder.layer.1.norm1")._forward_hooks


def test_the_batch_changes_nothing(network: StreamNetwork) -> None:
    pixels = read_rgb(IMAGES[5])[100:156, 100:156]
    maps = [score_cam(network, pixels, batch_size=size) for size in (24, 64)]
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-4)


def test_each_channel_is_scaled_by_its_own_range_and_a_constant_one_shows_nothing() -> None:
    maps = torch.stack([torch.arange(4.0).reshape(2, 2), torch.full((2, 2), 0.5), -torch.arange(4.0).reshape(2, 2)])
    expected = torch.tensor([[[0, 1 / 3], [2 / 3, 1]], [[0, 0], [0, 0]], [[1, 2 / 3], [1 / 3, 0]]])
    torch.testing.assert_close(unit_range(maps), expected)
    np.testing.assert_array_equal(_scaled(np.full((2, 2), 0.5, np.float32)), np.zeros((2, 2)))
