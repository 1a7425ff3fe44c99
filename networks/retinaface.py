"""RetinaFace with a ResNet-50, the method's face detector, as a torch module (paper section 3.2).

Exactly the network of the PyPI package `retina-face` (Deng et al., arXiv 1905.00641, in its MXNet form: pre-activation
ResNet-50, a feature pyramid of three levels, one SSH context module a level). Its weights file is Keras's: joined by
underscores, the path of a module here is the name of the Keras layer there, so there is no table of names.
"""

import zlib
from collections.abc import Container
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ensemble.faces.retinaface import ANCHORS_PER_CELL, STRIDES
from networks.errors import CheckpointLayoutError, CheckpointValueError, UnreadableCheckpointError, shortened

_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # units, channels inside a unit
_EXPANSION = 4
_PYRAMID = 256
_EPSILON = 1.9999999494757503e-05  # of every normalisation; 2e-5 in float32, as the original was saved
_ADVICE = "give the file retinaface.h5 that the PyPI package retina-face downloads"


def _normalisation(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)


class ResidualUnit(nn.Module):
    """Pre-activation bottleneck; a unit that changes the number of channels has a projection `sc` as its shortcut."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = inner * _EXPANSION
        self.bn1 = _normalisation(inputs)
        self.conv1 = _convolution(inputs, inner, 1, bias=False)
        self.bn2 = _normalisation(inner)
        self.conv2 = _convolution(inner, inner, 3, stride, bias=False)
        self.bn3 = _normalisation(inner)
        self.conv3 = _convolution(inner, outputs, 1, bias=False)
        self.sc = _convolution(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gives the unit's output and its activation before the stride, which feeds the feature pyramid."""
        first = functional.relu(self.bn1(x))
        lateral = functional.relu(self.bn2(self.conv1(first)))
        inner = functional.relu(self.bn3(self.conv2(lateral)))
        return self.conv3(inner) + (x if self.sc is None else self.sc(first)), lateral


class ContextModule(nn.Module):
    """SSH context module: receptive fields of 3, 5 and 7 cells side by side, 512 channels in all."""

    def __init__(self) -> None:
        super().__init__()
        half = _PYRAMID // 2
        self.conv1 = _convolution(_PYRAMID, _PYRAMID, 3)
        self.conv1_bn = _normalisation(_PYRAMID)
        self.context_conv1 = _convolution(_PYRAMID, half, 3)
        self.context_conv1_bn = _normalisation(half)
        self.context_conv2 = _convolution(half, half, 3)
        self.context_conv2_bn = _normalisation(half)
        self.context_conv3_1 = _convolution(half, half, 3)
        self.context_conv3_1_bn = _normalisation(half)
        self.context_conv3_2 = _convolution(half, half, 3)
        self.context_conv3_2_bn = _normalisation(half)

    def forward(self, x: Tensor) -> Tensor:
        three = self.conv1_bn(self.conv1(x))
        context = functional.relu(self.context_conv1_bn(self.context_conv1(x)))
        five = self.context_conv2_bn(self.context_conv2(context))
        seven = functional.relu(self.context_conv3_1_bn(self.context_conv3_1(context)))
        seven = self.context_conv3_2_bn(self.context_conv3_2(seven))
        return functional.relu(torch.cat((three, five, seven), dim=1))


