"""The first step outside the server: whom it waits for, whom it refuses, what becomes of permits."""

import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble.preparation import BLANKS, FramingRule, Prepared
from ensemble.streams import IMAGE_STREAMS
from tests.fakes.backend import LONG, Backend, Request, TritonError, column
from tests.golden import ROOT
from tests.waiting import wait_for

STEP = ROOT / "model_repository" / "preprocess"


class Places:
    """`Admission` with room for requests of at most three images: permits are 101, 102, …"""

    def __init__(self, *limits: int) -> None:
        self.limits = limits
        self.asked: list[tuple[int, int]] = []
        self.noted: list[tuple[int, list[bytes]]] = []
        self.released: list[int] = []

    def admit(self, images: int, size: int) -> tuple[int, str | None]:
        self.asked.append((images, size))
        return (100 + len(self.asked), None) if images <= 3 else (0, "OVERLOADED: full")

    def note(self, permit: int, images: Any) -> None:
        self.noted.append((permit, list(images)))

    def release(self, permit: int) -> None:
        self.released.append(permit)


def status_of(image: bytes) -> Request:
    """A request for the status of one image."""
    return Request(IMAGE=column(image), wanted=["IMAGE_STATUS"])


def first_step(module: Any, **parameters: str) -> Any:
    """An instance of the step, with the parameters of the repository but for these."""
    config = text_format.Parse((STEP / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    known = {name: value.string_value for name, value in config.parameters.items()} | parameters
    given = {name: {"string_value": value} for name, value in known.items()}
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps({"parameters": given}), "model_repository": str(STEP)})
    return model


@pytest.fixture
def step() -> Iterator[Any]:
    """The adapter, for which an image is prepared when the gate of its name opens."""
    module = Backend().load_step("preprocess")
    gates = {name: threading.Event() for name in (b"first", b"second", b"third")}
    prepared: list[weakref.ref[Prepared]] = []

    def prepare(image: bytes, *_: object) -> Prepared:
        assert gates[image].wait(LONG)
        result = Prepared("ok", "", BLANKS, None, b"")
        prepared.append(weakref.ref(result))
        return result

    with mock.patch.object(module, "prepare", prepare), mock.patch.object(module.os, "cpu_count", return_value=4):
        model = first_step(module)
        yield SimpleNamespace(module=module, model=model, gates=gates, prepared=prepared)
        for gate in gates.values():
            gate.set()
        model.finalize()


def test_a_single_image_is_answered_by_the_step_itself_where_it_is_idle(step: Any) -> None:
    step.gates[b"first"].set()
    with mock.patch.object(step.module, "QUICK", LONG):
        (response,) = step.model.execute([status_of(b"first")])
    assert response.outputs["IMAGE_STATUS"].tolist() == [["ok"]]


def test_while_an_image_is_in_work_the_next_one_is_waited_for_by_nobody(step: Any) -> None:
    first, second = status_of(b"first"), status_of(b"second")
    with mock.patch.object(step.module, "QUICK", 0.001):
        assert step.model.execute([first]) == [None]
    with mock.patch.object(step.module, "QUICK", LONG):  # who waits now never gets to open the gate
        assert step.model.execute([second]) == [None]
    step.gates[b"second"].set()
    assert second.answered.wait(LONG)
    assert not first.answered.is_set()
    step.gates[b"first"].set()
    assert first.answered.wait(LONG)


def test_a_step_that_has_answered_is_idle_again(step: Any) -> None:
    for gate in step.gates.values():
        gate.set()
    with mock.patch.object(step.module, "QUICK", LONG):
        for image in (b"first", b"second", b"third"):
            (response,) = step.model.execute([status_of(image)])
            assert response is not None
            wait_for(lambda: not step.model._under_way)  # which ends a moment after the image is prepared


def test_a_request_with_several_images_is_answered_once_when_all_are_prepared(step: Any) -> None:
    request = Request(IMAGE=column(b"first", b"second", b"third"), wanted=["IMAGE_STATUS"])
    with mock.patch.object(step.module, "QUICK", LONG):  # for which nobody waits where there are several
        assert step.model.execute([request]) == [None]
    for name in (b"third", b"first"):
        step.gates[name].set()
        deadline, done = time.monotonic() + LONG, 1 + (name == b"first")
        while len(step.prepared) < done and time.monotonic() < deadline:
            time.sleep(0.002)
        assert not request.answered.is_set()
    step.gates[b"second"].set()
    assert request.answer().outputs["IMAGE_STATUS"].tolist() == [["ok"]] * 3


