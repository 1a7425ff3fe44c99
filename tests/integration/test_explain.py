"""Explanations: Score-CAM against its definition, where maps lie in the image, drift, and the command."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from ensemble.faces.localisation import FaceLocation, local_pixels
from ensemble.images import centre, shrink, square
from ensemble.streams import GLOBAL_TEXTURE, NORMALISATION_MEAN, NORMALISATION_STD, STREAMS, Stream
from forensics.__main__ import main
from forensics.common.inspection import Inspection, StreamInspection
from forensics.explain.saliency import drift, entropy, mass_of, outside_share, stream_window, to_patches, unit_scaled
from forensics.explain.score_cam import forwards, score_cam
from forensics.explain.views import arithmetic, attention_maps, view
from networks import StreamNetwork, load_stream, write_random_weights
from tests.conftest import Server
from tests.golden import GOLDEN, IMAGES, read_rgb

SMALL = Stream("global_texture", "Global Texture", "dinov2_252.pth", 56, 2, "centre", False)
"""The Global Texture stream on a grid of 4×4 patches, to be fast."""

WHOLE = (0.0, 0.0, 64.0, 64.0)

masses = hnp.arrays(np.float32, (4, 4), elements=st.floats(0, 1, width=32)).filter(lambda values: values.sum() > 0.01)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder, "tiny")
    return folder


@pytest.fixture
def network(tiny: Path) -> Iterator[StreamNetwork]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so small a network, more threads cost more than they give
    yield load_stream(SMALL, tiny / SMALL.checkpoint)
    torch.set_num_threads(threads)


# Score-CAM


def by_definition(network: StreamNetwork, pixels: np.ndarray) -> np.ndarray:
    """Channel by channel, as the method words it, on the normalised input."""
    mean, std = np.array(NORMALISATION_MEAN), np.array(NORMALISATION_STD)
    side = len(pixels)
    seen: list[Tensor] = []
    layer = network.get_submodule("vision_model.encoder.layer.1.norm1")
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(torch.from_numpy(pixels)[None])
    handle.remove()
    tokens = seen[0][0, 1:].numpy()
    grid = math.isqrt(len(tokens))
    normalised = (pixels / 255 - mean) / std
    upsampled, logits = [], []
    for channel in tokens.T:
        large = cv2.resize(channel.reshape(grid, grid), (side, side), interpolation=cv2.INTER_LINEAR)
        mask = (large - large.min()) / (large.max() - large.min())
        masked = (normalised * mask[..., None] * std + mean) * 255
        logits.append(float(network(torch.from_numpy(masked.astype(np.float32))[None])[0][0, 1]))
        upsampled.append(large.astype(np.float64))
    weights = np.exp(np.array(logits) - max(logits))
    weights /= weights.sum()
    total = np.maximum(sum(weight * each for weight, each in zip(weights, upsampled, strict=True)), 0)
    return (total - total.min()) / (total.max() - total.min())


@torch.no_grad()
def test_score_cam_equals_its_definition(network: StreamNetwork) -> None:
    pixels = np.ascontiguousarray(centre(read_rgb(IMAGES[1]), 56))
    calls = 0

    def advance() -> None:
        nonlocal calls
        calls += 1

    saliency = score_cam(network, pixels, batch_size=7, advance=advance)
    np.testing.assert_allclose(saliency, by_definition(network, pixels), rtol=0, atol=2e-4)
    assert calls == forwards(network) == 129
    assert (saliency.shape, saliency.dtype) == ((56, 56), np.float32)
    assert (saliency.min(), saliency.max()) == (0, 1)


def test_score_cam_does_not_depend_on_the_batch_nor_leave_a_hook(network: StreamNetwork) -> None:
    pixels = np.ascontiguousarray(centre(read_rgb(IMAGES[5]), 56))
    maps = [score_cam(network, pixels, batch_size=size) for size in (24, 64)]
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-4)
    assert not network.get_submodule("vision_model.encoder.layer.1.norm1")._forward_hooks


# Where maps lie


@pytest.mark.parametrize(
    ("height", "width", "face"),
    [
        (256, 256, (60, 70, 180, 200)),
        (256, 256, (120.5, 90, 250, 240)),
        (180, 240, (40, 30, 160, 170)),
        (120, 90, None),
    ],
)
def test_a_stream_sees_the_window_that_is_said(height: int, width: int, face: tuple | None) -> None:
    """An image that shows its own coordinates: red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, np.full_like(x, 255)], axis=-1).astype(np.uint8)
    shown = {
        "centre": centre(square(image), 252),
        "face": local_pixels(image, FaceLocation(face, None, "supplied" if face else "none")),
        "resize": shrink(square(image), 224),
    }
    for stream in STREAMS:
        x1, y1, x2, y2 = stream_window(stream, height, width, face)
        pixels = shown[stream.framing]
        positions = (np.arange(stream.pixels) + 0.5) / stream.pixels
        inside = pixels[..., 2] == 255  # black where the crop leaves the image
        columns = np.broadcast_to(x1 + positions * (x2 - x1) - 0.5, inside.shape)
        rows = np.broadcast_to((y1 + positions * (y2 - y1) - 0.5)[:, None], inside.shape)
        assert np.abs(pixels[..., 0] - columns)[inside].max() < 1.6
        assert np.abs(pixels[..., 1] - rows)[inside].max() < 1.6


