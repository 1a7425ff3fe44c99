"""Files of others are decoded in processes that may die of them: a crash, a hang, greed, a killed template."""

import hashlib
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from deepfake_client.decoding import copies, processes, protocol
from deepfake_client.decoding.frames import VideoFile
from deepfake_client.decoding.sampling import Sampling
from deepfake_client.decoding.sandbox import can_filter
from deepfake_client.decoding.source import Window, opened
from deepfake_client.evidence.pictures import degraded_copies
from deepfake_client.images.files import FilePart
from deepfake_client.video.reading import read_frames

from tests.bulk import rows_of, score
from tests.fakes.triton import FakeTriton, serving
from tests.golden import GOLDEN, ROOT
from tests.videos import greys, write_video
from tests.waiting import PATIENCE

pytest.importorskip("PIL", reason="needs pip install './client[evidence]'")
import PIL.Image
import PIL.ImageFilter
import PIL.ImageOps

FACE = GOLDEN / "images" / "01_face_close.png"


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with serving() as fake:
        yield fake


FAULTS = """
import ctypes, itertools, os, time
from deepfake_client.decoding import copies, frames, worker

def fault(what):
    if what == "crash":
        ctypes.string_at(0)
    elif what == "spin":
        for _ in itertools.count():
            pass
    elif what == "sleep":
        time.sleep(1000)
    elif what == "greed":
        bytearray(3 << 30)
    elif what == "open":
        os.read(os.open("/etc/passwd", os.O_RDONLY), 1)
        raise frames.VideoError("ok", "it could open a file")
    elif what == "start":
        os.fork()
        raise frames.VideoError("ok", "it could start a process")

read = frames._Reader.read

def faulty_read(self, file, sampling):
    for number, frame in enumerate(read(self, file, sampling)):
        if number == 2:
            fault(os.environ["FAULT"])
        yield frame

frames._Reader.read = faulty_read
copies._copies = lambda pil, image: fault(os.environ["FAULT"]) if image.width > 8 else {}
worker.SECONDS = 1
"""


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> Iterator[processes._Template]:
    """A template of the test's own."""
    own = processes._Template()
    monkeypatch.setattr(processes, "_TEMPLATE", own)
    yield own
    own.close()


