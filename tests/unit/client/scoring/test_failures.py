"""Failures that pass, and failures that stay."""

import re
import threading
import time
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest
from deepfake_client import (
    AsyncDetectorClient,
    DetectorClient,
    InvalidResponseError,
    RequestFailedError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from deepfake_client.balancing.addresses import Address
from deepfake_client.balancing.balancer import Balancer
from deepfake_client.balancing.request_state import RequestState
from deepfake_client.balancing.retries import RetryPolicy
from tritonclient.grpc import service_pb2 as pb

from ensemble.admission import AdmissionController
from tests.fakes.triton import FakeTriton, fail_times, hang
from tests.unit.client.scoring.asking import Scorer, scores_of
from tests.waiting import PATIENCE

RETRYABLE = ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED"]
FINAL = ["INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED"]


@pytest.mark.parametrize("code", RETRYABLE)
def test_failure_that_may_pass_is_retried(server: FakeTriton, score_many: Scorer, code: str) -> None:
    server.fault = fail_times(1, grpc.StatusCode[code])
    assert scores_of(score_many(server.url, [b"0.1", b"0.2"])) == [0.1, 0.2]
    assert server.calls == 2


@pytest.mark.parametrize("code", FINAL)
def test_failure_that_stays_is_not_retried(server: FakeTriton, client: DetectorClient, code: str) -> None:
    server.fault = fail_times(99, grpc.StatusCode[code], "the reason")
    with pytest.raises(RequestFailedError, match="the reason") as caught:
        client.score(b"0.1")
    assert caught.value.code == code
    assert server.calls == 1


def test_hanging_request_is_sent_again_after_its_deadline(server: FakeTriton, score_many: Scorer) -> None:
    faults = iter([hang(PATIENCE)])
    server.fault = lambda request, context: next(faults, hang(0))(request, context)
    assert scores_of(score_many(server.url, [b"0.1"], timeout=2)) == [0.1]


@pytest.mark.parametrize("dying", [hang(60), fail_times(10**6, grpc.StatusCode.INTERNAL)], ids=["hangs", "fails"])
def test_nothing_is_lost_over_a_restart(server: FakeTriton, score_many: Scorer, dying: Any) -> None:
    """A step dies, its requests hang or fail, the whole server goes, and comes back on the same port."""

    def disaster() -> None:
        while len(server.batches) < 10:
            time.sleep(0.01)
        server.fault = dying
        time.sleep(0.5)
        server.stop()
        time.sleep(2)
        server.fault = hang(0)
        server.start()

    server.fault = hang(0.01)
    images = [b"%.1f" % (n % 11 / 10) for n in range(300)]
    saboteur = threading.Thread(target=disaster)
    saboteur.start()
    verdicts = score_many(server.url, images, batch_size=5, max_in_flight=4)
    saboteur.join()
    assert scores_of(verdicts) == [float(image) for image in images]


def test_default_retries_outlast_the_restart_of_a_server() -> None:
    balancer = Balancer([Address("gone:1", "gone:1")], 4)
    policy = RetryPolicy(balancer, state := RequestState(), DetectorClient()._settings.retries, 600)
    total = 0.0
    error = ServerUnavailableError("gone")
    while True:
        server = balancer.pick(state)
        assert server is not None
        with suppress(ServerUnavailableError), balancer.request(server, state, 600, scores=True):
            raise error
        if not policy.goes_on(error):
            break
        total += policy.pause()
    assert 45 < total < 90


def test_client_finds_a_restarted_server_at_once(server: FakeTriton) -> None:
    with DetectorClient(server.url, retries=0) as client:
        client.score(b"0.1")
        server.stop()
        for _ in range(30):  # by itself gRPC would now wait for many seconds between two attempts
            with pytest.raises(ServerUnavailableError):
                client.score(b"0.1")
            time.sleep(0.1)
        server.start()
        client.wait_ready(10)


def test_every_request_that_is_over_lets_others_to_its_server(
    server: FakeTriton, score_many: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[RequestState] = []
    released: list[RequestState] = []
    pick = Balancer.pick
    monkeypatch.setattr(Balancer, "pick", lambda self, state: begun.append(state) or pick(self, state))
    monkeypatch.setattr(Balancer, "release", lambda self, state: released.append(state))
    server.fault = fail_times(1, grpc.StatusCode.INVALID_ARGUMENT, "no")
    score_many(server.url, [b"0.1", b"0.2", b"0.3"], batch_size=3)
    assert len(released) > 3  # limits, the batch, and each of its images
    assert {id(state) for state in begun} == {id(state) for state in released}


def test_failed_request_gets_rows_and_the_rest_goes_on(server: FakeTriton, score_many: Scorer) -> None:
    def refuse_poison(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        if b"poison" in request.raw_input_contents[0]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no poison")

    server.fault = refuse_poison
    verdicts = score_many(server.url, [b"0.1", b"0.2", b"poison", b"0.4", b"0.5", b"0.6"], batch_size=2)
    assert [v.status for v in verdicts] == ["ok", "ok", "request_failed", "ok", "ok", "ok"]
    assert "no poison" in (verdicts[2].error or "")


def test_absent_server_is_named_with_the_fix(score_many: Scorer) -> None:
    url = FakeTriton().url
    with pytest.raises(ServerUnavailableError, match=rf"no server answers at {url} \(.*\); start one with") as caught:
        score_many(url, [b"0.1"], retries=1)
    assert "--url HOST:PORT" in str(caught.value)


def _refusal() -> str | None:
    controller = AdmissionController(max_images=1, max_bytes=1)
    controller.admit(1, images=1, size=1, now=0.0)
    return controller.admit(2, images=8, size=8, now=0.0)


@pytest.mark.parametrize(
    "detail",
    [
        "Exceeds maximum queue size",
        "in ensemble 'deepfake_detector', Exceeds maximum queue size",
        f"in ensemble 'deepfake_detector', {_refusal()}",
    ],
)
def test_server_that_turns_a_request_away_is_overloaded(server: FakeTriton, detail: str) -> None:
    server.fault = fail_times(1, grpc.StatusCode.UNAVAILABLE, detail)
    with DetectorClient(server.url, retries=0) as client, pytest.raises(ServerOverloadedError, match="is overloaded"):
        client.score(b"0.1")


def test_host_whose_name_speaks_of_a_queue_is_absent_and_not_overloaded(score_many: Scorer) -> None:
    with pytest.raises(ServerUnavailableError, match=r"no server answers at no-queue\.invalid:1") as caught:
        score_many("no-queue.invalid:1", [b"0.1"], retries=1, timeout=60)
    assert not isinstance(caught.value, ServerOverloadedError)


def test_server_that_stays_away_ends_the_run_after_the_verdicts_before_it(server: FakeTriton) -> None:
    with DetectorClient(server.url, retries=1, batch_size=1, max_in_flight=1) as client:
        verdicts = client.score_many([b"0.1"] * 100)
        assert next(verdicts).score == 0.1
        server.stop()
        with pytest.raises(ServerUnavailableError):
            list(verdicts)
        server.start()


def test_passed_deadline_names_the_limit_and_the_fix(server: FakeTriton) -> None:
    server.fault = hang(30)
    with (
        DetectorClient(server.url, timeout=0.2, retries=0) as client,
        pytest.raises(RequestFailedError, match=r"within 0\.2 s; .* longer timeout") as caught,
    ):
        client.score(b"0.1")
    assert caught.value.code == "DEADLINE_EXCEEDED"


def drop_score(outputs: dict[str, np.ndarray]) -> None:
    del outputs["SCORE"]


def shorten_status(outputs: dict[str, np.ndarray]) -> None:
    outputs["STATUS"] = outputs["STATUS"][:1]


def widen_score(outputs: dict[str, np.ndarray]) -> None:
    outputs["SCORE"] = outputs["SCORE"].astype(np.float64)


def forget_score(outputs: dict[str, np.ndarray]) -> None:
    outputs["SCORE"][:] = np.nan


@pytest.mark.parametrize(
    ("garble", "message"),
    [
        (drop_score, "SCORE is missing"),
        (shorten_status, r"STATUS .* is object \[1, 1\], not object \[2, 1\]"),
        (widen_score, "SCORE .* is float64"),
        (forget_score, "ok but gives no score"),
    ],
)
def test_answer_against_the_contract_is_a_failed_request(
    server: FakeTriton, score_many: Scorer, garble: Any, message: str
) -> None:
    server.garble = garble
    verdicts = score_many(server.url, [b"0.1", b"0.2"])
    assert [v.status for v in verdicts] == ["request_failed"] * 2
    assert re.search(message, verdicts[0].error or "")


def test_answer_without_bytes_is_a_failed_request(server: FakeTriton, client: DetectorClient) -> None:
    def empty(request: Any, context: Any) -> pb.ModelInferResponse:
        response = FakeTriton._detect(server, request, context)
        response.raw_output_contents[0] = b""
        return response

    server._detect = empty  # type: ignore[method-assign]
    with pytest.raises(InvalidResponseError, match="output SCORE of the server is damaged"):
        client.score(b"0.1")


@pytest.mark.parametrize("value", ["http://localhost:8000", "localhost", "localhost:", ":8001", "a b:1", "host:80:90"])
def test_address_that_is_no_host_and_port_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        DetectorClient(value)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"retries": -1}, {"max_in_flight": 0}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AsyncDetectorClient(**options)
