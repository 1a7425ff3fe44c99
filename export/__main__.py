"""The command line: `python -m export`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ensemble.streams import STREAMS, Stream
from export.errors import ExportError, ParityError
from export.exporters.exporter import ModelExport
from export.exporters.face_models import export_face_aligner, export_face_detector, export_face_restorer
from export.exporters.stream_export import StreamExport, export_stream
from export.half.conversion import PRECISIONS
from export.layout import SKELETON
from export.report import print_differences, print_ranges, print_report
from export.repository import publish, require_space, staging
from export.tensorrt.platform import Platform, require_tensorrt
from export.weights.checkpoints import FACE_DETECTOR_FILE, FACE_RESTORER_FILES, find_checkpoints, find_face_weights
from networks import PRESETS, WeightsError, write_random_weights
from networks.faces import ALIGNER, DETECTOR, RESTORER
from networks.weights.random_weights import SEEDED_STREAMS, preset_bytes

_FACE_EXPORTS: dict[str, Callable[..., ModelExport]] = {
    DETECTOR: export_face_detector,
    ALIGNER: export_face_aligner,
    RESTORER: export_face_restorer,
}

_COMPUTED = {
    "fp32": "ONNX Runtime",
    "fp16": "float16 arithmetic, sums in float32, scores of attention rounded,",
    "bf16": "bfloat16 arithmetic, sums in float32, scores of attention rounded,",
}


@click.command(
    "export",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""Examples:

    \b
    python -m export --weights weights                       # the published checkpoints
    python -m export --weights weights --precision fp16      # for a GPU, with ONNX Runtime
    python -m export --weights weights --target tensorrt     # for this GPU, as engines
    python -m export --weights demo --random-weights tiny    # no checkpoints at hand: try the software

    Exit status: 0 exported, 1 failed (the repository then keeps its old models), 2 wrong usage.""",
)
@click.option(
    "--weights",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help=f"Folder with the checkpoints {', '.join(stream.checkpoint for stream in STREAMS)} "
    f"(or the same as .safetensors); for the paper's face detector, {FACE_DETECTOR_FILE}; for its attempts with face "
    f"restoration, {', '.join(FACE_RESTORER_FILES)}.",
)
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    default=SKELETON,
    show_default="model_repository of the checkout",
    help="Triton model repository to write to. Any other folder gets the configuration files of the checkout first.",
)
@click.option(
    "--random-weights",
    "preset",
    type=click.Choice(list(PRESETS)),
    help="Write seeded random checkpoints of this size to the weights folder first. They detect nothing: "
    "they serve to try the software. giant is the published size (15 GB). Never overwrites other weights.",
)
@click.option(
    "--target",
    type=click.Choice(("onnx", "tensorrt")),
    default="onnx",
    show_default=True,
    help="tensorrt also builds an engine of each stream and of the face detector, for the GPU and the TensorRT that "
    "are here; serve them with tritonserver --model-config-name tensorrt.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    show_default="fp32 for onnx, fp16 for tensorrt",
    help="Of the streams and the face detector. fp16 and bf16 halve memory and are what GPUs are fast at; they "
    "are tried in true arithmetic of their type. fp16 is refused where a value would not fit; bf16 fits all, is less "
    "exact, and is for GPUs alone. GFPGAN stays fp32.",
)
def main(weights: Path, repository: Path, preset: str | None, target: str, precision: str | None) -> None:
    """Export the three streams from their checkpoints into a Triton model repository.

    Each checkpoint is read strictly, traced to ONNX with a dynamic batch, and the result is validated in ONNX
    Runtime against the network. Only when all agree are the models moved into place.

    Faces are found by RetinaFace where its weights are in the folder, else by OpenCV's cascade.
    """
    console = Console()
    precision = precision or ("fp16" if target == "tensorrt" else "fp32")
    try:
        platform = require_tensorrt() if target == "tensorrt" else None
        if preset is not None:
            _write_random_weights(console, weights, preset)
        checkpoints = find_checkpoints(weights)
        face_weights = find_face_weights(weights)
        with staging(repository) as folder:
            files = [*checkpoints.values(), *(path for paths in face_weights.values() for path in paths)]
            require_space(repository, sum(path.stat().st_size for path in files))
            exports = [_export_stream(console, stream, path, folder, precision) for stream, path in checkpoints.items()]
            face_models = [
                _export_face_model(console, name, paths, folder, precision) for name, paths in face_weights.items()
            ]
            if platform is not None:
                exports, face_models = _add_engines(console, exports, face_models, repository, platform)
            publish(repository, exports, face_models)
    except (ExportError, WeightsError) as error:
        if isinstance(error, ParityError) and error.differences:
            print_differences(console, "not exported", error.differences)
        Console(stderr=True).print(f"[bold red]export failed:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    print_report(console, repository, exports, face_models)
    if platform is not None:
        console.print(
            f"Engines are for TensorRT {platform.tensorrt} on {platform.gpu}: tritonserver --model-repository "
            f"{repository} --model-config-name tensorrt",
            highlight=False,
        )


def _write_random_weights(console: Console, weights: Path, preset: str) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        total = sum(preset_bytes(preset, stream) for stream in SEEDED_STREAMS)
        task = progress.add_task(f"random weights ({preset})", total=total)
        write_random_weights(weights, preset, lambda written: progress.advance(task, written))
    console.print(f"Random weights (preset {preset}, UNTRAINED) are in {weights}", highlight=False)


def _export_stream(
    console: Console, stream: Stream, checkpoint: Path, staging_folder: Path, precision: str
) -> StreamExport:
    folder = staging_folder / stream.name
    folder.mkdir()
    with console.status(stream.name) as status:
        export = export_stream(
            stream,
            checkpoint,
            folder,
            precision=precision,
            on_stage=lambda stage: status.update(f"{stream.name}: {stage}"),
        )
    reference = "the model that was given" if stream.is_of_another_method else "torch"
    print_differences(console, f"{stream.name}: {_COMPUTED[export.precision]} against {reference}", export.differences)
    print_ranges(console, export.ranges)
    return export


def _export_face_model(
    console: Console, name: str, weights: Sequence[Path], staging_folder: Path, precision: str
) -> ModelExport:
    folder = staging_folder / name
    folder.mkdir()
    options = {"precision": precision} if name == DETECTOR else {}
    with console.status(name) as status:
        export = _FACE_EXPORTS[name](
            *weights, folder, **options, on_stage=lambda stage: status.update(f"{name}: {stage}")
        )
    print_differences(console, f"{name}: {_COMPUTED[export.precision]} against torch", export.differences)
    return export


def _add_engines(
    console: Console,
    exports: Sequence[StreamExport],
    face_models: Sequence[ModelExport],
    repository: Path,
    platform: Platform,
) -> tuple[list[StreamExport], list[ModelExport]]:
    from export.tensorrt.engines import (
        add_engines,  # its packages take a second to load, and most exports need none of them
    )

    with console.status("TensorRT") as status:
        return add_engines(
            exports,
            face_models,
            repository,
            platform,
            on_stage=status.update,
            on_engine=lambda name, differences: print_differences(
                console, f"{name}: TensorRT against ONNX Runtime", differences
            ),
        )


if __name__ == "__main__":
    main(prog_name="python -m export")
