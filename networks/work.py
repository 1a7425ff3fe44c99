"""How much arithmetic an image costs: multiplications and additions, matrix products alone."""

from ensemble.streams import Stream
from networks.weights.random_weights import PRESETS

FACE_SEARCH = 0.2
"""TFLOP of RetinaFace for one image at 1024×1024 pixels; up to 13 times that where there is no face."""


def stream_tflop(stream: Stream, preset: str = "giant") -> float:
    """What a stream's network costs for one image, in 10¹².

    Args:
        stream: What its declaration says counts; a network of another method that says nothing is taken for DINOv2.
        preset: A size of `PRESETS`; giant is that of the published weights.
    """
    if stream.tflop is not None:
        return stream.tflop
    dino, clip = PRESETS[preset]
    tokens = (stream.pixels // dino.patch) ** 2 + 1
    total = dino.blocks * _block(tokens, dino.hidden, 3 * dino.inner)
    if stream.has_clip:
        tokens = (stream.pixels // clip.patch) ** 2 + 1
        total += clip.blocks * _block(tokens, clip.hidden, 2 * clip.inner)
    return total / 1e12


def asking_tflop(stream: Stream) -> float:
    """What it costs to ask a stream about one image: its network, and the search for the face that it sees."""
    return stream_tflop(stream) + (FACE_SEARCH if stream.sees_face else 0.0)


def _block(tokens: int, hidden: int, feed_forward: int) -> int:
    """One transformer block: four projections, attention, and a feed-forward network of so many columns in all."""
    return 2 * tokens * hidden * (4 * hidden + feed_forward) + 4 * tokens**2 * hidden
