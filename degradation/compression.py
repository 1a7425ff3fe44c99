"""Operations 6, 7 and 8: JPEG, chroma subsampling and colour banding."""

from dataclasses import dataclass

import cv2
import numpy as np

from degradation.pixels import Image, chance, from_bytes, grey, integer, settle, to_bytes


def encode_jpeg(image: Image, quality: int) -> bytes:
    """The image as a JPEG file of that quality (OpenCV's libjpeg-turbo, chroma 4:2:0)."""
    pixels = cv2.cvtColor(to_bytes(image), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@dataclass(frozen=True)
class JpegCompression:
    """Encoded and decoded at `quality`, 1 … 100."""

    quality: int

    def apply(self, image: Image) -> Image:
        data = np.frombuffer(encode_jpeg(image, self.quality), np.uint8)
        decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        return settle(from_bytes(decoded[..., ::-1]).astype(np.float64))


@dataclass(frozen=True)
class ChromaSubsampling:
    """4:2:0: each 2 × 2 block keeps its luma (BT.601) and the mean of its chroma; nearest upsampling."""

    def apply(self, image: Image) -> Image:
        # RGB moves with luma at fixed chroma by the same amount in all channels: subsampling the differences from luma
        # is subsampling Cb and Cr.
        height, width = image.shape[:2]
        # An odd side is filled up with its last row or column, so that a cut block has the mean of what it holds.
        values = np.pad(image.astype(np.float64), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        luma = grey(values)
        chroma = values - luma
        size = values.shape[1], values.shape[0]
        means = cv2.resize(chroma, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
        blocks = cv2.resize(means, size, interpolation=cv2.INTER_NEAREST)
        return settle((luma + blocks)[:height, :width])


@dataclass(frozen=True)
class ColourBanding:
    """Each channel rounded to one of `levels` values, evenly spaced from 0 to 1."""

    levels: int

    def apply(self, image: Image) -> Image:
        steps = self.levels - 1
        return settle(np.floor(image.astype(np.float64) * steps + 0.5) / steps)


def draw_jpeg(rng: np.random.Generator, strength: float) -> JpegCompression:
    """Operation 6: quality 10 … 95 at every strength."""
    return JpegCompression(integer(rng, 10, 95))


def draw_chroma(rng: np.random.Generator, strength: float) -> ChromaSubsampling:
    """Operation 7: nothing to draw."""
    return ChromaSubsampling()


def draw_banding(rng: np.random.Generator, strength: float) -> ColourBanding | None:
    """Operation 8: to int(max(4, 32 − 14s)) levels, with probability 1 − s; None otherwise."""
    if not chance(rng, 1 - strength):
        return None
    return ColourBanding(int(max(4, 32 - 14 * strength)))
