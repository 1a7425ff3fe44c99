"""What an attack did."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What an attack did.

    Attributes:
        figures: By what was measured: value and unit. Less is better.
        note: More about it, in words.
    """

    figures: dict[str, tuple[float, str]]
    note: str = ""

    def __str__(self) -> str:
        figures = [f"{what}: {value:.4g} {unit}".strip() for what, (value, unit) in self.figures.items()]
        return "; ".join([*figures, *([self.note] if self.note else [])])
