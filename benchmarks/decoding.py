"""`python -m benchmarks.decoding`: what decoding in a process of its own costs an image."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import PHOTOGRAPHS
from ensemble.images import Decoders, Limits, decode, read_image
from ensemble.images.handover import hand_over, take_over
from ensemble.images.headers import read_header

LIMITS = Limits()
SIZES = {"256×256": (256, 256), "12 megapixels": (4000, 3000), "50 megapixels": (8000, 6250)}
"""Width and height."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--rounds", default=5, type=click.IntRange(min=1), help="In each, every way decodes every image.")
@click.option(
    "--seconds", default=0.5, type=click.FloatRange(min=0), help="That a way decodes an image again and again."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(rounds: int, seconds: float, output: Path | None) -> None:
    """Measure the time of an image: the header alone, decoded in this process, and in a process of its own.

    In each round the ways take turns, so that other work on the machine disturbs them alike; a round's value is the
    median of its repetitions. For a small image the way from the first step to the face crop is measured too, which
    takes the place of decoding it a second time.
    """
    begun = circumstances("benchmarks.decoding")
    cv2.setNumThreads(1)
    decoders = Decoders(1)
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, data in _files().items():
            for way, work in _ways(data, decoders).items():
                times.setdefault((name, way), []).append(_milliseconds(work, seconds))
    decoders.close()
    result = Result(
        benchmark="decoding",
        measures="time of reading one image, with and without a process of its own",
        circumstances=begun,
        settings={"rounds": rounds, "seconds": seconds},
        figures=[
            Figure({"image": name, "way": way}, "time", "ms", "lower", values) for (name, way), values in times.items()
        ],
    )
    table = Table("image", "way", "ms")
    for figure in result.figures:
        table.add_row(str(figure.labels["image"]), str(figure.labels["way"]), f"{figure.median:.3f}")
    Console().print(table)
    if output:
        write(output, result)


def _files() -> dict[str, bytes]:
    photograph = np.asarray(cv2.imread(str(PHOTOGRAPHS[0])), np.uint8)
    noise = np.random.default_rng(0)
    files = {}
    for name, size in SIZES.items():
        image = np.asarray(cv2.resize(photograph, size), np.int16)
        if size != photograph.shape[1::-1]:  # Enlarged, it would be smoother than any photograph.
            image += noise.integers(-6, 7, image.shape, np.int16)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        files[f"JPEG, {name}"] = _encoded(pixels, ".jpg")
        if pixels.size < 1 << 24:
            files[f"PNG, {name}"] = _encoded(pixels, ".png")
    return files


def _encoded(pixels: npt.NDArray[np.uint8], extension: str) -> bytes:
    _, data = cv2.imencode(extension, pixels)
    return data.tobytes()


def _ways(data: bytes, decoders: Decoders) -> dict[str, Callable[[], object]]:
    ways: dict[str, Callable[[], object]] = {
        "header": lambda: read_header(data),
        "in this process": lambda: decode(data),
        "in its own process": lambda: read_image(data, LIMITS, decoders),
    }
    image = decode(data)
    if hand_over(image):
        ways["handed over"] = lambda: take_over(hand_over(image), LIMITS)
    return ways


def _milliseconds(work: Callable[[], object], seconds: float) -> float:
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main()
