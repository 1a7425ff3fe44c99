"""Measures of where and what the streams look at, clean against degraded (method, measures); pure functions."""

import math

import numpy as np
import numpy.typing as npt

Floats32 = npt.NDArray[np.float32]


def attention_entropy(attention: npt.ArrayLike) -> float:
    """Entropy of attention over the patches, −Σ p ln p in nats, renormalised first: the higher, the more spread out.

    Args:
        attention: [patches], none negative, not all zero; of an image of 252 px at most ln 324 = 5.781.
    """
    shares = np.asarray(attention, np.float64)
    shares = shares / shares.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def cosine(a: Floats32, b: Floats32) -> float:
    """Cosine between two feature vectors, in [−1, 1]; 0 where one of them is all zeros."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norm = math.sqrt(float(a64 @ a64) * float(b64 @ b64))
    return max(-1.0, min(1.0, float(a64 @ b64) / norm)) if norm else 0.0


def side_of(patches: int) -> int:
    """Side of the square grid that patches of an image form.

    Raises:
        ValueError: They do not form one.
    """
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(f"attention over {patches} patches, which are no square grid")
    return side
