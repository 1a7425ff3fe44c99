"""`python -m benchmarks.early`: what early verdicts save, and what they cost where nothing can be saved."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import click
import cv2
import numpy as np
from deepfake_client import DetectorClient, EarlyVerdict
from rich.console import Console
from rich.table import Table

from benchmarks.common.machine import circumstances
from benchmarks.common.noise import ratio_of_medians
from benchmarks.common.result import Figure, Ratio, Result, write
from benchmarks.common.serving import export, serve
from benchmarks.load.workloads import Item, Workload, items
from ensemble.contract import FACE_NONE, FACE_TOO_SMALL
from ensemble.streams import ENSEMBLE_NAME

LATENCY_GOAL = 1 / 1.15
"""Of the full ensemble's latency over that of a verdict alone, for a single image for which nothing can be left out."""

NOTHING_LEFT_OUT_GOAL = 0.95
GOALS: dict[str, dict[str, float | None]] = {
    "haar": {"supplied": None, "found": 1.4, "none": None},
    "retinaface": {"none": 2.0},
}
"""Images a second over those of the full ensemble, where nine of ten images are decided by the streams asked first."""


PATIENCE = 3600.0
"""Seconds for an answer: at full size a batch takes minutes on a CPU."""


@dataclass(frozen=True)
class Mix:
    """Images with the threshold at which so many of them are decided early.

    Attributes:
        name: `nine of ten`, or `none`: how many are.
        threshold: On the probability.
        images: What is sent, in order.
    """

    name: str
    threshold: float
    images: list[Item]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--preset", type=click.Choice(["tiny", "small", "giant"]), default="small", help="Size of the streams.")
@click.option(
    "--repository", type=click.Path(exists=True, path_type=Path), help="Measure these models, whatever their preset."
)
@click.option("--model-config-name", help="As of the server, such as openvino.")
@click.option("--retinaface", is_flag=True, help="With RetinaFace of random weights, and images that show it no face.")
@click.option(
    "--faces", type=click.Choice(["supplied", "found", "none"]), multiple=True, help="Which; all, if left out."
)
@click.option("--rounds", default=5, type=click.IntRange(1), help="Rounds, in which both ensembles take turns.")
@click.option("--seconds", default=8.0, type=click.FloatRange(0, min_open=True), help="Of one turn, about.")
@click.option("--requests", default=60, type=click.IntRange(1), help="Single images for the latency at low load.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(
    preset: str,
    repository: Path | None,
    model_config_name: str | None,
    retinaface: bool,
    faces: tuple[str, ...],
    rounds: int,
    seconds: float,
    requests: int,
    output: Path | None,
) -> None:
    """Measure `deepfake_verdict` over `deepfake_detector`, both on one server, in turn."""
    detector = "retinaface" if retinaface else "haar"
    models = repository or export(preset, retinaface=retinaface)
    label = repository.parent.name if repository else preset
    kinds = faces or (("none",) if retinaface else ("supplied", "found", "none"))
    begun = circumstances("benchmarks.early")
    figures, ratios, natural = list[Figure](), list[Ratio](), dict[str, float]()
    with (
        serve(models, model_config_name) as server,
        DetectorClient(server.url, batch_size=8, timeout=PATIENCE) as client,
    ):
        for kind in kinds:
            images = _images(client, kind, retinaface)
            opened = _open_ranges(client, images)
            natural[kind] = _share_decided(opened)
            for mix in _mixes(images, opened):
                labels: dict[str, str | int | float] = {"face": kind, "decided early": mix.name}
                full, early = _throughputs(client, mix, rounds, seconds)
                figures += [_figure(labels, "full", full), _figure(labels, "early", early)]
                goal = GOALS[detector].get(kind) if mix.name == "nine of ten" else NOTHING_LEFT_OUT_GOAL
                ratios.append(_ratio(f"images a second, face {kind}, {mix.name}", label, early, full, goal))
                alone_full, alone_early = _latencies(client, mix, requests)
                for quantile in (50, 95):
                    ends = [float(np.percentile(each, quantile)) for each in (alone_full, alone_early)]
                    for name, value in zip(("full", "early"), ends, strict=True):
                        figures.append(
                            Figure({**labels, "ensemble": name}, f"latency p{quantile}", "s", "lower", [value])
                        )
                    goal = LATENCY_GOAL if mix.name == "none" else None
                    ratios.append(
                        _ratio(
                            f"1 / p{quantile} of one image, face {kind}, {mix.name}", label, ends[:1], ends[1:], goal
                        )
                    )
    if not retinaface:
        figures += _repeated(models, model_config_name, requests)
    result = Result(
        benchmark="early",
        measures="deepfake_verdict over deepfake_detector: images a second, and latency of single images",
        circumstances=begun,
        settings={"weights": label, "detector": detector, "configuration": model_config_name or "default"},
        figures=figures,
        ratios=ratios,
        details={"share_decided_early_by_the_published_reading": natural},
    )
    _print(result)
    if output:
        write(output, result)


