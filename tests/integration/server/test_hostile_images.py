"""Hostile images through the real server: each costs itself alone, and the server stays the same process."""

import os
import random
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from deepfake_client import DetectorClient

from benchmarks.fuzz.mutations import mutated
from ensemble import status
from ensemble.images import Limits, read_image
from ensemble.images.handover import hand_over
from ensemble.streams import MAX_BATCH_SIZE
from tests import hostile
from tests.conftest import Server, start_server
from tests.golden import CASES, GOLDEN, ROWS
from tests.waiting import wait_for
from tests.wellformed import FILES

pytestmark = pytest.mark.server

ROW = ROWS[1]
GOOD = ((GOLDEN / "images" / ROW["image"]).read_bytes(), ROW["box"])
STATUSES = {value for name, value in vars(status).items() if name.isupper()}
FUZZED = int(os.environ.get("FUZZED_IMAGES", "300"))
"""Mutated images that are served; give FUZZED_IMAGES=20000 for a long run."""

MEMORY_BACK = 200 << 20

REPORTED = {
    "adobe_short.jpg": status.OK,
    "apng_bad_filter.png": status.UNREADABLE_IMAGE,
    "fill_bytes_100k.jpg": status.OK,
    "gama_short.png": status.OK,
    "half_eoi.jpg": status.TRUNCATED_IMAGE,
    "half_then_second_jpeg.jpg": status.TRUNCATED_IMAGE,
    "motion_photo.jpg": status.OK,
    "orient6.jpg": status.OK,
    "orient6.png": status.OK,
    "orient6.webp": status.OK,
    "png_bad_crc_text.png": status.OK,
    "png_idat_2_gigabytes.png": status.UNREADABLE_IMAGE,
    "rgba.tif": status.OK,
    "second_image_cut.jpg": status.OK,
    "srgb_empty.png": status.OK,
    "ztxt_method1.png": status.OK,
}
"""Images from reports of people who do this job, and what each must get."""

LISTS = {"README.md", "bom_list.txt", "concat.tar", "duplicate.parquet"}
"""Reported, too, of bulk runs: `tests/unit/client/bulk/test_odd_names.py` reads them."""


@dataclass(frozen=True)
class Footprint:
    """What a server's processes hold."""

    processes: frozenset[int]
    memory: int
    files: int
    shared: int


def footprint(server: Server) -> Footprint:
    """Of tritonserver, its stubs and their decoding templates; the decoding processes come and go.

    A decoding process shares the memory of its template: what it has beyond that counts.
    """
    tree = {}
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            tree[process.pid] = process.as_dict(["ppid", "memory_info", "num_fds", "cmdline"])
    templates = {pid for pid, each in tree.items() if "ensemble.images.worker" in " ".join(each["cmdline"] or ())}
    lasting = {pid: each for pid, each in tree.items() if each["ppid"] not in templates}
    resident = {pid: each["memory_info"].rss for pid, each in tree.items()}
    private = [max(0, resident[pid] - resident[each["ppid"]]) for pid, each in tree.items() if pid not in lasting]
    shared = Path("/dev/shm").glob(f"deepfake_detector_{server.process.pid}_*")
    return Footprint(
        processes=frozenset(lasting),
        memory=sum(resident[pid] for pid in lasting) + sum(private),
        files=sum(each["num_fds"] for each in lasting.values()),
        shared=sum(path.stat().st_size for path in shared),
    )


def assert_unharmed(before: Footprint, server: Server) -> None:
    """That the server is the same processes, and gives back what it took."""

    def is_unharmed() -> bool:
        after = footprint(server)
        return (
            after.processes == before.processes
            and after.memory <= before.memory + MEMORY_BACK
            and after.files <= before.files + 20
            and after.shared <= before.shared + MEMORY_BACK
        )

    wait_for(is_unharmed, hint=lambda: f"{before} became {footprint(server)}")


