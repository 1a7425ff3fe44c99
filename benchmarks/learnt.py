"""`python -m benchmarks.learnt`: the tools behind the export, tried on weights that have learnt something.

Calibration and operating points are fitted on crops of the validation's photographs and tried on those of the test's;
once on the weights as they are, and once with the Local Facial stream untrained, which a good calibration notices.
Then: does saliency fall on what was manipulated, how do verdicts fall under degradation, and what do 16 bits cost?
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from deepfake_client import DetectorClient
from rich.console import Console
from sklearn.metrics import roc_auc_score

from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import Endpoint, serve
from ensemble.calibration import PAPER_VOTE, Vote
from ensemble.calibration_file import parse_calibration
from ensemble.faces.crop import crop_face
from ensemble.images.framing import frame
from ensemble.streams import LOCAL_FACIAL, STREAMS, Stream
from forensics.common.inspection import Inspection, Inspector
from forensics.common.scoring.server import ask_server
from forensics.explain.maps import checked_checkpoints, score_cam_maps
from forensics.explain.saliency import Map
from forensics.explain.views import attention_maps
from networks import write_random_weights
from training.learn.plan import SEED
from training.learn.samples import draw_samples, write_samples
from training.metrics import auc_interval

RATES = (0.05, 0.1)
"""False-alarm rates: lower ones need more real images than there are."""

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
    write_samples(folder / "data", {split: draw_samples(split, pairs, SEED) for split in ("validation", "test")})

    test = folder / "data" / "test"
    some = _some(test, folder / "some")

    details: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name in ("learnt", "spoilt"):
        own = folder / name
        with _timed(seconds, f"export, {name}"):
            _run("export", "--weights", str(own / "weights"), "--repository", str(own / "model_repository"))
        with serve(own / "model_repository") as server:
            with _timed(seconds, f"calibrate and evaluate, {name}"):
                details[name] = _calibrated(server, folder / "data", own)
            if name == "learnt":
                with _timed(seconds, "saliency"):
                    details["saliency"] = _saliency(server, test, own, cams)
                with _timed(seconds, "robustness"):
                    details["robustness"] = _robustness(server, some, own)
    with _timed(seconds, "16 bits"):
        details["precision"] = _precision(folder, some)

    console.print_json(data=details)
    figures = [
        *(
            Figure(
                {"weights": name, "vote": vote}, "AUC of the vote", "", "higher", [details[name]["test"][vote]["auc"]]
            )
            for name in ("learnt", "spoilt")
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
        settings={"pairs": pairs, "score_cam": cams, "some": SOME},
        figures=figures,
        details=details,
    )
    if output:
        write(output, result)


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


def _run(module: str, *arguments: str, allowed: Sequence[int] = (0,)) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False)
    if done.returncode not in allowed:
        raise click.ClickException(f"python -m {module} ended with {done.returncode}; see above")


def _calibrated(server: Endpoint, data: Path, own: Path) -> dict[str, Any]:
    """What was fitted on the validation's photographs, and what it does to those of the test."""
    rates = [option for rate in RATES for option in ("--far", str(rate))]
    common = ("--url", server.url, "--output")
    _run("forensics", "calibrate", str(data / "validation"), *common, str(own / "calibration"), *rates)
    _run("forensics", "evaluate", str(data / "test"), *common, str(own / "evaluation"))
    document = json.loads((own / "calibration" / "calibration-report.json").read_text(encoding="utf-8"))
    text = (own / "calibration" / "calibration.json").read_text(encoding="utf-8")
    calibration = parse_calibration(text)
    labels, streams, groups = _scores(own / "evaluation" / "scores.jsonl")
    mapped = calibration.vote.score(streams).probability
    points = {
        f"{point.far:g}": {
            "threshold": point.threshold,
            "false_alarms": float((mapped[labels == 0] > point.threshold).mean()),
            "detections": float((mapped[labels == 1] > point.threshold).mean()),
            "expected_detections": point.detection_rate,
        }
        for point in calibration.operating_points
    }
    return {
        "report": document,
        "test": {
            "paper": _measured(PAPER_VOTE, labels, streams, groups),
            "calibrated": _measured(calibration.vote, labels, streams, groups),
            "operating_points": points,
        },
    }


