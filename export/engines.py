"""The engines of an export: one for each stream, and one for the face detector where it is exported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from export import face_graph, parity
from export.engine import build_engine, read_profile
from export.face_models import DETECTOR, FaceModelExport
from export.parity import Difference, Pixels
from export.repository import PROVENANCE
from export.stream_export import StreamExport
from export.tensorrt_platform import Platform

OnEngine = Callable[[str, Sequence[Difference]], None]


def add_engines(
    exports: Sequence[StreamExport],
    face_models: Sequence[FaceModelExport],
    repository: Path,
    platform: Platform,
    on_stage: Callable[[str], None],
    on_engine: OnEngine,
) -> tuple[list[StreamExport], list[FaceModelExport]]:
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

    def engine(
        name: str, model: Path, configuration: Path, batches: Mapping[str, Pixels], tolerances: Mapping[str, float]
    ) -> list[Path]:
        on_stage(f"{name}: building its engine, which takes minutes")
        profile = read_profile(configuration)
        files, differences = build_engine(name, model, profile, platform, timing_cache, batches, tolerances)
        on_engine(name, differences)
        return files

    streams = []
    for export in exports:
        name = export.stream.name
        files = engine(
            name,
            export.files[0],
            repository / name / "configs" / "tensorrt.pbtxt",
            parity.sample_batches(export.stream.pixels),
            parity.HALF_TOLERANCES if export.precision == "fp16" else parity.TOLERANCES,
        )
        streams.append(replace(export, files=(*export.files, *files)))
    others = []
    for model in face_models:
        if model.name == DETECTOR:
            files = engine(
                model.name,
                model.files[0],
                Path(__file__).with_name(f"{model.name}.tensorrt.pbtxt"),
                face_graph.batches_of_two_sizes(),
                face_graph.HALF_TOLERANCES if model.precision == "fp16" else face_graph.TOLERANCES,
            )
            others.append(replace(model, files=(*model.files, *files)))
        else:
            others.append(model)
    return streams, others
