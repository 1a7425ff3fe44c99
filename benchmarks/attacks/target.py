"""A server that is attacked, and what is seen of it meanwhile."""

import asyncio
import http.client
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import psutil
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from benchmarks.common.machine import ROOT

MIB = 2**20
ENSEMBLE = "deepfake_detector"
PHOTOGRAPH = (ROOT / "tests" / "golden" / "images" / "00_face.png").read_bytes()
SHARED_MEMORY = Path("/dev/shm")
START_SECONDS = 180
OK = "ok"


@dataclass(frozen=True)
class Target:
    """A server that is attacked.

    Attributes:
        launcher: The process of `python -m server`.
        grpc: Its port for gRPC.
        http: Its port for HTTP.
    """

    launcher: psutil.Process
    grpc: int
    http: int

    @property
    def url(self) -> str:
        """Its gRPC end-point."""
        return f"127.0.0.1:{self.grpc}"

    def processes(self) -> frozenset[int]:
        """Process ids of tritonserver and of the steps that it started."""
        tree = self.launcher.children(recursive=True)
        return frozenset(each.pid for each in tree if each.name() == "tritonserver" or "stub" in each.name())

    def shared_memory(self) -> int:
        """Bytes that the server holds in shared memory."""
        regions = SHARED_MEMORY.glob(f"deepfake_detector_{self.launcher.pid}_*")
        return sum(region.stat().st_blocks * 512 for region in regions)

    def memory(self) -> int:
        """Bytes that its processes and its shared memory take; what processes share counts once, about."""
        taken = 0
        for process in self.launcher.children(recursive=True):
            try:
                found = process.memory_info()
            except psutil.NoSuchProcess:
                continue
            taken += found.rss - found.shared
        return taken + self.shared_memory()


@contextmanager
def serving(checkout: Path, repository: Path) -> Iterator[Target]:
    """A server of a checkout, until the end of the block.

    Raises:
        click.ClickException: It did not start.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    grpc, http_port, metrics = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    ports = [f"--grpc-port={grpc}", f"--http-port={http_port}", f"--metrics-port={metrics}"]
    python = checkout / ".venv" / "bin" / "python"
    command = [str(python), "-m", "server", "--model-repository", str(repository), *ports]
    process = subprocess.Popen(command, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    target = Target(psutil.Process(process.pid), grpc, http_port)
    try:
        deadline = time.monotonic() + START_SECONDS
        while ask(target, [PHOTOGRAPH], 10) != OK:
            if process.poll() is not None or time.monotonic() > deadline:
                raise click.ClickException(f"the server of {checkout} did not start; `python -m server` there says why")
            time.sleep(0.5)
        yield target
    finally:
        process.terminate()
        process.wait(60)


def tensor(name: str, values: npt.NDArray[Any]) -> triton.InferInput:
    """An input of a request."""
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def column(values: Sequence[bytes]) -> npt.NDArray[np.object_]:
    """Strings, one a row."""
    made = np.empty((len(values), 1), np.object_)
    made[:, 0] = values
    return made


def ask(target: Target, images: Sequence[bytes], timeout: float) -> str:
    """One request of the ensemble: `ok`, or the error's code and message."""
    with triton.InferenceServerClient(target.url) as client:
        try:
            client.infer(ENSEMBLE, [tensor("IMAGE", column(images))], client_timeout=timeout)
        except InferenceServerException as error:
            return f"{error.status()}: {error.message()}"
    return OK


def seconds_until_served(target: Target, timeout: float = 120.0) -> float:
    """After what time an image is served; `timeout` where it was not within that."""
    started = time.monotonic()
    while ask(target, [PHOTOGRAPH], timeout) != OK and time.monotonic() - started < timeout:
        time.sleep(0.05)
    return min(timeout, time.monotonic() - started)


def flood(
    target: Target, requests: int, images: int, timeout: float = 300, model: str = ENSEMBLE, inputs: Any = None
) -> list[tuple[str, float]]:
    """Equal requests at once: the answer of each (`ok`, or a code), and after how many seconds it came."""
    made = inputs or [tensor("IMAGE", column([PHOTOGRAPH] * images))]

    async def one(client: aio.InferenceServerClient) -> tuple[str, float]:
        started = time.monotonic()
        try:
            await client.infer(model, made, client_timeout=timeout)
        except InferenceServerException as error:
            return str(error.status()), time.monotonic() - started
        return OK, time.monotonic() - started

    async def all_of_them() -> list[tuple[str, float]]:
        async with aio.InferenceServerClient(target.url) as client:
            return list(await asyncio.gather(*(one(client) for _ in range(requests))))

    return asyncio.run(all_of_them())


def post(target: Target, path: str, body: bytes) -> int:
    """The status of a POST over HTTP; 0 where the connection broke."""
    connection = http.client.HTTPConnection("127.0.0.1", target.http, timeout=60)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
    return response.status


@dataclass
class Watch:
    """What happens to a server and to others' requests while it is attacked.

    Attributes:
        peak: The most bytes that the server took beyond what it took before.
        waits: Seconds that single images of a neighbour took, one after the other.
        failed: How many of them were not served.
    """

    peak: int = 0
    waits: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def longest(self) -> float:
        """Of the waits."""
        return max(self.waits, default=0.0)

    @property
    def median(self) -> float:
        """Of the waits."""
        return statistics.median(self.waits) if self.waits else 0.0


@contextmanager
def watching(target: Target, neighbour: Sequence[bytes] = (PHOTOGRAPH,), pause: float = 0.0) -> Iterator[Watch]:
    """Watches a server during the block: its memory, and a neighbour who sends single images one after the other."""
    watch, over, before = Watch(), threading.Event(), target.memory()

    def memory() -> None:
        while not over.wait(0.05):
            watch.peak = max(watch.peak, target.memory() - before)

    def images() -> None:
        while not over.wait(pause):
            started = time.monotonic()
            watch.failed += ask(target, neighbour, 60) != OK
            watch.waits.append(time.monotonic() - started)

    threads = [threading.Thread(target=each) for each in (memory, images)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        over.set()
        for thread in threads:
            thread.join()
