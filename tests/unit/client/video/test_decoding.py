"""Files of others are decoded in processes that may die of them: a crash, a hang, greed, a killed template."""

import hashlib
import io
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deepfake_client.decoding import processes
from deepfake_client.decoding.frames import VideoError, VideoFile
from deepfake_client.decoding.sampling import Sampling
from deepfake_client.decoding.source import Window
from deepfake_client.evidence.pictures import degraded_copies
from deepfake_client.video.reading import read_frames

from tests.bulk import rows_of, score
from tests.fakes.triton import FakeTriton, serving
from tests.golden import GOLDEN, ROOT
from tests.videos import greys, write_video

pytest.importorskip("PIL", reason="needs pip install './client[evidence]'")
import PIL.Image

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
    tmp_path: Path, break_decoders: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_decoders("sleep")
    monkeypatch.setattr(processes, "SECONDS", 0.25)
    about = VideoFile()
    clip = write_video(tmp_path / "clip.mp4", greys(9), fps=2)
    try:
        frames = list(read_frames(str(clip), Sampling(fps=2), about))
    except VideoError as error:  # this machine is so busy that there was not even a frame
        about.warning = str(error)
    else:
        assert len(frames) == 2
    assert "hung" in str(about.warning)


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
        window.seek(1000)
        assert window.read() == b""
        assert file.tell() == 0


def test_a_sandbox_has_one_source() -> None:
    ours, copy = (ROOT / folder / "sandbox.py" for folder in ("ensemble/images", "client/deepfake_client/decoding"))
    assert copy.read_text() == ours.read_text(), "run scripts/contract"
