"""The engines of an export: one for each stream, and one for the face detector where it is exported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ensemble.faces.retinaface import LONGEST_SIDE, SHORTER_SIDE
from export import samples
from export.difference import Difference
from export.exporters.exporter import ModelExport
from export.exporters.stream_export import StreamExport
from export.layout import CONFIGURATIONS, PROVENANCE
from export.samples import Pixels
from export.tensorrt.engine import build_engine, read_profile
from export.tensorrt.platform import Platform
from networks.faces import DETECTOR

Export = TypeVar("Export", bound=ModelExport)

OnEngine = Callable[[str, Sequence[Difference]], None]


TRIED_BATCHES = (1, 3, 8, 32)
"""Batch sizes that an engine is compared on: what kernels are chosen for, the largest, and an odd one. NVIDIA has had
faults that depend on the batch."""


def _detector_batches() -> dict[str, Pixels]:
    """Small images, the size that kernels are chosen for, and the largest side."""
    return {
        **samples.batches_of_two_sizes(),
        **samples.batches_of_sizes(SHORTER_SIDE, (1,)),
        **{f"{LONGEST_SIDE} pixels": samples.sample_batches(LONGEST_SIDE)[samples.SCENE]},
    }


def add_engines(
    exports: Sequence[StreamExport],
    face_models: Sequence[ModelExport],
    repository: Path,
    platform: Platform,
    on_stage: Callable[[str], None],
    on_engine: OnEngine,
) -> tuple[list[StreamExport], list[ModelExport]]:
    """Build the engines beside the ONNX models that they are made of.

    Args:
        exports: All streams, not yet published.
        face_models: Of them, the detector gets an engine; GFPGAN's stay with ONNX Runtime.
        repository: The model repository, laid out; TensorRT's measurements are kept in it for the next build.
        platform: What is here (`require_tensorrt`).
        on_stage: Called with what begins, for people.
        on_engine: Called with a model's name and how its engine compares.

    Returns:
        The same exports, the engines and their manifests among their files.

    Raises:
        TensorrtError: TensorRT does not build or run an engine.
        ParityError: An engine computes something else than its model.
    """
    # TensorRT refuses measurements of another release or GPU.
    cache = f"tensorrt-{platform.tensorrt}-{platform.compute_capability}.timing"
    timing_cache = repository / PROVENANCE.parts[0] / cache

    def add_engine(export: Export, configuration: Path, batches: Mapping[str, Pixels]) -> Export:
        on_stage(f"{export.name}: building its engine, which takes minutes")
        profile = read_profile(configuration)
        files, differences = build_engine(
            export.name, export.files[0], profile, platform, timing_cache, batches, export.precision
        )
        on_engine(export.name, differences)
        return replace(export, files=(*export.files, *files))

    streams = [
        add_engine(
            export,
            repository / export.name / "configs" / "tensorrt.pbtxt",
            samples.batches_of_sizes(export.stream.pixels, TRIED_BATCHES),
        )
        for export in exports
    ]
    others = [
        add_engine(model, CONFIGURATIONS / f"{DETECTOR}.tensorrt.pbtxt", _detector_batches())
        if model.name == DETECTOR
        else model
        for model in face_models
    ]
    return streams, others