@pytest.fixture
def break_decoders(template: processes._Template, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the decoders do something at the third frame of a video, and instead of a copy of an image."""

    def break_them(what: str) -> None:
        monkeypatch.setenv("FAULT", what)
        program = processes._PROGRAM.replace("__import__(", f"{FAULTS}\n__import__(", 1)
        monkeypatch.setattr(processes, "_PROGRAM", program)

    return break_them


@pytest.mark.parametrize("what", ["crash", "spin", "greed", "open", "start"])
def test_a_file_that_ends_its_decoder_costs_its_own_row_alone(
    server: FakeTriton, tmp_path: Path, break_decoders: Callable[[str], None], what: str
) -> None:
    break_decoders(what)
    write_video(tmp_path / "a.mp4", greys(2), fps=2)
    write_video(tmp_path / "b.mp4", greys(9), fps=2)
    (tmp_path / "c.jpg").write_bytes(b"0.8")
    output = tmp_path / "rows.jsonl"
    result = score(server.url, tmp_path, "--faces", "main", "--fps", "2", "--output", output)
    rows = {Path(row["path"]).name: row for row in rows_of(output)}
    assert set(rows) == {"a.mp4", "b.mp4", "c.jpg"}, result.output
    assert (rows["a.mp4"]["status"], rows["a.mp4"]["video"]["warning"], rows["c.jpg"]["score"]) == ("ok", None, 0.8)
    assert rows["b.mp4"]["video"]["frames"] == 2  # what was decoded before
    assert "ended the decoder" in rows["b.mp4"]["video"]["warning"]
    assert degraded_copies(FACE.read_bytes()) == {}


def test_a_file_that_hangs_its_decoder_is_given_up(
    template: processes._Template,
    tmp_path: Path,
    break_decoders: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_decoders("sleep")
    about = VideoFile()
    clip = write_video(tmp_path / "clip.mp4", greys(9), fps=2)
    frames = read_frames(str(clip), Sampling(fps=2), about)
    for _ in range(2):
        next(frames)
    receive = protocol.receive

    def impatient(connection: socket.socket) -> protocol.Answer | None:
        assert connection.gettimeout() == processes.SILENCE_FACTOR * processes.SECONDS
        connection.settimeout(0.5)
        return receive(connection)

    monkeypatch.setattr(protocol, "receive", impatient)
    assert list(frames) == []
    assert "hung" in str(about.warning)
    assert template._running is not None
    wait_until_alone(psutil.Process(template._running[0].pid))


def wait_until_alone(template: psutil.Process) -> None:
    """Until none of its workers is left."""
    _, alive = psutil.wait_procs(template.children(), timeout=PATIENCE)
    assert not alive


def test_a_worker_has_no_rights_that_it_does_not_need_and_ends_where_nobody_listens(
    template: processes._Template, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), np.uint8)
    clip = write_video(tmp_path / "clip.mp4", list(noise), fps=2)
    answers = processes.ask({"job": "frames", "fps": 2, "frames": None, "max_pixels": 100_000}, str(clip))
    next(answers)  # it waits with the others, for which the connection has no room
    assert template._running is not None
    parent = psutil.Process(template._running[0].pid)
    (worker,) = parent.children()
    held = parent.num_fds()
    folder = Path(f"/proc/{worker.pid}")
    lines = (folder / "limits").read_text().splitlines()[1:]
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}  # soft, hard
    assert limits["Max open files"] == limits["Max processes"] == limits["Max core file size"] == ["0", "0"]
    soft, hard = map(int, limits["Max address space"])
    assert soft == hard < worker.memory_info().vms + (3 << 30)
    state = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
    assert (state["NoNewPrivs"], state["Seccomp"]) == ("1", "2" if can_filter() else "0")
    assert {str((folder / "fd" / number).readlink()) for number in "012"} == {os.devnull}
    answers.close()
    wait_until_alone(parent)
    assert len(list(read_frames(str(clip), Sampling(fps=2), VideoFile()))) == 8
    assert parent.num_fds() == held
    parent.send_signal(signal.SIGINT)  # Ctrl-C in a terminal is for those who ask
    assert len(list(read_frames(str(clip), Sampling(fps=2), VideoFile()))) == 8
    assert template._running[0].poll() is None


class Answering(processes._Template):
    """Stands for the template: one connection to a worker that has said all that it will."""

    def __init__(self, said: bytes) -> None:
        super().__init__()
        self.said = said

    def fork(self, job: Any, descriptor: int) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(self.said)
        return ours, 0


def packed(about: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<IQ", len(about), len(data) if size is None else size) + about + data


END = packed(b'{"end": true}')


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (packed(b'{"a": 1}', b"x") + packed(b'{"alive": true}') + END, None),
        (packed(b'{"a": 1}', b"x"), "ended the decoder"),
        (packed(b'{"a": 1}', b"x") + END[:5], "ended the decoder"),
        (packed(b'{"a": 1}', b"x") + END[:-1], "ended the decoder"),
        (packed(b'{"a": 1}', b"x") + packed(b"{}", b"y", 2), "ended the decoder"),
        (packed(b'{"a": 1}', b"x") + packed(b"[]") + END, "gave nonsense: an answer that is no object"),
        (packed(b'{"a": 1}', b"x") + packed(b"no JSON") + END, "gave nonsense"),
        (packed(b'{"a": 1}', b"x") + packed(b"[" * 60_000) + END, "gave nonsense: an answer nested too deeply"),
        (packed(b'{"a": 1}', b"x") + struct.pack("<IQ", (1 << 16) + 1, 0), "an answer of 65537 and 0 bytes"),
        (packed(b'{"a": 1}', b"x") + struct.pack("<IQ", 0, (1 << 28) + 1), "an answer of 0 and 268435457 bytes"),
    ],
)
def test_of_what_a_worker_says_answers_alone_are_believed(
    said: bytes, lost: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_TEMPLATE", Answering(said))
    answers = processes.ask({}, b"source")
    assert next(answers) == ({"a": 1}, b"x")
    if lost is None:
        assert list(answers) == []
    else:
        with pytest.raises(processes.WorkerLostError, match=lost):
            next(answers)


def test_a_forked_program_starts_a_template_of_its_own_and_leaves_the_other_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else two programs would get each other's workers."""
    own = processes._Template()
    parents, (ours, theirs) = Mock(), socket.socketpair()
    own._running, own._owner = (parents, Mock()), os.getpid() + 1
    theirs.send(protocol.PID.pack(7))
    monkeypatch.setattr(processes, "_started", lambda: (Mock(), ours))
    connection, pid = own.fork({}, ours.fileno())
    assert (pid, own._owner) == (7, os.getpid())
    connection.close()
    theirs.close()
    own.close()
    forked = processes._Template()
    forked._running, forked._owner = (parents, Mock()), os.getpid() + 1
    forked.close()
    assert not parents.method_calls


def test_elsewhere_than_on_linux_it_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="which need Linux"):
        processes._started()


