"""Explanations: where maps lie in the image, drift between maps, and how a view is put together."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ensemble.faces.crop import frame_face
from ensemble.faces.detection import Box
from ensemble.faces.localisation import FaceLocation, face_square
from ensemble.images import ImageFraming, centre, frame_whole, shrink
from ensemble.streams import GLOBAL_TEXTURE, STREAMS
from forensics.common.errors import ForensicsError
from forensics.common.inspection import Inspection, StreamInspection
from forensics.common.scoring.server import Server
from forensics.explain import maps as maps_module
from forensics.explain.maps import _in_words, checked_checkpoints, score_cam_maps
from forensics.explain.saliency import drift, entropy, mass_of, outside_share, stream_window, to_patches, unit_scaled
from forensics.explain.views import arithmetic, attention_maps, view
from tests.golden import IMAGES, read_rgb

WHOLE = (0.0, 0.0, 64.0, 64.0)

masses = hnp.arrays(np.float32, (4, 4), elements=st.floats(0, 1, width=32)).filter(lambda values: values.sum() > 0.01)


# Where maps lie


@pytest.mark.parametrize(
    ("height", "width", "face", "framing"),
    [
        (256, 256, (60, 70, 180, 200), "square"),
        (256, 256, (60, 70, 180, 200), "face"),
        (256, 256, (120.5, 90, 250, 240), "native"),
        (180, 240, (40, 30, 160, 170), "square"),
        (180, 240, (40, 30, 160, 170), "native"),  # below 252: as square
        (200, 255, (40, 30, 160, 170), "native"),
        (253, 255, (40, 30, 200, 210), "native"),
        (254, 252, None, "native"),
        (180, 240, (40, 30, 160, 170), "face"),
        (200, 240, (100, 90, 170, 130), "face"),
        (120, 90, None, "square"),
        (120, 90, None, "face"),
    ],
)
def test_a_stream_sees_the_window_that_is_said(
    height: int, width: int, face: Box | None, framing: ImageFraming
) -> None:
    """An image that shows its own coordinates: red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, np.full_like(x, 255)], axis=-1).astype(np.uint8)
    whole, crop = frame_whole(image, framing == "native"), (image, face)
    if framing == "face" and face is not None and (height, width) != (256, 256):
        whole, in_frame = frame_face(image, face, 1.5)
        crop = (whole, in_frame)
    location = FaceLocation(crop[1], None, "supplied" if face else "none")
    shown = {
        "centre": centre(whole, 252),
        "face": centre(face_square(crop[0], location, framing == "native"), 252),
        "resize": shrink(whole, 224),
    }
    for stream in STREAMS:
        x1, y1, x2, y2 = stream_window(stream, height, width, face, framing, 1.5)
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


def test_masses_over_other_windows_overlap_by_area_in_both_directions() -> None:
    """One window lies lower and further right, by half of each side."""
    even = np.full((4, 4), 1 / 16)
    moved = drift(even, WHOLE, even, (32.0, 32.0, 96.0, 96.0))
    assert moved.shared_mass == pytest.approx(0.3125)  # of four by four cells over both
    assert drift(even, (32.0, 32.0, 96.0, 96.0), even, WHOLE) == moved


def test_nothing_salient_has_no_mass_and_a_constant_map_shows_nothing() -> None:
    assert mass_of(np.zeros((4, 4), np.float32)) is None
    np.testing.assert_array_equal(unit_scaled(np.full((4, 4), 0.7, np.float32)), np.zeros((4, 4)))


def test_mass_outside_the_whole_window_is_none_of_it_and_all_of_it() -> None:
    mass = np.full((4, 4), 1 / 16)
    assert outside_share(mass, WHOLE, (-1, -1, 65, 65)) == 0
    assert outside_share(mass, WHOLE, (100, 100, 120, 120)) == 1
    assert outside_share(mass, WHOLE, (0, 0, 32, 64)) == pytest.approx(0.5)


def test_maps_over_pixels_are_averaged_over_patches() -> None:
    fine = np.random.default_rng(0).random((252, 252), np.float32)
    patches = fine.reshape(18, 14, 18, 14).mean(axis=(1, 3))
    np.testing.assert_allclose(to_patches(fine, 18), patches, atol=1e-6)


# Score-CAM of the server's checkpoints


def checkpoints_in(folder: Path) -> None:
    for stream in STREAMS:
        (folder / stream.checkpoint).write_bytes(stream.name.encode())


def serving(**digests: str) -> Server:
    streams = {stream.name: {"sha256": hashlib.sha256(stream.name.encode()).hexdigest()} for stream in STREAMS}
    return Server({"streams": streams | {name: {"sha256": digest} for name, digest in digests.items()}}, None)


