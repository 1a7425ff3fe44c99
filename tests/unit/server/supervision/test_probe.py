"""How the probe judges answers over gRPC, against a server that answers on demand."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from ensemble import admission
from server.supervision.probe import (
    IMAGE,
    Kind,
    Outcome,
    PendingProbe,
    Prober,
    answer_fault,
    probe_request,
    refusal_kind,
)
from tests.fakes.triton import FakeTriton, fail_times, hang, serving
from tests.waiting import PATIENCE, wait_for


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with serving() as server:
        yield server


def probe(server: FakeTriton, timeout: float = PATIENCE, headers: dict[str, str] | None = None) -> Outcome:
    prober = Prober(server.url, headers)
    try:
        return wait_for(prober.start(timeout).outcome, 2 * PATIENCE)
    finally:
        prober.close()


def test_a_server_that_is_back_is_found_soon_and_past_any_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, int]] = []

    def channel(address: str, options: Any) -> Any:
        given.append(dict(options))
        return grpc.insecure_channel(address)

    monkeypatch.setattr("server.supervision.probe.grpc", SimpleNamespace(insecure_channel=channel))
    Prober("127.0.0.1:1").close()
    (options,) = given
    assert options["grpc.enable_http_proxy"] == 0
    pauses = [options[f"grpc.{which}_reconnect_backoff_ms"] for which in ("initial", "min", "max")]
    assert pauses == [100, 100, 500]


def test_a_real_answer_counts(fake: FakeTriton) -> None:
    found = probe(fake)
    assert (found.kind, found.detail) == (Kind.ANSWERED, "")
    assert found.seconds > 0
    assert fake.batches == [1]


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "OVERLOADED: the queue is full: 256 images are in the server", Kind.BUSY),
        (grpc.StatusCode.UNAVAILABLE, "in ensemble 'x', Exceeds maximum queue size", Kind.BUSY),
        (grpc.StatusCode.UNAVAILABLE, "in ensemble 'x', STUCK: nothing has left, and the queue is full", Kind.STUCK),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", Kind.UNREACHABLE),
        (grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'x'", Kind.FAILED),
        (grpc.StatusCode.UNAVAILABLE, "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", Kind.FAILED),
        (grpc.StatusCode.UNAVAILABLE, "Hostname Verification Check failed.", Kind.FAILED),
        (grpc.StatusCode.UNAVAILABLE, "Ssl handshake failed", Kind.FAILED),
        (grpc.StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED", Kind.FAILED),
        (grpc.StatusCode.UNAVAILABLE, "Peer did not return a Certificate", Kind.FAILED),
        (grpc.StatusCode.INTERNAL, "Socket closed", Kind.FAILED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "STUCK: nothing has left, and the queue is full", Kind.STUCK),
        (grpc.StatusCode.INTERNAL, "Stub process is not healthy.", Kind.FAILED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "given up", Kind.BUSY),
    ],
)
def test_errors_are_judged_by_what_they_say_of_the_server(
    fake: FakeTriton, code: grpc.StatusCode, message: str, kind: Kind
) -> None:
    fake.fault = fail_times(1, code, message)
    found = probe(fake)
    assert found.kind is kind
    assert found.detail == f"{code.name}: {message}"


def test_no_answer_in_time_is_busy(fake: FakeTriton) -> None:
    fake.fault = hang(PATIENCE)
    assert probe(fake, timeout=0.2).kind is Kind.BUSY


def test_nobody_there_is_unreachable() -> None:
    assert probe(FakeTriton()).kind is Kind.UNREACHABLE


def test_headers_go_with_the_inference(fake: FakeTriton) -> None:
    seen: list[tuple[str, str]] = []
    fake.fault = lambda request, context: seen.extend(context.invocation_metadata())
    probe(fake, headers={"triton-grpc-protocol-token": "secret"})
    assert ("triton-grpc-protocol-token", "secret") in seen


def test_an_answer_with_another_status_or_without_bytes_is_a_fault(fake: FakeTriton) -> None:
    def spoil(outputs: dict[str, np.ndarray]) -> None:
        outputs["STATUS"][0] = b"unreadable_image"

    fake.garble = spoil
    found = probe(fake)
    assert (found.kind, found.detail) == (Kind.FAILED, "the probe image got STATUS 'unreadable_image'")

    def empty(outputs: dict[str, np.ndarray]) -> None:
        outputs["SCORE"] = np.zeros((0, 1), np.float32)

    fake.garble = empty
    assert "output SCORE came back empty" in probe(fake).detail
    fake.garble = lambda outputs: outputs.clear()
    assert probe(fake).detail == "the answer has no outputs"


def test_statistics_that_are_not_there_are_none(fake: FakeTriton) -> None:
    prober = Prober(fake.url)
    assert prober.counts() is None  # this server has none
    prober.close()


def test_statistics_are_what_each_model_has_answered_well(fake: FakeTriton) -> None:
    asked: list[tuple[str, str]] = []

    def statistics(request: object, context: grpc.ServicerContext) -> pb.ModelStatisticsResponse:
        asked.extend(context.invocation_metadata())
        reply = pb.ModelStatisticsResponse()
        for name, well, badly in (("net", 7, 2), ("voter", 9, 0)):
            stats = reply.model_stats.add(name=name, execution_count=5).inference_stats
            stats.success.count, stats.fail.count = well, badly
        return reply

    fake.stop()
    fake.ModelStatistics = statistics
    fake.start()
    prober = Prober(fake.url, {"triton-grpc-protocol-token": "secret"})
    assert prober.counts(PATIENCE) == {"net": 7, "voter": 9}
    assert ("triton-grpc-protocol-token", "secret") in asked
    prober.close()


def test_the_request_holds_the_probe_image() -> None:
    image = IMAGE.read_bytes()
    request = probe_request(image)
    assert request.model_name == "deepfake_detector"
    assert (request.inputs[0].name, list(request.inputs[0].shape)) == ("IMAGE", [1, 1])
    assert request.raw_input_contents[0] == len(image).to_bytes(4, "little") + image
    assert image.startswith(b"\x89PNG")
    assert request.parameters["fresh"].bool_param  # an answer that was kept says nothing of the networks


def test_the_words_of_the_first_step_s_refusals_are_understood() -> None:
    assert refusal_kind(f"{admission.OVERLOADED}: the queue is full") is Kind.BUSY
    assert refusal_kind(f"{admission.STUCK}: nothing has left for 10 s, and the queue is full") is Kind.STUCK
    assert refusal_kind("Queue is full") is Kind.BUSY
    assert refusal_kind("Stub process is not healthy.") is None


def test_answer_fault_of_a_good_answer_is_empty() -> None:
    answer = pb.ModelInferResponse()
    answer.outputs.add(name="STATUS")
    answer.raw_output_contents.append(b"\x02\0\0\0ok")
    assert answer_fault(answer) == ""


def test_an_answer_took_until_it_came_not_until_it_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 103.0, 250.0])
    monkeypatch.setattr("server.supervision.probe.time.monotonic", lambda: next(times))
    ended: list[Any] = []
    call: Any = SimpleNamespace(add_done_callback=ended.append, done=lambda: bool(ended and ended[0] is None))
    pending = PendingProbe(call, lambda _: (Kind.ANSWERED, ""))
    assert pending.outcome() is None
    ended.pop()(call)
    ended.append(None)
    found = pending.outcome()
    assert found is not None
    assert found.seconds == 3.0


def test_statistics_have_a_deadline_and_a_closed_prober_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    prober = Prober("127.0.0.1:1")
    asked: list[dict[str, Any]] = []
    service = SimpleNamespace(
        ModelStatistics=lambda request, **more: asked.append(more) or pb.ModelStatisticsResponse(),
        ModelInfer=SimpleNamespace(future=lambda request, **more: asked.append(more) or Done()),
    )
    monkeypatch.setattr(prober, "_service", service)
    assert prober.counts() == {}
    prober.start(7.5)
    assert asked == [{"timeout": 2.0, "metadata": ()}, {"timeout": 7.5, "metadata": ()}]
    closed: list[None] = []
    monkeypatch.setattr(prober, "_channel", SimpleNamespace(close=lambda: closed.append(None)))
    prober.close()
    assert closed == [None]


class Done:
    def add_done_callback(self, _: Any) -> None:
        pass


@pytest.mark.parametrize("name", [None, "localhost"])
def test_a_secured_connection_has_its_credentials_and_the_name_of_the_certificate(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    made: list[Any] = []

    def channel(address: str, credentials: Any, options: Any) -> Any:
        made.append((address, credentials, dict(options)))
        return grpc.insecure_channel(address)

    monkeypatch.setattr("server.supervision.probe.grpc", SimpleNamespace(secure_channel=channel))
    credentials: Any = object()
    Prober("h:1", None, credentials, name).close()
    ((address, given, options),) = made
    assert (address, given) == ("h:1", credentials)
    assert options.get("grpc.ssl_target_name_override") == name
    assert options["grpc.enable_http_proxy"] == 0
