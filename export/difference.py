"""One comparison of an exported model with its network."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One output on one batch of images.

    Attributes:
        pixels: What the images are.
        batch: How many.
        output: Name of the output.
        largest: Largest absolute difference; NaN where either side is not finite.
        tolerance: What is allowed.
    """

    pixels: str
    batch: int
    output: str
    largest: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the difference is allowed; NaN is not."""
        return self.largest <= self.tolerance
