"""Both clients on connections that send nothing: what they would send is noted, and answered as a test says."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from deepfake_client import AsyncDetectorClient, DetectorClient, DetectorError
from deepfake_client.balancing.addresses import Address
from deepfake_client.balancing.balancer import Balancer
from deepfake_client.balancing.request_state import RequestState
from deepfake_client.errors import from_triton
from deepfake_client.transport import asynchronous, blocking, channels
from deepfake_client.transport.calls import Call
from tritonclient.utils import InferenceServerException

LONG = 60.0
A, B = "127.0.0.1:1", "127.0.0.1:2"


def _failure(code: str, message: str = "why") -> InferenceServerException:
    return InferenceServerException(message, status=f"StatusCode.{code}")


class Wire:
    """What connections are made, what is sent on them, and what is answered.

    Attributes:
        made: The arguments of each connection.
        closed: The addresses of those that were closed.
        sent: Address, method and arguments of each call.
        answers: Gives the answer to a call, or raises.
        early: Calls that may be given up early, by what they are told of how long they may take.
    """

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.closed: list[str] = []
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self.answers: Callable[[str, str, dict[str, Any]], Any] = lambda url, method, arguments: "answer"
        self.early: list[float] = []
        self.lock = threading.Lock()

    def send(self, url: str, method: str, arguments: dict[str, Any]) -> Any:
        with self.lock:
            self.sent.append((url, method, arguments))
        return self.answers(url, method, arguments)

    def models(self) -> list[str]:
        return [arguments.get("model_name", "") for _, _, arguments in self.sent]


class Blocking:
    """The blocking client on a wire."""

    def __init__(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wire, self.opened = wire, contextlib.ExitStack()

        class Channel:
            def __init__(self, **options: Any) -> None:
                wire.made.append(options)
                self.close = lambda: wire.closed.append(self.url)
                self.url = options["url"]

            def __getattr__(self, method: str) -> Any:
                return lambda **arguments: wire.send(self.url, method, arguments)

        def infer(client: Any, arguments: dict[str, Any], deadline: float, early_timeout: Callable[[], float]) -> Any:
            wire.early.append(early_timeout())
            return client.infer(**arguments, client_timeout=deadline)

        monkeypatch.setattr(channels, "InferenceServerClient", Channel)
        monkeypatch.setattr(blocking, "infer", infer)

    def client(self, *urls: str, **options: Any) -> Any:
        return self.opened.enter_context(DetectorClient(urls, **options))

    def fleet(self, client: Any) -> Balancer:
        return client._balancer

    def ask(self, client: Any, call: Call[Any], state: RequestState | None = None, retries: int | None = None) -> Any:
        return client._retry(client._channels, call, state or RequestState(), None, retries)

    def wait_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONG
        while not done() and time.monotonic() < deadline:
            time.sleep(0.002)
        assert done()

    def close(self) -> None:
        self.opened.close()

    end = close


class Asyncio:
    """The asyncio client on a wire, on one event loop."""

    def __init__(self, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wire, self.runner, self.clients = wire, asyncio.Runner(), list[Any]()

        class Channel:
            def __init__(self, **options: Any) -> None:
                wire.made.append(options)
                self.url = options["url"]

            async def close(self) -> None:
                wire.closed.append(self.url)

            def __getattr__(self, method: str) -> Any:
                async def call(**arguments: Any) -> Any:
                    return await asyncio.to_thread(wire.send, self.url, method, arguments)

                return call

        async def infer(client: Any, arguments: Any, deadline: float, early_timeout: Callable[[], float]) -> Any:
            wire.early.append(early_timeout())
            return await client.infer(**arguments, client_timeout=deadline)

        monkeypatch.setattr(asynchronous, "InferenceServerClient", Channel)
        monkeypatch.setattr(asynchronous, "ainfer", infer)

    def client(self, *urls: str, **options: Any) -> Any:
        self.clients.append(AsyncDetectorClient(urls, **options))
        return self.clients[-1]

    def fleet(self, client: Any) -> Balancer:
        return self.runner.run(client._balancer())

    def ask(self, client: Any, call: Call[Any], state: RequestState | None = None, retries: int | None = None) -> Any:
        return self.runner.run(client._retry(call, state or RequestState(), retries))

    def run(self, coroutine: Any) -> Any:
        return self.runner.run(coroutine)

    def wait_until(self, done: Callable[[], bool]) -> None:
        async def wait() -> None:
            deadline = time.monotonic() + LONG
            while not done() and time.monotonic() < deadline:
                await asyncio.sleep(0.002)

        self.runner.run(wait())
        assert done()

    def close(self) -> None:
        while self.clients:
            self.runner.run(self.clients.pop().close())

    def end(self) -> None:
        self.close()
        self.runner.close()


def explain(error: InferenceServerException, address: Address, timeout: float) -> DetectorError:
    return from_triton(error, url=str(address), model="net", timeout=timeout)


def call(method: str = "infer", timeout: float = 7.0, **more: Any) -> Call[Any]:
    return Call(method, {"model_name": "net", "inputs": [1]}, timeout, str.upper, explain, **more)


def fails(code: str, message: str = "why") -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise _failure(code, message)

    return fail


class Provided:
    """An answer of the provenance model."""

    def __init__(self, text: str) -> None:
        self._text = text

    def as_numpy(self, _: str) -> Any:
        return np.array([self._text.encode()], object)


class Answered:
    """An answer with a score of 0.5 for one image."""

    def as_numpy(self, name: str) -> Any:
        sizes = {"STREAM_PROBABILITIES": 3, "STREAM_VOTES": 3, "FACE": 4}
        if name in ("STATUS", "FACE_SOURCE"):
            return np.array([[b"ok" if name == "STATUS" else b"none"]], object)
        value = np.nan if name.startswith("FACE") else 0.5
        return np.full((1, sizes.get(name, 1)), value, np.float32)