def test_a_source_is_a_file_a_part_of_one_or_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w+b") as written:
        written.write(b"0123456789")  # not on the disk yet
        for source, shown in (
            (written, b"0123456789"),
            (str(path), b"0123456789"),
            (FilePart(str(path), 3, 4), b"3456"),
            (b"bytes", b"bytes"),
            (io.BytesIO(b"in memory"), b"in memory"),
        ):
            with opened(source) as (descriptor, offset, size):
                assert not os.get_inheritable(descriptor)
                assert Window(descriptor, offset, size).read() == shown
    os.mkfifo(tmp_path / "pipe")
    for name in (str(tmp_path / "pipe"), FilePart(str(tmp_path / "pipe"), 0, 1)):
        with pytest.raises(OSError, match="a named pipe and not a file"), opened(name):
            pass
    before = len(list(Path("/proc/self/fd").iterdir()))
    with opened(b"bytes"):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_template_that_was_killed_is_started_anew(template: processes._Template, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", greys(4), fps=2)
    for _ in range(2):
        assert len(list(read_frames(str(clip), Sampling(fps=2), VideoFile()))) == 4
        assert template._running is not None
        template._running[0].kill()
        template._running[0].wait()


def test_many_threads_decode_at_once(tmp_path: Path) -> None:
    clips = [write_video(tmp_path / f"{n}.mp4", greys(n + 1), fps=2) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda clip: len(list(read_frames(str(clip), Sampling(fps=2), VideoFile()))), clips))
    assert counts == list(range(1, 9))


ONE_FRAME = """
import sys
from deepfake_client.decoding import processes
answers = processes.ask({"job": "frames", "fps": 2, "frames": None, "max_pixels": 10_000}, sys.argv[1])
next(answers)
print(processes._TEMPLATE._running[0].pid, flush=True)
sys.stdin.read()
"""


