"""ParseNet, which tells the parts of a face, as a torch module.

Exactly the network of the PyPI package `facexlib` (from Chen et al., arXiv 2009.08709) in the sizes of its weights
`parsing_parsenet.pth`. Modules are named as in that file.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

CLASSES = 19
"""Background, skin, brows, eyes, glasses, ears, earring, nose, mouth, lips, neck, necklace, cloth, hair, hat."""

WIDTH = 64
"""Channels of the published network's first layer; all others are in proportion."""

_STEPS = 4  # from 512 pixels down to 32 and up again
_DEPTH = 10


class Normalisation(nn.Module):
    """Batch normalisation, one name deeper."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(x)
        return normalised


class Convolution(nn.Module):
    """A 3×3 convolution with a mirrored border; before it the size may be doubled, in it halved."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1, normalised: bool = False) -> None:
        super().__init__()
        self.doubles = scale == 2
        self.conv2d = nn.Conv2d(inputs, outputs, 3, stride=2 if scale == 0.5 else 1, bias=not normalised)
        self.norm = Normalisation(outputs) if normalised else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.doubles:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        convolved: Tensor = self.norm(self.conv2d(functional.pad(x, (1, 1, 1, 1), mode="reflect")))
        return convolved


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is one as well where the shape changes."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1) -> None:
        super().__init__()
        self.shortcut_func = nn.Identity() if scale == 1 and inputs == outputs else Convolution(inputs, outputs, scale)
        self.conv1 = Convolution(inputs, outputs, 2 if scale == 2 else 1, normalised=True)
        self.conv2 = Convolution(outputs, outputs, 0.5 if scale == 0.5 else 1, normalised=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut_func(x)
        residual: Tensor = self.conv2(functional.leaky_relu(self.conv1(x), 0.2))
        return shortcut + residual


class ParseNet(nn.Module):
    """From a face to its parts.

    Args:
        width: `WIDTH`, or fewer channels for tests.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        channels = [min(width * 2**step, 4 * width) for step in range(_STEPS + 1)]
        steps = list(pairwise(channels))
        self.encoder = nn.Sequential(
            Convolution(3, width), *(ResidualBlock(fine, coarse, 0.5) for fine, coarse in steps)
        )
        self.body = nn.Sequential(*(ResidualBlock(channels[-1], channels[-1]) for _ in range(_DEPTH)))
        self.decoder = nn.Sequential(*(ResidualBlock(coarse, fine, 2) for fine, coarse in reversed(steps)))
        self.out_img_conv = Convolution(width, 3)  # of use in training alone
        self.out_mask_conv = Convolution(width, CLASSES)

    def forward(self, faces: Tensor) -> Tensor:
        """Tells the parts of faces.

        Args:
            faces: [batch, 3, 512, 512], RGB, -1 to 1.

        Returns:
            Scores, not normalised: [batch, `CLASSES`, 512, 512].
        """
        features = self.encoder(faces)
        scores: Tensor = self.out_mask_conv(self.decoder(features + self.body(features)))
        return scores
