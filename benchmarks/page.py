"""`python -m benchmarks.page`: how long after the server's verdict the page answers, and what it does under abuse."""

import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import PIL.Image
import PIL.PngImagePlugin
from deepfake_client import DetectorClient

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from training.learn.photographs import PHOTOGRAPHS

AT_ONCE = 50
HOSTILE = "<img src=x onerror=alert(1)>.png"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--url", default="localhost:8001", help="Server to ask.")
@click.option("--rounds", default=5, type=click.IntRange(min=1), help="In each, both ways take turns.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(url: str, rounds: int, output: Path | None) -> None:
    """Time the page against the client that it is made of: one photograph, 50 at once, one of 100 MB.

    Each photograph bears HTML in its name and its metadata. Answers must be right, escape it, and leave no file behind.
    """
    begun = circumstances("benchmarks.page")
    photograph = _photograph()
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as kept, DetectorClient(url) as client, _page(url, Path(kept)) as page:
        expected = client.score(photograph)

        def direct(count: int) -> None:
            for verdict in client.score_many([photograph] * count):
                _require(verdict.probability == expected.probability, "the client's verdicts differ")

        def through(count: int) -> None:
            with ThreadPoolExecutor(count) as pool:
                for answer in pool.map(lambda _: page(photograph), range(count)):
                    _require(f"score is {expected.score} of 1" in answer, f"not the verdict: {answer[:500]}")
                    _require("<img src=x" not in answer and "<script" not in answer, "a name became HTML")

        def large() -> None:
            answer = page(bytes(100 << 20))
            _require("too_many_bytes" in answer, f"100 MB are not refused: {answer[:500]}")

        for _ in range(rounds):
            for count in (1, AT_ONCE):
                for way, work in (("client", direct), ("page", through)):
                    times.setdefault((f"{count} at once", way), []).append(_seconds(partial(work, count)))
            times.setdefault(("100 MB", "page"), []).append(_seconds(large))
        _require(not list(Path(kept).iterdir()), "a file was kept")
    after = {
        f"{name} after the verdict": [
            mine - direct for mine, direct in zip(times[name, "page"], times[name, "client"], strict=True)
        ]
        for name in ("1 at once", f"{AT_ONCE} at once")
    }
    result = Result(
        benchmark="page",
        measures="seconds of an answer of the page, and of the client alone on the same photographs",
        circumstances=begun,
        settings={"rounds": rounds, "at_once": AT_ONCE},
        figures=[
            *(Figure({"load": load, "way": way}, "time", "s", "lower", each) for (load, way), each in times.items()),
            *(Figure({"load": name}, "time", "s", "lower", each) for name, each in after.items()),
        ],
    )
    for figure in result.figures:
        click.echo(f"{figure.name}: {figure.median:.3f} s (to {max(figure.rounds):.3f})")
    if output:
        write(output, result)


def _photograph() -> bytes:
    """A photograph of a face as a PNG file with HTML in its metadata."""
    about = PIL.PngImagePlugin.PngInfo()
    about.add_text("Title", "<script>alert(1)</script>")
    file = io.BytesIO()
    with PIL.Image.open(PHOTOGRAPHS["astronaut"].files[0]) as photograph:
        photograph.convert("RGB").crop((97, 0, 353, 256)).save(file, "PNG", pnginfo=about)
    return file.getvalue()


class _Page:
    """The page as a browser uses it."""

    def __init__(self, address: str) -> None:
        self._address = address
        with urllib.request.urlopen(address) as answer:
            found = re.search(r'name="csrf" content="([^"]+)"', answer.read().decode())
        _require(found is not None, "the page has no form")
        self._csrf = found[1] if found else ""

    def __call__(self, data: bytes) -> str:
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{HOSTILE}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{edge}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={edge}", "X-CSRF": self._csrf}
        request = urllib.request.Request(f"{self._address}/ui/score", body, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode()}"


@contextmanager
def _page(url: str, kept: Path) -> Iterator[_Page]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "deepfake_client", "web", "--url", url, "--port", str(port)]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(kept)}, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            _require(process.poll() is None, "the page does not start")
            try:
                urllib.request.urlopen(address).close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield _Page(address)
    finally:
        process.terminate()
        process.wait()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise click.ClickException(otherwise)


if __name__ == "__main__":
    main()
