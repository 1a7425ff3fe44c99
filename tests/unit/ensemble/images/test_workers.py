"""Decoding processes are expendable: what one image does to its process costs that image alone."""

import fcntl
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import psutil
import pytest

from ensemble import status
from ensemble.images import Decoders, ImageError, workers
from ensemble.images.headers import Header, read_header
from ensemble.images.protocol import JOB
from ensemble.images.sandbox import can_filter
from tests import hostile
from tests.golden import IMAGES, read_rgb
from tests.processes import opened
from tests.waiting import PATIENCE, wait_for
from tests.wellformed import opencv, png, png_chunk

GOOD = read_header(IMAGES[0].read_bytes())
PIXELS = read_rgb(IMAGES[0])
LARGE = np.random.default_rng(0).integers(0, 255, (1500, 1000, 3), np.uint8)


def deadly() -> Header:
    """An animated PNG as the reader of headers would never hand it on: OpenCV 4.11 ends by SIGSEGV."""
    data = hostile.animated_png(first_is_bad=True)
    return Header("PNG", 64, 64, len(data), data)


def bomb() -> Header:
    """A file of a few bytes that says it has a tenth of a gigapixel, as the header does not."""
    data = png(30_000, 30_000, bytes(1000))
    return Header("PNG", 64, 64, len(data), data)


@pytest.fixture
def decoders(others: set[int]) -> Iterator[Decoders]:
    made = Decoders(1)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def others() -> set[int]:
    """Process ids of what this process had started before the test: the pool that other tests share."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def started(others: set[int]) -> list[psutil.Process]:
    """The template, then the workers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended since it was listed
            if process.pid not in others:
                found.append((process.ppid() != os.getpid(), process))
    return [process for _, process in sorted(found, key=lambda each: each[0])]


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert not alive


def assert_decodes(decoders: Decoders) -> None:
    np.testing.assert_array_equal(decoders.decode(GOOD), PIXELS)


def test_an_image_that_ends_its_process_is_unreadable_and_the_pool_refills(
    others: set[int], decoders: Decoders
) -> None:
    assert_decodes(decoders)
    template = started(others)[0]
    held = template.num_fds()
    for _ in range(3):
        with pytest.raises(ImageError, match="ended the decoder") as caught:
            decoders.decode(deadly())
        assert caught.value.status == status.UNREADABLE_IMAGE
        assert_decodes(decoders)
    assert template.num_fds() == held
    wait_for(lambda: len(started(others)) <= 2)  # one that ended leaves nothing behind in the list of processes


def test_ctrl_c_is_not_for_decoders(others: set[int], decoders: Decoders) -> None:
    """A terminal sends it to them as well, and the server goes on until its requests are answered."""
    assert_decodes(decoders)
    processes = started(others)
    for process in processes:
        process.send_signal(signal.SIGINT)
    assert_decodes(decoders)
    assert started(others) == processes


def test_neighbours_of_deadly_images_are_decoded() -> None:
    decoders = Decoders(2)

    def outcome(header: Header) -> bool:
        try:
            return bool((decoders.decode(header) == PIXELS).all())
        except ImageError:
            return False

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(outcome, [deadly(), GOOD, bomb(), GOOD] * 8))
    assert found == [False, True, False, True] * 8
    decoders.close()


def test_memory_is_limited_by_what_the_header_declares(others: set[int], decoders: Decoders) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with pytest.raises(ImageError) as caught:
        decoders.decode(bomb())
    assert caught.value.status == status.UNREADABLE_IMAGE
    assert_decodes(decoders)
    _, worker = started(others)
    assert worker.memory_info().rss < 400 << 20
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - before < 400 << 10


def test_an_image_that_takes_too_long_is_given_up(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_decodes(decoders)
    monkeypatch.setattr(workers, "SECONDS", 0.02)
    monkeypatch.setattr(workers, "TIMEOUT_FACTOR", 10_000)  # it may wait for its turn, and does not hang
    slow = opencv(np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), np.uint8), ".png")
    # It is not tried in a fresh process: it has had its time.
    monkeypatch.setattr(decoders, "_fork", lambda: pytest.fail("tried twice"))
    with pytest.raises(ImageError, match="memory or time") as caught:
        decoders.decode(Header("PNG", 64, 64, len(slow), slow))
    assert caught.value.status == status.UNREADABLE_IMAGE
    monkeypatch.undo()
    assert_decodes(decoders)