def test_no_decoder_outlives_the_program(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", greys(50), fps=2)
    program = subprocess.Popen(
        [sys.executable, "-c", ONE_FRAME, str(clip)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    template = int(program.stdout.readline())
    assert Path(f"/proc/{template}").exists()
    program.kill()
    program.communicate()
    deadline = time.monotonic() + 60
    while _is_running(template):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_videos_in_shards_have_a_row_each(server: FakeTriton, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", greys(40), fps=10)
    (tmp_path / "photo.jpg").write_bytes(b"0.8")
    (tmp_path / "none.mp4").write_bytes(b"")
    for kind, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        shard = tmp_path / f"shard.{kind}"
        with tarfile.open(shard, mode) as tar:
            for name in ("photo.jpg", "clip.mp4", "none.mp4"):
                tar.add(tmp_path / name, name)
        output = tmp_path / f"{kind}.jsonl"
        result = score(server.url, shard, "--faces", "main", "--sha256", "--output", output)
        rows = {row["path"].removeprefix(f"{shard}/"): row for row in rows_of(output)}
        assert {name: row["status"] for name, row in rows.items()} == {
            "photo.jpg": "ok",
            "clip.mp4": "ok",
            "none.mp4": "unreadable_video",
        }, result.output
        assert rows["clip.mp4"]["video"]["frames"] == 8
        assert rows["clip.mp4"]["sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_copies_of_every_kind_of_image(kind: str) -> None:
    file, exif = io.BytesIO(), PIL.Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    PIL.Image.new("RGB", (40, 20), "red").save(file, kind, exif=exif)
    copies = degraded_copies(file.getvalue())
    assert len(copies) == 5
    sizes = {PIL.Image.open(io.BytesIO(copy)).size for copy in copies.values()}
    assert sizes == {(40, 20) if kind == "BMP" else (20, 40)}


def copies_of(data: bytes, max_pixels: int = 10_000_000) -> tuple[dict[str, bytes], int]:
    """The copies that a worker makes, made here; and how often it gave a sign."""
    made: dict[str, bytes] = {}
    signs = []

    def send(about: dict[str, str], data: bytes) -> None:
        made[about["name"]] = data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        before = PIL.Image.MAX_IMAGE_PIXELS
        copies._copies_of(PIL, io.BytesIO(data), send, lambda: signs.append(None), max_pixels)
        PIL.Image.MAX_IMAGE_PIXELS = before
    return made, len(signs)


def test_copies_are_what_they_are_called() -> None:
    image = PIL.Image.open(FACE).convert("RGB")
    pixels = np.asarray(image, np.float64)
    made, signs = copies_of(FACE.read_bytes())
    assert signs == len(made) == 5
    assert made == copies_of(FACE.read_bytes())[0]  # the same each time
    shown = {name: PIL.Image.open(io.BytesIO(data)) for name, data in made.items()}
    assert {copy.size for copy in shown.values()} == {image.size}
    assert {copy.mode for copy in shown.values()} == {"RGB"}
    for quality in (70, 30):
        expected = io.BytesIO()
        image.save(expected, "JPEG", quality=quality)
        assert made[f"JPEG, quality {quality}"] == expected.getvalue()
    noise = np.asarray(shown["noise, σ 10 of 255"], np.float64) - pixels
    assert noise[(pixels > 50) & (pixels < 200)].std() == pytest.approx(10, rel=0.05)
    assert np.abs(noise).max() < 100  # nothing went round from 255 to 0
    half = image.resize((128, 128)).resize((256, 256))
    np.testing.assert_array_equal(np.asarray(shown["half the size, and back"]), np.asarray(half))
    blurred = image.filter(PIL.ImageFilter.GaussianBlur(1))
    np.testing.assert_array_equal(np.asarray(shown["blurred, radius 1 px"]), np.asarray(blurred))


def encoded(size: tuple[int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size, "red").save(file, kind)
    return file.getvalue()


def test_copies_are_of_bounded_size_and_of_images_that_the_server_takes_alone() -> None:
    sizes = {PIL.Image.open(io.BytesIO(copy)).size for copy in copies_of(encoded((4096, 8)))[0].values()}
    assert sizes == {(2048, 4)}
    assert len(copies_of(encoded((1, 1)))[0]) == 5
    assert len(copies_of(encoded((10, 10)), 100)[0]) == 5
    for data in (encoded((10, 11)), encoded((20, 20)), encoded((10, 10), "GIF"), encoded((10, 10))[:40], b""):
        assert copies_of(data, 100) == ({}, 0)


def test_a_window_is_the_file_that_it_shows(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    with (tmp_path / "file").open("rb") as file:
        window = Window(file.fileno(), 10, 20)
        assert window.read() == bytes(range(10, 30))
        assert (window.seek(-5, io.SEEK_END), window.read(3), window.read(), window.read()) == (
            15,
            bytes(range(25, 28)),
            bytes(range(28, 30)),
            b"",
        )
        assert (window.seek(4), window.seek(2, io.SEEK_CUR), window.read(1), window.tell()) == (4, 6, b"\x10", 7)
        assert window.seek(-100, io.SEEK_CUR) == 0
        window.seek(1000)
        assert window.read() == b""
        assert file.tell() == 0


def test_a_sandbox_has_one_source() -> None:
    ours, copy = (ROOT / folder / "sandbox.py" for folder in ("ensemble/images", "client/deepfake_client/decoding"))
    assert copy.read_text() == ours.read_text(), "run scripts/contract"
