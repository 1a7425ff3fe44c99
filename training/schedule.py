"""The method's learning rate: linear warm-up, then a cosine, one step for each update."""

import math
from dataclasses import dataclass

WARMUP_START = 0.01
"""Share of the learning rate that the first update of a warm-up uses."""


@dataclass(frozen=True)
class Schedule:
    """Learning rates by update.

    Attributes:
        rate: The highest.
        floor: What the cosine ends at. Where it equals `rate`, as in two of the published runs, the rate is flat.
        warmup: Updates of the warm-up.
        total: Updates of the whole run as the schedule counts them.
    """

    rate: float
    floor: float
    warmup: int
    total: int

    def __call__(self, update: int) -> float:
        """The rate of an update, counted from 0.

        The last window of an epoch may be partial, and `total` does not count it: the updates past `total` follow the
        cosine as it rises again, as in the authors' code.
        """
        if update < self.warmup:
            return self.rate * (WARMUP_START + (1 - WARMUP_START) * update / self.warmup)
        angle = math.pi * (update - self.warmup) / max(1, self.total - self.warmup)
        return self.floor + (self.rate - self.floor) * (1 + math.cos(angle)) / 2


def scheduled_updates(micro_batches: int, accumulation: int, epochs: int) -> int:
    """Updates as the schedule counts them: whole windows only (`Schedule.total`)."""
    return micro_batches // accumulation * epochs


def updates_per_epoch(micro_batches: int, accumulation: int) -> int:
    """Updates that an epoch makes: a last, partial window is one too."""
    return -(-micro_batches // accumulation)
