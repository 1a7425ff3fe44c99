"""`python -m benchmarks.failover`: one of three servers is killed during a run and comes back; nothing may be lost."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import psutil
from deepfake_client import DetectorClient, ServerUnavailableError
from rich.console import Console
from rich.progress import track

from benchmarks.common.machine import circumstances
from benchmarks.common.serving import PHOTOGRAPHS, counter, export
from benchmarks.load.workloads import Item
from ensemble.streams import ENSEMBLE_NAME
from server.supervision.process import LIFELINE, SHARED_MEMORY

SERVERS = 3
VICTIM = 1
DIFFERENT = 1009
"""Different images, which the files go round. More than are under way at once, and a prime: no two requests of a run
hold the same images, so that answers which change places are wrong."""

TOLERANCE = 1e-5
"""Of a probability: what an image shares its batch with changes the last digits of float32."""


Opinion = tuple[float | None, float | None]
"""Score and probability."""


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
        """Starts it, bound to the life of this thread; `wait` tells when it is ready."""
        names = ("--grpc-port", "--http-port", "--metrics-port")
        ports = [word for n, name in enumerate(names) for word in (name, str(self._first_port + n))]
        server = [sys.executable, "-m", "server", "--model-repository", str(self._repository), *ports]
        command = [sys.executable, str(LIFELINE), str(os.getpid()), *server]
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

    def answered(self, batch_size: int) -> int:
        """Requests of so many images that it answered since it was started; probes hold one image, and do not count."""
        url = f"http://localhost:{self._first_port + 2}/metrics"
        images = counter(url, "nv_inference_count", ENSEMBLE_NAME)
        requests = counter(url, "nv_inference_request_success", ENSEMBLE_NAME)
        return (images - requests) // (batch_size - 1)

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


@dataclass(frozen=True)
class Faults:
    """What is amiss in the rows of a run.

    Attributes:
        missing: Images without a row.
        doubled: Rows of images that have one already.
        wrong: Rows with another verdict than the image's own, or of no image of the run.
        in_order: Whether rows are in the order of the images.
    """

    missing: int
    doubled: int
    wrong: int
    in_order: bool

    @property
    def none(self) -> bool:
        """Whether all is well."""
        return self == Faults(0, 0, 0, True)


def find_faults(expected: Mapping[str, Opinion], rows: Sequence[tuple[str, Opinion]]) -> Faults:
    """Compare the rows of a run with what they should be.

    Args:
        expected: By path, in the order of the run.
        rows: As they stand in the output, each with its path.
    """
    seen = Counter(path for path, _ in rows)
    return Faults(
        missing=sum(path not in seen for path in expected),
        doubled=seen.total() - len(seen),
        wrong=sum(path not in expected or not _same(expected[path], found) for path, found in rows),
        in_order=[path for path, _ in rows] == list(expected),
    )


def pieces(count: int) -> list[Item]:
    """Different pieces of the photographs, small, each with the box of what is taken for its face."""
    rng = np.random.default_rng(0)
    photographs = [np.asarray(cv2.imread(str(path)), np.uint8) for path in PHOTOGRAPHS]
    made = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        side = int(rng.integers(64, 160))
        top, left = (int(rng.integers(length - side)) for length in photograph.shape[:2])
        piece = photograph[top : top + side, left : left + side]
        made.append(Item(cv2.imencode(".png", piece)[1].tobytes(), (4.0, 4.0, side - 4.0, side - 4.0)))
    return made


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--images", default=5000, type=click.IntRange(100), help="Images scored in all.")
@click.option("--batch-size", default=7, type=click.IntRange(2, 32), help="Images in a request.")
@click.option("--down", default=3.0, help="Seconds between the kill and the new start.")
@click.option("--first-port", default=18110, help="The servers listen on nine ports of loopback from this one on.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(images: int, batch_size: int, down: float, first_port: int, output: Path | None) -> None:
    """Score files with `deepfake-client score` on three real servers, of which one is killed; check every row.

    Every file must have exactly one row, in its place and with the right verdict: that which one server gave for its
    image before, asked for one image at a time (preset tiny, faces supplied). Requests hold different images, so that
    answers which change places are found. The server is killed (SIGKILL to all its processes) after a fifth of the
    rows and started again; it must have had a share of the rest. Exit code 1 where anything is amiss.
    """
    begun = circumstances("benchmarks.failover")
    repository = export("tiny")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failover-")))
        servers = []
        for n in range(SERVERS):
            servers.append(Server(repository, first_port + 3 * n))
            stack.callback(servers[-1].stop)
        for server in servers:
            server.wait()
        different = pieces(DIFFERENT)
        opinions = _ask_one_by_one(servers[0], different)
        expected = {}
        for number in range(images):
            path = folder / f"{number:06}.png"
            path.write_bytes(different[number % DIFFERENT].data)
            expected[str(path)] = opinions[number % DIFFERENT]
        boxes = folder / "boxes.csv"
        boxes.write_text(_table(expected, different))
        result, faults = _run(servers, boxes, expected, batch_size, down)
    result |= asdict(begun)
    Console().print_json(data=result)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
    if not result["victim"]["requests_after_return"]:
        raise click.ClickException("the run ended before the killed server was back at work: give it more --images")
    if result["exit_code"] or not faults.none:
        raise SystemExit(1)


def _ask_one_by_one(server: Server, images: Sequence[Item]) -> list[Opinion]:
    """The verdicts on images, of which never two are under way at once: none can have another's."""
    with DetectorClient(server.url, batch_size=1, max_in_flight=1) as client:
        asked = ((image.data, image.box) for image in images)
        verdicts = list(track(client.score_many(asked), "one by one", len(images), console=Console(stderr=True)))
    return [(verdict.score, verdict.probability) for verdict in verdicts]


