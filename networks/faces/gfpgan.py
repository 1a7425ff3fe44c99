"""GFPGAN, the restorer of faces, as a torch module (paper section 3.2; Wang et al., arXiv 2101.04061).

Exactly the network `GFPGANv1Clean` of the PyPI package `gfpgan`, in the sizes of its weights `GFPGANv1.4.pth`: a U-Net
whose features modulate a StyleGAN2 generator. Modules are named as in that file.

The generator adds the noise that is stored with the weights, so the same face is always restored alike. **The package
draws new noise at every call: its own results differ from run to run by what that noise does**, and are these when it
is given the stored noise. Modulated convolutions scale their inputs and outputs instead of their kernel: the same up
to rounding, and one kernel then serves all images of a batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ensemble.faces.gfpgan import FACE_SIDE
from networks.faces.gfpgan_parsenet import ParseNet

WIDTH = 256
"""Channels of the published U-Net at its coarse resolutions; all else is in proportion."""

_RESOLUTIONS = (4, 8, 16, 32, 64, 128, 256, FACE_SIDE)
_EPSILON = 1e-8
_GAIN = 2**0.5
_STYLE_LAYERS = 8


def _channels(width: int, resolution: int) -> int:
    return width * 64 // max(64, resolution)


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def _resized(x: Tensor, factor: float) -> Tensor:
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """Two convolutions with a resize between them, beside a resized shortcut."""

    def __init__(self, inputs: int, outputs: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = _resized(_leaky(self.conv1(x)), self.factor)
        shortcut: Tensor = self.skip(_resized(x, self.factor))
        return _leaky(self.conv2(inner)) + shortcut


class ModulatedConvolution(nn.Module):
    """A convolution whose kernel is scaled by the style, input channel by input channel, then normalised or not."""

    def __init__(self, inputs: int, outputs: int, size: int, style: int, normalised: bool, upsamples: bool) -> None:
        super().__init__()
        self.normalised = normalised
        self.upsamples = upsamples
        self.modulation = nn.Linear(style, inputs)
        self.weight = nn.Parameter(torch.empty(1, outputs, inputs, size, size))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        kernel = self.weight[0]
        scale = self.modulation(style)
        x = x * scale[:, :, None, None]
        if self.upsamples:
            x = _resized(x, 2.0)
        x = functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        if self.normalised:
            energy = functional.linear(scale.square(), kernel.square().sum((2, 3)))
            x = x * torch.rsqrt(energy + _EPSILON)[:, :, None, None]
        return x


class StyledConvolution(nn.Module):
    """A modulated convolution, noise and an activation; `weight` is the strength of the noise."""

    def __init__(self, inputs: int, outputs: int, style: int, upsamples: bool) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConvolution(inputs, outputs, 3, style, normalised=True, upsamples=upsamples)
        self.weight = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1, outputs, 1, 1))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        return _leaky(self.modulated_conv(x, style) * _GAIN + self.weight * noise + self.bias)


class ToRgb(nn.Module):
    """From features to what they add to the picture."""

    def __init__(self, inputs: int, style: int) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConvolution(inputs, 3, 1, style, normalised=False, upsamples=False)
        self.bias = nn.Parameter(torch.empty(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        picture: Tensor = self.modulated_conv(x, style) + self.bias
        return picture


class Constant(nn.Module):
    """What the generator starts from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, channels, _RESOLUTIONS[0], _RESOLUTIONS[0]))


class Generator(nn.Module):
    """StyleGAN2 whose features, half of the channels, are scaled and shifted by those of the U-Net."""

    def __init__(self, width: int) -> None:
        super().__init__()
        style, channels = 2 * width, 2 * width
        # From noise to styles, which here come from the U-Net: in the file, but without use. The layers have odd
        # places; the others are without weights.
        layers: list[nn.Module] = [nn.Identity()]
        for _ in range(_STYLE_LAYERS):
            layers += [nn.Linear(style, style), nn.Identity()]
        self.style_mlp = nn.Sequential(*layers)

        self.constant_input = Constant(channels)
        self.style_conv1 = StyledConvolution(channels, channels, style, upsamples=False)
        self.to_rgb1 = ToRgb(channels, style)
        self.style_convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        self.noises = nn.Module()
        self.noises.register_buffer("noise0", torch.empty(1, 1, _RESOLUTIONS[0], _RESOLUTIONS[0]))
        for resolution in _RESOLUTIONS[1:]:
            outputs = 2 * _channels(width, resolution)
            for inputs, upsamples in ((channels, True), (outputs, False)):
                self.style_convs.append(StyledConvolution(inputs, outputs, style, upsamples))
                noise = torch.empty(1, 1, resolution, resolution)
                self.noises.register_buffer(f"noise{len(self.style_convs)}", noise)
            self.to_rgbs.append(ToRgb(outputs, style))
            channels = outputs

    def forward(self, styles: Tensor, scales: list[Tensor], shifts: list[Tensor]) -> Tensor:
        """Paints a picture.

        Args:
            styles: [batch, 2 × levels + 2, style].
            scales: For each level above the first, [batch, channels / 2, resolution, resolution].
            shifts: Likewise.

        Returns:
            [batch, 3, `FACE_SIDE`, `FACE_SIDE`], RGB, about -1 to 1.
        """
        x = self.constant_input.weight.expand(styles.shape[0], -1, -1, -1)
        x = self.style_conv1(x, styles[:, 0], self._noise(0))
        picture: Tensor = self.to_rgb1(x, styles[:, 1])
        for level, (scale, shift) in enumerate(zip(scales, shifts, strict=True)):
            # The last style of a level is the first of the next.
            first, second, last = styles[:, 2 * level + 1 : 2 * level + 4].unbind(1)
            x = self.style_convs[2 * level](x, first, self._noise(2 * level + 1))
            kept, modulated = x.chunk(2, dim=1)
            x = torch.cat((kept, modulated * scale + shift), dim=1)
            x = self.style_convs[2 * level + 1](x, second, self._noise(2 * level + 2))
            picture = self.to_rgbs[level](x, last) + _resized(picture, 2.0)
        return picture

    def _noise(self, layer: int) -> Tensor:
        return self.noises.get_buffer(f"noise{layer}")


