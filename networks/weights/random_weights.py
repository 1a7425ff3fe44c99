"""Seeded random checkpoints in the layout of the published ones: to try the software without them.

They have learnt nothing and detect nothing. Every value follows from the names of the checkpoint and of the
tensor, so the same preset is the same on every machine, and such a file can be told from trained weights by
its content (`is_seeded`), also where the marker file beside it is lost.
"""

import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ensemble.streams import STREAMS, Stream
from networks.architecture import ClipArchitecture, Dinov2Architecture, Shape, StreamArchitecture, tensor_shapes
from networks.errors import CheckpointError, RandomWeightsError
from networks.weights.checkpoint_file import PREFIXES, read_tensors

SEEDED_STREAMS = tuple(stream for stream in STREAMS if not stream.is_of_another_method)
"""Streams that random weights can be made for."""

MARKER = "UNTRAINED"
"""File beside random checkpoints that says what they are."""

MARKER_TEXT = """UNTRAINED: the checkpoints in this folder are seeded random numbers (preset {preset}).
They have learnt nothing, and every verdict computed with them is meaningless: they serve to try the software.
Delete this file only together with them.
"""

PRESETS: Mapping[str, tuple[Dinov2Architecture, ClipArchitecture]] = MappingProxyType(
    {
        "tiny": (
            Dinov2Architecture(hidden=128, blocks=2, inner=344, rank=4),
            ClipArchitecture(hidden=128, blocks=2, inner=512),
        ),
        "small": (
            Dinov2Architecture(hidden=384, blocks=12, inner=1024, rank=8),
            ClipArchitecture(hidden=384, blocks=8, inner=1536),
        ),
        "giant": (
            Dinov2Architecture(hidden=1536, blocks=40, inner=4096, rank=32),
            ClipArchitecture(hidden=1024, blocks=24, inner=4096),
        ),
    }
)
"""Sizes to choose from; giant is that of the published weights."""


def preset_shapes(preset: str, stream: Stream) -> dict[str, Shape]:
    """Name (without prefix) and shape of every tensor of a stream's checkpoint."""
    dino, clip = PRESETS[preset]
    return tensor_shapes(StreamArchitecture(dino, clip if stream.has_clip else None))


def preset_bytes(preset: str, stream: Stream) -> int:
    """Size of the tensors of a stream's checkpoint, bytes."""
    return 4 * sum(int(np.prod(shape)) for shape in preset_shapes(preset, stream).values())


def seeded_tensor(stream: Stream, name: str, shape: Shape, blocks: int = 2) -> NDArray[np.float32]:
    """Give the values of one tensor.

    Args:
        stream: Whose checkpoint it is for.
        name: Its name without prefix.
        shape: Its shape.
        blocks: Depth of DINOv2. LayerScale and LoRA shrink with it, equal to the golden data's at 2: else rounding
            errors, which nothing learnt to damp, grow from block to block until two correct programs disagree.
    """
    key = f"{Path(stream.checkpoint).stem}:{PREFIXES[0]}{name}"
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if gain := _gain(name, shape, blocks):
        return ((gain.least + gain.span * random.rand(*shape)) * gain.damping).astype(np.float32)
    values = random.standard_normal(shape)
    values *= _spread(shape) * (2 / blocks) if ".lora_B." in name else _spread(shape)
    return values.astype(np.float32)