def _table(paths: Iterable[str], images: Sequence[Item]) -> str:
    """The list of a run, as CSV: paths go round the images."""
    rows = (",".join([path, *map(str, image.box or ())]) for path, image in zip(paths, cycle(images), strict=False))
    return "\n".join(["path,face_x1,face_y1,face_x2,face_y2", *rows, ""])


def _run(
    servers: list[Server], boxes: Path, expected: Mapping[str, Opinion], batch_size: int, down: float
) -> tuple[dict[str, Any], Faults]:
    output, told = boxes.with_name("scores.jsonl"), boxes.with_name("client.log")
    command = [sys.executable, "-m", "deepfake_client", "score", "--list", str(boxes), "--face-boxes"]
    command += ["--output", str(output), "--batch-size", str(batch_size)]
    command += [word for server in servers for word in ("--url", server.url)]
    events: list[dict[str, Any]] = []
    started = time.perf_counter()

    def note(event: str) -> None:
        seconds = round(time.perf_counter() - started, 2)
        events.append({"seconds": seconds, "event": event, "rows": _count_rows(output)})

    with told.open("wb") as log, ExitStack() as stack:
        client = subprocess.Popen(command, stderr=log)
        stack.callback(client.kill)
        while client.poll() is None and _count_rows(output) < len(expected) // 5:
            time.sleep(0.05)
        before = servers[VICTIM].answered(batch_size)
        servers[VICTIM].kill()
        note("killed")
        time.sleep(down)
        servers[VICTIM].start()
        note("started again")
        servers[VICTIM].wait()
        note("scores again")
        exit_code = client.wait()
        note("the client ended")
    seconds = time.perf_counter() - started
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    faults = find_faults(expected, [(row["path"], (row["score"], row["probability"])) for row in rows])
    result = {
        "measures": "rows of a run over three servers of which one is killed and comes back",
        "images": len(expected),
        "batch_size": batch_size,
        "different_verdicts": len(set(expected.values())),
        "rows": len(rows),
        **asdict(faults),
        "exit_code": exit_code,
        "seconds": seconds,
        "images_per_second": len(rows) / seconds,
        "victim": {
            "url": servers[VICTIM].url,
            "requests_before_kill": before,
            "requests_after_return": servers[VICTIM].answered(batch_size),
        },
        "events": events,
        "client": told.read_text().splitlines(),
    }
    return result, faults


def _count_rows(output: Path) -> int:
    return output.read_bytes().count(b"\n") if output.exists() else 0


def _same(one: Opinion, other: Opinion) -> bool:
    (score, probability), (other_score, other_probability) = one, other
    if probability is None or other_probability is None:  # not scored: never right here
        return False
    return score == other_score and abs(probability - other_probability) < TOLERANCE


if __name__ == "__main__":
    main()
