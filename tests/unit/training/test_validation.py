"""How a network is judged: which image got which probability, clean and degraded, by data set, over groups."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ensemble.streams import GLOBAL_TEXTURE
from tests.golden import IMAGES
from training import metrics
from training.data.images import ValidationImages
from training.data.manifest import Item
from training.metrics import auc, auc_interval
from training.run import validation
from training.run.validation import ALL, Judge, Judged

CPU = torch.device("cpu")


class Brightness(nn.Module):
    """Says fake of bright images; and how many it was shown at once."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        assert not self.training
        self.batches.append(len(pixels))
        bright = pixels.mean(dim=(1, 2, 3))
        return torch.stack([-bright, bright], dim=1).to(torch.bfloat16)


ITEMS = [Item(path, path.name, number % 2, group=path.name) for number, path in enumerate(IMAGES[:5])]
JUDGE = Judge(ITEMS, GLOBAL_TEXTURE, 0.9, 7, 2, 0)


def expected(item: Item, operation: float | None = None) -> float:
    """What `Brightness` says of an image: the probability of fake."""
    pixels = ValidationImages(JUDGE.items, GLOBAL_TEXTURE, operation, 7)[JUDGE.items.index(item)].pixels
    assert pixels is not None
    return float(torch.softmax(Brightness().eval()(pixels[None])[0].float(), dim=0)[1])


def test_each_image_has_its_probability_of_fake() -> None:
    network = Brightness().train()
    clean = JUDGE.judge(network, CPU, degraded=False)
    assert clean.items == ITEMS
    assert network.batches == [2, 2, 1]
    assert network.training
    assert clean.probabilities.dtype == np.float64
    assert clean.probabilities.tolist() == pytest.approx([expected(item) for item in ITEMS])
    assert len({*clean.probabilities.tolist()}) == 5
    assert clean.labels.tolist() == [0, 1, 0, 1, 0]


def test_the_degraded_round_is_the_same_every_time_and_the_clean_one_is_not_degraded() -> None:
    degraded = [JUDGE.judge(Brightness(), CPU, degraded=True).probabilities for _ in range(2)]
    np.testing.assert_array_equal(*degraded)
    assert degraded[0].tolist() == pytest.approx([expected(item, 0.9) for item in ITEMS])
    other = replace(JUDGE, seed=8).judge(Brightness(), CPU, degraded=True).probabilities
    assert not np.array_equal(degraded[0], other)


def test_images_that_cannot_be_read_are_left_out_and_shift_no_other() -> None:
    gone = Item(Path("/nowhere/a.png"), "a.png", 1)
    items = [gone, gone, ITEMS[0], gone, ITEMS[1]]  # a batch of none, and one that begins with none
    found = replace(JUDGE, items=items).judge(Brightness(), CPU, degraded=False)
    assert found.items == ITEMS[:2]
    assert found.probabilities.tolist() == pytest.approx([expected(item) for item in ITEMS[:2]])
    nothing = replace(JUDGE, items=[gone]).judge(Brightness(), CPU, degraded=False)
    assert (nothing.items, nothing.probabilities.tolist()) == ([], [])


def test_each_data_set_with_both_classes_has_its_auc() -> None:
    labels = [0, 1, 0, 1, 1]
    names = ["a", "a", "b", "b", "c"]
    items = [Item(Path("x"), str(n), *pair, group="g") for n, pair in enumerate(zip(labels, names, strict=True))]
    judged = Judged(items, np.array([0.2, 0.8, 0.7, 0.3, 0.9]))
    measured = judged.by_dataset()
    assert list(measured) == [ALL, "a", "b"]  # of c there is one class only
    assert [each.images for each in measured.values()] == [5, 2, 2]
    assert [each.value for each in measured.values()] == pytest.approx([5 / 6, 1, 0])
    assert measured[ALL] == auc(judged.labels, judged.probabilities)
    assert Judged(items[:1], np.array([0.2])).by_dataset() == {}


def test_the_interval_is_over_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def interval(labels: Any, probabilities: Any, groups: Any) -> tuple[float, float]:
        asked.append((labels.tolist(), probabilities.tolist(), groups.tolist()))
        return auc_interval(labels, probabilities, groups)

    monkeypatch.setattr(validation, "auc_interval", interval)
    monkeypatch.setattr(metrics, "RESAMPLES", 100)
    items = [Item(Path("x"), str(n), n % 2, group=("ann", "bob")[n // 2]) for n in range(4)]
    low, high = Judged(items, np.array([0.1, 0.6, 0.7, 0.8])).interval()
    assert asked == [([0, 1, 0, 1], [0.1, 0.6, 0.7, 0.8], ["ann", "ann", "bob", "bob"])]
    assert 0.5 < low <= high == 1