# Numbers of maps


@given(masses)
def test_mass_sums_to_one_and_pictures_lie_between_0_and_1(saliency: np.ndarray) -> None:
    mass = mass_of(saliency)
    assert mass is not None
    assert mass.sum() == pytest.approx(1)
    assert mass.min() >= 0
    assert 0 <= entropy(mass) <= math.log(16) + 1e-9
    scaled = unit_scaled(saliency)
    assert scaled.min() == 0
    assert scaled.max() in (0, 1)


@given(masses, masses)
def test_drift_is_none_for_the_same_map_and_bounded_for_others(a: np.ndarray, b: np.ndarray) -> None:
    p, q = mass_of(a), mass_of(b)
    assert p is not None
    assert q is not None
    same = drift(p, WHOLE, p, WHOLE)
    assert same.moved_mass == pytest.approx(0, abs=1e-12)
    assert same.top_iou == 1
    moved, back = drift(p, WHOLE, q, WHOLE), drift(q, WHOLE, p, WHOLE)
    assert moved == back
    assert moved.moved_mass == pytest.approx(0.5 * np.abs(p - q).sum())
    assert 0 <= moved.top_iou <= 1


def test_drift_is_measured_in_the_image() -> None:
    """The same point of the image, seen through windows half a width apart; then another point, seen alike."""
    left, right = np.zeros((4, 4)), np.zeros((4, 4))
    left[1, 3], right[1, 1] = 1, 1
    assert drift(left, WHOLE, right, (32.0, 0.0, 96.0, 64.0)).moved_mass == pytest.approx(0)
    assert drift(left, WHOLE, left, (32.0, 0.0, 96.0, 64.0)).moved_mass == pytest.approx(1)


def test_top_region_is_the_fewest_cells_that_hold_a_fifth() -> None:
    p = np.array([[0.19, 0.19], [0.31, 0.31]])  # one cell suffices; of the two equal ones, the first
    q = np.array([[0.19, 0.19], [0.30, 0.32]])
    assert drift(p, WHOLE, q, WHOLE).top_iou == 0
    even = np.full((4, 4), 1 / 16)  # four of sixteen cells
    peak = np.zeros((4, 4))
    peak[0, 0] = 1
    assert drift(even, WHOLE, peak, WHOLE).top_iou == 0.25


@settings(max_examples=50)
@given(masses, st.tuples(*[st.floats(-20, 90)] * 4))
def test_mass_outside_a_box_is_what_lies_outside_by_area(saliency: np.ndarray, corners: tuple) -> None:
    mass = mass_of(saliency)
    assert mass is not None
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    fine = np.kron(mass, np.full((64, 64), 1 / 4096))  # each cell as 64×64 points
    points = (np.arange(256) + 0.5) / 4
    inside = fine[np.ix_((points > y1) & (points < y2), (points > x1) & (points < x2))].sum()
    assert outside_share(mass, WHOLE, (x1, y1, x2, y2)) == pytest.approx(1 - inside, abs=0.04)


def test_mass_outside_the_whole_window_is_none_of_it_and_all_of_it() -> None:
    mass = np.full((4, 4), 1 / 16)
    assert outside_share(mass, WHOLE, (-1, -1, 65, 65)) == 0
    assert outside_share(mass, WHOLE, (100, 100, 120, 120)) == 1
    assert outside_share(mass, WHOLE, (0, 0, 32, 64)) == pytest.approx(0.5)


def test_maps_over_pixels_are_averaged_over_patches() -> None:
    fine = np.random.default_rng(0).random((252, 252), np.float32)
    patches = fine.reshape(18, 14, 18, 14).mean(axis=(1, 3))
    np.testing.assert_allclose(to_patches(fine, 18), patches, atol=1e-6)


# A view


