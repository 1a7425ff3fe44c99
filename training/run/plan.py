"""How long a run is: counted before it begins."""

from dataclasses import dataclass

from training.errors import DataError
from training.recipe import Recipe
from training.schedule import Schedule, scheduled_updates, updates_per_epoch


@dataclass(frozen=True)
class Plan:
    """What a run will do, as far as it can be told before.

    Attributes:
        images: Of an epoch.
        micro_batches: Of an epoch, in each process.
        updates: Of the whole run.
        schedule: Of the learning rate.
        validate_every: Micro-batches between two validations, at a window's border; 0 for none.
    """

    images: int
    micro_batches: int
    updates: int
    schedule: Schedule
    validate_every: int


def make_plan(recipe: Recipe, images: int, processes: int) -> Plan:
    """Counts micro-batches, updates and validations of a run on so many images."""
    sizes = recipe.optimiser
    if recipe.data.balanced:
        count = images // processes // sizes.batch
        if count == 0:
            raise DataError(
                f"{images} training images make no whole batch of {sizes.batch} in each of {processes} processes; "
                "lower optimiser.batch or set data.balanced=false"
            )
    else:
        count = -(-images // (sizes.batch * processes))
    schedule = Schedule(
        sizes.learning_rate,
        sizes.learning_rate_floor,
        sizes.warmup_updates,
        scheduled_updates(count, sizes.accumulation, sizes.epochs),
    )
    every = 0
    if wanted := recipe.run.validations_per_epoch:
        window = sizes.accumulation
        every = max(window, max(1, count // wanted) // window * window)
    return Plan(images, count, updates_per_epoch(count, sizes.accumulation) * sizes.epochs, schedule, every)
