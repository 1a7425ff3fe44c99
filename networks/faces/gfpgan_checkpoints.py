"""The three weights files of face restoration: read strictly, or written with seeded random values.

    GFPGANv1.4.pth                  `networks.faces.gfpgan.Gfpgan`, under the key `params_ema`
    parsing_parsenet.pth            `networks.faces.gfpgan_parsenet.ParseNet`
    detection_Resnet50_Final.pth    `networks.faces.gfpgan_aligner.FaceAligner`, names beginning with `module.`

These are the files that the PyPI packages `gfpgan` and `facexlib` download, unchanged.
"""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from networks.errors import CheckpointLayoutError, CheckpointValueError, shortened
from networks.faces import gfpgan, gfpgan_parsenet
from networks.faces.gfpgan import FaceRestorer, Gfpgan
from networks.faces.gfpgan_aligner import FaceAligner
from networks.faces.gfpgan_parsenet import ParseNet
from networks.weights.checkpoint_file import check_storage, only_tensors, read_pickle

GFPGAN_FILE = "GFPGANv1.4.pth"
PARSENET_FILE = "parsing_parsenet.pth"
ALIGNER_FILE = "detection_Resnet50_Final.pth"

_SECTIONS = ("params_ema", "params")  # of the GFPGAN file, the better first
_PREFIX = "module."  # from distributed training
_AROUND_ONE = ("modulation.bias", "2.bias")  # of a modulated convolution's style, and of what scales its outputs
_RANDOM_GAINS = {
    r"conv_body_down.*(skip|conv2)\.weight$": 0.5,
    r"conv_body_up.*(skip|conv2)\.weight$": 0.35,
    r"to_rgbs?\d?\..*modulated_conv\.weight$": 0.03,
    r"(modulation|final_linear|condition_.*2)\.weight$": 0.3,
    r"(bn3|conv2\.norm\.norm)\.weight$": 0.3,
    r"^body\.bn1\.running_var$": 64**2,
    r"(Class|Bbox|Landmark)Head": 0.3,
}
_COUNTER = "num_batches_tracked"  # of batch normalisations: without use here, and not in every file


_Network = TypeVar("_Network", bound=nn.Module)


def load_face_restorer(gfpgan_weights: Path, parsenet_weights: Path) -> FaceRestorer:
    """Reads GFPGAN and ParseNet, strictly; their widths are taken from the files.

    Args:
        gfpgan_weights: `GFPGAN_FILE`.
        parsenet_weights: `PARSENET_FILE`.

    Returns:
        The network in evaluation mode, float32, on the CPU, without gradients.

    Raises:
        CheckpointError: A file cannot be read, is not safe, does not hold its network, or holds unusable values.
    """
    return FaceRestorer(load_gfpgan(gfpgan_weights), load_parsenet(parsenet_weights)).eval()


def load_gfpgan(path: Path) -> Gfpgan:
    """Reads GFPGAN, strictly, like `load_face_restorer`."""
    tensors = _read(path)
    width = _length(tensors, "final_conv.bias", gfpgan.WIDTH)
    return _filled(Gfpgan(width), tensors, path, f"the file {GFPGAN_FILE} of the package gfpgan")


def load_parsenet(path: Path) -> ParseNet:
    """Reads ParseNet, strictly, like `load_face_restorer`."""
    tensors = _read(path)
    width = _length(tensors, "encoder.0.conv2d.bias", gfpgan_parsenet.WIDTH)
    return _filled(ParseNet(width), tensors, path, f"the file {PARSENET_FILE} of the package facexlib")


def load_face_aligner(path: Path) -> FaceAligner:
    """Reads facexlib's RetinaFace, strictly, like `load_face_restorer`.

    Args:
        path: `ALIGNER_FILE`.
    """
    return _filled(FaceAligner(), _read(path), path, f"the file {ALIGNER_FILE} of the package facexlib")


def write_random_gfpgan(path: Path, width: int = gfpgan.WIDTH) -> None:
    """Writes seeded weights in the layout of `GFPGAN_FILE`. UNTRAINED: such a network paints noise.

    Every value follows from the tensor's name and shape. Scales keep activations of order 1 through all layers.

    Args:
        path: Overwritten; 349 MB at the published width.
        width: Fewer channels for tests.
    """
    _write(path, {_SECTIONS[0]: _seeded(Gfpgan(width))})