def fill_seeded(network: nn.Module, blocks: int, generator: torch.Generator) -> None:
    """Fill a network in place with numbers of the same kind, made on its own device; other ones than a checkpoint's.

    Args:
        network: Its parameters are overwritten.
        blocks: Depth of DINOv2.
        generator: Of the parameters' device; the same seed gives the same numbers on the same kind of device.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if gain := _gain(name, parameter.shape, blocks):
                parameter.uniform_(0, 1, generator=generator).mul_(gain.span).add_(gain.least).mul_(gain.damping)
            else:
                parameter.normal_(0, _spread(parameter.shape), generator=generator)


class _Gain(NamedTuple):
    """Of numbers that multiply channels: uniform from the least over a span, then damped."""

    least: float
    span: float
    damping: float


def _gain(name: str, shape: Shape, blocks: int) -> _Gain | None:
    """Give what a LayerScale or a LayerNorm is drawn from; None for what adds up or projects."""
    if "lambda1" in name:
        return _Gain(0.3, 0.7, 2 / blocks)
    return _Gain(0.7, 0.6, 1.0) if len(shape) == 1 and name.endswith("weight") else None


def _spread(shape: Shape) -> float:
    """Standard deviation of the numbers of any other tensor."""
    return float({1: 0.1, 2: (1.6 / shape[-1]) ** 0.5}.get(len(shape), 0.05))


def write_random_weights(
    directory: Path, preset: str, advance: Callable[[int], None] = lambda written: None
) -> list[Path]:
    """Write the checkpoints of a preset, and the file UNTRAINED that says what they are.

    Files of the very same preset are left as they are. One checkpoint at a time is in memory.

    Args:
        directory: Where to; made if absent.
        preset: A key of PRESETS.
        advance: Called with the bytes made since the last call, for a progress bar; `preset_bytes` is the total.

    Returns:
        The files.

    Raises:
        RandomWeightsError: Other weights are there (nothing is written then), or the disk is too small.
    """
    paths = {stream: directory / stream.checkpoint for stream in SEEDED_STREAMS}
    existing = {stream for stream, path in paths.items() if path.exists()}
    foreign = [paths[stream].name for stream in existing if seeded_preset(stream, paths[stream]) != preset]
    if foreign:
        raise RandomWeightsError(
            f"{directory} holds {', '.join(sorted(foreign))}, which random weights of preset {preset} would overwrite; "
            "choose another folder, or delete the files if you do not need them"
        )
    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(preset_bytes(preset, stream) for stream in SEEDED_STREAMS if stream not in existing)
    free = shutil.disk_usage(directory).free
    if needed * 1.01 > free:
        raise RandomWeightsError(
            f"{directory}: random weights of preset {preset} take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "choose a smaller preset or another folder"
        )
    # The marker comes first: an interrupted run must not leave random weights without it.
    (directory / MARKER).write_text(MARKER_TEXT.format(preset=preset), encoding="utf-8")
    for stream, path in paths.items():
        if stream in existing:
            advance(preset_bytes(preset, stream))
        else:
            _write_checkpoint(path, preset, stream, advance)
    return list(paths.values())


def is_untrained(stream: Stream, path: Path, network: nn.Module) -> bool:
    """Whether a stream was read from random weights: the folder says UNTRAINED, or the values are the seeded ones.

    Args:
        stream: The stream.
        path: The checkpoint that was read.
        network: What `load_stream` made of it.
    """
    return (path.parent / MARKER).exists() or is_seeded(stream, network.state_dict())


def is_seeded(stream: Stream, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the classification head, which any training changes, has the stream's seeded values."""
    head = [name for name in tensors if name.startswith(("last_layer.", "fusion_head."))]
    return bool(head) and all(
        np.array_equal(tensors[name].float().numpy(), seeded_tensor(stream, name, tuple(tensors[name].shape)))
        for name in head
    )


def seeded_preset(stream: Stream, path: Path) -> str | None:
    """Name of the preset that a checkpoint was made from; None for any other file."""
    try:
        tensors = read_tensors(path)
    except CheckpointError:
        return None
    if not is_seeded(stream, tensors):
        return None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return next((preset for preset in PRESETS if preset_shapes(preset, stream) == shapes), None)


def _write_checkpoint(path: Path, preset: str, stream: Stream, advance: Callable[[int], None]) -> None:
    tensors: dict[str, Tensor] = {}
    for name, shape in preset_shapes(preset, stream).items():
        values = seeded_tensor(stream, name, shape, PRESETS[preset][0].blocks)
        tensors[PREFIXES[0] + name] = torch.from_numpy(values)
        advance(values.nbytes)
    partial = path.with_name(f".{path.name}.partial")
    try:
        torch.save(tensors, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
