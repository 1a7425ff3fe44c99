"""`python -m benchmarks.learnt`: the tools behind the export, tried on weights that have learnt something.

Calibration and operating points are fitted on crops of the validation's two photographs, without and with their groups
named, and tried on those of the test's. They are fitted on drawings, each an origin of its own, and tried on others;
and on these once more with the Local Facial stream untrained, which a good calibration notices.
Then: does saliency fall on what was manipulated, how do verdicts fall under degradation, and what do 16 bits cost?
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.common.commands import run_module
from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import Endpoint, serve
from benchmarks.learnt.calibration import Trial, try_calibration
from benchmarks.learnt.drawings import draw_origins
from benchmarks.learnt.saliency import measure_saliency
from ensemble.streams import LOCAL_FACIAL
from networks import write_random_weights
from training.learn.plan import SEED
from training.learn.samples import draw_samples, write_samples

UNNAMED = "photographs, groups not named"
TRIALS = {"learnt": (UNNAMED, "photographs", "drawings"), "spoilt": ("drawings",)}
"""What is calibrated on, by the weights."""

DRAWINGS = 60
"""Of each split, a real and a fake image each: `forensics calibrate` changes nothing on fewer than 50."""

SOME = 20
"""Pairs of the test for the tools that compute each image many times: robustness and the study of 16 bits."""

SWEEP = "jpeg"
"""Of robustness, through the server; `benchmarks.learn` has further ones."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--weights", type=click.Path(exists=True, path_type=Path), default=ROOT / "samples" / "weights")
@click.option("--folder", type=click.Path(path_type=Path), default=ROOT / "build" / "learnt", help="Where all goes.")
@click.option("--pairs", default=80, type=click.IntRange(min=50), help="Of real and fake crops, of each split.")
@click.option("--score-cam", "cams", default=12, help="Fakes that Score-CAM is computed for.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(weights: Path, folder: Path, pairs: int, cams: int, output: Path | None) -> None:
    """Try calibrate, operating points, explain, robustness and 16 bits on learnt weights."""
    console = Console()
    begun = circumstances("benchmarks.learnt")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(weights, folder / "learnt" / "weights")
    shutil.copytree(weights, folder / "spoilt" / "weights")
    write_random_weights(folder / "random", "tiny")
    shutil.copyfile(
        folder / "random" / LOCAL_FACIAL.checkpoint, folder / "spoilt" / "weights" / LOCAL_FACIAL.checkpoint
    )
    (folder / "spoilt" / "weights" / "manifest.json").unlink(missing_ok=True)
    drawn = _draw(folder, pairs)
    test = drawn["photographs"].tried_on
    some = _some(test, folder / "some")

    details: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name, sets in TRIALS.items():
        own = folder / name
        with _timed(seconds, f"export, {name}"):
            run_module("export", "--weights", str(own / "weights"), "--repository", str(own / "model_repository"))
        with serve(own / "model_repository") as server:
            with _timed(seconds, f"calibrate and evaluate, {name}"):
                details[name] = {each: try_calibration(server, drawn[each], own) for each in sets}
            if name == "learnt":
                with _timed(seconds, "saliency"):
                    details["saliency"] = measure_saliency(server, test, own, cams)
                with _timed(seconds, "robustness"):
                    details["robustness"] = _robustness(server, some, own)
    with _timed(seconds, "16 bits"):
        details["precision"] = _precision(folder, some)

    console.print_json(data=details)
    figures = [
        *(
            Figure(
                {"weights": name, "fitted on": each, "vote": vote},
                "AUC of the vote",
                "",
                "higher",
                [details[name][each]["tried"][vote]["auc"]],
            )
            for name, sets in TRIALS.items()
            for each in sets
            for vote in ("paper", "calibrated")
        ),
        *(
            Figure({"map": method, "stream": stream}, "mass inside the mask over chance", "", "higher", [each["ratio"]])
            for method, streams in details["saliency"].items()
            for stream, each in streams.items()
        ),
        *(
            Figure({"sweep": SWEEP, "level": level}, "AUC of the vote", "", "neither", [each["value"]])
            for level, each in details["robustness"].items()
        ),
        *(Figure({"step": name}, "time", "s", "lower", [value]) for name, value in seconds.items()),
    ]
    result = Result(
        benchmark="learnt",
        measures="the tools behind the export on learnt weights and photographs that the training never saw",
        circumstances=begun,
        settings={"pairs": pairs, "drawings": DRAWINGS, "score_cam": cams, "some": SOME},
        figures=figures,
        details=details,
    )
    if output:
        write(output, result)


def _draw(folder: Path, pairs: int) -> dict[str, Trial]:
    """Images to calibrate on, and others of the same kind to try that on."""
    trials = {}
    for kind, validation, test in (
        ("photographs", draw_samples("validation", pairs, SEED), draw_samples("test", pairs, SEED)),
        ("drawings", draw_origins(DRAWINGS, SEED), draw_origins(DRAWINGS, SEED + 1)),
    ):
        fitted_on = write_samples(folder / kind / "fitted", {"validation": validation})
        write_samples(folder / kind / "tried", {"test": test})
        trials[kind] = Trial(fitted_on, folder / kind / "tried" / "test", kind)
    photographs = trials["photographs"]
    return trials | {UNNAMED: replace(photographs, fitted_on=photographs.fitted_on.parent / "validation")}


def _some(test: Path, folder: Path) -> Path:
    """The first pairs of the test, in a folder of their own."""
    for kind in ("real", "fake"):
        (folder / kind).mkdir(parents=True)
        for path in sorted((test / kind).glob("*.png"), key=_number)[:SOME]:
            shutil.copyfile(path, folder / kind / path.name)
    return folder


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began


def _robustness(server: Endpoint, images: Path, own: Path) -> dict[str, Any]:
    """AUC of the vote with its interval, by level; the clean images first."""
    common = ("--url", server.url, "--output", str(own / "robustness"))
    run_module("forensics", "robustness", str(images), "--sweep", SWEEP, *common)
    sweep = json.loads((own / "robustness" / "robustness.json").read_text(encoding="utf-8"))["sweeps"][0]
    levels = (sweep["clean"], *sweep["levels"])
    return {"clean" if each["level"] is None else f"{each['level']:g}": each["auc"]["vote"] for each in levels}


def _precision(folder: Path, images: Path) -> dict[str, Any]:
    """The study of 16 bits; beyond the tolerances (status 1) it is a finding, not a failure."""
    output = folder / "precision.json"
    with_images = ("--images", str(images), "--random", "0", "--json", str(output))
    run_module("export.precision", "--weights", str(folder / "learnt" / "weights"), *with_images, allowed=(0, 1))
    document: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return document


if __name__ == "__main__":
    main()
