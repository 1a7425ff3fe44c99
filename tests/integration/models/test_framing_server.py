"""Images of any size through the real server under each framing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from deepfake_client import DetectorClient

from ensemble.faces.crop import crop_face, frame_face
from ensemble.faces.haar import HaarDetector
from ensemble.images import FRAMINGS, ImageFraming, centre, decode, shrink, square
from ensemble.pipeline import score
from ensemble.streams import GLOBAL_TEXTURE, STREAMS
from forensics.common.inspection import Inspector
from server.repository import describe_framing
from tests.conftest import Server, start_server
from tests.golden import BOXES, GOLDEN, IMAGES, ROWS
from tests.integration.models.test_face_detector_serving import detector, with_detector
from tests.unit.ensemble.test_framing import BOXES_OF_SIZES, PIXELS, SIZES

pytestmark = [pytest.mark.server, pytest.mark.slow]

MARGIN = 1.5


def set_parameters(repository: Path, **values: object) -> None:
    config = repository / "preprocess" / "config.pbtxt"
    text = config.read_text()
    for name, value in values.items():
        before, found, after = text.partition(f'key: "{name}" value {{ string_value: "')
        assert found
        text = before + found + str(value) + after[after.index('"') :]
    config.write_text(text)


@pytest.fixture(scope="module", params=FRAMINGS)
def framed(
    request: pytest.FixtureRequest, tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ImageFraming, Server]]:
    folder = tmp_path_factory.mktemp("framing")
    shutil.copytree(tiny_repository, folder / "models")
    set_parameters(folder / "models", framing=request.param, face_margin=MARGIN)
    server = start_server(folder / "models", folder / "log")
    yield request.param, server
    assert server.stop() == 0


def test_streams_get_the_pixels_of_the_framing(framed: tuple[str, Server]) -> None:
    framing, server = framed
    names = list(BOXES_OF_SIZES)
    files = [(SIZES / name).read_bytes() for name in names]
    boxes = [tuple(map(float, box)) for box in BOXES_OF_SIZES.values()]
    with Inspector(server.url) as inspector, DetectorClient(server.url) as client:
        inspections = inspector.inspect(files, boxes)
        verdicts = list(client.score_many(list(zip(files, boxes, strict=True))))
    for name, data, box, seen, verdict in zip(names, files, boxes, inspections, verdicts, strict=True):
        image = decode(data)
        frame, frame_box = frame_face(image, box, MARGIN)
        expected = {
            "native": [PIXELS[f"{name}|{stream}"] for stream in ("global", "local", "semantic")],
            "square": [centre(square(image), 252), centre(crop_face(image, box), 252), shrink(square(image), 224)],
            "face": [centre(frame, 252), centre(crop_face(frame, frame_box), 252), shrink(frame, 224)],
        }[framing]
        for stream, pixels in zip(STREAMS, expected, strict=True):
            own = seen.streams[stream.name]
            np.testing.assert_array_equal(own.pixels, pixels)
            assert verdict.streams[stream.name].probability == pytest.approx(own.probability, abs=1e-5)
        assert verdict.status == "ok"
        assert verdict.face is not None
        assert verdict.face.box == pytest.approx(box)
        assert verdict.face.source == "supplied"


def test_the_served_ensemble_is_the_pipeline(framed: tuple[ImageFraming, Server]) -> None:
    framing, server = framed
    sessions = {
        stream.name: onnxruntime.InferenceSession(server.repository / stream.name / "1" / "model.onnx")
        for stream in STREAMS
    }
    networks = {
        name: lambda pixels, session=session: session.run(["LOGITS"], {"PIXELS": pixels})[0]
        for name, session in sessions.items()
    }
    paths = [*IMAGES[:6], *(SIZES / name for name in BOXES_OF_SIZES)]
    images = [decode(path.read_bytes()) for path in paths]
    scored = score(images, networks, HaarDetector(), framing=framing, face_margin=MARGIN)
    with DetectorClient(server.url) as client:
        verdicts = list(client.score_many(paths))
    for index, (path, verdict) in enumerate(zip(paths, verdicts, strict=True)):
        assert verdict.status == "ok", path
        assert verdict.score == pytest.approx(float(scored.result.score[index]), abs=1e-6), path
        assert verdict.probability == pytest.approx(float(scored.result.probability[index]), abs=1e-5), path
        served = [verdict.streams[stream.name].probability for stream in STREAMS]
        np.testing.assert_allclose(served, scored.result.stream_probabilities[index], atol=1e-5)
        assert verdict.face is not None
        face = scored.faces[index]
        assert verdict.face.source == face.source, path
        assert verdict.face.box == (None if face.box is None else pytest.approx(face.box)), path


def test_images_of_the_challenge_have_their_golden_scores(framed: tuple[str, Server]) -> None:
    _, server = framed
    items = [((GOLDEN / "images" / row["image"]).read_bytes(), BOXES[row["image"]]) for row in ROWS]
    with DetectorClient(server.url) as client:
        scores = [verdict.score for verdict in client.score_many(items)]
    assert scores == pytest.approx([row["vote"] for row in ROWS])


def test_faces_are_found_and_bad_images_stay_alone(framed: tuple[str, Server]) -> None:
    _, server = framed
    photograph = (SIZES / "china_q92.jpg").read_bytes()
    with DetectorClient(server.url) as client:
        face = (GOLDEN / "images" / "01_face_close.png").read_bytes()
        verdicts = list(client.score_many([b"no image", photograph, face]))
    assert [verdict.status for verdict in verdicts] == ["unsupported_format", "ok", "ok"]
    assert verdicts[2].face is not None
    assert verdicts[2].face.box is not None


def test_the_framing_is_said_everywhere(framed: tuple[str, Server]) -> None:
    framing, server = framed
    with DetectorClient(server.url) as client:
        provenance = client.provenance()
    assert provenance is not None
    assert provenance.document["framing"] == framing
    assert provenance.document.get("face_margin") == (MARGIN if framing == "face" else None)
    said = f"face, margin {MARGIN}" if framing == "face" else framing
    assert describe_framing(server.repository) == said
    log = server.log.read_text()
    assert f"framing {said}" in log
    assert f"framing: {said}" in log


def test_face_asks_the_served_detector_before_the_framing(tiny_repository: Path, tmp_path: Path) -> None:
    model = detector({"SCORES": 0.99, "BOXES": 0.0, "LANDMARKS": 0.0})
    repository = with_detector(tiny_repository, model, tmp_path / "models")
    set_parameters(repository, framing="face")
    photograph = SIZES / "china_q92.jpg"
    server = start_server(repository, tmp_path / "log")
    with DetectorClient(server.url) as client, Inspector(server.url) as inspector:
        verdicts = list(client.score_many([photograph] * 40))
        [seen] = inspector.inspect([photograph.read_bytes()])
    assert server.stop() == 0
    boxes = {verdict.face.box for verdict in verdicts if verdict.face is not None}
    assert len(boxes) == 1
    assert seen.face == pytest.approx(boxes.pop())
    frame, _ = frame_face(decode(photograph.read_bytes()), seen.face)
    np.testing.assert_array_equal(seen.streams[GLOBAL_TEXTURE.name].pixels, centre(frame, 252))
    assert {verdict.face.source for verdict in verdicts if verdict.face is not None} <= {"raw", "too_small"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"framing": "round"}, "parameter framing of preprocess is 'round'; it must be native, square, face"),
        ({"framing": "face", "detector": "retinaface"}, "parameter detector of preprocess is 'retinaface'"),
    ],
)
def test_a_wrong_setting_is_told(values: dict[str, str], message: str, tiny_repository: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_repository, tmp_path / "models")
    set_parameters(tmp_path / "models", **values)
    with pytest.raises(RuntimeError):
        start_server(tmp_path / "models", tmp_path / "log").stop()
    assert message in (tmp_path / "log").read_text()
