"""`python -m benchmarks.degradation`: images/s of the degradation engine, against kernels built point by point."""

import importlib
import math
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from unittest import mock

import click
import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import PHOTOGRAPHS
from degradation import Image, Settings, degrade, from_bytes, generator
from degradation import blur as blur_module
from degradation.blur import AnisotropicGaussianBlur, anisotropic_gaussian_kernel
from degradation.pixels import Values, uniform

Kernel = Callable[[tuple[float, float], float], Values]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--images", default=32, type=click.IntRange(min=1), help="256×256 images in each round.")
@click.option("--rounds", default=3, type=click.IntRange(min=1), help="Rounds; in each, every way does the same work.")
@click.option("--seed", default=1024, help="Of the parameters drawn: both ways get the same.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(images: int, rounds: int, seed: int, output: Path | None) -> None:
    """Measure the degradation engine on one core, against a straightforward construction of its kernels.

    The straightforward ways build each anisotropic Gaussian kernel point by point, one call of a general density per
    point: scipy's multivariate_normal.pdf as the method's reference does (left out where scipy is not installed), or
    the bare minimum of that in NumPy (decompose the covariance, then the exponent). All else is the same code, so the
    ratios are the kernels' doing alone. Three works are timed: building the kernels, blurring images with them
    (strengths from Beta(1.2, 1.2)), and the whole engine at its training settings. Times are of the processor, so
    that other work on the machine disturbs them little.
    """
    console = Console()
    cv2.setNumThreads(1)
    photographs = [from_bytes(np.asarray(cv2.imread(str(path)), np.uint8)[..., ::-1]) for path in PHOTOGRAPHS]
    work = list(islice(cycle(photographs), images))
    kernels: dict[str, Kernel] = {"ours": anisotropic_gaussian_kernel, "by point, NumPy": _pointwise(_density)}
    try:
        density = importlib.import_module("scipy.stats").multivariate_normal.pdf
        kernels["by point, scipy"] = _pointwise(lambda point, covariance: density(point, [0, 0], covariance))
    except ModuleNotFoundError:
        console.print("scipy is not installed: its row is left out")
    works: dict[str, Callable[[list[Image], int], None]] = {
        "kernels": _build_kernels,
        "anisotropic blur": _blur,
        "engine": _degrade,
    }
    _check_same(kernels, seed)
    begun = circumstances("benchmarks.degradation")
    rates: dict[str, dict[str, list[float]]] = {name: {way: [] for way in kernels} for name in works}
    for _ in track(range(rounds), "rounds", console=Console(stderr=True)):
        for name, run in works.items():
            for way, kernel in kernels.items():
                with mock.patch.object(blur_module, "anisotropic_gaussian_kernel", kernel):
                    start = time.process_time()
                    run(work, seed)
                    rates[name][way].append(images / (time.process_time() - start))
    result = Result(
        benchmark="degradation",
        measures="images per second of processor time, with our kernels and with kernels built point by point",
        circumstances=begun,
        settings={"images": images, "rounds": rounds, "seed": seed},
        figures=[
            Figure({"work": name, "kernels": way}, "throughput", "images/s", "higher", values)
            for name, ways in rates.items()
            for way, values in ways.items()
        ],
    )
    _print(result, console)
    if output:
        write(output, result)


def _pointwise(density: Callable[[Values, Values], float]) -> Kernel:
    """The same kernel as `anisotropic_gaussian_kernel`, from one call of `density(point, covariance)` per point."""

    def kernel(variances: tuple[float, float], angle: float) -> Values:
        direction = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        covariance: Values = direction @ np.diag(variances) @ direction.T
        size = 2 * int(max(variances)) + 1
        values = np.zeros((size, size))
        for row in range(size):
            for column in range(size):
                values[row, column] = density(np.array([column - size // 2, row - size // 2]), covariance)
        values /= np.sum(values)
        return values

    return kernel


def _density(point: Values, covariance: Values) -> float:
    variances, axes = np.linalg.eigh(covariance)
    whitened = (point @ axes) / np.sqrt(variances)
    log_determinant = np.sum(np.log(variances))
    return float(np.exp(-0.5 * (len(point) * math.log(2 * math.pi) + log_determinant + np.sum(whitened**2))))


def _draw_blur(seed: int) -> AnisotropicGaussianBlur:
    rng = generator(seed)
    strength = rng.beta(1.2, 1.2)
    variances = (uniform(rng, 0, 30 * strength), uniform(rng, 0, 30 * strength))
    return AnisotropicGaussianBlur(variances, uniform(rng, 0, math.pi))


def _build_kernels(images: list[Image], seed: int) -> None:
    for index in range(len(images)):
        drawn = _draw_blur(seed + index)
        blur_module.anisotropic_gaussian_kernel(drawn.variances, drawn.angle)


def _blur(images: list[Image], seed: int) -> None:
    for index, image in enumerate(images):
        _draw_blur(seed + index).apply(image)


def _degrade(images: list[Image], seed: int) -> None:
    for index, image in enumerate(images):
        degrade(image, generator(seed + index), Settings())


def _check_same(kernels: dict[str, Kernel], seed: int) -> None:
    drawn = _draw_blur(seed)
    ours = anisotropic_gaussian_kernel(drawn.variances, drawn.angle)
    for way, kernel in kernels.items():
        difference = float(np.abs(kernel(drawn.variances, drawn.angle) - ours).max())
        if difference > 1e-12:
            raise click.ClickException(f"ours and {way} disagree by {difference:.1e}; the limit is 1e-12")


def _print(result: Result, console: Console) -> None:
    title = f"one core of {result.circumstances.machine}"
    table = Table("work", "kernels", "images/s", "least", "most", "ours is", title=title)
    for name in dict.fromkeys(each.labels["work"] for each in result.figures):
        ours, *others = result.select(work=name)
        for each in (ours, *others):
            values = (f"{rate:.1f}" for rate in (each.median, min(each.rounds), max(each.rounds)))
            ratio = "" if each is ours else f"{ours.median / each.median:.1f}×"
            table.add_row(str(name), str(each.labels["kernels"]), *values, ratio)
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