def test_maps_are_made_from_the_checkpoints_that_the_server_runs(tmp_path: Path) -> None:
    checkpoints_in(tmp_path)
    checked = checked_checkpoints(tmp_path, serving())
    assert {stream.name: (path, digest) for stream, (path, digest) in checked.items()} == {
        stream.name: (tmp_path / stream.checkpoint, hashlib.sha256(stream.name.encode()).hexdigest())
        for stream in STREAMS
    }
    assert checked_checkpoints(tmp_path, Server(None, None)) == checked  # it does not say
    with pytest.raises(ForensicsError, match=r"dinov2_252_crop\.pth is not the checkpoint that the server runs"):
        checked_checkpoints(tmp_path, serving(local_facial="ab" * 32))


def test_each_checkpoint_is_there_once_as_either_kind_of_file(tmp_path: Path) -> None:
    checkpoints_in(tmp_path)
    path = tmp_path / STREAMS[0].checkpoint
    other = path.with_suffix(".safetensors")
    other.write_bytes(path.read_bytes())
    with pytest.raises(ForensicsError, match=f"holds both {path.name} and {other.name}"):
        checked_checkpoints(tmp_path, serving())
    path.unlink()
    assert checked_checkpoints(tmp_path, serving())[STREAMS[0]][0] == other
    other.unlink()
    with pytest.raises(ForensicsError, match=f"has no {path.name}; give the folder"):
        checked_checkpoints(tmp_path, serving())


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Stream, value of the pixels and batch of each map that is computed; the map holds that value."""
    made = []

    def compute(network: str, pixels: np.ndarray, *, batch_size: int, advance: Callable[[], None]) -> np.ndarray:
        advance()
        made.append((network, int(pixels[0, 0, 0]), batch_size))
        return np.full(pixels.shape[:2], pixels[0, 0, 0] / 255, np.float32)

    monkeypatch.setattr(maps_module, "_load", lambda stream, path: stream.name)
    monkeypatch.setattr(maps_module, "forwards", lambda network: 10)
    monkeypatch.setattr(maps_module, "score_cam", compute)
    monkeypatch.setattr(maps_module, "_tell_time", lambda *about: None)
    return made


def shown(*values: int) -> list[Inspection]:
    return [
        Inspection(
            "ok",
            0.5,
            0.5,
            {
                stream.name: StreamInspection(
                    np.full((stream.pixels, stream.pixels, 3), value, np.uint8),
                    np.ones(4, np.float32),
                    np.ones(4, np.float32),
                    0.5,
                    0.5,
                )
                for stream in STREAMS
            },
            None,
            "none",
        )
        for value in values
    ]


def test_maps_are_computed_once_and_go_to_their_images(tmp_path: Path, computed: list[tuple[str, int, int]]) -> None:
    folder, names = tmp_path / "new" / "maps", [stream.name for stream in STREAMS]
    checkpoints = {stream: (tmp_path / stream.checkpoint, "ab") for stream in STREAMS}
    maps = score_cam_maps(shown(51, 102), checkpoints, folder, 7)
    assert computed == [(name, value, 7) for name in names for value in (51, 102)]
    for row, value in zip(maps, (0.2, 0.4), strict=True):
        assert {name: saliency.shape[0] for name, saliency in row.items()} == {s.name: s.pixels for s in STREAMS}
        assert all((saliency == np.float32(value)).all() for saliency in row.values())
    computed.clear()
    again = score_cam_maps(shown(102, 153, 51), checkpoints, folder, 7)  # one is new, the others are kept
    assert computed == [(name, 153, 7) for name in names]
    assert [float(row[names[2]][0, 0]) for row in again] == pytest.approx([0.4, 0.6, 0.2])
    assert not list(folder.glob(".*"))
    computed.clear()
    score_cam_maps(shown(51), checkpoints | {STREAMS[1]: (tmp_path, "another checkpoint")}, folder, 7)
    assert computed == [(names[1], 51, 7)]


def test_the_time_is_told_once_for_what_is_left(
    tmp_path: Path, computed: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(maps_module, "_tell_time", lambda network, stream, *about: told.append((network, *about)))
    checkpoints = {stream: (tmp_path / stream.checkpoint, "ab") for stream in STREAMS}
    score_cam_maps(shown(51, 102), checkpoints, tmp_path, 7)
    assert told == [(STREAMS[0].name, 7, 20, 3)]
    for file in tmp_path.glob(f"{STREAMS[2].name}-*"):
        file.unlink()
    score_cam_maps(shown(51, 102), checkpoints, tmp_path, 7)
    assert told[1:] == [(STREAMS[2].name, 7, 20, 1)]
    score_cam_maps(shown(51, 102), checkpoints, tmp_path, 7)
    assert len(told) == 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1, "about 1 seconds"),
        (89.6, "about 90 seconds"),
        (120, "about 2.0 minutes"),
        (5400, "about 90.0 minutes"),
        (9000, "about 2.5 hours"),
    ],
)
def test_a_time_is_told_in_words(seconds: float, words: str) -> None:
    assert _in_words(seconds) == words


def test_a_checkpoint_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    with pytest.raises(ForensicsError, match=r"damaged\.pth"):
        maps_module._load(STREAMS[0], tmp_path / "damaged.pth")


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
