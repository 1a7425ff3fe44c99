"""What the streams saw: asked step by step as the ensemble's configuration says, and what evidence takes from it."""

import io
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from deepfake_client import InvalidResponseError, RequestFailedError, ServerUnavailableError, Verdict
from deepfake_client.balancing.addresses import Address
from deepfake_client.evidence import inspection, pictures
from deepfake_client.evidence.inspection import Seen, inspect
from deepfake_client.evidence.receipt import Deployment
from deepfake_client.images.faces import FoundFace
from deepfake_client.results import STREAM_NAMES, Face, ServerInfo
from deepfake_client.transport.settings import Settings
from tritonclient.grpc.service_pb2 import ModelConfigResponse, ModelInferResponse
from tritonclient.utils import InferenceServerException

pytest.importorskip("PIL", reason="needs pip install './client[evidence]'")
bundle = import_module("deepfake_client.evidence.bundle")  # its package gives a function that name
SETTINGS = Settings(("a:1", "b:1"), "net", 30.0, 3, 4, 8, headers={"token": "s3cret"})
PIXELS = {name: np.full((1, 4, 4, 3), n, np.uint8) for n, name in enumerate(STREAM_NAMES)}


class Result:
    """What one model answers."""

    def __init__(self, **outputs: np.ndarray) -> None:
        self.outputs = outputs

    def as_numpy(self, name: str) -> np.ndarray:
        return self.outputs[name]

    def get_response(self) -> ModelInferResponse:
        response = ModelInferResponse()
        for name in self.outputs:
            response.outputs.add(name=name)
        return response


