"""From a checkpoint in the layout of the published weights to a stream ready to run, strictly.

A parameter's name in the networks is the tensor's in the checkpoint after these changes:

    vision_model.base_model.model.…  →  vision_model.…      (the wrapping of PEFT)
    ….base_layer.…                   →  ….…                 (LoRA merged into it)
    clip_model.vision_model.…        →  clip_model.…

Beyond that, `mask_token` (of no use at inference) is left out, the normalisation of pixels is folded into the
patch projections and the position table of DINOv2 is brought to the grid of the stream.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ensemble.streams import STREAMS, Stream
from networks.architecture import (
    CLIP,
    DINO,
    ArchitectureError,
    StreamArchitecture,
    holds_clip,
    infer_architecture,
    tensor_shapes,
)
from networks.dinov2 import interpolate_positions
from networks.errors import CheckpointLayoutError, CheckpointValueError, shortened
from networks.pixels import fold_normalisation
from networks.streams import StreamNetwork, build_stream
from networks.weights.checkpoint_file import read_tensors, sharing_memory

LORA_SCALE = 2.0
"""alpha / rank of the published training; alpha is not stored in the files."""


def load_stream(stream: Stream, path: Path) -> StreamNetwork:
    """Read a checkpoint into the network of a stream, its sizes taken from the checkpoint.

    Memory stays near the checkpoint's size: tensors that need no change are the mapped file itself.

    Args:
        stream: Which stream the file is for.
        path: Its checkpoint, `.pth` or `.safetensors`; names begin with `backbone.` or `module.backbone.`.

    Returns:
        The network in evaluation mode, float32, on the CPU, without gradients.

    Raises:
        CheckpointError: The file cannot be read, is not safe, is not this stream's, or holds unusable values.
    """
    tensors, architecture = read_checkpoint(stream, path)
    with torch.no_grad():
        parameters = to_parameters(tensors, architecture, stream.pixels)
    with torch.device("meta"):
        network = build_stream(architecture, stream.pixels)
    network.load_state_dict(parameters, assign=True)
    return network.requires_grad_(False)


def read_checkpoint(stream: Stream, path: Path) -> tuple[dict[str, Tensor], StreamArchitecture]:
    """Read the tensors of a stream's checkpoint, strictly, and their sizes.

    Returns:
        Name (without prefix) to tensor, views of the mapped file where its format allows; and the sizes.

    Raises:
        CheckpointError: As `load_stream`.
    """
    tensors = read_tensors(path)
    architecture = _check_layout(stream, path, tensors)
    _check_values(path, tensors)
    return tensors, architecture


def to_parameters(tensors: dict[str, Tensor], architecture: StreamArchitecture, pixels: int) -> dict[str, Tensor]:
    """Turn a checkpoint's tensors into the parameters of the network (see the top of this module).

    Args:
        tensors: Name to tensor, checked; used up on the way (emptied, values overwritten) to save memory.
        architecture: Their sizes.
        pixels: Side of the stream's images.

    Returns:
        Parameter name to value, float32.
    """
    parameters: dict[str, Tensor] = {}
    shared = sharing_memory(tensors)
    tensors.pop(f"{DINO}embeddings.mask_token")
    for name in list(tensors):
        if ".lora_" in name:
            continue
        value = tensors.pop(name).float()
        target = name.removesuffix(".base_layer.weight")
        if target != name:
            up, down = (tensors.pop(f"{target}.lora_{matrix}.default.weight").float() for matrix in "BA")
            # In place: of the mapped file, only the pages written to become memory of our own. Not so where another
            # tensor lies there, which would be changed with it.
            merge = torch.addmm if name in shared else Tensor.addmm_
            value = merge(value, up, down, alpha=LORA_SCALE)
        parameters[_parameter_name(name)] = value
    positions = "vision_model.embeddings.position_embeddings"
    parameters[positions] = interpolate_positions(parameters[positions], pixels // architecture.dino.patch)
    _fold(parameters, "vision_model.embeddings.patch_embeddings.projection")
    if architecture.clip is not None:
        _fold(parameters, "clip_model.embeddings.patch_embedding")
    return parameters


def _parameter_name(name: str) -> str:
    name = name.replace(DINO, "vision_model.", 1).replace(CLIP, "clip_model.", 1)
    return name.replace(".base_layer.", ".")


def _fold(parameters: dict[str, Tensor], projection: str) -> None:
    weight, bias = f"{projection}.weight", f"{projection}.bias"
    parameters[weight], parameters[bias] = fold_normalisation(parameters[weight], parameters.get(bias))


def _check_layout(stream: Stream, path: Path, tensors: Mapping[str, Tensor]) -> StreamArchitecture:
    """Hold names and shapes against those of the stream; give the sizes."""
    if holds_clip(tensors) != stream.has_clip:
        raise CheckpointLayoutError(_another_stream(stream, path))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    try:
        architecture = infer_architecture(shapes)
    except ArchitectureError as error:
        raise CheckpointLayoutError(f"{path}: not a checkpoint of the stream {stream.name}: {error}") from error
    expected = tensor_shapes(architecture)
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected]
    misshapen = [name for name in expected if name in shapes and shapes[name] != expected[name]]
    problems = [
        f"{len(names)} {what} ({shortened(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if misshapen:
        listed = shortened(f"{name}: {list(shapes[name])}, not {list(expected[name])}" for name in misshapen)
        problems.append(f"{len(misshapen)} misshapen ({listed})")
    if problems:
        raise CheckpointLayoutError(
            f"{path}: not a checkpoint of the stream {stream.name}; of the {len(expected)} tensors of such a "
            f"checkpoint: {'; '.join(problems)}",
            missing,
            unexpected,
            misshapen,
        )
    _check_grids(stream, path, architecture)
    return architecture


def _another_stream(stream: Stream, path: Path) -> str:
    others = " or ".join(other.checkpoint for other in STREAMS if other.has_clip != stream.has_clip)
    found = others or "a checkpoint of another stream"
    holds = "no CLIP tensors and no fusion head" if stream.has_clip else "CLIP tensors or a fusion head"
    why = f"it holds {holds}"
    return f"{path}: looks like {found}, not like {stream.checkpoint} of the stream {stream.name}: {why}"


def _check_grids(stream: Stream, path: Path, architecture: StreamArchitecture) -> None:
    dino, clip = architecture.dino, architecture.clip
    if stream.pixels < dino.patch:
        raise CheckpointLayoutError(f"{path}: patches of {dino.patch} pixels do not fit images of {stream.pixels}")
    if clip is not None and (grid := stream.pixels // clip.patch) ** 2 + 1 != clip.positions:
        raise CheckpointLayoutError(
            f"{path}: CLIP has {clip.positions} positions; images of {stream.pixels} pixels in patches of {clip.patch} "
            f"need {grid}×{grid} + 1 = {grid**2 + 1}"
        )


def _check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    spoilt = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if spoilt:
        raise CheckpointValueError(
            f"{path}: {len(spoilt)} of {len(tensors)} tensors hold NaN or infinity ({shortened(spoilt)}); "
            "the training that wrote it failed, or the file is damaged"
        )