@pytest.fixture(scope="module")
def own(tiny_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that no other test has grown."""
    running = start_server(tiny_repository, tmp_path_factory.mktemp("own") / "log")
    with DetectorClient(running.url, batch_size=4) as client:
        # All decoding processes are started: large images are decoded by both steps.
        large = hostile.encode(np.random.default_rng(0).integers(0, 255, (800, 900, 3), np.uint8), ".jpg")
        list(client.score_many([(large, (100, 100, 700, 700))] * 16))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def client(own: Server) -> Iterator[DetectorClient]:
    with DetectorClient(own.url, batch_size=2, max_in_flight=1, retries=0, timeout=120) as made:
        yield made


def scored_beside_a_good_image(client: DetectorClient, data: bytes) -> str:
    """The image's status; its neighbour in the same request must have its score."""
    verdict, neighbour = client.score_many([(data, None), GOOD])
    assert (neighbour.status, neighbour.score) == (status.OK, ROW["vote"])
    assert verdict.status in STATUSES
    assert (verdict.score is None) == (verdict.status != status.OK)
    return str(verdict.status)


def test_every_kind_gets_its_status_beside_a_good_image(own: Server, client: DetectorClient) -> None:
    before = footprint(own)
    cases = [case for case in hostile.CASES if len(case.data) < 1 << 24]
    found = {case.name: scored_beside_a_good_image(client, case.data) for case in cases}
    assert found == {case.name: case.status for case in cases}
    assert_unharmed(before, own)


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
def test_what_was_reported_is_right_beside_a_good_image(own: Server, client: DetectorClient) -> None:
    before = footprint(own)
    files = {path.name: path.read_bytes() for path in CASES.iterdir() if path.name not in LISTS}
    assert {name: scored_beside_a_good_image(client, data) for name, data in files.items()} == REPORTED
    assert_unharmed(before, own)
    for name in (name for name, expected in REPORTED.items() if expected == status.OK):
        expected = cv2.imdecode(np.frombuffer(files[name], np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(read_image(files[name], Limits())[:, :, ::-1], expected, err_msg=name)


def test_files_of_every_kind_are_scored(own: Server, client: DetectorClient) -> None:
    before = footprint(own)
    assert Counter(verdict.status for verdict in client.score_many([(data, None) for data in FILES.values()])) == {
        status.OK: len(FILES)
    }
    assert_unharmed(before, own)


def test_ten_megabytes_of_fill_bytes_are_one_image_among_others(own: Server, client: DetectorClient) -> None:
    before = footprint(own)
    plain = hostile.encode(hostile.PHOTO, ".jpg")
    padded = hostile.with_fill_bytes(plain, 10_000_000)
    with_and_without = list(client.score_many([(padded, None), (plain, None)]))
    assert with_and_without[0].score == with_and_without[1].score
    assert with_and_without[0].probability == pytest.approx(with_and_without[1].probability, abs=1e-6)
    assert_unharmed(before, own)


def test_mutated_files_harm_nobody(own: Server) -> None:
    chance = random.Random(int(os.environ.get("FUZZ_SEED", "0")))
    names = sorted(FILES)
    files = [mutated(FILES[names[number % len(names)]], chance) for number in range(FUZZED)]
    before = footprint(own)
    with DetectorClient(own.url, batch_size=2, max_in_flight=4, retries=0, timeout=300) as client:
        verdicts = list(client.score_many([item for data in files for item in ((data, None), GOOD)]))
    assert len(verdicts) == 2 * FUZZED
    assert {(neighbour.status, neighbour.score) for neighbour in verdicts[1::2]} == {(status.OK, ROW["vote"])}
    statuses = Counter(verdict.status for verdict in verdicts[::2])
    assert set(statuses) <= STATUSES
    assert statuses[status.OK] > FUZZED // 20
    assert statuses[status.UNREADABLE_IMAGE] > FUZZED // 20
    assert_unharmed(before, own)


def face_crop_inputs(
    images: list[bytes], decoded: list[bytes], boxes: list[tuple[float, ...]], statuses: list[str]
) -> list[triton.InferInput]:
    columns = {
        "IMAGE": np.array(images, np.object_)[:, None],
        "DECODED": np.array(decoded, np.object_)[:, None],
        "BOX": np.array(boxes, np.float32),
        "IMAGE_STATUS": np.array([text.encode() for text in statuses], np.object_)[:, None],
    }
    inputs = []
    for name, column in columns.items():
        inputs.append(triton.InferInput(name, list(column.shape), "FP32" if name == "BOX" else "BYTES"))
        inputs[-1].set_data_from_numpy(column)
    return inputs


def test_a_stranger_who_calls_the_face_crop_by_its_name_harms_nobody(own: Server, client: DetectorClient) -> None:
    """Bombs, boxes far away, forged pixels and statuses: a status for each, and the neighbours' crops as ever."""
    before = footprint(own)
    nowhere, (good, box) = (np.nan,) * 4, GOOD
    bad = [
        *((case.data, b"", nowhere, "ok", case.status) for case in hostile.CASES if case.status != status.OK),
        (hostile.animated_png(first_is_bad=True), b"", nowhere, "ok", status.UNREADABLE_IMAGE),
        (good, b"", (np.inf, 0, np.inf, 9), "ok", status.INVALID_FACE_BOX),
        (good, b"", (0, 0, 3e9, 3e9), "ok", status.INVALID_FACE_BOX),
        (good, b"", (-3e38, -3e38, 3e38, 3e38), "ok", status.INVALID_FACE_BOX),
        (good, b"forged", nowhere, "ok", status.UNREADABLE_IMAGE),
        (good, b"\xff" * 20, nowhere, "ok", status.UNREADABLE_IMAGE),
        (good, struct.pack("<?HII", False, 0, 1, 100_000) + bytes(300_000), nowhere, "ok", status.TOO_ELONGATED),
        (good, hand_over(hostile.PHOTO, False, b"{}"), nowhere, "ok", status.UNREADABLE_IMAGE),
        (good, b"", nowhere, "\udcff".encode("utf-8", "replace").decode(), "?"),
        (good, b"", nowhere, "x" * 1000, "x" * 1000),
    ]
    bad = [row for row in bad if len(row[0]) < 1 << 24]
    rows = [each for row in bad for each in (row, (good, b"", box, "ok", "ok"))]
    with triton.InferenceServerClient(own.url) as raw, ThreadPoolExecutor(4) as threads:

        def ask(start: int) -> list[tuple[str, bytes]]:
            images, decoded, boxes, statuses, _ = map(list, zip(*rows[start : start + MAX_BATCH_SIZE], strict=True))
            answer = raw.infer("face_crop", face_crop_inputs(images, decoded, boxes, statuses))
            pixels = answer.as_numpy("LOCAL_FACIAL_PIXELS")
            found = answer.as_numpy("STATUS")[:, 0]
            return [(text.decode(), crop.tobytes()) for text, crop in zip(found, pixels, strict=True)]

        answers = [row for part in threads.map(ask, range(0, len(rows), MAX_BATCH_SIZE)) for row in part]
    assert [text for text, _ in answers] == [expected for *_, expected in rows]
    assert len({crop for _, crop in answers[1::2]}) == 1
    assert not any(any(crop) for _, crop in answers[::2])
    assert scored_beside_a_good_image(client, b"no image") == status.UNSUPPORTED_FORMAT
    assert_unharmed(before, own)
