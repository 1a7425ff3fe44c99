"""`python -m benchmarks.attacks`: what requests that mean harm do to a server, on a server of their own.

`--checkout` names another checkout with an environment of its own, so that an older version can be measured likewise.
"""

import asyncio
import http.client
import json
import math
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from rich.console import Console
from rich.table import Table
from tritonclient.utils import InferenceServerException

from benchmarks.common.machine import ROOT
from benchmarks.common.serving import export

MIB = 2**20
ENSEMBLE = "deepfake_detector"
PHOTOGRAPH = ROOT / "tests" / "golden" / "images" / "00_face.png"
SHARED_MEMORY = Path("/dev/shm")
NESTED = 400_000
START_SECONDS = 180
RECOVERY_SECONDS = 120.0


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

    def tritonserver(self) -> int:
        """The process id of tritonserver; 0 while there is none."""
        return next((each.pid for each in self.launcher.children(recursive=True) if each.name() == "tritonserver"), 0)

    def shared_memory(self) -> int:
        """Bytes that the server holds in shared memory."""
        regions = SHARED_MEMORY.glob(f"deepfake_detector_{self.launcher.pid}_*")
        return sum(region.stat().st_blocks * 512 for region in regions)


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
        while ask(target, PHOTOGRAPH.read_bytes(), 1, 10) != "ok":
            if process.poll() is not None or time.monotonic() > deadline:
                raise click.ClickException(f"the server of {checkout} did not start")
            time.sleep(0.5)
        yield target
    finally:
        process.terminate()
        process.wait(60)


def image_input(images: list[bytes]) -> triton.InferInput:
    """The ensemble's input."""
    tensor = triton.InferInput("IMAGE", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image] for image in images], np.object_))
    return tensor


def ask(target: Target, image: bytes, count: int, timeout: float) -> str:
    """One request of `count` equal images: `ok`, or the error's code and message."""
    with triton.InferenceServerClient(target.url) as client:
        try:
            client.infer(ENSEMBLE, [image_input([image] * count)], client_timeout=timeout)
        except InferenceServerException as error:
            return f"{error.status()}: {error.message()}"
    return "ok"


def one_large_request(target: Target) -> str:
    """480 MB in one request: shared memory that stays taken."""
    before = target.shared_memory()
    answer = ask(target, PHOTOGRAPH.read_bytes() + bytes(15_000_000), 32, 120)
    kept = (target.shared_memory() - before) / MIB
    return f"{kept:.0f} MiB of shared memory stay taken; answer: {answer[:70]}"


def flood(
    target: Target, requests: int = 100, batch: int = 32, timeout: float = 300
) -> tuple[list[tuple[str, float]], float]:
    """Many requests at once: the answer and the seconds of each, and of one image afterwards (inf: none)."""
    image = PHOTOGRAPH.read_bytes()

    async def one(client: aio.InferenceServerClient) -> tuple[str, float]:
        started = time.monotonic()
        try:
            await client.infer(ENSEMBLE, [image_input([image] * batch)], client_timeout=timeout)
        except InferenceServerException as error:
            return str(error.status()), time.monotonic() - started
        return "ok", time.monotonic() - started

    async def all_of_them() -> list[tuple[str, float]]:
        async with aio.InferenceServerClient(target.url) as client:
            return list(await asyncio.gather(*(one(client) for _ in range(requests))))

    answers = asyncio.run(all_of_them())
    started = time.monotonic()
    while ask(target, image, 1, RECOVERY_SECONDS) != "ok":
        if time.monotonic() - started > RECOVERY_SECONDS:
            return answers, math.inf
        time.sleep(0.05)
    return answers, time.monotonic() - started


def a_flood_of_batches(target: Target) -> str:
    """100 requests of 32 images at once: how soon those over the limit hear it."""
    answers, _ = flood(target)
    refused = [seconds for answer, seconds in answers if answer.endswith("UNAVAILABLE")]
    served = [seconds for answer, seconds in answers if answer == "ok"]
    soon = f"refused after {statistics.median(refused):.2f} s (median), {max(refused):.2f} s (last)" if refused else ""
    return f"{len(served)} served in {max(served, default=0):.1f} s; {len(refused)} {soon}"


def clients_that_leave(target: Target) -> str:
    """100 requests of 32 images whose clients leave after half a second: what the next caller waits."""
    _, seconds = flood(target, timeout=0.5)
    return f"the next image is answered after {seconds:.1f} s"


