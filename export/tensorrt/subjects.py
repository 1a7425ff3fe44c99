"""What the check of engines builds: every network as the export writes its graph, with seeded weights.

The graphs are those of an export; that they compute what the networks do is for the export to tell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from torch import nn

from ensemble.faces.gfpgan import FACE_SIDE
from ensemble.streams import STREAMS, Stream
from export.half.conversion import HALF_TYPES, PRECISIONS, to_half
from export.layout import CONFIGURATIONS, SKELETON
from export.onnx.graph import free_weights, save_model, to_onnx
from export.onnx.interface import (
    ALIGNER_INTERFACE,
    DETECTOR_INTERFACE,
    RESTORER_INTERFACE,
    Interface,
    stream_interface,
)
from export.tensorrt.engine import EngineProfile, read_profile
from networks.faces import ALIGNER, DETECTOR
from networks.faces.gfpgan_checkpoints import (
    load_face_aligner,
    load_face_restorer,
    write_random_face_aligner,
    write_random_gfpgan,
    write_random_parsenet,
)
from networks.faces.retinaface_weights import load_retinaface, write_random_retinaface
from networks.seeded import seeded_stream
from networks.weights.random_weights import PRESETS

RESTORER_WIDTHS = (16, 16)
"""Channels of GFPGAN and ParseNet: fewer than published, with the same layers, so that they are built in seconds."""


@dataclass(frozen=True)
class Subject:
    """A model to build.

    Attributes:
        title: For people.
        model: Its ONNX file.
        profile: Shapes to build for.
        attentions: How many have to be fused; None where there are none, or no kernel for them.
    """

    title: str
    model: Path
    profile: EngineProfile
    attentions: int | None


def stream_subjects(stream: Stream, preset: str, precisions: Sequence[str], folder: Path) -> Iterator[Subject]:
    """A stream in each precision; each file is gone when the next is asked for."""
    dino, clip = PRESETS[preset]
    profile = read_profile(SKELETON / stream.name / "configs" / "tensorrt.pbtxt")
    # The last of DINOv2 is for one query alone, and its probabilities are an output.
    attentions = dino.blocks - 1 + (clip.blocks if stream.has_clip else 0)
    network = seeded_stream(stream, preset)
    for precision, model in _graphs(network, stream_interface(stream), precisions, folder):
        # In float32 there is no kernel for it.
        yield Subject(f"{stream.name} {precision}", model, profile, None if precision == "fp32" else attentions)


def face_subjects(name: str, folder: Path) -> Iterator[Subject]:
    """One of `FACE_MODELS`: the detector in FP32 and FP16, the others, which get no engine when served, in FP32."""
    any_size = read_profile(CONFIGURATIONS / f"{DETECTOR}.tensorrt.pbtxt")
    if name == DETECTOR:
        write_random_retinaface(weights := folder / "retinaface.h5")
        graphs = _graphs(load_retinaface(weights), DETECTOR_INTERFACE, ("fp32", "fp16"), folder)
    elif name == ALIGNER:
        write_random_face_aligner(weights := folder / "aligner.pth")
        graphs = _graphs(load_face_aligner(weights), ALIGNER_INTERFACE, ("fp32",), folder)
    else:
        gan, parser = folder / "gfpgan.pth", folder / "parsenet.pth"
        write_random_gfpgan(gan, RESTORER_WIDTHS[0])
        write_random_parsenet(parser, RESTORER_WIDTHS[1])
        graphs = _graphs(load_face_restorer(gan, parser), RESTORER_INTERFACE, ("fp32",), folder)
        face = (FACE_SIDE, FACE_SIDE, 3)
        any_size = EngineProfile((1, *face), (1, *face), (4, *face))
    for precision, model in graphs:
        yield Subject(f"{name} {precision}", model, any_size, None)


def smallest_half_stream(folder: Path) -> Subject:
    """A stream in FP16, for the models with one fault each that are made of it."""
    return next(stream_subjects(STREAMS[0], "tiny", ("fp16",), folder))


def _graphs(
    network: nn.Module, interface: Interface, precisions: Sequence[str], folder: Path
) -> Iterator[tuple[str, Path]]:
    """A network's graph in each precision: traced once, in single, and cast from that."""
    assert set(precisions) <= set(PRECISIONS)
    model = to_onnx(network, interface)
    single = folder / "single"
    single.mkdir()
    traced = save_model(model, single, {})
    free_weights(network, model)
    for precision in precisions:
        files = traced
        if precision in HALF_TYPES:
            (target := folder / precision).mkdir()
            half = ir.load(traced[0])
            to_half(half, HALF_TYPES[precision])
            files = save_model(half, target, {})
            del half
        yield precision, files[0]
        if files is not traced:
            for file in files:
                file.unlink()
