"""`python -m benchmarks.faces`: what a face detector and the cascade of restored images cost, and what they find."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle, groupby, islice
from pathlib import Path

import click
import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import skimage.data
import tritonclient.grpc as triton
from deepfake_client import DetectorClient
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.common.machine import circumstances
from benchmarks.common.result import Figure, Result, write
from benchmarks.common.serving import PHOTOGRAPHS, export, serve
from ensemble.contract import FACE_NONE
from ensemble.faces import retinaface
from ensemble.faces.detection import Detection, FaceDetector
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import locate_faces
from ensemble.faces.restoration import ATTEMPTS, restored_images
from ensemble.images import RgbImage, decode
from ensemble.streams import STREAMS

RNG = np.random.default_rng(0)


def _jpeg(image: RgbImage) -> RgbImage:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


DEGRADATIONS: dict[str, Callable[[RgbImage], RgbImage]] = {
    "clean": lambda image: image,
    "JPEG 10": _jpeg,
    "blur σ 3": lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), 3), np.uint8),
    "noise σ 45": lambda image: np.clip(image + RNG.normal(0, 45, image.shape), 0, 255).astype(np.uint8),
    "dark ×0.2": lambda image: (image * 0.2).astype(np.uint8),
}


class OnnxRetinaFace:
    """The exported RetinaFace in this process; images of one size go together, as in the server."""

    name = "retinaface"

    def __init__(self, model: Path) -> None:
        self._session = ort.InferenceSession(model)

    def detect(self, images: Sequence[RgbImage]) -> list[list[Detection]]:
        prepared = [retinaface.prepare(image) for image in images]
        found: list[list[Detection]] = [[] for _ in images]
        by_shape = sorted(range(len(images)), key=lambda index: prepared[index][0].shape)
        for _, alike in groupby(by_shape, key=lambda index: prepared[index][0].shape):
            while some := list(islice(alike, retinaface.MAX_BATCH_SIZE)):
                pixels = np.stack([prepared[index][0] for index in some])
                outputs = self._session.run(list(retinaface.OUTPUTS), {retinaface.INPUT: pixels})
                for index, *maps in zip(some, *outputs, strict=True):
                    scaled, scale = prepared[index]
                    found[index] = retinaface.decode(maps, (scaled.shape[0], scaled.shape[1]), scale).detections()
        return found


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="retinaface.h5, if you have it."
)
@click.option("--preset", type=click.Choice(["tiny", "small", "giant"]), default="small", help="Size of the streams.")
@click.option("--faces", default=100, type=click.IntRange(1, 100), help="Faces of lfw_subset that are searched.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON to this file.")
def main(weights: Path | None, preset: str, faces: int, output: Path | None) -> None:
    """Measure each detector's speed, its share of the ensemble's time, and the faces it finds, by attempt.

    Without --weights, RetinaFace has random weights: its speed is real, and it finds nothing that means anything, so
    that what it finds is not measured.
    """
    console = Console()
    repository = export("tiny", retinaface=True)  # Only for its detector.
    detectors: dict[str, FaceDetector] = {
        "haar": HaarDetector(),
        "retinaface": OnnxRetinaFace(_retinaface(weights) or repository / "face_detector" / "1" / "model.onnx"),
    }
    begun = circumstances("benchmarks.faces")
    times = {name: _seconds_per_image(detector) for name, detector in detectors.items()}
    found = {
        name: {kind: _found(detector, degrade, faces, f"{name}, {kind}") for kind, degrade in DEGRADATIONS.items()}
        for name, detector in detectors.items()
        if name == "haar" or weights
    }
    result = Result(
        benchmark="faces",
        measures="seconds of 256×256 images, share of the ensemble's compute time, share of faces found",
        circumstances=begun,
        settings={"preset": preset, "retinaface_weights": weights.name if weights else "UNTRAINED", "faces": faces},
        figures=[
            Figure({"detector": name, "searched": searched}, "time", "s", "lower", [seconds])
            for name, measured in times.items()
            for searched, seconds in measured.items()
        ],
        details={
            "seconds_of_other_steps": _other_steps(preset),
            "together_pays_below": {name: _together_pays_below(measured) for name, measured in times.items()},
            "without_a_face": _without_a_face(repository / "face_detector" / "1" / "model.onnx"),
            "found": found,
        },
    )
    _print(result, console)
    if output:
        write(output, result)


def lfw_faces() -> list[RgbImage]:
    """The 100 faces of scikit-image's lfw_subset, 25×25 grey, enlarged to 150×150 in the middle of 256×256."""
    return [_framed(face) for face in skimage.data.lfw_subset()[:100]]


def _framed(face: npt.NDArray[np.float64]) -> RgbImage:
    enlarged = cv2.resize((face * 255).astype(np.uint8), (150, 150), interpolation=cv2.INTER_CUBIC)
    framed = cv2.copyMakeBorder(enlarged, 53, 53, 53, 53, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.cvtColor(framed, cv2.COLOR_GRAY2RGB), np.uint8)


def _retinaface(weights: Path | None) -> Path | None:
    if weights is None:
        return None
    from export.exporters.face_models import export_face_detector

    folder = weights.parent / "retinaface-onnx"
    folder.mkdir(exist_ok=True)
    return export_face_detector(weights, folder).files[0]


