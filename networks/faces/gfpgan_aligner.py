"""RetinaFace as the package `facexlib` has it, which finds the faces for GFPGAN, as a torch module.

It has the same task as the method's detector (`networks.faces.retinaface`; Deng et al., arXiv 1905.00641), but is
another network: a ResNet-50 of torchvision, a feature pyramid of three levels, an SSH context module and three heads a
level. Exactly that of `facexlib`, in the sizes of its weights `detection_Resnet50_Final.pth`. Modules are named as in
that file.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from ensemble.faces.gfpgan import STRIDES

_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, channels inside a block
_EXPANSION = 4
_PYRAMID = 256
_ANCHORS_PER_CELL = 2
_MEAN = (104.0, 117.0, 123.0)  # BGR


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _normalised(inputs: int, outputs: int, size: int) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs, size), nn.BatchNorm2d(outputs))


def _activated(inputs: int, outputs: int, size: int) -> nn.Sequential:
    return nn.Sequential(*_normalised(inputs, outputs, size), nn.ReLU())


class Bottleneck(nn.Module):
    """Residual block of ResNet-50; the one of torchvision, whose stride is in the 3×3 convolution."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = inner * _EXPANSION
        self.conv1 = _convolution(inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _convolution(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _convolution(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        changes = inputs != outputs
        self.downsample = (
            nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if changes else None
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        return functional.relu(inner + (x if self.downsample is None else self.downsample(x)))


def _backbone() -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_convolution(3, 64, 7, stride=2),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    channels = 64
    for stage, (blocks, inner) in enumerate(_STAGES, start=1):
        units = []
        for block in range(blocks):
            units.append(Bottleneck(channels, inner, stride=2 if block == 0 and stage > 1 else 1))
            channels = inner * _EXPANSION
        layers[f"layer{stage}"] = nn.Sequential(*units)
    return nn.Sequential(layers)


class Pyramid(nn.Module):
    """Brings the levels to one number of channels, and what the coarser ones know into the finer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.output1 = _activated(512, _PYRAMID, 1)
        self.output2 = _activated(1024, _PYRAMID, 1)
        self.output3 = _activated(2048, _PYRAMID, 1)
        self.merge1 = _activated(_PYRAMID, _PYRAMID, 3)
        self.merge2 = _activated(_PYRAMID, _PYRAMID, 3)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.output1(fine), self.output2(middle), self.output3(coarse)
        middle = self.merge2(middle + _upsampled(coarse, middle))
        fine = self.merge1(fine + _upsampled(middle, fine))
        return fine, middle, coarse


def _upsampled(coarse: Tensor, fine: Tensor) -> Tensor:
    return functional.interpolate(coarse, size=fine.shape[2:], mode="nearest")


class ContextModule(nn.Module):
    """SSH context module: receptive fields of 3, 5 and 7 cells side by side."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = _PYRAMID // 2, _PYRAMID // 4
        self.conv3X3 = _normalised(_PYRAMID, half, 3)
        self.conv5X5_1 = _activated(_PYRAMID, quarter, 3)
        self.conv5X5_2 = _normalised(quarter, quarter, 3)
        self.conv7X7_2 = _activated(quarter, quarter, 3)
        self.conv7x7_3 = _normalised(quarter, quarter, 3)

    def forward(self, x: Tensor) -> Tensor:
        context = self.conv5X5_1(x)
        fields = (self.conv3X3(x), self.conv5X5_2(context), self.conv7x7_3(self.conv7X7_2(context)))
        return functional.relu(torch.cat(fields, dim=1))


class Head(nn.Module):
    """Some values for each anchor."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(_PYRAMID, _ANCHORS_PER_CELL * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gives [batch, anchors, values], by row, column and anchor of a cell."""
        maps: Tensor = self.conv1x1(x)
        return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, self.values)


class FaceAligner(nn.Module):
    """From pixels to anchor scores, box and landmark offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN), persistent=False)
        self.body = _backbone()
        self.fpn = Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = (ContextModule() for _ in STRIDES)
        self.ClassHead, self.BboxHead, self.LandmarkHead = (
            nn.ModuleList(Head(values) for _ in STRIDES) for values in (2, 4, 10)
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Looks for faces in images of one size.

        Args:
            pixels: uint8 [batch, height, width, 3], RGB.

        Returns:
            Probabilities of a face [batch, anchors], box offsets [batch, anchors, 4] and landmark offsets
            [batch, anchors, 10], float32; see `ensemble.faces.gfpgan.face_landmarks`.
        """
        x = (pixels.float().flip(-1) - self.get_buffer("mean")).permute(0, 3, 1, 2)
        levels = []
        for name, layer in self.body.named_children():
            x = layer(x)
            if name in ("layer2", "layer3", "layer4"):
                levels.append(x)
        contexts = [ssh(x) for ssh, x in zip((self.ssh1, self.ssh2, self.ssh3), self.fpn(*levels), strict=True)]
        scores, boxes, landmarks = (
            torch.cat([head(x) for head, x in zip(heads, contexts, strict=True)], dim=1)
            for heads in (self.ClassHead, self.BboxHead, self.LandmarkHead)
        )
        return scores.softmax(-1)[..., 1], boxes, landmarks
