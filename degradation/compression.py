"""Operations 6, 7 and 8: JPEG, chroma subsampling and colour banding."""

from dataclasses import dataclass

import cv2
import numpy as np

from degradation.pixels import Image, chance, from_bytes, integer, settle, to_bytes, truncated


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
        return from_bytes(np.ascontiguousarray(decoded[..., ::-1]))


@dataclass(frozen=True)
class ChromaSubsampling:
    """4:2:0 in 8 bits: chroma averaged to half the sides, and brought back by nearest; nothing below 2 px a side."""

    def apply(self, image: Image) -> Image:
        height, width = image.shape[:2]
        if min(height, width) < 2:
            return image.copy()
        planes = cv2.cvtColor(truncated(image), cv2.COLOR_RGB2YCrCb)
        for channel in (1, 2):  # one by one: OpenCV rounds halves another way in several channels at once
            chroma = cv2.resize(planes[..., channel], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            planes[..., channel] = cv2.resize(chroma, (width, height), interpolation=cv2.INTER_NEAREST)
        return from_bytes(np.asarray(cv2.cvtColor(planes, cv2.COLOR_YCrCb2RGB), np.uint8))


@dataclass(frozen=True)
class ColourBanding:
    """Each channel rounded to one of `levels` values, evenly spaced from 0 to 1."""

    levels: int

    def apply(self, image: Image) -> Image:
        steps = self.levels - 1
        return settle(np.rint(image.astype(np.float64) * steps) / steps)


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
