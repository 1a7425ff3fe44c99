"""The steps after the first one outside the server: what they ask, what they answer, whose permits they take."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from ensemble.admission import Ledger, StepAdmission
from ensemble.contract import FACE_NONE, FACE_NOT_NEEDED
from ensemble.faces.every import FaceFrame, Faces
from ensemble.faces.localisation import FaceLocation
from ensemble.faces.restoration import ATTEMPTS
from ensemble.faces.rows import LocalFace
from ensemble.images import ImageError
from ensemble.streams import FACE_STREAMS, GLOBAL_TEXTURE, LOCAL_FACIAL, SEMANTIC_FUSION, STREAMS
from ensemble.voting import score_logits
from tests.fakes.backend import LONG, Backend, InferenceResponse, Request, Tensor, TritonError, column
from tests.golden import ROOT

REPOSITORY = ROOT / "model_repository"
NAN = float("nan")
BOXES = np.float32([[NAN] * 4, [1, 2, 30, 40], [5, 6, 70, 80]])
KNOWN = 12345


class Places:
    """`StepAdmission` of a server that admitted one permit, and has room for requests of at most two images."""

    def __init__(self, step: int = 1) -> None:
        self.entered: list[tuple[int, int, int]] = []
        self.asked: list[tuple[int, int]] = []
        self.released: list[int] = []

    def enter(self, permit: int, images: int, size: int) -> bool:
        self.entered.append((permit, images, size))
        return permit == KNOWN

    def admit(self, images: int, size: int) -> tuple[int, str | None]:
        self.asked.append((images, size))
        return (7, None) if images <= 2 else (0, "OVERLOADED: full")

    def release(self, permit: int) -> None:
        self.released.append(permit)


@pytest.fixture
def backend() -> Backend:
    return Backend()


def begin(step: Any, parameters: dict[str, str], repository: Path = REPOSITORY, name: str = "step") -> Any:
    """An instance of a step, as the server makes it."""
    model = step.TritonPythonModel()
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    model.initialize(
        {"model_config": json.dumps(config), "model_repository": str(repository / name), "model_version": "3"}
    )
    return model


def refusal(response: Any) -> tuple[str, str]:
    assert response.has_error()
    return response.error().code(), response.error().message()


# --- voter


@pytest.fixture
def voter(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The step, and the permits that it gives back."""
    released: list[int] = []
    step = backend.load_step("voter")
    monkeypatch.setattr(step, "Release", lambda: released.extend)
    return SimpleNamespace(step=step, released=released)


def votes(statuses: Any, **more: Any) -> Request:
    logits = {stream.logits_name: np.float32([[0, n], [1, 0], [0, 2]]) for n, stream in enumerate(STREAMS)}
    return Request(**logits | {"IMAGE_STATUS": column(*statuses)} | more)


def test_the_voter_scores_what_is_ok_and_says_why_of_the_rest(voter: Any) -> None:
    model = begin(voter.step, {"calibration_file": "", "CALIBRATION": "paper"})
    broken = np.float32([[0, 1], [1, 0], [np.inf, 2]])
    given = votes([b"ok", b"too_many_pixels", b"ok"], SEMANTIC_FUSION_LOGITS=broken, FACE=BOXES, PERMIT=[[9], [9], [8]])
    (answer,) = model.execute([given])
    logits = np.stack([given.tensors[stream.logits_name] for stream in STREAMS], axis=1)[:1]
    expected = score_logits(logits)
    outputs = answer.outputs
    assert outputs["STATUS"].tolist() == [[b"ok"], [b"too_many_pixels"], [b"non_finite_logits"]]
    assert np.isnan(outputs["SCORE"]).ravel().tolist() == [False, True, True]
    assert outputs["SCORE"].shape == outputs["PROBABILITY"].shape == (3, 1)
    assert (outputs["SCORE"][0, 0], outputs["PROBABILITY"][0, 0]) == (expected.score[0], expected.probability[0])
    np.testing.assert_array_equal(outputs["STREAM_PROBABILITIES"][:1], expected.stream_probabilities)
    np.testing.assert_array_equal(outputs["STREAM_VOTES"][:1], expected.stream_votes)
    assert np.isnan(outputs["STREAM_PROBABILITIES"][1]).all()
    np.testing.assert_array_equal(outputs["FACE"], BOXES)
    assert not {"FACE_CONFIDENCE", "FACE_SOURCE"} & set(outputs)  # which did not come
    assert voter.released == [9, 9, 8]


