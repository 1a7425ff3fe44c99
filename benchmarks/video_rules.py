"""`python -m benchmarks.video_rules`: which rule makes the best verdict of a video's frames, on learnt weights."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from ensemble.images import RgbImage
from training.learn.manipulation import manipulated
from training.learn.photographs import PHOTOGRAPHS, read_photograph

PHOTOGRAPH = "astronaut"
"""A face that the stand-in weights never saw."""

FACE = (114, 225)
"""Its middle: row and column."""

FRAMES = 20
"""Of a video of ten seconds."""

FAKE = 6
"""Consecutive frames that are manipulated in a fake one: three seconds."""

BAD = 0.1
"""Share of all frames, real and fake ones alike, that are blurred or compressed beyond use, as videos have them."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--url", default="localhost:8001", help="Server with the stand-in weights.")
@click.option("--videos", default=32, type=click.IntRange(min=4), help="Of each kind.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(url: str, videos: int, output: Path | None) -> None:
    """Make videos of a face that the weights never saw, and let `forensics evaluate` compare the rules.

    A camera drifts over a photograph, nearer or farther; three of ten seconds of a fake one are manipulated as in
    training.
    """
    begun = circumstances("benchmarks.video_rules")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for number in range(videos):
            for kind in ("real", "fake"):
                _write(
                    data / kind / f"{number:03}",
                    _frames(np.random.default_rng((number, kind == "fake")), kind == "fake"),
                )
        report = data / "evaluation"
        command = [sys.executable, "-m", "forensics", "evaluate", folder, "--url", url, "--output", str(report)]
        if subprocess.run(command, check=False).returncode:
            raise click.ClickException("the evaluation failed; see above")
        measured = json.loads((report / "report.json").read_text(encoding="utf-8"))
    rules = measured["evaluation"]["videos"]
    result = Result(
        benchmark="video_rules",
        measures="ROC AUC by video of rules that make one score of many frames",
        circumstances=begun,
        settings={"videos": videos, "frames": FRAMES, "manipulated": FAKE, "bad": BAD, "photograph": PHOTOGRAPH},
        figures=[
            Figure({"rule": rule["name"]}, "AUC", "", "higher", [rule["auc"]["value"]]) for rule in rules["rules"]
        ],
        details={"rules": rules, "server": measured["server"]},
    )
    if output:
        write(output, result)


def _frames(rng: np.random.Generator, fake: bool) -> Iterator[RgbImage]:
    picture = read_photograph(PHOTOGRAPHS[PHOTOGRAPH].files[0])
    side = int(rng.integers(160, 280))
    top, left = (round(at + rng.uniform(-0.1, 0.1) * side - side / 2) for at in FACE)
    first, seed, mirrored = int(rng.integers(FRAMES - FAKE + 1)), int(rng.integers(1 << 31)), rng.random() < 0.5
    for moment in range(FRAMES):
        down, right = (round(4 * wave(moment / 3)) for wave in (np.sin, np.cos))
        y, x = max(0, top + down), max(0, left + right)
        frame = np.asarray(cv2.resize(picture[y : y + side, x : x + side], (256, 256)), np.uint8)
        if mirrored:
            frame = np.ascontiguousarray(frame[:, ::-1])
        if fake and first <= moment < first + FAKE:
            frame, _ = manipulated(frame, np.random.default_rng(seed))
        yield _spoilt(frame, rng) if rng.random() < BAD else frame


def _spoilt(frame: RgbImage, rng: np.random.Generator) -> RgbImage:
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), rng.uniform(2, 4)), np.uint8)
    _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(8, 25))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _write(folder: Path, frames: Iterator[RgbImage]) -> None:
    folder.mkdir(parents=True)
    for moment, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{moment:02}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