def _scores(path: Path) -> tuple[Any, Any, Any]:
    """Labels, stream probabilities [N, 3] and photographs of what was scored."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row.get("status") == "ok"]
    labels = np.array([Path(row["path"]).parent.name == "fake" for row in rows], np.int64)
    streams = np.array([[row["streams"][each.name]["probability"] for each in STREAMS] for row in rows], np.float32)
    return labels, streams, np.array([Path(row["path"]).name.rpartition("_")[0] for row in rows])


def _measured(vote: Vote, labels: Any, streams: Any, groups: Any) -> dict[str, float]:
    scored = vote.score(streams)
    low, high = auc_interval(labels, scored.score.astype(np.float64), groups)
    return {
        "auc": float(roc_auc_score(labels, scored.score)),
        "low": low,
        "high": high,
        "brier": float(((scored.probability - labels) ** 2).mean()),
        "accuracy": float(((scored.score > 0.5) == labels).mean()),
    }


def _saliency(server: Endpoint, test: Path, own: Path, cams: int) -> dict[str, dict[str, Any]]:
    """Share of a map's mass inside the mask, beside the mask's share of the area, over the fakes of the test."""
    paths = sorted((test / "fake").glob("*.png"))
    with Inspector(server.url, batch_size=2) as inspector:
        inspections = inspector.inspect([path.read_bytes() for path in paths])
    masks = [cv2.imread(str(test / "masks" / path.name), cv2.IMREAD_GRAYSCALE) for path in paths]
    shares = {"attention": _shares([attention_maps(each) for each in inspections], inspections, masks)}
    chosen = list(range(0, len(paths), max(1, len(paths) // cams)))[:cams]
    with DetectorClient(server.url) as client:
        checkpoints = checked_checkpoints(own / "weights", ask_server(client))
    some = [inspections[index] for index in chosen]
    maps = score_cam_maps(some, checkpoints, own / "maps", 8)
    shares["score-cam"] = _shares(maps, some, [masks[index] for index in chosen])
    return shares


def _shares(
    maps: Sequence[Mapping[str, Map]], inspections: Sequence[Inspection], masks: Sequence[Any]
) -> dict[str, dict[str, float]]:
    found = {}
    for stream in STREAMS:
        pairs = [
            _inside(row[stream.name], _framed(mask, inspection, stream))
            for row, inspection, mask in zip(maps, inspections, masks, strict=True)
            if row[stream.name].sum() > 0
        ]
        inside, chance = np.array(pairs).T
        rng = np.random.default_rng(0)
        draws = rng.integers(len(pairs), size=(1000, len(pairs)))
        low, high = np.quantile(inside[draws].mean(axis=1) / chance[draws].mean(axis=1), (0.025, 0.975))
        found[stream.name] = {
            "inside": float(inside.mean()),
            "chance": float(chance.mean()),
            "ratio": float(inside.mean() / chance.mean()),
            "low": float(low),
            "high": float(high),
            "images": len(pairs),
        }
    return found


def _framed(mask: Any, inspection: Inspection, stream: Stream) -> Any:
    """The mask as the stream was shown the image."""
    whole = np.repeat(mask[..., None], 3, axis=2)
    if stream.name == LOCAL_FACIAL.name and inspection.face is not None:
        whole = crop_face(whole, inspection.face)
    return frame(whole, stream)[..., 0].astype(np.float64) / 255


def _inside(saliency: Map, mask: Any) -> tuple[float, float]:
    small = cv2.resize(mask, saliency.shape[::-1], interpolation=cv2.INTER_AREA)
    return float((saliency * small).sum() / saliency.sum()), float(small.mean())


def _robustness(server: Endpoint, images: Path, own: Path) -> dict[str, Any]:
    """AUC of the vote with its interval, by level; the clean images first."""
    common = ("--url", server.url, "--output", str(own / "robustness"))
    _run("forensics", "robustness", str(images), "--sweep", SWEEP, *common)
    sweep = json.loads((own / "robustness" / "robustness.json").read_text(encoding="utf-8"))["sweeps"][0]
    levels = (sweep["clean"], *sweep["levels"])
    return {"clean" if each["level"] is None else f"{each['level']:g}": each["auc"]["vote"] for each in levels}


def _precision(folder: Path, images: Path) -> dict[str, Any]:
    """The study of 16 bits; beyond the tolerances (status 1) it is a finding, not a failure."""
    output = folder / "precision.json"
    with_images = ("--images", str(images), "--random", "0", "--json", str(output))
    _run("export.precision", "--weights", str(folder / "learnt" / "weights"), *with_images, allowed=(0, 1))
    document: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return document


if __name__ == "__main__":
    main()
