"""One comparison of an exported model with its network."""

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Difference:
    """One output on one batch of images.

    Attributes:
        pixels: What the images are.
        batch: How many.
        output: Name of the output.
        largest: Largest absolute difference; not finite where either side is not.
        tolerance: What is allowed.
    """

    pixels: str
    batch: int
    output: str
    largest: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the difference is allowed; one that is not finite never is."""
        return isfinite(self.largest) and self.largest <= self.tolerance
