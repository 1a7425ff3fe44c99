"""The loop of a run: epochs of windows, and between them what keeps a run of days safe and in view."""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from training.data.images import Batch, TrainingImages, collate
from training.data.manifest import Item
from training.data.order import Order, balanced, micro_batches, shuffled
from training.errors import DataError, NotFiniteError, RunError
from training.networks import Network
from training.recipe import Recipe
from training.run.journal import Journal
from training.run.plan import make_plan
from training.run.state import (
    BEST_FILE,
    Progress,
    State,
    learnt_tensors,
    restore_tensors,
    save_state,
    write_atomically,
)
from training.run.stopping import StopRequest
from training.run.validation import ALL, Judge
from training.run.window import Micro, accumulate_window, adam, dropout_seed, gradient_norm, step

MOST_LOST = 64
"""Images in turn, of whole micro-batches, without one that can be read: then it is not the images."""


@dataclass
class Training:
    """One run in one process.

    Attributes:
        accelerator: Device, precision and the other processes.
        network: Unwrapped, on its starting weights.
        recipe: Of the run.
        items: Training images.
        judge: Of the validation; None where there is nothing to judge on.
        folder: Where the run's files go.
        identity: What must be the same to go on.
        workers: Processes that read images.
        stop: Whether someone asked to stop.
        progress: Where the run is.
    """

    accelerator: Accelerator
    network: Network
    recipe: Recipe
    items: Sequence[Item]
    judge: Judge | None
    folder: Path
    identity: dict[str, str]
    workers: int
    stop: StopRequest
    progress: Progress

    def __post_init__(self) -> None:
        self.plan = make_plan(self.recipe, len(self.items), self.accelerator.num_processes)
        self._labels = [item.label for item in self.items]
        self._images = TrainingImages(
            self.items, self.recipe.specification, self.recipe.augmentation, self.recipe.run.seed
        )
        optimiser = adam(self.network, self.recipe.optimiser)
        self._wrapped: nn.Module
        self._wrapped, self._optimiser = self.accelerator.prepare(self.network, optimiser)
        self._saved = time.monotonic()
        self._lost = 0

    def resume(self, state: State) -> None:
        """Puts the run where a saved state is."""
        self.progress = state.progress
        restore_tensors(self.network, state.learnt)
        self._optimiser.load_state_dict(state.optimiser)

    def run(self, journal: Journal | None) -> str:
        """Trains until the end.

        Args:
            journal: In the main process, which alone judges and saves; None in the others.

        Returns:
            Why it ended: `finished`, `early stop`, or the name of the signal that asked for it.

        Raises:
            NotFiniteError: The loss or the gradient is no number any more.
            DataError: No image can be read any more.
            RunError: A file of the run cannot be written.
        """
        if not self.progress.updates:
            self.save(journal)  # from here on, the same command goes on
        if 0 < self.recipe.run.early_stop <= self.progress.since_best:
            return "early stop"  # an earlier call of the command came to that
        while self.progress.epoch < self.recipe.optimiser.epochs:
            reason = self._epoch(journal)
            if reason:
                self.save(journal)
                return reason
            self.progress = replace(self.progress, epoch=self.progress.epoch + 1, micro_batch=0)
        self.save(journal)
        return "finished"

    def save(self, journal: Journal | None) -> None:
        """Writes the state, in the main process."""
        self._saved = time.monotonic()
        if journal is not None:
            self.progress.logged, self.progress.unlogged = journal.flush()
            save_state(
                self.folder,
                State(self.identity, self.progress, learnt_tensors(self.network), self._optimiser.state_dict()),
            )

    def _epoch(self, journal: Journal | None) -> str:
        if self._validation_is_due() and self._validate(journal):  # a stop came before it
            return "early stop"
        began = time.monotonic()
        for micros in _in_windows(self._micro_batches(), self.recipe.optimiser.accumulation):
            self._update(micros, journal, began)
            if stopped := self._stop_wanted():
                return stopped
            if self._validation_is_due() and self._validate(journal):
                return "early stop"
            if self.progress.micro_batch < self.plan.micro_batches and self._save_is_due():
                self.save(journal)
            began = time.monotonic()
        return ""

    def _update(self, micros: Sequence[Micro], journal: Journal | None, began: float) -> None:
        """One update, of images that were being waited for since `began`."""
        rate = self.plan.schedule(self.progress.updates)
        losses = accumulate_window(
            self.accelerator,
            self._wrapped,
            micros,
            self.recipe.optimiser.accumulation,
            self.recipe.loss.gamma,
        )
        problems = [problem for micro in micros for problem in micro.batch.problems]
        images = sum(len(micro.batch.indices) for micro in micros)
        counts = torch.tensor([losses.mean().item(), images, len(problems)], dtype=torch.float64, device=losses.device)
        loss, all_images, skipped = self.accelerator.reduce(counts, "sum").tolist()
        loss /= self.accelerator.num_processes
        norm = float(gradient_norm(self.network))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFiniteError(self._not_finite(losses, micros, norm))
        if all_images:
            step(self._optimiser, rate)
        self.progress = replace(
            self.progress,
            updates=self.progress.updates + 1,
            micro_batch=self.progress.micro_batch + len(micros),
            skipped=self.progress.skipped + int(skipped),
        )
        if journal is not None:
            seconds = max(time.monotonic() - began, 1e-9)
            with self._saving_first(journal):
                journal.update(
                    self.progress.updates,
                    loss=loss,
                    learning_rate=rate,
                    gradient_norm=norm,
                    images_per_second=all_images / seconds,
                    micro_batch=self.progress.micro_batch,
                    epoch=self.progress.epoch,
                )
                journal.skipped(problems)

    def _micro_batches(self) -> Iterator[Micro]:
        """The rest of the epoch, from where the run is."""
        epoch, first = self.progress.epoch, self.progress.micro_batch
        parts = micro_batches(
            self._order(), self.recipe.optimiser.batch, self.accelerator.process_index, self.accelerator.num_processes
        )[first:]
        loader = DataLoader(
            self._images,
            batch_sampler=[[(epoch, int(index)) for index in part] for part in parts],
            num_workers=self.workers,
            collate_fn=partial(collate, labels=self._labels, side=self.recipe.specification.pixels),
            pin_memory=self.accelerator.device.type == "cuda",
        )
        for number, batch in enumerate(loader, start=first):
            self._lost = 0 if batch.indices else self._lost + len(batch.problems)
            if self._lost >= MOST_LOST:
                raise DataError(
                    f"epoch {epoch}, micro-batch {number}: none of {self._lost} images in turn can be read "
                    f"({batch.problems[0]}); is the storage still there?"
                )
            yield Micro(batch, dropout_seed(self.recipe.run.seed, self.accelerator.process_index, epoch, number))

    def _order(self) -> Order:
        seed, epoch, processes = self.recipe.run.seed, self.progress.epoch, self.accelerator.num_processes
        if self.recipe.data.balanced:
            return balanced(self.items, self.recipe.optimiser.batch, seed, epoch, processes)
        return shuffled(len(self.items), seed, epoch, processes)

    def _validation_is_due(self) -> bool:
        every, place = self.plan.validate_every, self.progress.micro_batch
        if not every or not place or self.progress.validated == self.progress.updates:
            return False
        return place % every == 0 or place == self.plan.micro_batches

    def _validate(self, journal: Journal | None) -> bool:
        """Judges the network and keeps it if it is the best; whether the run should stop early."""
        if journal is not None and self.judge is not None:
            measures: dict[str, dict[str, dict[str, Any]]] = {}
            for name, degraded in (("clean", False), ("degraded", True)):
                judged = self.judge.judge(self.network, self.accelerator.device, degraded)
                measures[name] = {dataset: asdict(each) for dataset, each in judged.by_dataset().items()}
            value = measures["clean"].get(ALL, {}).get("value")
            if value is not None and (self.progress.best is None or value > self.progress.best):
                with self._saving_first(journal):
                    write_atomically(self.folder / BEST_FILE, learnt_tensors(self.network))
                self.progress = replace(self.progress, best=value, best_update=self.progress.updates, since_best=0)
            else:
                self.progress = replace(self.progress, since_best=self.progress.since_best + 1)
            self.progress = replace(self.progress, validated=self.progress.updates)
            with self._saving_first(journal):
                journal.validation(self.progress.updates, measures)
        self.progress = replace(self.progress, validated=self.progress.updates)
        patience = self.recipe.run.early_stop
        return bool(self._agreed(int(patience > 0 and self.progress.since_best >= patience)))

    @contextmanager
    def _saving_first(self, journal: Journal) -> Iterator[None]:
        """Where another file of the run cannot be written, its state is saved before it ends."""
        try:
            yield
        except RunError:
            self.save(journal)
            raise

    def _stop_wanted(self) -> str:
        number = self._agreed(int(self.stop.asked or 0))
        return "" if not number else signal.Signals(number).name

    def _save_is_due(self) -> bool:
        by_step = self.progress.updates % self.recipe.run.checkpoint_updates == 0
        by_time = time.monotonic() - self._saved > self.recipe.run.checkpoint_minutes * 60
        return by_step or by_time

    def _agreed(self, value: int) -> int:
        """The largest of all processes' values: all must do the same."""
        if self.accelerator.num_processes == 1:
            return value
        gathered = self.accelerator.gather(torch.tensor([value], device=self.accelerator.device))
        return int(gathered.max())

    def _not_finite(self, losses: torch.Tensor, micros: Sequence[Micro], norm: float) -> str:
        first = next((number for number, loss in enumerate(losses.tolist()) if not math.isfinite(loss)), 0)
        batch: Batch = micros[first].batch
        names = ", ".join(self.items[index].name for index in batch.indices[:4])
        return (
            f"update {self.progress.updates + 1}: the loss is {losses[first].item():g} and the norm of the gradient "
            f"{norm:g}; epoch {self.progress.epoch}, micro-batch {self.progress.micro_batch + first}, images {names}. "
            "The update was not made. Lower optimiser.learning_rate, use run.precision=float32, or look at these "
            "images."
        )


def _in_windows(micros: Iterator[Micro], size: int) -> Iterator[list[Micro]]:
    while window := list(islice(micros, size)):
        yield window
