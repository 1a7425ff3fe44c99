"""Attacks by weight: too much, too large, too many, and for nobody."""

import statistics
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from benchmarks.attacks.finding import Finding
from benchmarks.attacks.target import (
    ENSEMBLE,
    MIB,
    OK,
    PHOTOGRAPH,
    Target,
    ask,
    column,
    flood,
    seconds_until_served,
    tensor,
    watching,
)

SMALL = cv2.imencode(".jpg", cv2.imdecode(np.frombuffer(PHOTOGRAPH, np.uint8), cv2.IMREAD_COLOR))[1].tobytes()
FILL_BYTES = 10_000_000
PIECE_BYTES = 65_500
QUIET_SECONDS = 5.0
PAUSE = 0.05


def one_large_request(target: Target) -> Finding:
    """480 MB in one request: shared memory that stays taken."""
    before = target.shared_memory()
    answer = ask(target, [PHOTOGRAPH + bytes(15_000_000)] * 32, 120)
    kept = (target.shared_memory() - before) / MIB
    return Finding({"shared memory that stays taken": (kept, "MiB")}, answer[:60])


def a_flood_of_batches(target: Target) -> Finding:
    """100 requests of 32 images at once: how soon those over the limit hear it, and what of that is the server's part.

    The client sends 377 MB by one connection first, and reads no answer meanwhile. The server's part is the time from
    when it has a request until it has refused it, by its own statistics.
    """
    before = _refusals(target)
    answers = flood(target, 100, 32)
    served = [seconds for answer, seconds in answers if answer == OK]
    refused = sorted(seconds for answer, seconds in answers if answer != OK)
    after = _refusals(target)
    count = after[0] - before[0]
    part = (after[1] - before[1]) / count if count else 0.0
    return Finding(
        {
            "refusals heard after, median": (statistics.median(refused) if refused else 0.0, "s"),
            "refusals heard after, last": (max(refused, default=0.0), "s"),
            "of that in the server, mean": (part, "s"),
        },
        f"{len(served)} served within {max(served, default=0.0):.1f} s, {len(refused)} refused",
    )


def _refusals(target: Target) -> tuple[int, float]:
    """Requests that the ensemble has failed so far, and the seconds that they took in all."""
    with triton.InferenceServerClient(target.url) as client:
        found = client.get_inference_statistics(ENSEMBLE).model_stats[0].inference_stats.fail
    return found.count, found.ns / 1e9


def clients_that_leave(target: Target) -> Finding:
    """100 requests of 32 images whose clients leave after half a second: what the next caller waits."""
    flood(target, 100, 32, timeout=0.5)
    return Finding({"an image is served again after": (seconds_until_served(target), "s")})


def a_flood_of_direct_calls(target: Target) -> Finding:
    """24 calls of the face crop by its name for 32 images each: what single images of the ensemble wait."""
    inputs = _crops(target, [PHOTOGRAPH] * 32)
    with watching(target, pause=PAUSE) as watch:
        answers = flood(target, 24, 32, model="face_crop", inputs=inputs)
    refused = sum(answer != OK for answer, _ in answers)
    return Finding(
        {
            "an image of the ensemble takes, longest": (watch.longest, "s"),
            "memory that the server takes, at most": (watch.peak / MIB, "MiB"),
        },
        f"{refused} of 24 refused",
    )


def direct_bombs(target: Target) -> Finding:
    """The face crop called by its name with files that are made to end or fill it, beside good ones."""
    before = target.processes()
    bombs = [_png_with_idat_of(2_000_000_000), _animated_with_bad_filter(), _black(8000, 6250), _black(30000, 30000)]
    with watching(target, pause=PAUSE) as watch, ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(_crop, target, [bomb, PHOTOGRAPH] * 4) for bomb in bombs for _ in range(2)]
        good = sum(call.result() for call in calls)
    time.sleep(1)
    return Finding(
        {
            "processes of the server that ended": (len(before - target.processes()), ""),
            "memory that the server takes, at most": (watch.peak / MIB, "MiB"),
            "good images beside the bombs that got no pixels, of 32": (32 - good, ""),
            "an image is served again after": (seconds_until_served(target), "s"),
        }
    )