class RetinaFace(nn.Module):
    """From pixels to anchor scores, box and landmark offsets at strides 32, 16 and 8.

    Pixels come as they leave `ensemble.faces.retinaface.prepare`: 8-bit RGB, which holds all that the package feeds its
    network (a quarter of the bytes of float32); `bn_data`, the first layer, is the normalisation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bn_data = _normalisation(3)
        self.conv0 = _convolution(3, 64, 7, stride=2, bias=False)
        self.bn0 = _normalisation(64)
        channels = 64
        for stage, (units, inner) in enumerate(_STAGES, start=1):
            for unit in range(1, units + 1):
                stride = 2 if unit == 1 and stage > 1 else 1
                self.add_module(f"stage{stage}_unit{unit}", ResidualUnit(channels, inner, stride))
                channels = inner * _EXPANSION
        self.bn1 = _normalisation(channels)

        self.ssh_c3_lateral = _convolution(channels, _PYRAMID, 1)
        self.ssh_c3_lateral_bn = _normalisation(_PYRAMID)
        self.ssh_c2_lateral = _convolution(512, _PYRAMID, 1)
        self.ssh_c2_lateral_bn = _normalisation(_PYRAMID)
        self.ssh_c2_aggr = _convolution(_PYRAMID, _PYRAMID, 3)
        self.ssh_c2_aggr_bn = _normalisation(_PYRAMID)
        self.ssh_m1_red_conv = _convolution(256, _PYRAMID, 1)
        self.ssh_m1_red_conv_bn = _normalisation(_PYRAMID)
        self.ssh_c1_aggr = _convolution(_PYRAMID, _PYRAMID, 3)
        self.ssh_c1_aggr_bn = _normalisation(_PYRAMID)

        for level, stride in zip((3, 2, 1), STRIDES, strict=True):
            self.add_module(f"ssh_m{level}_det", ContextModule())
            for head, values in (("cls_score", 2), ("bbox_pred", 4), ("landmark_pred", 10)):
                outputs = ANCHORS_PER_CELL * values
                self.add_module(f"face_rpn_{head}_stride{stride}", _convolution(2 * _PYRAMID, outputs, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Looks for faces in images of one size.

        Args:
            pixels: [batch, height, width, 3], RGB; uint8, or floating point in 0..255.

        Returns:
            Nine tensors [batch, ceil(height / stride), ceil(width / stride), channels], float32: at each of `STRIDES`
            the probabilities (background of each anchor, then face of each anchor), the box offsets (4 an anchor)
            and the landmark offsets (5 × 2 an anchor).
        """
        stride8, stride16, stride32 = self._backbone(pixels.float().permute(0, 3, 1, 2))
        c3 = functional.relu(self.ssh_c3_lateral_bn(self.ssh_c3_lateral(stride32)))
        c2 = functional.relu(self.ssh_c2_lateral_bn(self.ssh_c2_lateral(stride16)))
        c1 = functional.relu(self.ssh_m1_red_conv_bn(self.ssh_m1_red_conv(stride8)))
        c2 = functional.relu(self.ssh_c2_aggr_bn(self.ssh_c2_aggr(c2 + _upsampled(c3, c2))))
        c1 = functional.relu(self.ssh_c1_aggr_bn(self.ssh_c1_aggr(c1 + _upsampled(c2, c1))))
        outputs: list[Tensor] = []
        for level, stride, features in zip((3, 2, 1), STRIDES, (c3, c2, c1), strict=True):
            context = self._run(f"ssh_m{level}_det", features)
            background, face = self._run(f"face_rpn_cls_score_stride{stride}", context).chunk(2, dim=1)
            outputs += (
                torch.cat((background - face, face - background), dim=1).sigmoid(),  # softmax over two classes
                self._run(f"face_rpn_bbox_pred_stride{stride}", context),
                self._run(f"face_rpn_landmark_pred_stride{stride}", context),
            )
        return tuple(output.permute(0, 2, 3, 1) for output in outputs)

    def _backbone(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gives the features at strides 8 (256 channels), 16 (512) and 32 (2048) of [batch, 3, height, width]."""
        x = functional.relu(self.bn0(self.conv0(self.bn_data(x))))
        x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        laterals = []
        for stage, (units, _) in enumerate(_STAGES, start=1):
            for unit in range(1, units + 1):
                x, lateral = cast(tuple[Tensor, Tensor], self.get_submodule(f"stage{stage}_unit{unit}")(x))
                if unit == 1:
                    laterals.append(lateral)
        return laterals[2], laterals[3], functional.relu(self.bn1(x))

    def _run(self, module: str, x: Tensor) -> Tensor:
        return cast(Tensor, self.get_submodule(module)(x))


def _upsampled(coarse: Tensor, fine: Tensor) -> Tensor:
    """Doubles the coarser level by repetition, cut to the size of the finer one, which may be odd.

    The coarser level has half the cells of the finer, rounded up: so the original's doubling and centred cut, which
    starts at 0, takes the same cells as one nearest-neighbour resize does. That one exports without conditions on size.
    """
    return functional.interpolate(coarse, size=fine.shape[2:], mode="nearest")


def load_retinaface(path: Path) -> RetinaFace:
    """Reads the package's weights file into the network, strictly.

    Args:
        path: `retinaface.h5`, as Keras writes it with `save_weights` (or inside a whole saved model).

    Returns:
        The network in evaluation mode, float32, on the CPU, without gradients.

    Raises:
        CheckpointError: The file cannot be read, does not hold this network, or holds unusable values.
    """
    network = RetinaFace()
    expected = {name: _keras_layout(tensor) for name, tensor in _keras_variables(network).items()}
    variables = _read_variables(path)
    missing = sorted(expected.keys() - variables.keys())
    unexpected = sorted(variables.keys() - expected.keys())
    shared = sorted(expected.keys() & variables.keys())
    misshapen = [name for name in shared if variables[name].shape != expected[name].shape]
    if missing or unexpected or misshapen:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        listed = "; ".join(f"{len(names)} {how}: {shortened(names)}" for how, names in found.items() if names)
        raise CheckpointLayoutError(
            f"{path}: does not hold RetinaFace-ResNet50 ({listed}); {_ADVICE}", missing, unexpected, misshapen
        )
    unusable = [name for name in shared if variables[name].dtype.kind != "f" or not np.isfinite(variables[name]).all()]
    if unusable:
        raise CheckpointValueError(f"{path}: values that are not finite numbers in {shortened(unusable)}; {_ADVICE}")
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(torch.from_numpy(variables[name]))
    return network.eval().requires_grad_(False)


def write_random_retinaface(path: Path) -> None:
    """Writes seeded weights in the layout of the package's file. UNTRAINED: what such a detector finds is chance.

    Every value follows from the variable's name. The scales keep activations of order 1 to 10 through all layers for
    pixels in 0..255, and let probabilities vary without saturating.

    Args:
        path: Overwritten; 118 MB.
    """
    shapes = {name: tuple(_keras_layout(tensor).shape) for name, tensor in _keras_variables(RetinaFace()).items()}
    variables_of: dict[str, list[str]] = {}
    for name in shapes:
        variables_of.setdefault(name.split("/")[0], []).append(name)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with h5py.File(partial, "w") as file:
            file.attrs["layer_names"] = [layer.encode() for layer in variables_of]
            for layer, names in variables_of.items():
                group = file.create_group(layer)
                group.attrs["weight_names"] = [f"{name}:0".encode() for name in names]
                for name in names:
                    group[f"{name}:0"] = _seeded_values(name, shapes[name])
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_random_retinaface(path: Path) -> bool:
    """Whether a weights file is one of `write_random_retinaface`, by its content.

    Raises:
        CheckpointError: The file cannot be read.
    """
    name = "bn_data/moving_mean"
    values = _read_variables(path, {name}).get(name)
    return values is not None and np.array_equal(values, _seeded_values(name, values.shape))


def _keras_variables(network: RetinaFace) -> dict[str, Tensor]:
    """The network's tensors by Keras's names, `layer/variable`."""
    kinds = {
        nn.Conv2d: {"kernel": "weight", "bias": "bias"},
        nn.BatchNorm2d: {
            "gamma": "weight",
            "beta": "bias",
            "moving_mean": "running_mean",
            "moving_variance": "running_var",
        },
    }
    return {
        f"{path.replace('.', '_')}/{variable}": getattr(module, attribute)
        for path, module in network.named_modules()
        for variable, attribute in kinds.get(type(module), {}).items()
        if getattr(module, attribute) is not None
    }


def _keras_layout(tensor: Tensor) -> Tensor:
    """A view of a tensor with Keras's order of axes: kernels are height, width, inputs, outputs."""
    return tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _read_variables(path: Path, only: Container[str] | None = None) -> dict[str, NDArray[np.generic]]:
    """The arrays of a Keras weights file by `layer/variable`; all unless told otherwise."""
    variables = {}
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            for layer in _names(root, "layer_names"):
                for variable in _names(root[layer], "weight_names"):
                    name = f"{layer}/{variable.rsplit('/', 1)[-1].removesuffix(':0')}"
                    if only is None or name in only:
                        variables[name] = np.asarray(root[layer][variable])
    except FileNotFoundError as error:
        raise UnreadableCheckpointError(f"{path}: there is no such file; {_ADVICE}") from error
    except (OSError, KeyError) as error:
        raise UnreadableCheckpointError(f"{path}: not a weights file of Keras ({error}); {_ADVICE}") from error
    return variables


def _names(group: h5py.Group, attribute: str) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]


def _seeded_values(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    layer, variable = name.split("/")
    random = np.random.RandomState(zlib.crc32(f"retinaface:{name}".encode()))
    if variable == "kernel":
        deviation = np.sqrt(2 / np.prod(shape[:-1]))  # He: keeps the second moment through a ReLU
        values = random.standard_normal(shape) * deviation * _random_gain(layer)
    elif variable in ("gamma", "moving_variance"):
        values = random.uniform(0.8, 1.2, shape)
    else:
        values = random.standard_normal(shape) * 0.1
    if layer == "bn_data" and variable.startswith("moving"):
        values = values * 64**2 if variable == "moving_variance" else values * 64 + 127.5
    return np.asarray(values, dtype=np.float32)


def _random_gain(layer: str) -> float:
    if layer.startswith("face_rpn_"):
        return 0.3 if "cls_score" in layer else 0.05  # probabilities vary, boxes stay near their anchors
    return 0.3 if layer.endswith(("_conv3", "_aggr")) else 1.0  # what is added up again and again must not grow