class Gfpgan(nn.Module):
    """From a degraded face to a restored one.

    Args:
        width: `WIDTH`, or fewer channels for tests.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        style = 2 * width
        levels = [_channels(width, resolution) for resolution in _RESOLUTIONS[1:]]
        coarser = [width, *levels[:-1]]
        self.conv_body_first = nn.Conv2d(3, levels[-1], 1)
        self.conv_body_down = nn.ModuleList(
            ResidualBlock(fine, coarse, 0.5) for coarse, fine in reversed([*zip(coarser, levels, strict=True)])
        )
        self.final_conv = nn.Conv2d(width, width, 3, padding=1)
        self.conv_body_up = nn.ModuleList(
            ResidualBlock(coarse, fine, 2.0) for coarse, fine in zip(coarser, levels, strict=True)
        )
        self.toRGB = nn.ModuleList(nn.Conv2d(channels, 3, 1) for channels in levels)  # of use in training alone
        self.final_linear = nn.Linear(width * _RESOLUTIONS[0] ** 2, (2 * len(levels) + 2) * style)
        self.stylegan_decoder = Generator(width)
        self.condition_scale = nn.ModuleList(_condition(channels) for channels in levels)
        self.condition_shift = nn.ModuleList(_condition(channels) for channels in levels)

    def forward(self, faces: Tensor) -> Tensor:
        """Restores faces.

        Args:
            faces: [batch, 3, `FACE_SIDE`, `FACE_SIDE`], RGB, -1 to 1.

        Returns:
            The same, restored; values may leave the range a little.
        """
        x = _leaky(self.conv_body_first(faces))
        laterals = []
        for block in self.conv_body_down:
            x = block(x)
            laterals.append(x)
        x = _leaky(self.final_conv(x))
        styles = self.final_linear(x.flatten(1)).unflatten(1, (2 * len(laterals) + 2, -1))
        scales, shifts = [], []
        for level, block in enumerate(self.conv_body_up):
            x = block(x + laterals.pop())
            scales.append(self.condition_scale[level](x))
            shifts.append(self.condition_shift[level](x))
        restored: Tensor = self.stylegan_decoder(styles, scales, shifts)
        return restored


def _condition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(channels, channels, 3, padding=1)
    )


class FaceRestorer(nn.Module):
    """GFPGAN, and the parser of what it restored: one pass from pixels to all that pasting needs."""

    def __init__(self, gan: Gfpgan, parser: ParseNet) -> None:
        super().__init__()
        self.gan = gan
        self.parser = parser

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Restores and parses aligned faces.

        Args:
            faces: uint8 [batch, `FACE_SIDE`, `FACE_SIDE`, 3], RGB.

        Returns:
            The restored faces, of the same type and shape, and each pixel's class, uint8
            [batch, `FACE_SIDE`, `FACE_SIDE`].
        """
        restored = self.gan(_normalised(faces)).clamp(-1, 1)
        # Whole numbers, still in floating point: TensorRT moves no 8-bit values about.
        levels = ((restored + 1) / 2 * 255).round().permute(0, 2, 3, 1)
        # The parser sees the faces rounded to pixels, as in the package.
        return levels.to(torch.uint8), self.parser(_normalised(levels)).argmax(1).to(torch.uint8)


def _normalised(pixels: Tensor) -> Tensor:
    """Pixels in 0..255, [batch, height, width, 3], to [batch, 3, height, width], -1 to 1."""
    return (pixels.float().permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
