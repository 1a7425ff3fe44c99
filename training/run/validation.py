"""How good the network is on images it does not learn from: clean and degraded, by data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ensemble.streams import Stream
from training.data.images import ValidationImages, collate
from training.data.manifest import Item
from training.metrics import Auc, Floats, Labels, auc, auc_interval
from training.networks import evaluating

ALL = "all"
"""Name under which the measures of all data sets together stand."""


@dataclass(frozen=True)
class Judged:
    """Probabilities of some items; those that could not be read are left out."""

    items: list[Item]
    probabilities: Floats

    @property
    def labels(self) -> Labels:
        """1 for fake."""
        return np.array([item.label for item in self.items], np.int64)

    def by_dataset(self) -> dict[str, Auc]:
        """The AUC of each data set with both classes, and of all."""
        names = np.array([item.dataset for item in self.items])
        labels = self.labels
        parts = {ALL: np.ones(len(names), bool)} | {name: names == name for name in np.unique(names)}
        measured = {name: auc(labels[part], self.probabilities[part]) for name, part in parts.items()}
        return {str(name): each for name, each in measured.items() if each is not None}

    def interval(self) -> tuple[float, float]:
        """95 % interval of the AUC of all, over groups."""
        return auc_interval(self.labels, self.probabilities, np.array([item.group for item in self.items]))


@dataclass(frozen=True)
class Judge:
    """The images that judge a run, and how they are read.

    Attributes:
        items: Validation images.
        stream: Whose framing they get.
        operation: Probability of each degradation operation in the degraded round.
        seed: Of the degradation: the same every time.
        batch: Images at a time.
        workers: Processes that read.
    """

    items: Sequence[Item]
    stream: Stream
    operation: float
    seed: int
    batch: int
    workers: int

    def judge(self, network: nn.Module, device: torch.device, degraded: bool) -> Judged:
        """Runs the network, unwrapped, over the images; it is in training mode again afterwards."""
        images = ValidationImages(self.items, self.stream, self.operation if degraded else None, self.seed)
        labels = [item.label for item in self.items]
        loader = DataLoader(
            images,
            batch_size=self.batch,
            num_workers=self.workers,
            collate_fn=partial(collate, labels=labels, side=self.stream.pixels),
        )
        items: list[Item] = []
        probabilities: list[Floats] = []
        with evaluating(network):
            for batch in loader:
                if batch.indices:
                    logits = network(batch.pixels.to(device)).float()
                    probabilities.append(torch.softmax(logits, dim=1)[:, 1].double().cpu().numpy())
                    items += [self.items[index] for index in batch.indices]
        return Judged(items, np.concatenate(probabilities) if probabilities else np.empty(0))