def test_a_request_to_the_voter_that_it_cannot_take_harms_no_other(voter: Any) -> None:
    model = begin(voter.step, {"calibration_file": "", "CALIBRATION": "paper"})
    good = votes([b"ok"] * 3)
    strange = votes([b"ok", b"x" * 100, b"ok"], PERMIT=[[5]] * 3)
    code, message = refusal(model.execute([good, strange])[1])
    assert code == TritonError.INVALID_ARG
    assert message == f"voter: ValueError: IMAGE_STATUS {b'x' * 64!r}: no status of an image"
    assert not model.execute([good])[0].has_error()
    assert voter.released == []  # what came with none, and what was refused


def test_the_voter_takes_the_calibration_of_its_own_version(
    voter: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    read = SimpleNamespace(vote="the vote", created="today")
    monkeypatch.setattr(voter.step, "read_in_force", lambda *given: asked.append(given) or read)
    monkeypatch.setattr(voter.step, "score_logits_calibrated", lambda logits, vote: score_logits(logits * (vote != "")))
    begin(voter.step, {"calibration_file": "file.json", "CALIBRATION": "echo"}, name="voter").execute(
        [votes([b"ok"] * 3)]
    )
    assert asked == [(REPOSITORY / "voter" / "3", "file.json", "echo")]
    assert ("info", "calibration in force: file.json of today") in backend.log


@pytest.mark.parametrize("known", [{}, {"DEEPFAKE_DETECTOR_RESTARTS": "4", "DEEPFAKE_DETECTOR_LAST_REQUEST": "ab12"}])
def test_the_voter_tells_the_metrics_of_the_restarts(
    voter: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch, known: dict[str, str]
) -> None:
    for name in ("DEEPFAKE_DETECTOR_RESTARTS", "DEEPFAKE_DETECTOR_LAST_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    model = begin(voter.step, {"calibration_file": "", "CALIBRATION": "paper"})
    family = backend.families["deepfake_detector_restarts_total"]
    (metric,) = family.metrics
    assert (family.kind, metric.value) == ("counter", 4 if known else 0)
    assert metric.labels == {"last_request": "ab12" if known else ""}
    assert model._restarts == (family, metric)  # they go out of the metrics with whoever holds them


# --- provenance


@pytest.mark.parametrize("framing", ["centre", "face"])
def test_provenance_is_what_the_export_wrote_with_the_framing(backend: Backend, tmp_path: Path, framing: str) -> None:
    exported = {"untrained": False, "precision": "fp32", "framing": "of the export"}
    (tmp_path / "provenance" / "3").mkdir(parents=True)
    (tmp_path / "provenance" / "3" / "provenance.json").write_text(json.dumps(exported))
    (tmp_path / "preprocess").mkdir()
    (tmp_path / "preprocess" / "config.pbtxt").write_text(
        "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
            for key, value in {"framing": framing, "face_margin": "1.5"}.items()
        )
    )
    model = begin(backend.load_step("provenance"), {}, tmp_path, "provenance")
    answers = [json.loads(answer.outputs["PROVENANCE"][0]) for answer in model.execute([Request(), Request()])]
    margin = {"face_margin": 1.5} if framing == "face" else {}
    assert answers == [exported | {"framing": framing} | margin] * 2
    assert backend.log == []
    for note in ({"untrained": True}, {"stand_in": "learnt in an hour"}):
        (tmp_path / "provenance" / "3" / "provenance.json").write_text(json.dumps(exported | note))
        begin(backend.load_step("provenance"), {}, tmp_path, "provenance")
    assert backend.log == [
        ("warning", "UNTRAINED weights: every score of this server is meaningless"),
        ("warning", "STAND-IN weights: learnt in an hour"),
    ]


# --- face_finder

FINDER = {"detector": "haar", "attempts": "3", "max_bytes": "1000", "max_pixels": "500"}


@pytest.fixture
def finder(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The step, in which each image says how many faces it has, and what every search was."""
    step = backend.load_step("face_finder")
    searched: list[tuple[Any, ...]] = []

    def read(data: bytes, limits: Any) -> Any:
        assert (limits.max_bytes, limits.max_pixels) == (1000, 500)
        if data == b"bad":
            raise ImageError("unreadable_image", "no image")
        return data

    def every_face(images: Any, detector: Any, attempts: Any) -> list[Faces]:
        (data,), (tried,) = images, attempts
        searched.append((data, detector, [each.name for each in tried]))
        frames = [FaceFrame((n, 0, 9, 9), 0.9 - n / 10, colour(n), (n, 1, 8, 8)) for n in range(int(data))]
        return [Faces("raw" if frames else FACE_NONE, len(frames) + 1, frames)]

    monkeypatch.setattr(step, "read_image", read)
    monkeypatch.setattr(step, "every_face", every_face)
    monkeypatch.setattr(step, "StepAdmission", Places)
    monkeypatch.setattr(step, "choose_detector", lambda setting, *_: f"the {setting} detector")
    return SimpleNamespace(step=step, searched=searched)


def colour(n: int) -> np.ndarray:
    return np.full((256, 256, 3), (200, 100, n), np.uint8)


def test_the_faces_of_each_image_are_in_its_own_row(finder: Any) -> None:
    model = begin(finder.step, FINDER)
    request = Request(IMAGE=column(b"2", b"bad"))
    other = Request(IMAGE=column(b"0"))
    assert model.execute([request, other]) == [None, None]
    outputs = request.answer().outputs
    assert outputs["STATUS"].tolist() == [["ok"], ["unreadable_image"]]
    assert outputs["FOUND"].tolist() == [[3], [0]]
    assert outputs["FOUND"].dtype == np.int32
    assert outputs["FACE_SOURCE"].tolist() == [["raw"], ["none"]]
    np.testing.assert_array_equal(outputs["FACES"], np.float32([[[0, 0, 9, 9], [1, 0, 9, 9]], [[NAN] * 4] * 2]))
    np.testing.assert_array_equal(outputs["FRAME_BOXES"], np.float32([[[0, 1, 8, 8], [1, 1, 8, 8]], [[NAN] * 4] * 2]))
    np.testing.assert_array_equal(outputs["CONFIDENCES"], np.float32([[0.9, 0.8], [NAN, NAN]]))
    assert outputs["FRAMES"][1].tolist() == [b"", b""]
    for n, data in enumerate(outputs["FRAMES"][0]):
        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(pixels, colour(n))
    alone = other.answer().outputs  # with room for one face at least
    assert (alone["FACES"].shape, alone["FRAMES"].tolist()) == ((1, 1, 4), [[b""]])
    model.finalize()


def test_a_caller_may_ask_for_fewer_attempts_and_for_no_more(finder: Any) -> None:
    model = begin(finder.step, FINDER)
    request = Request(IMAGE=column(b"1", b"1"), ATTEMPTS=np.int32([[1], [9]]))
    model.execute([request])
    request.answer()
    whole = Request(IMAGE=column(b"1", b"1"), ATTEMPTS=np.int32([[0], [-1]]))
    left_out = Request(IMAGE=column(b"1"))
    model.execute([whole, left_out])
    whole.answer()
    left_out.answer()
    names = [attempt.name for attempt in ATTEMPTS]
    assert [tried for _, _, tried in finder.searched] == [names[:1], *[names[:3]] * 4]
    assert {detector for _, detector, _ in finder.searched} == {"the haar detector"}
    model.finalize()


def test_more_images_than_there_is_room_for_are_refused_and_the_rest_is_counted(finder: Any) -> None:
    model = begin(finder.step, FINDER)
    admission = model._executor._admission
    much, little = Request(IMAGE=column(b"1", b"1", b"1")), Request(IMAGE=column(b"1", b"bad"))
    refused, later = model.execute([much, little])
    assert refusal(refused) == (TritonError.UNAVAILABLE, "OVERLOADED: full")
    assert later is None
    little.answer()
    assert not much.answered.is_set()
    assert admission.asked == [(3, 3), (2, 4)]
    assert admission.released == [7]
    model.finalize()


@pytest.mark.parametrize("attempts", ["0", str(len(ATTEMPTS) + 1), "-1", "some", ""])
def test_a_number_of_attempts_that_is_none_is_refused(finder: Any, attempts: str) -> None:
    with pytest.raises(ValueError, match=f"face_finder is '{attempts}'; it must be all, or 1 to {len(ATTEMPTS)}"):
        begin(finder.step, FINDER | {"attempts": attempts})
    most = begin(finder.step, FINDER | {"attempts": str(len(ATTEMPTS))})
    assert most._attempts == begin(finder.step, FINDER | {"attempts": "all"})._attempts == len(ATTEMPTS)


# --- face_crop

CROP = {"detector": "haar", "attempts": "2", "max_bytes": "1000", "max_pixels": "500"}


@pytest.fixture
def crop(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The step, in which the image says what its face is, and what each search was given."""
    step = backend.load_step("face_crop")
    searched: list[Any] = []
    made: list[str] = []

    def localise(rows: Any, limits: Any, decoders: Any, locate: Any) -> list[LocalFace]:
        assert (limits.max_bytes, limits.max_pixels) == (1000, 500)
        searched.append((rows, locate([], [])))
        return [face_of(row.data) for row in rows]

    monkeypatch.setattr(step, "localise", localise)
    monkeypatch.setattr(step, "locate_faces", lambda images, supplied, detector, attempts: (detector.name, attempts))
    monkeypatch.setattr(step, "StepAdmission", Places)
    monkeypatch.setattr(step, "Decoders", lambda: SimpleNamespace(close=lambda: made.append("closed")))
    monkeypatch.setattr(
        step, "choose_detector", lambda *_: made.append("detector") or SimpleNamespace(name=f"detector {len(made)}")
    )
    return SimpleNamespace(step=step, searched=searched, made=made, log=backend.log)


def face_of(data: bytes) -> LocalFace:
    """Of the image `n`: its pixels have that colour, and so on."""
    n = int(data)
    pixels = {stream.name: np.full((stream.pixels, stream.pixels, 3), n, np.uint8) for stream in FACE_STREAMS}
    if not n:
        return LocalFace("unreadable_image", "no face crop", pixels, FaceLocation(None, None, FACE_NONE))
    return LocalFace("ok", "", pixels, FaceLocation((n, 2, 30, 40), n / 10, "raw"))


def faces_wanted(*images: bytes, **more: Any) -> Request:
    count = len(images)
    given = {"DECODED": column(*[b"12345"] * count), "BOX": BOXES[:count], "IMAGE_STATUS": column(*[b"ok"] * count)}
    return Request(IMAGE=column(*images), **given | more)


def test_each_request_for_faces_gets_the_rows_of_its_own_images(crop: Any) -> None:
    model = begin(crop.step, CROP)
    permit = np.int64([[KNOWN]])
    first, second = faces_wanted(b"3", b"0", PERMIT=permit), faces_wanted(b"4", PERMIT=permit)
    stranger = faces_wanted(b"5", b"6")
    one, refused_none, two = model.execute([first, stranger, second])
    assert refused_none is None
    for answer, numbers in ((one, [3, 0]), (stranger.answer(), [5, 6]), (two, [4])):
        outputs = answer.outputs
        assert outputs["STATUS"].tolist() == [["ok"] if n else ["unreadable_image"] for n in numbers]
        assert outputs["FACE_SOURCE"].tolist() == [["raw"] if n else ["none"] for n in numbers]
        np.testing.assert_array_equal(
            outputs["FACE"], np.float32([(n, 2, 30, 40) if n else [NAN] * 4 for n in numbers])
        )
        np.testing.assert_array_equal(outputs["FACE_CONFIDENCE"], np.float32([[n / 10 if n else NAN] for n in numbers]))
        assert outputs["LOCAL_FACIAL_PIXELS"][:, 0, 0, 0].tolist() == numbers
    model.finalize()
    assert crop.made[-1] == "closed"
    together, alone = crop.searched
    assert [row.data for row in together[0]] == [b"3", b"0", b"4"]
    assert ("verbose", "unreadable_image: no face crop") in crop.log
    assert together[1][0] != alone[1][0]  # a detector of its own for each queue
    assert [len(attempts) for _, (_, attempts) in crop.searched] == [2, 2]


def test_a_row_is_what_the_step_before_says_of_the_image(crop: Any) -> None:
    model = begin(crop.step, CROP)
    partly = np.float32([[NAN, 2, 3, 4]])
    request = faces_wanted(b"3", b"4", IMAGE_STATUS=column(b"ok", b"too_many_pixels"), PERMIT=np.int64([[KNOWN]] * 2))
    model.execute([request, faces_wanted(b"5", BOX=partly, PERMIT=np.int64([[KNOWN]]))])
    rows, _ = crop.searched[0]
    assert [(row.decoded, row.status) for row in rows] == [
        (b"12345", "ok"),
        (b"12345", "too_many_pixels"),
        (b"12345", "ok"),
    ]
    assert [row.box for row in rows[:2]] == [None, (1, 2, 30, 40)]
    assert rows[2].box is not None  # a box with a hole is no missing box: it is refused later
    model.finalize()


def test_a_permit_is_for_images_as_sent_and_a_stranger_asks_for_room_for_the_decoded_ones_too(
    crop: Any,
) -> None:
    model = begin(crop.step, CROP)
    model.execute([faces_wanted(b"10", b"20", PERMIT=np.int64([[KNOWN]] * 2))])
    request = faces_wanted(b"10", b"20")
    model.execute([request])
    request.answer()
    admission = model._admission
    assert admission.entered == [(KNOWN, 2, 4), (0, 2, 4)]
    assert admission.asked == [(2, 4 + 10)]
    assert admission.released == [7]
    (refused,) = model.execute([faces_wanted(b"1", b"2", b"3")])
    assert refusal(refused) == (TritonError.UNAVAILABLE, "OVERLOADED: full")
    model.finalize()


# --- decision


@pytest.fixture
def decision(backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The step; the models that it asks find faces, and call everything fake."""
    step = backend.load_step("decision")
    monkeypatch.setattr(step, "StepAdmission", Places)

    def face_crop(inputs: Any) -> InferenceResponse:
        numbers = [int(data) for data in inputs["IMAGE"][:, 0]]
        pixels = np.stack([np.full((252, 252, 3), n, np.uint8) for n in numbers])
        return InferenceResponse(
            [
                Tensor("FACE", np.float32([[n] * 4 for n in numbers])),
                Tensor("FACE_CONFIDENCE", np.float32([[n / 10] for n in numbers])),
                Tensor("FACE_SOURCE", column(*[b"raw"] * len(numbers))),
                Tensor("STATUS", column(*[b"unreadable_image" if n == 9 else b"ok" for n in numbers])),
                Tensor("LOCAL_FACIAL_PIXELS", pixels),
            ]
        )

    def local_facial(inputs: Any) -> InferenceResponse:
        return InferenceResponse([Tensor("LOGITS", np.float32([[0, 9]] * len(inputs["PIXELS"])))])

    backend.models |= {"face_crop": face_crop, "local_facial": local_facial}
    model = begin(step, {"late": "local_facial"}, name="decision")
    return SimpleNamespace(step=step, model=model, backend=backend)


def evidence(*numbers: int, **more: Any) -> Request:
    """Images of which the even ones need the late stream, and the odd ones are real without it."""
    count = len(numbers)
    split = np.float32([[9, 0] if n % 2 else [0, 9] for n in numbers])
    given = {
        GLOBAL_TEXTURE.logits_name: np.float32([[9, 0]] * count),
        SEMANTIC_FUSION.logits_name: split,
        "IMAGE": column(*(b"%d" % n for n in numbers)),
        "DECODED": column(*(b"decoded %d" % n for n in numbers)),
        "BOX": np.float32([[n, n, 50, 50] for n in numbers]),
        "IMAGE_STATUS": column(*[b"ok"] * count),
        "PERMIT": np.int64([[KNOWN]] * count),
    }
    return Request(**given | more)


def decided(decision: Any, request: Request) -> Any:
    assert decision.model.execute([request]) == [None]
    return request.answer()


def test_late_streams_are_asked_about_undecided_images_alone(decision: Any) -> None:
    request = evidence(1, 2, 3, 4, IMAGE_STATUS=column(b"ok", b"ok", b"ok", b"too_many_pixels"))
    outputs = decided(decision, request).outputs
    crop, stream = decision.backend.asked
    assert (crop.model, stream.model) == ("face_crop", "local_facial")
    assert crop.inputs["IMAGE"].tolist() == [[b"2"]]
    assert crop.inputs["DECODED"].tolist() == [[b"decoded 2"]]
    assert crop.inputs["BOX"].tolist() == [[2, 2, 50, 50]]
    assert crop.inputs["IMAGE_STATUS"].tolist() == [[b"ok"]]
    assert crop.inputs["PERMIT"].tolist() == [[KNOWN]]
    assert crop.inputs["PERMIT"].dtype == np.int64
    assert all(values.flags["C_CONTIGUOUS"] for values in crop.inputs.values())
    assert stream.inputs["PIXELS"][:, 0, 0, 0].tolist() == [2]
    assert crop.memory == stream.memory == "cpu"  # else it may come on a GPU, which this step does not read
    assert outputs["VERDICT"].tolist() == [["real"], ["fake"], ["real"], [""]]
    assert outputs["STATUS"].tolist() == [["ok"], ["ok"], ["ok"], ["too_many_pixels"]]
    two, three = "global_texture,semantic_fusion", "global_texture,local_facial,semantic_fusion"
    assert outputs["STREAMS_RUN"].tolist() == [[two], [three], [two], [""]]
    not_needed = [[FACE_NOT_NEEDED], [b"raw"], [FACE_NOT_NEEDED], [FACE_NONE]]
    assert outputs["FACE_SOURCE"].tolist() == not_needed
    np.testing.assert_array_equal(outputs["FACE"], np.float32([[NAN] * 4, [2] * 4, [NAN] * 4, [NAN] * 4]))
    np.testing.assert_array_equal(outputs["FACE_CONFIDENCE"], np.float32([[NAN], [0.2], [NAN], [NAN]]))
    low, high = outputs["SCORE_RANGE"].T
    assert (low[1] == high[1], low[0] < high[0], bool(np.isnan(low[3]))) == (True, True, True)
    assert outputs["SCORE_RANGE"][0].tolist() == pytest.approx([0.0, 0.2])
    assert outputs["PROBABILITY_RANGE"][0].tolist() == pytest.approx([0.0, 0.2], abs=1e-3)
    assert outputs["PROBABILITY_RANGE"][0, 0] > 0  # no vote in steps
    asked = [[True, False, True], [True] * 3, [True, False, True], [False] * 3]
    for name in ("STREAM_PROBABILITIES", "STREAM_VOTES"):
        assert np.isfinite(outputs[name]).tolist() == asked
    assert outputs["STREAM_VOTES"][1].tolist() == [0, 1, 1]
    assert outputs["STREAM_PROBABILITIES"][1].tolist() != [0, 1, 1]


def test_where_all_is_certain_nobody_is_asked(decision: Any) -> None:
    assert decided(decision, evidence(1, 3)).outputs["VERDICT"].tolist() == [["real"], ["real"]]
    assert decision.backend.asked == []


def test_a_threshold_is_each_images_own(decision: Any) -> None:
    thresholds = np.float32([[NAN], [0.99], [0.3]])
    outputs = decided(decision, evidence(1, 2, 2, THRESHOLD=thresholds)).outputs
    assert outputs["VERDICT"].tolist() == [["real"], ["real"], ["fake"]]
    assert outputs["STREAMS_RUN"][1:].tolist() == [["global_texture,semantic_fusion"]] * 2


def test_faces_that_came_are_given_on_and_pixels_that_came_are_used(decision: Any) -> None:
    pixels = np.stack([np.full((4, 4, 3), n, np.uint8) for n in (71, 72, 73)])
    came = {
        "FACE": BOXES,
        "FACE_CONFIDENCE": np.float32([[0.1], [0.2], [0.3]]),
        "FACE_SOURCE": column(b"a", b"b", b"c"),
    }
    outputs = decided(decision, evidence(1, 2, 4, **{LOCAL_FACIAL.pixels_name: pixels}, **came)).outputs
    (stream,) = decision.backend.asked
    assert stream.inputs["PIXELS"][:, 0, 0, 0].tolist() == [72, 73]
    for name, values in came.items():
        np.testing.assert_array_equal(outputs[name], values)


def test_an_image_whose_face_cannot_be_cut_has_its_status_and_no_verdict(decision: Any) -> None:
    decision.backend.models["local_facial"] = lambda inputs: InferenceResponse(
        [Tensor("LOGITS", np.float32([[0, 9]] * len(inputs["PIXELS"])))]
    )
    outputs = decided(decision, evidence(2, 9, SEMANTIC_FUSION_LOGITS=np.float32([[0, 9]] * 2))).outputs
    assert outputs["STATUS"].tolist() == [["ok"], ["unreadable_image"]]
    assert outputs["VERDICT"].tolist() == [["fake"], [""]]


@pytest.mark.parametrize("model", ["face_crop", "local_facial"])
def test_a_step_that_fails_is_told_so_that_the_images_are_sent_again(decision: Any, model: str) -> None:
    decision.backend.models[model] = lambda _: InferenceResponse(error=TritonError("out of memory"))
    assert refusal(decided(decision, evidence(2))) == (
        TritonError.UNAVAILABLE,
        f"{model} failed: out of memory; send the images again",
    )
    assert decision.model._admission.released == [KNOWN]


def test_strangers_ask_for_a_permit_of_their_own_with_which_faces_are_cut_for_them(decision: Any) -> None:
    stranger = evidence(2, 12)
    del stranger.tensors["PERMIT"]
    assert not decided(decision, stranger).has_error()
    admission = decision.model._admission
    assert (admission.entered, admission.asked, admission.released) == ([(0, 2, 3)], [(2, 3)], [7])
    assert decision.backend.asked[0].inputs["PERMIT"].tolist() == [[7], [7]]
    (refused,) = decision.model.execute([evidence(2, 2, 2, PERMIT=np.int64([[1]] * 3))])
    assert refusal(refused) == (TritonError.UNAVAILABLE, "OVERLOADED: full")


def test_face_crop_lets_in_what_the_decision_hands_on(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both enter with the permit of the first step, once each."""
    ledger = Ledger.create(4)
    permit = ledger.issue(1, 100)
    assert permit is not None
    monkeypatch.setattr(Ledger, "find", lambda _: ledger)
    decision, crop = backend.load_step("decision"), backend.load_step("face_crop")
    steps = [StepAdmission(decision.STEP), StepAdmission()]
    assert [step.enter(permit, 1, 100) for step in (*steps, *steps)] == [True, True, False, False]
    assert crop.StepAdmission is decision.StepAdmission


def test_requests_wait_for_late_streams_side_by_side(decision: Any) -> None:
    both = threading.Barrier(2)
    answer = decision.backend.models["local_facial"]

    def wait_for_the_other(inputs: Any) -> InferenceResponse:
        both.wait(LONG)  # which breaks where they come one after the other
        return answer(inputs)

    decision.backend.models["local_facial"] = wait_for_the_other
    assert decision.model._executor._threads._max_workers == 64  # these share the late streams' batches
    requests = [evidence(2), evidence(2)]
    assert decision.model.execute(requests) == [None, None]
    assert [request.answer().has_error() for request in requests] == [False, False]
    decision.model.finalize()


def test_late_streams_are_asked_in_the_order_of_the_parameter(decision: Any) -> None:
    names = [[each.name for each in decision.model._late], [each.name for each in decision.model._early]]
    assert names == [["local_facial"], ["global_texture", "semantic_fusion"]]
    other = begin(decision.step, {"late": "semantic_fusion,global_texture"}, name="decision")
    assert [each.name for each in other._late] == ["semantic_fusion", "global_texture"]
    assert [each.name for each in other._early] == ["local_facial"]


def test_faces_of_strangers_are_searched_one_request_after_the_other(finder: Any, crop: Any) -> None:
    """So that one decoded image is in memory at a time, and a detector takes one batch after the other."""
    models = begin(finder.step, FINDER), begin(crop.step, CROP)
    assert [each._threads._max_workers for each in (models[0]._executor, models[1]._direct)] == [1, 1]


def test_each_step_ends_after_the_answers_that_are_under_way(decision: Any, finder: Any, crop: Any) -> None:
    waiting = threading.Event()
    request = evidence(2)
    answer = decision.backend.models["local_facial"]
    decision.backend.models["local_facial"] = lambda inputs: waiting.wait(LONG) and answer(inputs)
    assert decision.model.execute([request]) == [None]
    threading.Timer(0.05, waiting.set).start()
    decision.model.finalize()
    assert request.answered.is_set()
    for module, parameters in ((finder.step, FINDER), (crop.step, CROP)):
        model = begin(module, parameters)
        closed: list[str] = []
        executor = "_executor" if module is finder.step else "_direct"
        setattr(model, executor, SimpleNamespace(close=lambda closed=closed: closed.append("closed")))
        model.finalize()
        assert closed == ["closed"]
