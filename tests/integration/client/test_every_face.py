"""A verdict on every face, on the real server: boxes, what is scored, pictures without faces, hostile images."""

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from deepfake_client import AsyncDetectorClient, DetectorClient, Image, Item
from deepfake_client.cli import main

from ensemble.faces.crop import crop_face, square_around
from tests.conftest import Server
from tests.golden import GOLDEN, read_rgb
from tests.hostile import CASES

FACES = [read_rgb(GOLDEN / "images" / name) for name in ("00_face.png", "01_face_close.png")]
LANDSCAPE = GOLDEN / "images" / "07_rocket.png"
pytestmark = pytest.mark.server


def encode(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    """Two faces side by side: uint8 [256, 512, 3]."""
    return np.concatenate(FACES, axis=1)


def test_every_face_is_scored_as_the_image_of_it_alone(server: Server, group: np.ndarray) -> None:
    with DetectorClient(server.url) as client:
        verdict = client.score(encode(group), faces="all")
        assert verdict.ok
        assert verdict.faces is not None
        assert len(verdict.faces) == 2
        for face in verdict.faces:
            left, top, right, _ = square_around(face.face.box)
            scale = 256 / (right - left)
            frame = encode(crop_face(group, face.face.box))
            x1, y1, x2, y2 = face.face.box
            box = [(x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale, (y2 - top) * scale]
            alone = client.score(frame, box)
            assert (face.score, face.probability, face.streams) == (alone.score, alone.probability, alone.streams)
    left_face, right_face = sorted(face.face.box[0] for face in verdict.faces)
    assert left_face < 256 <= right_face
    worst = max(verdict.faces, key=lambda face: face.probability)
    assert (verdict.probability, verdict.face) == (worst.probability, worst.face)
    row = verdict.to_dict()
    assert row["face_count"] == 2
    assert [face["box"] for face in row["faces"]] == [list(face.face.box) for face in verdict.faces]


def test_a_picture_without_faces_is_judged_whole(server: Server) -> None:
    with DetectorClient(server.url) as client:
        every, main_face = client.score(LANDSCAPE, faces="all"), client.score(LANDSCAPE)
    assert every.faces == ()
    assert main_face.face.source == every.face.source == "none"
    assert (every.score, every.probability, every.streams) == (
        main_face.score,
        main_face.probability,
        main_face.streams,
    )


def test_mixed_requests_keep_their_order_and_bad_images_their_status(server: Server, group: np.ndarray) -> None:
    cases = [case for case in CASES if len(case.data) < 1 << 20]
    items = [Item(case.name, case.data, faces="all") for case in cases]
    items += [Item("group", encode(group), faces="all"), Item("main", encode(group)), Item("none", faces="all")]
    with DetectorClient(server.url) as client:
        verdicts = {verdict.path: verdict for verdict in client.score_many(items)}
    assert {case.name: verdicts[case.name].status for case in cases} == {case.name: case.status for case in cases}
    assert len(verdicts["group"].faces or ()) == 2
    assert verdicts["main"].faces is None
    assert verdicts["none"].status == "unreadable_file"


def test_an_image_says_itself_that_every_face_is_wanted(server: Server, group: np.ndarray) -> None:
    image = Image(encode(group), faces="all")

    async def score():
        async with AsyncDetectorClient(server.url) as client:
            one = await client.score(image)
            (many,) = [verdict async for verdict in client.score_many([image])]
            return one, many

    with DetectorClient(server.url) as client:
        wanted = client.score(encode(group), faces="all")
        assert len(wanted.faces or ()) == 2
        assert client.score(image) == wanted
        assert list(client.score_many([image, encode(group)])) == [wanted, client.score(encode(group))]
        with pytest.raises(TypeError, match="itself"):
            client.score(image, (0, 0, 9, 9))
    assert asyncio.run(score()) == (wanted, wanted)


def test_command_line_gives_every_face(server: Server, tmp_path: Path, group: np.ndarray) -> None:
    (tmp_path / "group.png").write_bytes(encode(group))
    arguments = ["score", str(tmp_path / "group.png"), "--faces", "all", "--url", server.url, "--format", "jsonl"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert '"face_count": 2' in result.stdout


def test_a_small_face_is_not_judged(server: Server) -> None:
    canvas = np.full((600, 600, 3), 128, np.uint8)
    canvas[:256, :256] = FACES[0]
    canvas[500:540, 500:540] = cv2.resize(FACES[1], (40, 40), interpolation=cv2.INTER_AREA)
    with DetectorClient(server.url) as client:
        verdict = client.score(encode(canvas), faces="all")
    assert len(verdict.faces or ()) == 1
