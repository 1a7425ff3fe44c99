"""The command line: `python -m export.tensorrt`, the check of engines without a GPU."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import onnx
import onnx_ir as ir
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ensemble.faces.gfpgan import FACE_SIDE
from ensemble.streams import STREAMS
from export.errors import ExportError, TensorrtError
from export.face_models import export_face_aligner, export_face_detector, export_face_restorer
from export.half.conversion import PRECISIONS
from export.layout import CONFIGURATIONS, SKELETON
from export.stream_export import export_stream
from export.tensorrt.check import CAPABILITIES, Built, build_ahead, weights_beyond_half
from export.tensorrt.engine import EngineProfile, read_profile
from networks import PRESETS, write_random_weights
from networks.faces import DETECTOR
from networks.faces.gfpgan_checkpoints import (
    write_random_face_aligner,
    write_random_gfpgan,
    write_random_parsenet,
)
from networks.faces.retinaface_weights import write_random_retinaface


@dataclass(frozen=True)
class Subject:
    """A model to build.

    Attributes:
        title: For people.
        model: Its ONNX file.
        profile: Shapes to build for.
        attentions: How many have to be fused; None for face networks.
    """

    title: str
    model: Path
    profile: EngineProfile
    attentions: int | None


@click.command(
    "export.tensorrt",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
    epilog="Exit status: 0 all as it should be, 1 not.",
)
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="tiny", help="Size of the streams; giant takes long."
)
@click.option("--faces/--no-faces", default=True, help="Also build the face networks, at their full size.")
@click.option("--capability", "capabilities", type=click.Choice([str(each) for each in CAPABILITIES]), multiple=True,
              help="Compute capability to build for; may be given several times.  [default: all]")  # fmt: skip
def main(preset: str, faces: bool, capabilities: tuple[str, ...]) -> None:
    """Build engines of all networks ahead of time with TensorRT for RTX, which needs no GPU.

    Seeded weights are exported, parsed and built for each kind of GPU. Each graph has to stay in one piece, every
    attention but the last block's has to become one kernel, and no kernel may only cast or reorder. Then follow
    models that have to be refused. No kernel is run: results and speed are not seen here.
    """
    console = Console()
    table = Table(box=SIMPLE)
    for column in ("model", "for", "engine", "memory", "time", "kernels", "fused attention", ""):
        table.add_column(column, justify="left" if column in ("model", "for", "") else "right")
    good = True
    with tempfile.TemporaryDirectory(prefix="engines-") as folder, console.status("") as status:
        try:
            for subject in _subjects(Path(folder), preset, faces, status.update):
                for capability in map(int, capabilities or CAPABILITIES):
                    status.update(f"{subject.title}: building it for SM{capability}")
                    built = build_ahead(subject.model, subject.profile, capability)
                    problems = built.problems(subject.attentions)
                    problems += [f"beyond float16: {name}" for name in weights_beyond_half(subject.model)]
                    good &= not problems
                    table.add_row(*_cells(subject, built), "; ".join(problems) or "[green]ok[/]")
            status.update("models that have to be refused")
            refusals = list(_refusals(Path(folder), int(capabilities[0]) if capabilities else CAPABILITIES[0]))
        except ExportError as error:
            Console(stderr=True).print(f"[bold red]failed:[/] {error}", soft_wrap=True, markup=False)
            sys.exit(1)
    console.print(table)
    for title, refused in refusals:
        good &= refused
        console.print(f"{title}: {'[green]refused[/]' if refused else '[bold red]not noticed[/]'}")
    console.print("Built ahead of time by TensorRT for RTX; no kernel was run")
    sys.exit(0 if good else 1)


def _cells(subject: Subject, built: Built) -> tuple[str, ...]:
    fused = "" if subject.attentions is None else f"{built.fused_attentions} of {subject.attentions}"
    return (
        subject.title,
        f"SM{built.capability}",
        f"{built.size / 1e6:,.0f} MB",
        f"{built.activations / 1e6:,.0f} MB",
        f"{built.seconds:.0f} s",
        str(len(built.layers)),
        fused,
    )


def _subjects(folder: Path, preset: str, faces: bool, on_stage: Callable[[str], object]) -> Iterator[Subject]:
    weights = folder / "weights"
    write_random_weights(weights, preset)
    dino, clip = PRESETS[preset]
    for stream in STREAMS:
        profile = read_profile(SKELETON / stream.name / "configs" / "tensorrt.pbtxt")
        for precision in PRECISIONS:
            title = f"{stream.name} {precision}"
            with _exported(folder, title, on_stage) as target:
                export = export_stream(stream, weights / stream.checkpoint, target, precision=precision)
                # The last of DINOv2 is for one query alone, and its probabilities are an output.
                attentions = dino.blocks - 1 + (clip.blocks if stream.has_clip else 0)
                # In float32 there is no kernel for it.
                yield Subject(title, export.files[0], profile, None if precision == "fp32" else attentions)
    if faces:
        yield from _face_subjects(folder, on_stage)


def _face_subjects(folder: Path, on_stage: Callable[[str], object]) -> Iterator[Subject]:
    files = {name: folder / name for name in ("retinaface.h5", "aligner.pth", "gfpgan.pth", "parsenet.pth")}
    on_stage("random weights of the face networks")
    write_random_retinaface(files["retinaface.h5"])
    write_random_face_aligner(files["aligner.pth"])
    write_random_gfpgan(files["gfpgan.pth"])
    write_random_parsenet(files["parsenet.pth"])
    any_size = read_profile(CONFIGURATIONS / f"{DETECTOR}.tensorrt.pbtxt")
    for precision in ("fp32", "fp16"):
        with _exported(folder, f"face_detector {precision}", on_stage) as target:
            detector = export_face_detector(files["retinaface.h5"], target, precision=precision)
            yield Subject(f"face_detector {precision}", detector.files[0], any_size, None)
    with _exported(folder, "face_aligner fp32", on_stage) as target:
        yield Subject("face_aligner fp32", export_face_aligner(files["aligner.pth"], target).files[0], any_size, None)
    with _exported(folder, "face_restorer fp32", on_stage) as target:
        restorer = export_face_restorer(files["gfpgan.pth"], files["parsenet.pth"], target)
        face = (FACE_SIDE, FACE_SIDE, 3)
        yield Subject("face_restorer fp32", restorer.files[0], EngineProfile((1, *face), (1, *face), (4, *face)), None)


@contextmanager
def _exported(folder: Path, title: str, on_stage: Callable[[str], object]) -> Iterator[Path]:
    on_stage(f"{title}: exporting it")
    with tempfile.TemporaryDirectory(dir=folder) as target:
        yield Path(target)


def _refusals(folder: Path, capability: int) -> Iterator[tuple[str, bool]]:
    """Models with one fault each, and whether it was noticed."""
    stream = STREAMS[0]
    target = folder / "refused"
    target.mkdir()
    model = export_stream(stream, folder / "weights" / stream.checkpoint, target, precision="fp16").files[0]
    profile = read_profile(SKELETON / stream.name / "configs" / "tensorrt.pbtxt")
    too_small = EngineProfile(*((batch, 224, 224, 3) for batch in (1, 8, 32)))
    (target / "corrupt.onnx").write_bytes(model.read_bytes()[:-1000])
    yield "a file cut short", _is_refused(target / "corrupt.onnx", profile, capability)
    yield "a profile of another size", _is_refused(model, too_small, capability)
    yield "float32 into a float16 convolution", _is_refused(float_into_half(model), profile, capability)
    attentions = sum(node.op_type == "Softmax" for node in ir.load(model).graph) - 1
    unfused = build_ahead(attention_that_does_not_fuse(model), profile, capability)
    yield "attention in a form that does not fuse", bool(unfused.problems(attentions))


def _is_refused(model: Path, profile: EngineProfile, capability: int) -> bool:
    try:
        build_ahead(model, profile, capability)
    except TensorrtError:
        return True
    return False


def float_into_half(model: Path) -> Path:
    """Write a float16 model anew, its first convolution fed with float32."""
    network = ir.load(model)
    conv = next(node for node in network.graph if node.op_type == "Conv")
    cast = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    if cast is None or cast.op_type != "Cast":
        raise TensorrtError(f"{model}: its first convolution has no Cast before it")
    conv.replace_input_with(0, cast.inputs[0])
    return _save(network, model.with_name("float_into_half.onnx"))


def attention_that_does_not_fuse(model: Path) -> Path:
    """Write a model anew, the probabilities of its first attention an output, too: they have to be written out."""
    network = ir.load(model)
    softmax = next(node for node in network.graph if node.op_type == "Softmax")
    probabilities = softmax.outputs[0]
    probabilities.name = "PROBABILITIES"
    network.graph.outputs.append(probabilities)
    return _save(network, model.with_name("unfused.onnx"))


def _save(network: ir.Model, path: Path) -> Path:
    ir.save(network, path)
    onnx.load(path)
    return path


if __name__ == "__main__":
    main(prog_name="python -m export.tensorrt")