def _images(client: DetectorClient, kind: str, retinaface: bool) -> list[Item]:
    """Images whose face is of a kind, by what the server itself finds."""
    if not retinaface or kind == "supplied":
        return items(Workload("jpeg", kind))  # type: ignore[arg-type]
    # Seeded weights see faces in all photographs. In blurred noise they see, in every version of it, none that is large
    # enough: to the ensemble that is no face, and it has searched the whole cascade.
    photographs = [each.data for each in items(Workload("jpeg", "supplied"))[::4]]
    pool = [Item(data, None) for data in (*photographs, *_blurred_noise(6))]
    sources = {"found": {"raw"}, "none": {FACE_NONE, FACE_TOO_SMALL}}[kind]
    verdicts = client.score_many([(each.data, each.box) for each in pool])
    chosen = [each for each, verdict in zip(pool, verdicts, strict=True) if verdict.face.source in sources]
    if not chosen:
        raise click.ClickException(f"these random weights find no image to be: face {kind}")
    return chosen


def _blurred_noise(count: int) -> list[bytes]:
    """JPEG files of 256×256 coloured clouds."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 256, 256, 3), dtype=np.uint8)
    clouds = [cv2.GaussianBlur(each, (0, 0), 6.0 + 4 * number) for number, each in enumerate(noise)]
    return [cv2.imencode(".jpg", each)[1].tobytes() for each in clouds]


def _open_ranges(client: DetectorClient, images: Sequence[Item]) -> list[EarlyVerdict]:
    """What the streams that are asked first leave open of each image: at threshold 1 they decide every one."""
    verdicts = client.decide_many([(each.data, each.box) for each in images], threshold=1.0)
    opened = [verdict for verdict in verdicts if isinstance(verdict, EarlyVerdict) and verdict.ok]
    assert len(opened) == len(images)
    return opened


def _share_decided(opened: Sequence[EarlyVerdict]) -> float:
    """The share of images that the published reading of the score decides early."""
    ranges = [verdict.score_range for verdict in opened if verdict.score_range]
    return float(np.mean([low > 0.5 or high < 0.5 or low == high for low, high in ranges]))


def _mixes(images: list[Item], opened: Sequence[EarlyVerdict]) -> list[Mix]:
    """Nine of ten decided early, and none. Thresholds are chosen that part the images."""
    ranges = np.array([verdict.probability_range for verdict in opened], np.float32)

    def decided(threshold: float) -> list[bool]:
        low, high = (ranges > np.float32(threshold)).T
        return [bool(same) for same in low == high]

    threshold = float(np.median(ranges.mean(axis=1)))
    undecided = [each for each, done in zip(images, decided(threshold), strict=True) if not done]
    assert undecided, "every image is decided at the middle of what is left open"
    for far in np.linspace(0, 1, 21):  # one at which most are decided, and that one image is near to
        states = decided(float(far))
        if any(states) and not all(states):
            early = [each for each, done in zip(images, states, strict=True) if done]
            others = [each for each, done in zip(images, states, strict=True) if not done]
            nine = list(islice(cycle(early), 9))
            return [
                Mix("nine of ten", float(far), [*nine[:4], others[0], *nine[4:]]),
                Mix("none", threshold, undecided),
            ]
    # All images are alike: what is decided is then a matter of the threshold, so nothing is undecided far from them.
    raise click.ClickException("no threshold parts these images into decided and undecided ones")


def _throughputs(client: DetectorClient, mix: Mix, rounds: int, seconds: float) -> tuple[list[float], list[float]]:
    """Images a second of both ensembles, round for round, after one that is not counted."""
    full, early = list[float](), list[float]()
    deciding = client.deciding(mix.threshold)
    count = len(mix.images)
    count = count * max(1, round(seconds * _rate(client, mix.images, count) / count))
    _rate(deciding, mix.images, len(mix.images))
    for number in range(rounds):
        turns = [(client, full), (deciding, early)]
        for each, rates in turns if number % 2 == 0 else reversed(turns):
            rates.append(_rate(each, mix.images, count))
    return full, early


def _rate(client: DetectorClient, images: Sequence[Item], count: int) -> float:
    started = time.perf_counter()
    with closing(client.score_many((each.data, each.box) for each in islice(cycle(images), count))) as verdicts:
        assert all(verdict.ok for verdict in verdicts)
    return count / (time.perf_counter() - started)


def _latencies(client: DetectorClient, mix: Mix, requests: int) -> tuple[list[float], list[float]]:
    """Seconds of single images, one after the other, both ensembles in turn."""
    full, early = list[float](), list[float]()
    deciding = client.deciding(mix.threshold)
    for number, image in enumerate(islice(cycle(mix.images), requests + 2)):
        for each, seconds in ((client, full), (deciding, early)):
            started = time.perf_counter()
            assert each.score(image.data, image.box).ok
            if number >= 2:
                seconds.append(time.perf_counter() - started)
    return full, early


def _repeated(models: Path, model_config_name: str | None, requests: int) -> list[Figure]:
    """Seconds of single images with the response cache: repeated, and never seen, there and past it."""
    image, box = items(Workload("jpeg", "supplied"))[0].data, items(Workload("jpeg", "supplied"))[0].box
    seconds: dict[str, list[float]] = {"repeated": [], "never seen": [], "past the cache": []}
    with (
        serve(models, model_config_name, ["--response-cache", "64"]) as server,
        DetectorClient(server.url, timeout=PATIENCE) as client,
        DetectorClient(server.url, model=f"{ENSEMBLE_NAME}_uncached", timeout=PATIENCE) as past,
    ):
        assert client.score(image, box).ok
        for number in range(requests):
            new = image + f"{number}".encode()  # decoders do not look at what follows the end
            for name, each, data in (
                ("repeated", client, image),
                ("past the cache", past, new),
                ("never seen", client, new),
            ):
                started = time.perf_counter()
                assert each.score(data, box).ok
                seconds[name].append(time.perf_counter() - started)
    return [
        Figure({"image": name}, f"latency p{quantile}", "s", "lower", [float(np.percentile(each, quantile))])
        for name, each in seconds.items()
        for quantile in (50, 95)
    ]


def _figure(labels: dict[str, str | int | float], ensemble: str, rounds: list[float]) -> Figure:
    return Figure({**labels, "ensemble": ensemble}, "throughput", "images/s", "higher", rounds)


def _ratio(name: str, preset: str, over: list[float], under: list[float], goal: float | None) -> Ratio:
    found = ratio_of_medians(over, under, paired=True)
    met = None if goal is None else found.value >= goal
    return Ratio(name, preset, found.value, found.low, found.high, goal, met)


def _print(result: Result) -> None:
    console = Console()
    table = Table("early / full", "ratio", "95 %", "goal", "")
    for each in result.ratios:
        goal = "" if each.goal is None else f"{each.goal:.2f}"
        table.add_row(each.name, f"{each.value:.2f}", f"{each.low:.2f} – {each.high:.2f}", goal, each.verdict)
    console.print(table)
    for figure in result.figures:
        if "image" in figure.labels:
            console.print(f"response cache, {figure.name}: {figure.median * 1000:.1f} ms")
    for kind, share in result.details["share_decided_early_by_the_published_reading"].items():
        console.print(f"face {kind}: {share:.0%} of the images are decided early by the published reading")


if __name__ == "__main__":
    main()