def write_random_parsenet(path: Path, width: int = gfpgan_parsenet.WIDTH) -> None:
    """Writes seeded weights in the layout of `PARSENET_FILE`, 85 MB; UNTRAINED, like `write_random_gfpgan`."""
    _write(path, _seeded(ParseNet(width)))


def write_random_face_aligner(path: Path) -> None:
    """Writes seeded weights in the layout of `ALIGNER_FILE`, 109 MB; UNTRAINED, like `write_random_gfpgan`."""
    _write(path, {_PREFIX + name: tensor for name, tensor in _seeded(FaceAligner()).items()})


def is_random(network: nn.Module) -> bool:
    """Whether one of the networks, or a part of a restorer, has the random weights of this module."""
    parts = (network.gan, network.parser) if isinstance(network, FaceRestorer) else (network,)
    return any(_has_seeded_values(part) for part in parts)


def _has_seeded_values(network: nn.Module) -> bool:
    # Any training changes the first kernel.
    name, tensor = next((name, tensor) for name, tensor in network.named_parameters() if tensor.ndim > 1)
    return np.array_equal(tensor.numpy(), _seeded_values(type(network).__name__, name, tuple(tensor.shape)))


def _read(path: Path) -> dict[str, Tensor]:
    """A file's tensors by the names that they have in the network."""
    entries = read_pickle(path)
    if isinstance(entries, Mapping):
        entries = next((entries[section] for section in _SECTIONS if section in entries), entries)
    tensors = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in only_tensors(path, entries).items()
        if name.rpartition(".")[2] != _COUNTER
    }
    check_storage(path, tensors)
    return tensors


def _length(tensors: Mapping[str, Tensor], name: str, default: int) -> int:
    """Of a bias, which tells the network's width; the default where it is absent or none, and the layout wrong."""
    return len(tensors[name]) if name in tensors and tensors[name].ndim == 1 and len(tensors[name]) else default


def _filled(network: _Network, tensors: Mapping[str, Tensor], path: Path, what: str) -> _Network:
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(_COUNTER)}
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    shared = sorted(expected.keys() & tensors.keys())
    misshapen = [name for name in shared if tensors[name].shape != expected[name].shape]
    if missing or unexpected or misshapen:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        listed = "; ".join(f"{len(names)} {how}: {shortened(names)}" for how, names in found.items() if names)
        raise CheckpointLayoutError(f"{path}: is not {what} ({listed})", missing, unexpected, misshapen)
    unusable = [name for name in shared if not tensors[name].isfinite().all()]
    if unusable:
        raise CheckpointValueError(
            f"{path}: values that are not finite numbers in {shortened(unusable)}; it should be {what}"
        )
    network.load_state_dict(tensors, strict=False)  # all but the counters, which may be absent, was checked
    return network.eval().requires_grad_(False)


def _seeded(network: nn.Module) -> dict[str, Tensor]:
    """All tensors of a network by name, with seeded values."""
    return {
        name: tensor
        if name.endswith(_COUNTER)
        else torch.from_numpy(_seeded_values(type(network).__name__, name, tuple(tensor.shape)))
        for name, tensor in network.state_dict().items()
    }


def _seeded_values(network: str, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    random = np.random.RandomState(zlib.crc32(f"{network}:{name}".encode()))
    variable = name.rpartition(".")[2]
    if variable.startswith("noise") or "constant_input" in name:
        values = random.standard_normal(shape)
    elif variable == "running_var" or (variable == "weight" and len(shape) == 1):  # normalisations, noise strengths
        values = random.uniform(0.8, 1.2, shape) * _random_gain(name)
    elif variable in ("bias", "running_mean"):
        values = random.standard_normal(shape) * 0.1 + (1 if name.endswith(_AROUND_ONE) else 0)
    else:
        inputs = np.prod(shape[2:] if len(shape) == 5 else shape[1:])
        values = random.standard_normal(shape) * np.sqrt(2 / inputs) * _random_gain(name)  # He
    return np.asarray(values, dtype=np.float32)


def _random_gain(name: str) -> float:
    """What keeps random activations in bounds: sums must not grow, pictures stay near -1 to 1, boxes near anchors."""
    return next((gain for pattern, gain in _RANDOM_GAINS.items() if re.search(pattern, name)), 1.0)


def _write(path: Path, content: object) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        torch.save(content, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
