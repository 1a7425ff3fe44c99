"""RetinaFace with a ResNet-50, the method's face detector, as a torch module (paper section 3.2).

Exactly the network of the PyPI package `retina-face` (Deng et al., arXiv 1905.00641, in its MXNet form: pre-activation
ResNet-50, a feature pyramid of three levels, one SSH context module a level). Its weights file is Keras's: joined by
underscores, the path of a module here is the name of the Keras layer there, so there is no table of names
(`networks.faces.retinaface_weights`).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ensemble.faces.retinaface import ANCHORS_PER_CELL, STRIDES

_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # units, channels inside a unit
_EXPANSION = 4
_PYRAMID = 256
_EPSILON = 1.9999999494757503e-05  # of every normalisation; 2e-5 in float32, as the original was saved


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
