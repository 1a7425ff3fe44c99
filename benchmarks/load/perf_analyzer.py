"""NVIDIA's perf_analyzer against the running server: a number of requests, closed or open loop."""

import csv
import itertools
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from tritonclient.grpc import InferenceServerClient

from benchmarks.load.workloads import Item, write_perf_analyzer_input
from ensemble.streams import ENSEMBLE_NAME
from server.standin.layout import default_layout

_POLL_SECONDS = 0.1
_OUTPUT_LINES = 12


@dataclass(frozen=True)
class Load:
    """How requests are sent.

    Attributes:
        batch_size: Images in a request.
        concurrency: Closed loop: requests under way at once, a new one for each answer. None for an open loop.
        request_rate: Open loop: requests a second, at random (Poisson) intervals, answered or not. None for a
            closed loop.
    """

    batch_size: int
    concurrency: int | None = None
    request_rate: float | None = None

    def options(self) -> list[str]:
        """As perf_analyzer takes them."""
        if self.request_rate is not None:
            # With its end written out: 1 is its default, and rates below that would be taken for a series.
            loop = [
                f"--request-rate-range={self.request_rate:g}:{self.request_rate:g}:1",
                "--request-distribution=poisson",
            ]
        else:
            loop = [f"--concurrency-range={self.concurrency}"]
        return [f"-b{self.batch_size}", *loop]


@dataclass(frozen=True)
class Latency:
    """Of the requests of one run, as their sender saw it, seconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        images: Answered.
        seconds: From the start of perf_analyzer (which takes some 0.04 s to get going) to the last answer.
        latency: Of the requests.
    """

    images: int
    seconds: float
    latency: Latency

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class PerfAnalyzer:
    """The program, on one kind of images.

    perf_analyzer ends a run that is given in requests on a whole second of its own clock, and divides by that: of 64
    images that took 1.2 s it says 32 a second. In time windows it counts only whole batches, of which few fit into a
    window here. So its latencies are taken, and the time of the last answer is Triton's own. Triton is asked for it no
    more than ten times a second: a hundred times cost the networks 8 % of two cores. The launcher's health probes are
    counted with the images, being work like them.
    """

    def __init__(self, url: str, images: list[Item]) -> None:
        self._url = url
        self._counters = InferenceServerClient(url)
        self._folder = tempfile.TemporaryDirectory(prefix="perf-analyzer-")
        self._input = Path(self._folder.name) / "input.json"
        self._report = Path(self._folder.name) / "report.csv"
        write_perf_analyzer_input(self._input, images)

    def __enter__(self) -> "PerfAnalyzer":
        return self

    def __exit__(self, *_: object) -> None:
        self._counters.close()
        self._folder.cleanup()

    def run(self, load: Load, requests: int) -> Measured:
        """Send so many requests.

        Raises:
            click.ClickException: perf_analyzer failed; the message says why.
        """
        target = requests * load.batch_size
        self._report.unlink(missing_ok=True)
        command = [
            *(str(default_layout().perf_analyzer), "-m", ENSEMBLE_NAME, "-u", self._url, "-i", "grpc", "--async"),
            *(f"--input-data={self._input}", f"--request-count={requests}", "-f", str(self._report), "--verbose-csv"),
            *load.options(),
        ]
        before, _ = self._answered()
        start = time.time()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            answered, end, ended = before, start, False
            while not ended and answered - before < target:
                time.sleep(_POLL_SECONDS)
                ended = process.poll() is not None
                answered, end = self._answered()
            output, _ = process.communicate()
        finally:
            process.kill()
        if process.returncode or not self._report.exists():
            raise click.ClickException(
                f"perf_analyzer failed with {process.returncode}: {_complaint(output)}\n{' '.join(command)}"
            )
        return Measured(target, end - start, parse_latency(self._report.read_text()))

    def _answered(self) -> tuple[int, float]:
        """How many images have been answered, and when the last one was, seconds of the epoch."""
        statistics = self._counters.get_inference_statistics(ENSEMBLE_NAME).model_stats[0]
        return int(statistics.inference_count), int(statistics.last_inference) / 1000


def _complaint(output: str) -> str:
    """What perf_analyzer found wrong, without the usage that it prints after it."""
    lines = output.partition("Usage: ")[0].strip().splitlines()
    return "\n".join(lines[-_OUTPUT_LINES:])


def parse_latency(report: str) -> Latency:
    """Read perf_analyzer's verbose CSV of one load level (latencies in µs).

    Raises:
        click.ClickException: It is something else.
    """
    # Further tables may follow after an empty line.
    table = itertools.takewhile(str.strip, report.splitlines())
    rows = list(csv.DictReader(table))
    if len(rows) != 1:
        raise click.ClickException(f"perf_analyzer's report has {len(rows)} rows, wanted one:\n{report[:500]}")
    try:
        columns = ("Avg latency", "p50 latency", "p90 latency", "p95 latency", "p99 latency")
        return Latency(*(float(rows[0][name]) / 1e6 for name in columns))
    except (KeyError, TypeError, ValueError) as error:
        raise click.ClickException(f"perf_analyzer's report lacks a latency ({error}):\n{report[:500]}") from error