def test_images_are_prepared_on_all_cores_and_opencv_takes_no_further_ones(step: Any) -> None:
    with mock.patch.object(step.module.cv2, "setNumThreads") as threads:
        model = first_step(step.module)
    threads.assert_called_once_with(1)
    assert step.module.QUICK == 0.005
    assert model._pool._max_workers == 4  # cores of this test's machine
    model.finalize()
    with pytest.raises(RuntimeError, match="after shutdown"):
        model._pool.submit(print)


def test_pixels_are_given_back_when_they_are_answered_not_when_python_collects_circles(step: Any) -> None:
    request = status_of(b"first")
    gc.disable()
    try:
        with mock.patch.object(step.module, "QUICK", 0.001):
            assert step.model.execute([request]) == [None]
        step.gates[b"first"].set()
        assert request.answered.wait(LONG)
        deadline = time.monotonic() + LONG
        while step.prepared[0]() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert step.prepared[0]() is None
    finally:
        gc.enable()


NAN = float("nan")


@pytest.fixture
def prepared() -> Iterator[Any]:
    """The adapter, for which an image `n` is prepared to pixels of that colour; each call is noted."""
    backend = Backend()
    module = backend.load_step("preprocess")
    calls: list[tuple[Any, ...]] = []

    def prepare(image: bytes, box: Any, limits: Any, decoders: Any, rule: Any) -> Prepared:
        calls.append((image, box, limits, decoders, rule))
        if image == b"no process":
            raise OSError("out of memory")
        if image == b"odd":
            raise KeyError("x")
        if image == b"bad":
            return Prepared("unreadable_image", "it is no image", BLANKS, None, b"")
        pixels = {
            stream.name: np.full((stream.pixels, stream.pixels, 3), int(image), np.uint8) for stream in IMAGE_STREAMS
        }
        return Prepared("ok", "", pixels, box, b"decoded " + image)

    closed: list[str] = []
    with (
        mock.patch.object(module, "prepare", prepare),
        mock.patch.object(module, "Admission", Places),
        mock.patch.object(module, "Decoders", return_value=SimpleNamespace(close=lambda: closed.append("decoders"))),
    ):
        model = first_step(module, max_request_bytes="100", max_pending="5", max_pending_bytes="77", max_bytes="9")
        yield SimpleNamespace(module=module, model=model, calls=calls, log=backend.log, places=model._admission)
        model.finalize()
    assert closed == ["decoders"]


def goes_on(prepared: Any, *images: bytes, **more: Any) -> Request:
    """A request as an ensemble makes it."""
    return Request(IMAGE=column(*images), wanted=sorted(prepared.module.GOES_ON), **more)


def answers(prepared: Any, *requests: Request) -> list[Any]:
    now = prepared.model.execute(list(requests))
    return [request.answer() if answer is None else answer for request, answer in zip(requests, now, strict=True)]


def test_an_ensemble_gets_a_row_for_each_image_with_the_permit_that_goes_on(prepared: Any) -> None:
    boxes = np.float32([[1, 2, 30, 40], [NAN] * 4, [5, 6, 70, 80]])
    (answer,) = answers(prepared, goes_on(prepared, b"3", b"bad", b"5", FACE_BOX=boxes))
    outputs = answer.outputs
    assert set(outputs) == prepared.module.GOES_ON
    assert outputs["IMAGE_STATUS"].tolist() == [["ok"], ["unreadable_image"], ["ok"]]
    assert outputs["DECODED"].tolist() == [[b"decoded 3"], [b""], [b"decoded 5"]]
    np.testing.assert_array_equal(outputs["BOX"], boxes)
    for stream in IMAGE_STREAMS:
        assert outputs[stream.pixels_name].shape == (3, stream.pixels, stream.pixels, 3)
        assert outputs[stream.pixels_name][:, 0, 0, 0].tolist() == [3, 0, 5]
    assert outputs["PERMIT"].tolist() == [[101]] * 3
    assert outputs["PERMIT"].dtype == np.int64
    assert prepared.places.released == []
    assert sorted(call[1] for call in prepared.calls if call[0] in (b"3", b"5")) == [(1, 2, 30, 40), (5, 6, 70, 80)]
    assert prepared.log[-1] == ("verbose", "unreadable_image: it is no image")
    assert prepared.places.asked == [(3, 5)]


def test_without_boxes_none_is_supplied_and_limits_are_those_of_the_configuration(prepared: Any) -> None:
    (answer,) = answers(prepared, goes_on(prepared, b"3"))
    assert np.isnan(answer.outputs["BOX"]).all()
    ((_, box, limits, decoders, rule),) = prepared.calls
    assert (box, limits.max_bytes, limits.max_pixels) == (None, 9, 50_000_000)
    assert decoders is prepared.model._decoders
    assert rule is prepared.model._rule
    assert prepared.places.limits == (5, 77)


