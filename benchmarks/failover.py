"""`python -m benchmarks.failover`: one of three servers is killed during a run and comes back; nothing may be lost."""

import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import psutil
from deepfake_client import DetectorClient, ServerUnavailableError
from rich.console import Console
from rich.progress import Progress

from benchmarks.serving import circumstances, export
from benchmarks.soak import IMAGES
from server.checks import SHARED_MEMORY

SERVERS = 3
VICTIM = 1


class Server:
    """`python -m server` on three consecutive ports, which can be killed and started again."""

    def __init__(self, repository: Path, first_port: int) -> None:
        """Starts it."""
        self._repository = repository
        self._first_port = first_port
        self._log = (repository.parent / f"server-{first_port}.log").open("wb")
        self.start()

    @property
    def url(self) -> str:
        """HOST:PORT of its gRPC port."""
        return f"localhost:{self._first_port}"

    def start(self) -> None:
        """Starts it; `wait` tells when it is ready."""
        names = ("--grpc-port", "--http-port", "--metrics-port")
        ports = [word for n, name in enumerate(names) for word in (name, str(self._first_port + n))]
        command = [sys.executable, "-m", "server", "--model-repository", str(self._repository), *ports]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        """Waits until it scores an image.

        Raises:
            click.ClickException: It ended instead.
        """
        with DetectorClient(self.url) as client:
            while self._process.poll() is None:
                with suppress(ServerUnavailableError):
                    return client.wait_ready(5)
        raise click.ClickException(f"the server ended with {self._process.returncode}; its log is {self._log.name}")

    def kill(self) -> None:
        """Kills it with all its processes, as a machine that fails does, and frees their shared memory."""
        launcher = psutil.Process(self._process.pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        for region in SHARED_MEMORY.glob(f"deepfake_detector_{self._process.pid}_*"):
            region.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends it in good order."""
        self._process.terminate()
        self._process.wait(60)
        self._log.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--images", default=5000, type=click.IntRange(100), help="Images scored in all.")
@click.option("--batch-size", default=8, type=click.IntRange(1, 32), help="Images in a request.")
@click.option("--down", default=3.0, help="Seconds between the kill and the new start.")
@click.option("--first-port", default=18110, help="The servers listen on nine ports of loopback from this one on.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(images: int, batch_size: int, down: float, first_port: int, output: Path | None) -> None:
    """Score images on three real servers, of which one is killed and comes back; check every row.

    Every image must have exactly one verdict, in its place and with the right score (preset tiny, faces supplied).
    The server is killed (SIGKILL to all its processes) after a fifth of the images; the last fifth waits until it
    scores again, so that it is seen at work. Exit code 1 where anything is amiss.
    """
    repository = export("tiny")
    with ExitStack() as stack:
        servers = []
        for n in range(SERVERS):
            servers.append(Server(repository, first_port + 3 * n))
            stack.callback(servers[-1].stop)
        for server in servers:
            server.wait()
        result = _run(servers, images, batch_size, down)
    result |= circumstances("benchmarks.failover")
    Console().print_json(data=result)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
    if result["missing"] or result["doubled"] or result["wrong"] or not result["victim"]["answered_after_return"]:
        raise SystemExit(1)


def _run(servers: list[Server], images: int, batch_size: int, down: float) -> dict[str, Any]:
    back = threading.Event()
    scored: Counter[int | None] = Counter()
    wrong = 0
    started = time.perf_counter()
    events: list[dict[str, Any]] = []

    def note(event: str) -> None:
        events.append({"seconds": round(time.perf_counter() - started, 2), "event": event})

    def source() -> Iterator[tuple[bytes, Any]]:
        for n in range(images):
            if n == images * 4 // 5 and not back.wait(300):
                raise click.ClickException("the killed server was not back within 300 s")
            data, box, _ = IMAGES[n % len(IMAGES)]
            yield data, box

    def disaster() -> None:
        while sum(status.answered for status in client.servers) * batch_size < images // 5:
            time.sleep(0.01)
        servers[VICTIM].kill()
        note("killed")
        time.sleep(down)
        servers[VICTIM].start()
        note("started again")
        servers[VICTIM].wait()
        note("scores again")
        back.set()

    handler = logging.Handler()
    handler.emit = lambda record: note(f"client: {record.getMessage().splitlines()[0]}")  # type: ignore[method-assign]
    logging.getLogger("deepfake_client").addHandler(handler)
    answered_before = 0
    urls = [server.url for server in servers]
    with (
        DetectorClient(urls, batch_size=batch_size, timeout=60) as client,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        saboteur = threading.Thread(target=disaster, daemon=True)
        saboteur.start()
        task = progress.add_task("images", total=images)
        for place, verdict in enumerate(client.score_many(source())):
            scored[verdict.index] += 1
            wrong += verdict.index != place or verdict.score != IMAGES[place % len(IMAGES)][2]
            progress.advance(task)
            if not back.is_set():
                answered_before = client.servers[VICTIM].answered
        saboteur.join()
        status = client.servers
    seconds = time.perf_counter() - started
    return {
        "measures": "verdicts of a run over three servers of which one is killed and comes back",
        "images": images,
        "verdicts": scored.total(),
        "missing": images - len(scored),
        "doubled": scored.total() - len(scored),
        "wrong": wrong,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "victim": {
            "url": urls[VICTIM],
            "answered_before_return": answered_before,
            "answered_after_return": status[VICTIM].answered - answered_before,
            "failed_requests": status[VICTIM].failed,
        },
        "servers": [asdict(each) for each in status],
        "events": events,
    }


if __name__ == "__main__":
    main()
