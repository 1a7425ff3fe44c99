"""The order in which an epoch goes through its images: a plain shuffle, or the balanced sampler.

Both are functions of the seed and the epoch alone, so that a run can go on in the middle of an epoch. Several
processes share one order: of each `processes · batch` images, every process takes its `batch`.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.data.manifest import Item

Order = npt.NDArray[np.int64]


def shuffled(count: int, seed: int, epoch: int, processes: int = 1) -> Order:
    """Every image once; with several processes, some of the first again, so that each has as many."""
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return np.concatenate((order, np.resize(order, -count % processes)))


def balanced(items: Sequence[Item], batch: int, seed: int, epoch: int, processes: int = 1) -> Order:
    """Batches of half real and half fake images, drawn with replacement.

    An image weighs 1/√n, n being the images of its class in its data set, so that a data set's share of its class
    goes with √n. Within a batch ⌊batch/2⌋ are real; they are shuffled.

    Args:
        items: The images, both classes among them.
        batch: Images of one micro-batch in one process.
        seed: Of the run.
        epoch: From 0.
        processes: How many share the order.

    Returns:
        Indices: whole batches only, ⌊images/processes/batch⌋ for each process.
    """
    rng = np.random.default_rng((seed, epoch))
    batches = len(items) // processes // batch * processes
    real = batch // 2
    drawn = [
        _draw(rng, items, label, count).reshape(batches, -1)
        for label, count in ((0, batches * real), (1, batches * (batch - real)))
    ]
    return np.asarray(rng.permuted(np.concatenate(drawn, axis=1), axis=1).ravel(), np.int64)


def image_weights(items: Sequence[Item]) -> npt.NDArray[np.float64]:
    """The weight of each image in a draw of its class, not normalised."""
    sizes = Counter((item.dataset, item.label) for item in items)
    return np.array([sizes[item.dataset, item.label] ** -0.5 for item in items])


def micro_batches(order: Order, batch: int, process: int = 0, processes: int = 1) -> list[Order]:
    """The micro-batches of one process; the last may be smaller, and is as large in every process."""
    chunks = (order[start : start + batch * processes] for start in range(0, len(order), batch * processes))
    return [np.split(chunk, processes)[process] for chunk in chunks]


def _draw(rng: np.random.Generator, items: Sequence[Item], label: int, count: int) -> Order:
    members = np.array([index for index, item in enumerate(items) if item.label == label])
    weights = image_weights(items)[members]
    return np.asarray(rng.choice(members, size=count, p=weights / weights.sum()), np.int64)