@pytest.mark.parametrize("wanted", [["IMAGE_STATUS"], ["MESSAGE", "PERMIT"], "all but one"])
def test_any_other_caller_is_told_why_and_has_left(prepared: Any, wanted: Any) -> None:
    names = sorted(prepared.module.GOES_ON)[1:] if wanted == "all but one" else wanted
    (answer,) = answers(prepared, Request(IMAGE=column(b"3", b"bad"), wanted=names))
    assert answer.outputs["MESSAGE"].tolist() == [[""], ["it is no image"]]
    assert answer.outputs["PERMIT"].tolist() == [[0], [0]]
    assert prepared.places.released == [101]


def test_what_is_too_much_is_refused_before_any_work(prepared: Any) -> None:
    at_limit, over = goes_on(prepared, b"bad", b"0" * 97), goes_on(prepared, b"bad", b"0" * 98)
    many = goes_on(prepared, *[b"1"] * 4)
    fine, refused, full = answers(prepared, at_limit, over, many)
    assert not fine.has_error()
    assert refused.error().code() == TritonError.INVALID_ARG
    assert refused.error().message().startswith("2 images of 101 bytes in all are over the limit of 100 bytes")
    assert (full.error().code(), full.error().message()) == (TritonError.UNAVAILABLE, "OVERLOADED: full")
    assert len(prepared.calls) == 2
    assert prepared.places.asked == [(2, 100), (4, 4)]


@pytest.mark.parametrize(
    ("image", "code", "said"),
    [
        (
            b"no process",
            TritonError.UNAVAILABLE,
            "no process to decode images in: out of memory; send them again later",
        ),
        (b"odd", TritonError.INTERNAL, "preprocess: KeyError: 'x'"),
    ],
)
def test_a_request_that_fails_here_has_an_answer_and_leaves(prepared: Any, image: bytes, code: str, said: str) -> None:
    for images in ([image], [b"3", image]):  # answered by the step itself, and later
        (answer,) = answers(prepared, goes_on(prepared, *images))
        assert answer.error().code() == code
        assert said in answer.error().message()
    assert prepared.places.released == [101, 102]
    assert not answers(prepared, goes_on(prepared, b"3"))[0].has_error()


def test_the_images_of_a_request_are_noted_under_its_permit(prepared: Any) -> None:
    answers(prepared, goes_on(prepared, b"3", b"4"), goes_on(prepared, b"5"))
    deadline = time.monotonic() + LONG
    while len(prepared.places.noted) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert sorted(prepared.places.noted) == [(101, [b"3", b"4"]), (102, [b"5"])]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"framing": "round"}, "parameter framing of preprocess is 'round'; it must be native, square, face"),
        ({"framing": "face", "face_margin": "9"}, "face_margin is 9; it must be 1 to 3"),
        ({"framing": "face", "face_margin": "wide"}, "face_margin of preprocess is 'wide'; it must be a number"),
    ],
)
def test_a_framing_that_is_none_is_refused(prepared: Any, parameters: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        first_step(prepared.module, **parameters)


def test_a_framing_by_the_face_searches_for_it_and_others_do_not(prepared: Any) -> None:
    chosen: list[tuple[Any, ...]] = []
    detector = SimpleNamespace(name="haar")
    faces = lambda *given: chosen.append(given) or ["the face"]  # noqa: E731
    with (
        mock.patch.object(prepared.module, "choose_detector", lambda *given: chosen.append(given) or detector),
        mock.patch.object(prepared.module, "choose_attempts", lambda *given: chosen.append(given) or []),
        mock.patch.object(prepared.module, "main_faces", faces),
    ):
        assert first_step(prepared.module, framing="native", face_margin="1.25")._rule == FramingRule("native", 1.25)
        assert chosen == []
        rule = first_step(prepared.module, framing="face", face_margin="1.25", detector="haar", attempts="3")._rule
        assert rule.find("image", "box") == "the face"
    assert (rule.framing, rule.face_margin) == ("face", 1.25)
    (setting, step, repository, infer), attempts, search = chosen
    assert (setting, step, repository) == ("haar", "preprocess", STEP.parent)
    assert attempts == ("3", "preprocess", STEP.parent, infer)
    assert search == (["image"], ["box"], detector, [])
    assert ("info", "framing: face, margin 1.25; face detector: haar; attempts: ") in prepared.log