def fill_bytes(target: Target) -> Finding:
    """A JPEG with 10 MB of legal fill bytes, eight times, one after the other: what single images wait meanwhile.

    The same with the fill bytes in pieces between comments; and with 10 MB behind the image, where no decoder looks:
    what is beyond that is the fill bytes' part.
    """
    pieces = (b"\xff" * PIECE_BYTES + b"\xff\xfe\0\2") * (FILL_BYTES // PIECE_BYTES)
    images = {
        "quiet": b"",
        "trailer": SMALL + bytes(FILL_BYTES),
        "fill": SMALL[:2] + b"\xff" * FILL_BYTES + SMALL[2:],
        "pieces": SMALL[:2] + pieces + SMALL[2:],
    }
    waits = {}
    for name, image in images.items():
        with watching(target, [SMALL]) as watch:
            started = time.monotonic()
            for _ in range(8 if image else 0):
                ask(target, [image], 300)
            while time.monotonic() - started < QUIET_SECONDS:
                ask(target, [image], 300) if image else time.sleep(0.1)
        waits[name] = watch
    return Finding(
        {
            "a neighbour waits longer, median": (1e3 * (waits["fill"].median - waits["quiet"].median), "ms"),
            "than by as many bytes behind the image, median": (
                1e3 * (waits["fill"].median - waits["trailer"].median),
                "ms",
            ),
            "a neighbour waits longer by fill bytes in pieces, median": (
                1e3 * (waits["pieces"].median - waits["quiet"].median),
                "ms",
            ),
            "a neighbour waits, longest": (1e3 * max(waits["fill"].longest, waits["pieces"].longest), "ms"),
        },
        f"longest by bytes behind the image {1e3 * waits['trailer'].longest:.0f} ms, "
        f"without any {1e3 * waits['quiet'].longest:.0f} ms",
    )


def _crops(target: Target, images: list[bytes]) -> list[triton.InferInput]:
    """The inputs of the face crop, of whichever version."""
    columns = {
        "IMAGE": column(images),
        "DECODED": column([b""] * len(images)),
        "BOX": np.full((len(images), 4), np.nan, np.float32),
        "IMAGE_STATUS": column([b"ok"] * len(images)),
    }
    with triton.InferenceServerClient(target.url) as client:
        names = {each.name for each in client.get_model_metadata("face_crop").inputs}
    return [tensor(name, values) for name, values in columns.items() if name in names]


def _crop(target: Target, images: list[bytes]) -> int:
    """How many of the images, every second one, come back with pixels; 0 where there is no answer."""
    with triton.InferenceServerClient(target.url) as client:
        try:
            answer = client.infer("face_crop", _crops(target, images), client_timeout=120)
        except InferenceServerException:
            return 0
    return int(answer.as_numpy("LOCAL_FACIAL_PIXELS")[1::2].any(axis=(1, 2, 3)).sum())


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _black(width: int, height: int) -> bytes:
    packer = zlib.compressobj(9)
    row = bytes(3 * width + 1)
    data = b"".join(packer.compress(row) for _ in range(min(height, 6250))) + packer.flush()
    return _png(width, height, _chunk(b"IDAT", data))


def _png_with_idat_of(declared: int) -> bytes:
    whole = _png(64, 64, _chunk(b"IDAT", b""))
    start = whole.index(b"IDAT") - 4
    return whole[:start] + struct.pack(">I", declared) + b"IDAT"


def _animated_with_bad_filter() -> bytes:
    rows = b"\x09" + bytes(192) + (b"\0" + bytes(192)) * 63
    control = [struct.pack(">IIIIIHHBB", number, 64, 64, 0, 0, 1, 10, 0, 0) for number in (0, 1)]
    return _png(
        64,
        64,
        _chunk(b"acTL", struct.pack(">II", 2, 0)),
        _chunk(b"fcTL", control[0]),
        _chunk(b"IDAT", zlib.compress(rows)),
        _chunk(b"fcTL", control[1]),
        _chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(rows)),
    )