def _seconds_per_image(detector: FaceDetector) -> dict[str, float]:
    """Of one detection, and of all attempts on an image that shows no face: one by one, and detected together."""
    images = [decode(path.read_bytes()) for path in PHOTOGRAPHS]
    blank = np.full((256, 256, 3), 90, np.uint8)
    detector.detect(images[:1])
    start = time.perf_counter()
    detector.detect(images)
    one = (time.perf_counter() - start) / len(images)
    start = time.perf_counter()
    for _, restored in restored_images(blank, ATTEMPTS):  # All of them, also where a random network finds a face.
        detector.detect([restored])
    all_attempts = time.perf_counter() - start
    start = time.perf_counter()
    detector.detect([restored for _, restored in restored_images(blank, ATTEMPTS)])
    return {"one detection": one, "all attempts": all_attempts, "all together": time.perf_counter() - start}


def _without_a_face(model: Path) -> dict[str, float]:
    """Seconds of one 256×256 image that shows RetinaFace no face, by where they go; and in batches across images."""
    session = ort.InferenceSession(model)
    images = [np.full((256, 256, 3), grey, np.uint8) for grey in (60, 90, 120, 150)]
    started = time.perf_counter()
    restored = [pixels for _, pixels in restored_images(images[0], ATTEMPTS)]
    parts = {"restorations": time.perf_counter() - started}
    started = time.perf_counter()
    prepared = [retinaface.prepare(pixels) for pixels in restored]
    parts["scaling"] = time.perf_counter() - started
    names = list(retinaface.OUTPUTS)
    session.run(names, {retinaface.INPUT: prepared[0][0][None]})
    started = time.perf_counter()
    found = [session.run(names, {retinaface.INPUT: pixels[None]}) for pixels, _ in prepared]
    parts["network"] = time.perf_counter() - started
    started = time.perf_counter()
    for outputs, (pixels, scale) in zip(found, prepared, strict=True):
        retinaface.decode([each[0] for each in outputs], (pixels.shape[0], pixels.shape[1]), scale)
    parts["decoding"] = time.perf_counter() - started
    for size in (1, 2, retinaface.MAX_BATCH_SIZE):  # of several images' same attempt
        batch = np.stack([prepared[0][0]] * size)
        session.run(names, {retinaface.INPUT: batch})
        started = time.perf_counter()
        for _ in range(3):
            session.run(names, {retinaface.INPUT: batch})
        parts[f"network, batches of {size}, one attempt"] = (time.perf_counter() - started) / 3 / size
    return parts


def _together_pays_below(seconds: dict[str, float]) -> float:
    """The share of images with a face in themselves below which detecting all attempts together is the faster way.

    One by one, such an image costs one detection and any other at most all of them; together, each costs the same.
    """
    saved = seconds["all attempts"] - seconds["all together"]
    return max(0.0, saved / (seconds["all attempts"] - seconds["one detection"]))


def _other_steps(preset: str) -> float:
    """Seconds of compute that an image takes in all steps but face_crop, from Triton's statistics."""
    steps = ("preprocess", *(stream.name for stream in STREAMS), "voter")
    with (
        serve(export(preset)) as server,
        DetectorClient(server.url) as client,
        triton.InferenceServerClient(server.url) as raw,
    ):
        before = [_compute(raw, step) for step in steps]
        count = 0
        for path in islice(cycle(PHOTOGRAPHS), 2 * len(PHOTOGRAPHS)):
            count += client.score(path).ok
        spent = sum(_compute(raw, step) for step in steps) - sum(before)
    return spent / count / 1e9


def _compute(raw: triton.InferenceServerClient, step: str) -> int:
    return int(raw.get_inference_statistics(step).model_stats[0].inference_stats.compute_infer.ns)


def _found(detector: FaceDetector, degrade: Callable[[RgbImage], RgbImage], count: int, title: str) -> dict[str, float]:
    """Share of the faces that each attempt was the first to find."""
    images = [degrade(image) for image in lfw_faces()[:count]]
    sources = Counter(
        locate_faces([image], [None], detector)[0].source
        for image in track(images, title, console=Console(stderr=True), transient=True)
    )
    return {source: sources[source] / count for source in (*(attempt.name for attempt in ATTEMPTS), FACE_NONE)}


def _print(result: Result, console: Console) -> None:
    others = result.details["seconds_of_other_steps"]
    title = (
        f"one 256×256 image, {result.circumstances.machine}; "
        f"the other steps ({result.settings['preset']}): {others * 1000:.0f} ms"
    )
    table = Table("detector", "searched", "time", "share of the ensemble", title=title)
    for each in result.figures:
        name, searched, seconds = str(each.labels["detector"]), str(each.labels["searched"]), each.median
        table.add_row(name, searched, f"{seconds * 1000:.0f} ms", f"{seconds / (seconds + others):.0%}")
    console.print(table)
    for name, share in result.details["together_pays_below"].items():
        console.print(f"{name}: detecting all attempts together pays where under {share:.0%} of images show a face")
    for part, seconds in result.details["without_a_face"].items():
        console.print(f"an image without a face, retinaface: {part} {seconds:.2f} s")
    for name, found in result.details["found"].items():
        table = Table("found first by", *found, title=f"share of faces, detector {name}")
        for source in next(iter(found.values())):
            shares = [by_source[source] for by_source in found.values()]
            table.add_row(source, *(f"{share:.0%}" if share else "" for share in shares))
        console.print(table)


if __name__ == "__main__":
    main()