def shared_memory_registration(target: Target) -> str:
    """Registering a region of another process, over gRPC and HTTP."""
    region = SHARED_MEMORY / "deepfake_attack_of_a_test"
    region.write_bytes(b"secret of another process")
    try:
        with triton.InferenceServerClient(target.url) as client:
            try:
                client.register_system_shared_memory("stolen", f"/{region.name}", 16)
                grpc = "registered"
            except InferenceServerException as error:
                grpc = f"refused ({error.status()})"
        body = json.dumps({"key": f"/{region.name}", "offset": 0, "byte_size": 16}).encode()
        status, _ = post(target, "/v2/systemsharedmemory/region/stolen2/register", body)
        return f"gRPC {grpc}; HTTP {'registered' if status == 200 else f'refused ({status})'}"
    finally:
        region.unlink()


def model_control(target: Target) -> str:
    """Reading the repository's index, over gRPC and HTTP."""
    with triton.InferenceServerClient(target.url) as client:
        try:
            client.get_model_repository_index()
            grpc = "answered"
        except InferenceServerException as error:
            grpc = f"refused ({error.status()})"
    status, _ = post(target, "/v2/repository/index", b"")
    return f"gRPC {grpc}; HTTP {status}"


def nested_json(target: Target) -> str:
    """400,000 opening brackets as the body of an inference over HTTP."""
    before = target.tritonserver()
    status, _ = post(target, f"/v2/models/{ENSEMBLE}/infer", b"[" * NESTED)
    time.sleep(2)
    return f"HTTP {status or 'gone'}; tritonserver {'lives' if target.tritonserver() == before else 'has DIED'}"


def bad_datagrams(target: Target) -> str:
    """Datagrams of every size to sockets that any user may write to: is the limit still kept afterwards?"""
    names = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@deepfake" in line}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for name in names:
            for content in (b"", b"x", bytes(8), bytes([255] * 8), bytes(100)):
                try:
                    sender.sendto(content, "\0" + name.removeprefix("@"))
                except OSError:
                    break
    answers, seconds = flood(target, requests=60, batch=8)
    served = sum(answer == "ok" for answer, _ in answers)
    return (
        f"{len(names)} sockets; then {served} of 60 requests of 8 images served, the next image after {seconds:.1f} s"
    )


def forged_tickets(target: Target) -> str:
    """Calls of the last step with high tickets during a flood: how many of 60 requests of 8 images get in; 32 fit."""
    logits = np.zeros((1, 2), np.float32)
    inputs = []
    names = ("GLOBAL_TEXTURE_LOGITS", "LOCAL_FACIAL_LOGITS", "SEMANTIC_FUSION_LOGITS")
    values: list[tuple[str, Any]] = [(name, logits) for name in names]
    values += [("IMAGE_STATUS", np.array([[b"ok"]], np.object_)), ("TICKET", np.array([[2**62]], np.int64))]
    for name, value in values:
        datatype = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}[str(value.dtype)]
        tensor = triton.InferInput(name, list(value.shape), datatype)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    image = PHOTOGRAPH.read_bytes()

    async def attack() -> list[str]:
        async with aio.InferenceServerClient(target.url) as client:

            async def one(number: int) -> str:
                await asyncio.sleep(number * 0.02)
                try:
                    await client.infer("voter", inputs)
                    await client.infer(ENSEMBLE, [image_input([image] * 8)], client_timeout=300)
                except InferenceServerException as error:
                    return str(error.status())
                return "ok"

            return await asyncio.gather(*(one(number) for number in range(60)))

    return f"{asyncio.run(attack()).count('ok')} of 60 requests got in"


def post(target: Target, path: str, body: bytes) -> tuple[int, bytes]:
    """A POST over HTTP: status and body; status 0 where the connection broke."""
    connection = http.client.HTTPConnection("127.0.0.1", target.http, timeout=60)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


ATTACKS: tuple[Callable[[Target], str], ...] = (
    shared_memory_registration,
    model_control,
    a_flood_of_batches,
    clients_that_leave,
    forged_tickets,
    bad_datagrams,
    one_large_request,
    nested_json,
)


@click.command()
@click.option(
    "--checkout", type=click.Path(path_type=Path, exists=True), default=ROOT, help="Whose server is attacked."
)
@click.option("--repository", type=click.Path(path_type=Path, exists=True), help="Of that version; made unless given.")
@click.option("--only", multiple=True, help="Run these alone.")
def main(checkout: Path, repository: Path | None, only: tuple[str, ...]) -> None:
    """Attack a server of preset tiny, and say what each attack did."""
    table = Table("attack", "what it did", box=None)
    with serving(checkout, repository or export("tiny")) as target:
        for attack in ATTACKS:
            if not only or attack.__name__ in only:
                table.add_row(attack.__name__.replace("_", " "), found := attack(target))
                print(attack.__name__, found, file=sys.stderr, flush=True)
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