def inspected(seed: int, face: tuple | None = (60.0, 60.0, 180.0, 190.0)) -> Inspection:
    rng = np.random.default_rng(seed)
    streams = {}
    for stream, vote in zip(STREAMS, (0.7, 0.4, 0.9), strict=True):
        attention = rng.random((stream.pixels // 14) ** 2, np.float32)
        pixels = np.zeros((stream.pixels, stream.pixels, 3), np.uint8)
        streams[stream.name] = StreamInspection(pixels, np.ones(4, np.float32), attention, vote, vote)
    return Inspection("ok", 0.7, 0.72, streams, face, "raw" if face else "none")


def test_identical_images_do_not_drift_and_votes_add_up() -> None:
    image = read_rgb(IMAGES[1])
    clean = view("clean", image, inspected(0), attention_maps(inspected(0)))
    same = view("same", image, inspected(0), attention_maps(inspected(0)), clean)
    other = view("other", image, inspected(1), attention_maps(inspected(1)), clean)
    for before, after, different in zip(clean.streams, same.streams, other.streams, strict=True):
        assert before.drift is None
        assert after.drift is not None
        assert after.drift.moved_mass == pytest.approx(0, abs=1e-12)
        assert after.drift.top_iou == 1
        assert after.outside_face == before.outside_face
        assert different.drift is not None
        assert different.drift.moved_mass > 0.1
    assert arithmetic(clean, (2, 1, 2)) == "(2 · 0.7 + 1 · 0.4 + 2 · 0.9) / 5 = 0.72, rounded: 0.7"


def test_without_a_face_or_a_map_there_is_no_number() -> None:
    maps = {**attention_maps(inspected(0)), GLOBAL_TEXTURE.name: np.zeros((18, 18), np.float32)}
    shown = view("clean", read_rgb(IMAGES[1]), inspected(0, None), maps)
    assert [each.outside_face for each in shown.streams] == [None] * 3
    assert [each.entropy is None for each in shown.streams] == [True, False, False]


# The command


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, arguments)])


def assert_picture(path: Path) -> None:
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape[1] > 1000
    border = np.concatenate([picture[:, :3].ravel(), picture[:, -3:].ravel(), picture[:2].ravel()])
    assert (border > 200).all(), "something is cut off at the border"


@pytest.mark.server
def test_command_explains_images_clean_and_degraded(server: Server, tmp_path: Path) -> None:
    images = [GOLDEN / "images" / "01_face_close.png", GOLDEN / "images" / "03_face_jpeg.png"]
    result = explain(*images, "--url", server.url, "--degrade", "jpeg=10", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.output.count("UNTRAINED") >= 2
    document = json.loads((tmp_path / "explain.json").read_text())
    assert document["untrained"] is True
    assert [Path(each["path"]) for each in document["images"]] == images
    for each in document["images"]:
        clean, degraded = each["views"]
        assert (clean["title"], degraded["title"]) == ("clean", "JPEG, quality 10")
        for stream in STREAMS:
            before, after = clean["streams"][stream.name], degraded["streams"][stream.name]
            assert 0 <= before["outside_face"] <= 1
            assert before["drift"] is None
            assert 0 < after["drift"]["shared_mass"] < 1
    for path in images:
        assert_picture(tmp_path / path.name)
    page = (tmp_path / "explain.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "UNTRAINED" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page needs another file"


@pytest.mark.server
def test_command_computes_score_cam_once(
    server: Server, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seeded weights of the test are those of the server; the network itself is tested above."""
    calls = []

    def fake(network: StreamNetwork, pixels: np.ndarray, **options: object) -> np.ndarray:
        calls.append(pixels.shape)
        return np.random.default_rng(len(calls)).random(pixels.shape[:2], np.float32)

    monkeypatch.setattr("forensics.explain.maps.score_cam", fake)
    arguments = (IMAGES[1], "--url", server.url, "--method", "score-cam", "--weights", tiny, "--output", tmp_path)
    result = explain(*arguments)
    assert result.exit_code == 0, result.output
    assert "129 forwards in each of 3 streams, about" in result.output
    assert calls == [(252, 252, 3), (252, 252, 3), (224, 224, 3)]
    assert len(list((tmp_path / "maps").iterdir())) == 3
    assert_picture(tmp_path / IMAGES[1].name)
    assert explain(*arguments).exit_code == 0
    assert len(calls) == 3


@pytest.mark.server
def test_command_refuses_weights_that_the_server_does_not_run(server: Server, tiny: Path, tmp_path: Path) -> None:
    for stream in STREAMS:
        (tmp_path / stream.checkpoint).write_bytes((tiny / STREAMS[0].checkpoint).read_bytes())
    result = explain(IMAGES[1], "--url", server.url, "--method", "score-cam", "--weights", tmp_path)
    assert result.exit_code == 1
    assert "is not the checkpoint that the server runs" in result.output


@pytest.mark.server
def test_command_names_an_image_that_cannot_be_scored(server: Server, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    result = explain(tmp_path / "bad.jpg", "--url", server.url, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "bad.jpg" in result.output
    assert "unsupported_format" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--degrade", "jpg=10"], "the names are compound, jpeg"),
        (["--degrade", "jpeg=0"], "a number from 5 to 100"),
        (["--degrade", "jpeg"], "a number from 5 to 100"),
        (["--method", "score-cam"], "needs --weights DIR"),
    ],
)
def test_command_tells_wrong_usage_apart(arguments: list[str], message: str) -> None:
    result = explain(IMAGES[1], *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
