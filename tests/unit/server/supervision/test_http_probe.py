"""What a probe over HTTP is answered; that it works at all is seen on a secured server in test_client_tls.py."""

import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from server.supervision.http_probe import HttpProber, _judge
from server.supervision.probe import IMAGE, Kind, Outcome
from tests.waiting import PATIENCE, wait_for


def ended(result: Any) -> Future[tuple[int, bytes]]:
    call: Future[tuple[int, bytes]] = Future()
    if isinstance(result, Exception):
        call.set_exception(result)
    else:
        call.set_result(result)
    return call


def answer(**outputs: list[Any]) -> tuple[int, bytes]:
    return 200, json.dumps({"outputs": [{"name": name, "data": data} for name, data in outputs.items()]}).encode()


@pytest.mark.parametrize(
    ("result", "kind", "detail"),
    [
        (answer(STATUS=["ok"], SCORE=[0.5]), Kind.ANSWERED, ""),
        (answer(STATUS=["unreadable_image"], SCORE=[float("nan")]), Kind.FAILED, "'unreadable_image'"),
        (answer(STATUS=["ok"], SCORE=[]), Kind.FAILED, "SCORE came back empty"),
        ((200, b'{"outputs": []}'), Kind.FAILED, "no outputs"),
        ((500, b'{"error": "Stub process is not healthy."}'), Kind.FAILED, "HTTP 500: .*not healthy"),
        ((503, b'{"error": "the queue is full"}'), Kind.BUSY, "queue is full"),
        ((503, b'{"error": "STUCK: nothing has left, and the queue is full"}'), Kind.STUCK, "STUCK"),
        ((503, b"shutting down"), Kind.UNREACHABLE, "HTTP 503"),
        (TimeoutError(), Kind.BUSY, "no answer in time"),
        (ConnectionRefusedError("refused"), Kind.UNREACHABLE, "ConnectionRefusedError: refused"),
    ],
)
def test_server_probe_over_http_is_judged(result: Any, kind: Kind, detail: str) -> None:
    judged, text = _judge(ended(result))
    assert judged is kind
    assert re.search(detail, text)


class FakeHttp(http.server.ThreadingHTTPServer):
    """Answers each path as it is told, at once or only at the end, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answering = threading.Event()
        self.answering.set()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeHttp

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        self.server.answering.wait(PATIENCE)
        status, answer = self.server.answers.get(self.path, (404, b"{}"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeHttp]:
    server = FakeHttp()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.answering.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def prober(fake: FakeHttp) -> Iterator[HttpProber]:
    made = HttpProber(f"127.0.0.1:{fake.server_address[1]}", {"the-key": "K"})
    yield made
    made.close()


def probed(prober: HttpProber, timeout: float = PATIENCE) -> Outcome:
    return wait_for(prober.start(timeout).outcome)


STATS = b'{"model_stats": [{"name": "net", "execution_count": 9, "inference_stats": {"success": {"count": 7}}}]}'


def test_the_probe_image_is_sent_as_a_binary_request_with_the_key(fake: FakeHttp, prober: HttpProber) -> None:
    fake.answers["/v2/models/deepfake_detector/infer"] = answer(STATUS=["ok"], SCORE=[0.5])
    found = probed(prober)
    assert (found.kind, found.detail) == (Kind.ANSWERED, "")
    ((method, _, headers, body),) = fake.asked
    assert (method, headers["the-key"]) == ("POST", "K")
    length = int(headers["Inference-Header-Content-Length"])
    document = json.loads(body[:length])
    (tensor,) = document["inputs"]
    assert document["parameters"] == {"fresh": True}  # an answer that was kept says nothing of the networks
    image = IMAGE.read_bytes()
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("IMAGE", "BYTES", [1, 1])
    assert tensor["parameters"] == {"binary_data_size": len(image) + 4}
    assert body[length:] == len(image).to_bytes(4, "little") + image


def test_no_answer_in_time_is_busy_and_nobody_there_unreachable(fake: FakeHttp, prober: HttpProber) -> None:
    fake.answering.clear()
    assert probed(prober, timeout=0.1).kind is Kind.BUSY
    nobody = HttpProber("127.0.0.1:1", {})
    assert probed(nobody).kind is Kind.UNREACHABLE
    assert nobody.counts() is None
    nobody.close()


def test_statistics_are_what_each_model_has_answered_well(fake: FakeHttp, prober: HttpProber) -> None:
    fake.answers["/v2/models/stats"] = (200, STATS)
    assert prober.counts(PATIENCE) == {"net": 7}
    fake.answers["/v2/models/stats"] = (200, b'{"model_stats": []}')
    assert prober.counts(PATIENCE) == {}
    assert fake.asked[0][2]["the-key"] == "K"


@pytest.mark.parametrize("status", [403, 500, 503])
def test_statistics_that_are_refused_are_not_read(fake: FakeHttp, prober: HttpProber, status: int) -> None:
    fake.answers["/v2/models/stats"] = (status, STATS)
    assert prober.counts(PATIENCE) is None


def test_statistics_that_do_not_come_in_time_are_none(fake: FakeHttp, prober: HttpProber) -> None:
    fake.answering.clear()
    assert prober.counts(timeout=0.1) is None


def test_a_closed_prober_starts_nothing() -> None:
    prober = HttpProber("127.0.0.1:1", {})
    prober.close()
    with pytest.raises(RuntimeError):
        prober.start(1.0)


def test_a_server_that_speaks_no_http_tells_no_statistics() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def nonsense() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=nonsense)
        thread.start()
        prober = HttpProber(f"127.0.0.1:{listener.getsockname()[1]}", {})
        assert prober.counts(PATIENCE) is None
        prober.close()
        thread.join()


def test_a_probe_that_a_server_does_not_answer_holds_up_no_restart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        prober = HttpProber(f"127.0.0.1:{listener.getsockname()[1]}", {})
        pending = prober.start(60.0)
        connection, _ = listener.accept()
        prober.close()
        assert pending.outcome() is None
        connection.close()


def test_statistics_have_two_seconds_and_each_question_closes_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Connection:
        def __init__(self, address: str, timeout: float) -> None:
            made.append(self)
            self.address, self.timeout, self.closed = address, timeout, 0

        def request(self, *_: Any) -> None:
            raise ConnectionRefusedError

        def close(self) -> None:
            self.closed += 1

    monkeypatch.setattr("server.supervision.http_probe.http.client.HTTPConnection", Connection)
    prober = HttpProber("h:1", {})
    assert prober.counts() is None
    assert probed(prober, 7.5).kind is Kind.UNREACHABLE
    assert [(each.address, each.timeout, each.closed) for each in made] == [("h:1", 2.0, 1), ("h:1", 7.5, 1)]
    prober.close()
