"""Runs of `deepfake-client score` into files, for the tests of bulk scoring."""

import csv
import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from click.testing import CliRunner, Result
from deepfake_client.cli import main

from tests.fakes.triton import FakeTriton
from tests.waiting import PATIENCE, wait_for

COMMAND = [sys.executable, "-m", "deepfake_client", "score"]

KINDS = ("jsonl", "csv", "parquet")


def score(url: str, *arguments: Any, **options: Any) -> Result:
    """Runs the command within this process."""
    return CliRunner().invoke(main, ["score", *map(str, arguments), "--url", url], **options)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """The rows of an output file of any kind; those of CSV are text."""
    if output.suffix == ".parquet":
        return [row for shard in sorted(output.glob("part-*.parquet")) for row in pq.read_table(shard).to_pylist()]
    text = output.read_text(encoding="utf-8")
    if output.suffix == ".csv":
        return list(csv.DictReader(text.splitlines(keepends=True)))
    return [json.loads(line) for line in text.splitlines()]


def printed(result: Result) -> list[dict[str, Any]]:
    """The rows that a run printed as JSONL."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def make_images(folder: Path, count: int) -> list[Path]:
    """Files of scores for the stand-in server: image n is scored n % 10 / 10."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{n:05d}.jpg" for n in range(count)]
    for n, path in enumerate(paths):
        path.write_bytes(f"{n % 10 / 10}".encode())
    return paths


def run_killed(command: Sequence[str], chance: random.Random, most: int) -> int:
    """Runs a command again and again, killed after 0.8 to 2.2 s up to `most` times, until it ends well; the kills."""
    for kills in range(most + 1):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, told = process.communicate(timeout=chance.uniform(0.8, 2.2) if kills < most else 2 * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            assert kills < most, "it does not end"
        else:
            assert process.returncode == 0, told
            return kills
    raise AssertionError


def hold_when(server: FakeTriton, reached: Callable[[], bool]) -> threading.Event:
    """Lets a server answer nothing from some point on, until the event is set."""
    go_on = threading.Event()

    def hold(request: Any, context: Any) -> None:
        while reached() and context.is_active() and not go_on.wait(0.01):
            pass

    server.fault = hold
    return go_on


def interrupt(process: subprocess.Popen[str]) -> None:
    """Presses Ctrl-C and waits until the command has noticed, as it tells on its standard error, a pipe."""
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    told = ""
    while "Ctrl-C again stops at once" not in told:
        line = process.stderr.readline()
        assert line, f"it ended without a word of it: {told}"
        told += line


def stop_after(server: FakeTriton, output: Path, rows: int, number: signal.Signals, command: Sequence[str]) -> int:
    """Runs a command and sends it a signal once its output has so many lines, and few more; its exit code."""

    def has_grown() -> bool:
        return output.is_file() and output.read_bytes().count(b"\n") >= rows

    go_on = hold_when(server, has_grown)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            wait_for(lambda: has_grown() or process.poll() is not None)
            if number == signal.SIGINT:
                interrupt(process)
            else:
                process.send_signal(number)
        finally:
            go_on.set()
        process.stderr.read()
        return process.wait(PATIENCE)