class Server:
    """A server of `net`: a first step that cuts pixels, the streams, and a vote; its steps in the wrong order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, np.ndarray]]] = []
        self.sent: list[dict[str, Any]] = []
        self.options: list[dict[str, Any]] = []
        self.closed = 0
        self.answers: dict[str, Any] = {name: Result(LOGITS=np.zeros((1, 2), np.float32)) for name in STREAM_NAMES}
        self.answers["first"] = Result(**PIXELS)
        self.answers["vote"] = Result(STATUS=np.array([[b"ok"]], object))
        self.config = ModelConfigResponse().config
        self.config.input.add(name="IMAGE")
        self.config.input.add(name="FACE_BOX")
        vote = self.config.ensemble_scheduling.step.add(model_name="vote")
        vote.output_map["STATUS"] = "STATUS"
        for name in STREAM_NAMES:
            vote.input_map[name] = f"{name}_logits"
            step = self.config.ensemble_scheduling.step.add(model_name=name)
            step.input_map["PIXELS"] = f"{name}_pixels"
            step.output_map["LOGITS"] = f"{name}_logits"
        first = self.config.ensemble_scheduling.step.add(model_name="first")
        first.input_map["PICTURE"] = "IMAGE"
        first.input_map["BOX"] = "FACE_BOX"
        for name in STREAM_NAMES:
            first.output_map[name] = f"{name}_pixels"

    def __call__(self, **options: Any) -> "Server":
        self.options.append(options)
        return self

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: Any) -> None:
        self.closed += 1

    def get_model_config(self, model_name: str, **more: Any) -> Any:
        assert model_name == "net"
        self.sent.append(more)
        return type("Reply", (), {"config": self.config})

    def infer(self, model_name: str, inputs: Any, **more: Any) -> Any:
        self.sent.append(more)
        given = {tensor.name(): (tensor.datatype(), tensor.shape()) for tensor in inputs}
        self.asked.append((model_name, self.options[-1]["url"], given))
        answer = self.answers[model_name]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(inspection, "InferenceServerClient", server)
    monkeypatch.setattr(inspection, "resolve", lambda urls: [Address(url, url) for url in urls])
    return server


def failure(code: str) -> InferenceServerException:
    return InferenceServerException("failed to connect: gone", status=f"StatusCode.{code}")


def test_steps_are_asked_when_their_inputs_are_there(server: Server) -> None:
    seen = inspect(SETTINGS, b"picture", (1.0, 2.0, 3.0, 4.0))
    names = [name for name, _, _ in server.asked]
    assert (names[0], set(names[1:4]), names[4]) == ("first", set(STREAM_NAMES), "vote")
    assert server.asked[0][2] == {"PICTURE": ("BYTES", [1, 1]), "BOX": ("FP32", [1, 4])}
    assert server.asked[1][2] == {"PIXELS": ("UINT8", [1, 4, 4, 3])}
    assert set(server.asked[4][2]) == set(STREAM_NAMES)
    assert list(seen) == list(STREAM_NAMES)
    for n, each in enumerate(seen.values()):
        assert each.pixels.shape == (4, 4, 3)
        assert (each.pixels == n).all()
        assert each.attention is None
    assert server.sent == [{"headers": {"token": "s3cret"}, "client_timeout": 30.0}] * 6
    most = dict(server.options[0]["channel_args"])["grpc.max_receive_message_length"]
    assert (most, len(server.options), server.closed) == (64 << 20, 1, 1)  # an answer holds pixels


def test_without_a_box_none_is_sent(server: Server) -> None:
    inspect(SETTINGS, b"picture")
    assert set(server.asked[0][2]) == {"PICTURE"}


def test_attention_is_a_square_without_what_is_beyond_it(server: Server) -> None:
    numbers = np.arange(11, dtype=np.float32)[None]
    server.answers[STREAM_NAMES[1]] = Result(LOGITS=np.zeros((1, 2), np.float32), ATTENTION=numbers)
    seen = inspect(SETTINGS, b"picture")
    assert seen[STREAM_NAMES[0]].attention is None
    np.testing.assert_array_equal(seen[STREAM_NAMES[1]].attention, np.arange(9).reshape(3, 3))


@pytest.mark.parametrize(("status", "there"), [(b"ok", True), ("ok", True), (b"unreadable_image", False), (b"", False)])
def test_a_picture_that_cannot_be_scored_shows_nothing(server: Server, status: Any, there: bool) -> None:
    server.answers["vote"] = Result(STATUS=np.array([[status]], object))
    assert bool(inspect(SETTINGS, b"picture")) is there


def test_a_model_that_is_another_one_is_told(server: Server) -> None:
    step = server.config.ensemble_scheduling.step
    del step[1]
    step[0].input_map.clear()
    with pytest.raises(InvalidResponseError, match="net at a:1 does not have the detector's steps"):
        inspect(SETTINGS, b"picture")
    step[0].input_map["X"] = "nobody gives it"
    with pytest.raises(InvalidResponseError, match="the steps of net at a:1 wait for each other"):
        inspect(SETTINGS, b"picture")


def test_the_first_server_that_answers_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    config = server.get_model_config
    down = {"a:1"}

    def get_model_config(**given: Any) -> Any:
        if server.options[-1]["url"] in down:
            raise failure("UNAVAILABLE")
        return config(**given)

    monkeypatch.setattr(server, "get_model_config", get_model_config)
    assert inspect(SETTINGS, b"picture")
    assert {url for _, url, _ in server.asked} == {"b:1"}
    down.add("b:1")
    with pytest.raises(ServerUnavailableError, match=r"no server answers at b:1 \(gone\)"):
        inspect(SETTINGS, b"picture")
    assert server.closed == 4


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("NOT_FOUND", "the server at a:1 has no model 'vote'$"),
        ("INTERNAL", "INTERNAL: failed"),
        ("DEADLINE_EXCEEDED", "30 s"),
    ],
)
def test_a_step_that_fails_is_named_and_no_other_server_is_asked(server: Server, code: str, said: str) -> None:
    server.answers["vote"] = failure(code)
    with pytest.raises(RequestFailedError, match=said) as caught:
        inspect(SETTINGS, b"picture")
    assert caught.value.code == code
    assert len(server.options) == 1


# evidence

DEPLOYMENT = Deployment(ServerInfo("triton", "2.51", "m", 8), None, None)
BOXES = ((0.0, 0.0, 9.0, 9.0), (5.0, 5.0, 20.0, 20.0))
VERDICT = Verdict("a.jpg", "ok", 0.9, 0.9, face=Face(BOXES[1], 0.9, "raw"))


class Client:
    """Scores copies, and finds two faces."""

    _settings = "settings"

    def __init__(self) -> None:
        self.scored: list[tuple[bytes, str]] = []

    def score(self, image: bytes, *, faces: str) -> Verdict:
        self.scored.append((image, faces))
        return Verdict(None, "ok", 0.9 if image == b"one" else 0.1, 0.5)

    def _find_faces(self, data: bytes) -> list[FoundFace]:
        assert data == b"picture"
        return [FoundFace(Face(box, 0.9, "raw"), b"frame %d" % n, (n, 1.0, 2.0, 3.0)) for n, box in enumerate(BOXES)]


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    level = np.ones((2, 2), np.float32)
    seen = {name: Seen(pixels[0], level if pixels.any() else None) for name, pixels in PIXELS.items()}
    monkeypatch.setattr(bundle, "inspect", lambda *given: asked.append(given) or seen)
    monkeypatch.setattr(bundle, "degraded_copies", lambda data: {"half": b"one", "twice": b"two"})
    monkeypatch.setattr(bundle, "ask_deployment", lambda client: asked.append("deployment") or DEPLOYMENT)
    return asked


def collect(client: Any, verdict: Verdict = VERDICT, **options: Any) -> Any:
    return bundle.collect(client, b"picture", verdict, **options)


def test_evidence_is_of_what_was_judged(inspected: list[Any]) -> None:
    client = Client()
    evidence = collect(client)
    assert inspected == ["deployment", ("settings", b"picture", BOXES[1])]
    assert set(evidence.inputs) == set(STREAM_NAMES)
    assert set(evidence.maps) == set(STREAM_NAMES[1:])  # without those that the server does not give
    assert client.scored == [(b"one", "main"), (b"two", "main")]
    assert [(copy.name, copy.data, copy.verdict.score) for copy in evidence.copies] == [
        ("half", b"one", 0.9),
        ("twice", b"two", 0.1),
    ]
    assert (evidence.agreeing, evidence.note, evidence.deployment) == (1, None, DEPLOYMENT)


def test_of_several_faces_the_worst_is_shown(inspected: list[Any]) -> None:
    client = Client()
    every = Verdict("a.jpg", "ok", 0.9, 0.9, face=VERDICT.face, faces=(VERDICT, VERDICT))
    collect(client, every, deployment=DEPLOYMENT)
    assert inspected == [("settings", b"frame 1", (1, 1.0, 2.0, 3.0))]
    assert {faces for _, faces in client.scored} == {"all"}
    inspected.clear()
    gone = Verdict("a.jpg", "ok", 0.9, 0.9, face=Face((7.0, 7.0, 8.0, 8.0), 0.9, "raw"), faces=(VERDICT,))
    collect(client, gone, deployment=DEPLOYMENT)
    assert inspected == [("settings", b"picture", (7.0, 7.0, 8.0, 8.0))]


def test_only_what_is_asked_for_is_collected_and_of_a_bad_picture_nothing(inspected: list[Any]) -> None:
    client = Client()
    plain = collect(client, with_maps=False, with_copies=False, deployment=DEPLOYMENT)
    assert (inspected, client.scored, plain.copies, plain.agreeing, plain.inputs) == ([], [], None, 0, {})
    bad = collect(client, Verdict("a.jpg", "unreadable_image"), deployment=DEPLOYMENT)
    assert (inspected, client.scored, bad.copies, bad.maps) == ([], [], [], {})


def test_maps_that_a_gateway_keeps_back_are_noted(inspected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RequestFailedError("no such model", "NOT_FOUND")

    monkeypatch.setattr(bundle, "inspect", refuse)
    evidence = collect(Client(), deployment=DEPLOYMENT)
    assert (evidence.note, evidence.maps, len(evidence.copies)) == ("no attention maps: no such model", {}, 2)


def picture(data: bytes) -> np.ndarray:
    import PIL.Image

    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"), np.float64)


def test_a_map_is_bright_where_the_stream_looked() -> None:
    grey = np.full((64, 64, 3), 100, np.uint8)
    attention = np.zeros((4, 4), np.float32)
    attention[0, 3] = 0.5
    drawn = picture(pictures.attention_png(Seen(grey, attention)) or b"").mean(axis=2)
    assert drawn.shape == (64, 64)
    bright = np.unravel_index(drawn.argmax(), drawn.shape)
    assert bright[0] < 16
    assert bright[1] >= 48
    np.testing.assert_allclose(drawn[40:, :24], 80, atol=1)  # elsewhere the picture, a little darker
    level = picture(pictures.attention_png(Seen(grey, np.full((4, 4), 0.0625, np.float32))) or b"")
    np.testing.assert_allclose(level, 80, atol=1)
    assert pictures.attention_png(Seen(grey, None)) is None
    np.testing.assert_array_equal(picture(pictures.pixels_png(grey)), grey)