def test_time_in_which_others_have_the_processor_is_not_counted(
    others: set[int], decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_decodes(decoders)
    _, worker = started(others)
    monkeypatch.setattr(workers, "SECONDS", 1.5)  # some fifty times what it takes
    monkeypatch.setattr(workers, "SECONDS_PER_PIXEL", 0)
    monkeypatch.setattr(workers, "TIMEOUT_FACTOR", 500)
    monkeypatch.setattr(decoders, "_fork", lambda: pytest.fail("the decoder was ended"))
    header = read_header(opencv(LARGE, ".png", cv2.IMWRITE_PNG_COMPRESSION, 1))
    with ThreadPoolExecutor(1) as threads:
        decoded = threads.submit(decoders.decode, header)
        spent = sum(worker.cpu_times()[:2])
        while sum(worker.cpu_times()[:2]) == spent and not decoded.done():
            time.sleep(0.001)  # until it is at work
        worker.suspend()
        time.sleep(1.6)
        worker.resume()
        assert decoded.result().shape == LARGE.shape


def test_each_pixel_adds_to_the_time_that_an_image_may_take() -> None:
    times = [workers._seconds(Header("PNG", width, height, 0, b"")) for width, height in ((1, 1), (5000, 4000))]
    assert times == pytest.approx([5, 15], abs=1e-3)


def test_each_pixel_and_each_byte_adds_to_the_memory_that_an_image_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, waited = [], []

    def ask(worker: object, job: bytes, shared: list[int], timeout: float) -> tuple[int, int]:
        memory.append(JOB.unpack(job)[3])
        waited.append(timeout / workers._seconds(header))
        return header.height, header.width

    monkeypatch.setattr(workers, "_ask", ask)
    worker: Any = Mock(desk=bytearray(workers.DESK_BYTES), images=0)
    for width, height, size in ((100, 100, 4096), (300, 200, 4096), (100, 100, 12288), (2000, 1000, 4096)):
        header = Header("PNG", width, height, size, bytes(size))
        workers._decode(worker, header)
    assert [each - memory[0] for each in memory] == [0, 32 * 50_000, 2 * 8192, 32 * 1_990_000]
    assert memory[0] - 32 * 10_000 - 2 * 4096 == workers.MEMORY
    assert waited == pytest.approx([workers.TIMEOUT_FACTOR] * 4)


def test_a_process_that_hangs_is_killed_and_another_decodes(
    others: set[int], decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_decodes(decoders)
    _, worker = started(others)
    worker.suspend()
    monkeypatch.setattr(workers, "SECONDS", 1.0)
    monkeypatch.setattr(workers, "TIMEOUT_FACTOR", 1)
    # It is not this image's fault, though all of its time has passed: a fresh process gets it too, with all the time
    # that a busy machine may need.
    fork = decoders._fork

    def patient() -> object:
        monkeypatch.undo()
        return fork()

    monkeypatch.setattr(decoders, "_fork", patient)
    assert_decodes(decoders)
    wait_until_gone([worker])


@pytest.mark.parametrize("victim", [0, 1], ids=["template", "worker"])
def test_a_killed_process_costs_no_image(others: set[int], decoders: Decoders, victim: int) -> None:
    assert_decodes(decoders)
    processes = started(others)
    processes[victim].send_signal(signal.SIGKILL)
    # The processes end with the template that they come from.
    wait_until_gone(list(processes[victim:]))
    assert_decodes(decoders)


def test_pixels_of_small_images_cannot_be_written_either(decoders: Decoders) -> None:
    assert not decoders.decode(read_header(opencv(np.full((8, 8, 3), 9, np.uint8), ".bmp"))).flags.writeable


def test_large_images_come_in_memory_of_their_own_and_leave_it(others: set[int], decoders: Decoders) -> None:
    # Its pixels alone would have room in the worker's own memory, and its file and pixels together have not.
    between = LARGE[:1300]
    np.testing.assert_array_equal(decoders.decode(read_header(opencv(between[:, :, ::-1], ".bmp"))), between)
    header = read_header(opencv(LARGE[:, :, ::-1], ".bmp"))
    processes = set()
    for _ in range(4):
        np.testing.assert_array_equal(decoders.decode(header), LARGE)
        _, worker = started(others)
        processes.add(worker.pid)
        maps = Path(f"/proc/{worker.pid}/maps").read_text()
        assert maps.count("memfd:image") == 1, "a worker that waits holds more than its desk"
    assert len(processes) == 1, "a process that keeps descriptors has soon used up its few"
    kept = decoders.decode(header)
    assert not kept.flags.writeable  # the memory is the worker's too
    assert_decodes(decoders)
    np.testing.assert_array_equal(kept, LARGE)


def test_there_is_a_process_for_each_processor_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, asked, places in ((7, None, 7), (7, 2, 2), (None, None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda processors=processors: processors)
        assert Decoders(asked)._places.qsize() == places


def test_no_worker_can_change_the_size_of_the_memory_that_it_shares() -> None:
    """One that shrank it would end by SIGBUS whoever reads the pixels."""
    with workers._shared_memory(8192) as shared:
        assert not os.get_inheritable(shared)  # no other program that this process starts has it
        for size in (0, 4096, 16384):
            with pytest.raises(PermissionError):
                os.ftruncate(shared, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)  # nor seal it further
        assert os.pwrite(shared, b"pixels", 8000) == 6


def test_an_image_stays_as_it_is_when_the_next_is_decoded(decoders: Decoders) -> None:
    kept = decoders.decode(GOOD)
    decoders.decode(read_header(IMAGES[1].read_bytes()))
    np.testing.assert_array_equal(kept, PIXELS)


def test_a_decoder_that_finds_another_size_is_not_believed(decoders: Decoders) -> None:
    for width, height in ((256, 255), (128, 512), (512, 128), (1, 1), (512, 512)):
        with pytest.raises(ImageError, match=r"size|pixels") as caught:
            decoders.decode(Header("PNG", width, height, GOOD.end, GOOD.still))
        assert caught.value.status == status.UNREADABLE_IMAGE
    assert_decodes(decoders)


def test_a_process_is_retired_after_many_images(
    others: set[int], decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "IMAGES_PER_WORKER", 3)
    seen = set()
    for _ in range(7):
        assert_decodes(decoders)
        seen |= {process.pid for process in started(others)}
    assert len(seen) >= 3  # the template, and two or three workers


def test_nothing_is_left(others: set[int]) -> None:
    def named() -> set[str]:
        return {path.name for path in Path("/dev/shm").iterdir() if not path.name.startswith("deepfake_detector_")}

    open_before, named_before = Counter(opened()), named()
    decoders = Decoders(2)
    for header in (GOOD, deadly(), bomb(), read_header(opencv(LARGE, ".png"))) * 3:
        try:
            decoders.decode(header)
        except ImageError:
            continue
    processes = started(others)
    decoders.close()
    wait_until_gone(processes)
    assert not Counter(opened()) - open_before
    assert not started(others)
    wait_for(lambda: named() <= named_before, hint=lambda: named() - named_before)  # other programs' come and go


def test_a_worker_has_no_rights_that_it_does_not_need(others: set[int], decoders: Decoders) -> None:
    assert_decodes(decoders)
    _, worker = started(others)
    state = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines())
    assert state["NoNewPrivs"] == "1"
    assert state["Seccomp"] == ("2" if can_filter() else "0")  # what the filter refuses: test_sandbox.py
    assert worker.num_threads() == 1
    assert int(state["CapEff"], 16) == 0 or os.getuid() != 0
    if os.getuid() == 0:
        assert set(state["Uid"].split()) == {"65534"}
        assert state["Groups"].strip() == ""
    used = list(Path(f"/proc/{worker.pid}/fd").iterdir())
    assert {str((Path(f"/proc/{worker.pid}/fd") / number).readlink()) for number in "01"} == {os.devnull}
    lines = Path(f"/proc/{worker.pid}/limits").read_text().splitlines()[1:]
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}  # soft, hard
    assert limits["Max processes"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert int(limits["Max file size"][1]) <= 1 << 16
    assert int(limits["Max open files"][1]) <= len(used) + 2
    assert int(limits["Max address space"][0]) < worker.memory_info().vms + (600 << 20)


def test_processes_end_with_the_one_that_started_them() -> None:
    code = """if True:
        import os, sys
        from ensemble.images import Decoders
        from ensemble.images.headers import read_header
        decoders = Decoders(1)
        decoders.decode(read_header(open(sys.argv[1], "rb").read()))
        print("ready", flush=True)
        os.read(0, 1)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(IMAGES[0])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    assert parent.stdout.readline() == b"ready\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 2
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    wait_until_gone(children)


def test_a_root_without_capabilities_decodes_too() -> None:
    """As in a container that drops them all."""
    code = """if True:
        import ctypes, sys
        for capability in range(41):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        from ensemble.images import Decoders
        from ensemble.images.headers import read_header
        decoders = Decoders(1)
        print(decoders.decode(read_header(open(sys.argv[1], "rb").read())).shape)
        decoders.close()
    """
    done = subprocess.run([sys.executable, "-c", code, str(IMAGES[0])], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(256, 256, 3)\n", "")


def test_threads_share_the_processes(others: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = Decoders(2)
    failures: list[str] = []
    ask, asked, together = workers._ask, itertools.count(), threading.Barrier(2, timeout=PATIENCE)

    def ask_together(*given: Any) -> tuple[int, int]:
        if next(asked) < 2:
            together.wait()
        return ask(*given)

    def work(number: int) -> None:
        path = IMAGES[number % len(IMAGES)]
        for _ in range(10):
            if not (decoders.decode(read_header(path.read_bytes())) == read_rgb(path)).all():
                failures.append(path.name)

    for _ in range(3):
        assert_decodes(decoders)
    assert len(started(others)) == 2  # one image after the other needs one process, which is warm
    monkeypatch.setattr(workers, "_ask", ask_together)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(started(others)) == 3
    decoders.close()


def test_a_chunk_of_metadata_ends_nothing(decoders: Decoders) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    for chunk in (png_chunk(b"iCCP", b"x" * 100_000), png_chunk(b"tEXt", b"k\0" + b"x" * 1_000_000)):
        np.testing.assert_array_equal(decoders.decode(read_header(png(256, 256, rows, before=chunk))), PIXELS)
