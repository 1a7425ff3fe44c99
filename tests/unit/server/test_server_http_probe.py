"""What a probe over HTTP is answered; that it works at all is seen on a secured server in test_client_tls.py."""

import json
import re
from concurrent.futures import Future
from typing import Any

import pytest

from server.http_probe import _judge
from server.probe import Kind


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
        ((503, b"shutting down"), Kind.UNREACHABLE, "HTTP 503"),
        (TimeoutError(), Kind.BUSY, "no answer in time"),
        (ConnectionRefusedError("refused"), Kind.UNREACHABLE, "ConnectionRefusedError: refused"),
    ],
)
def test_server_probe_over_http_is_judged(result: Any, kind: Kind, detail: str) -> None:
    judged, text = _judge(ended(result))
    assert judged is kind
    assert re.search(detail, text)
