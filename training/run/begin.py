"""What comes before the first update: which images there are, and whether the folder's run is this one."""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ensemble.streams import Stream
from networks.errors import shortened
from training.data.copies import require_no_copies, require_one_label
from training.data.manifest import Item, read_manifest, require_both_classes
from training.data.selection import Selection, select
from training.data.splits import require_groups_apart, split_by_group
from training.data.survey import Surveyed, survey
from training.errors import RunError
from training.recipe import Recipe
from training.run.record import RECIPE_FILE, RUN_FILE, Record, count_items
from training.run.state import write_atomically

LOCK_FILE = ".lock"

SPLIT_FIX = "name a split for such images in the manifest, or set data.validation_share"

_DIFFERENT = {
    "recipe": "recipe",
    "data": "data set (its rows, or what its images hold)",
    "start": "start (what --base, --clip or --from hold)",
    "processes": "number of processes",
}
"""What people call the parts of a run's identity."""


@dataclass(frozen=True)
class Images:
    """What a run uses of its data set.

    Attributes:
        training: Learnt from.
        validation: Judged on.
        test: Neither; only compared with the others.
    """

    training: list[Item]
    validation: list[Item]
    test: list[Item]

    @property
    def used(self) -> list[Item]:
        """Those that the run reads."""
        return [*self.training, *self.validation]


def choose_images(data: Path, recipe: Recipe) -> Images:
    """Reads the data set and splits it; no image is opened.

    Raises:
        DataError: It cannot be trained on.
    """
    items = split_by_group(read_manifest(data), recipe.data.validation_share, recipe.run.seed)
    require_groups_apart(items)
    parts = {name: [item for item in items if item.split == name] for name in ("train", "validation", "test")}
    training = Selection(recipe.data.frames, recipe.data.caps, recipe.data.drop_rates, recipe.run.seed)
    judging = replace(training, frames=recipe.data.test_frames, drop_rates={})
    images = Images(select(parts["train"], training), select(parts["validation"], judging), parts["test"])
    require_both_classes(images.training, f"{data}, split train", SPLIT_FIX)
    if images.validation:
        require_both_classes(images.validation, f"{data}, split validation", SPLIT_FIX)
    return images


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second process out of the folder of a run, also after this one was killed no longer than it lives.

    Raises:
        RunError: Another process trains there.
    """
    with (folder / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another process trains there; wait for it, or give another --output") from None
        yield


def require_same(before: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    """Refuses to go on with what another run left.

    Raises:
        RunError: Saying what differs.
    """
    differing = [name for name in before if before[name] != now[name]]
    if not differing:
        return
    detail = ""
    if "recipe" in differing:
        old, new = before["recipe"].splitlines(), now["recipe"].splitlines()
        detail = f" ({'; '.join([line for line in new if line not in old][:3])})"
    raise RunError(
        f"{folder} holds a run with another {' and another '.join(_DIFFERENT[name] for name in differing)}{detail}: it "
        "cannot go on with this one. Give another --output, or the same command as before"
    )


def begin(folder: Path, recipe: Recipe, images: Images, record: Record, duplicates: bool, console: Console) -> None:
    """Looks for leaks and for images that cannot be used, and writes down what the run is made of.

    A run that was killed before its first state begins anew.

    Args:
        folder: Of the run.
        recipe: As resolved.
        images: Of the run.
        record: What the run is made of; its counts are made here.
        duplicates: Whether near-duplicates in two splits are let pass.
        console: Gets the warnings.

    Raises:
        DataError: The images cannot be trained on.
        RunError: The folder holds another run.
    """
    if (folder / RUN_FILE).exists():
        made = Record.from_json((folder / RUN_FILE).read_text(encoding="utf-8"))
        before = {
            "recipe": (folder / RECIPE_FILE).read_text(encoding="utf-8"),
            "data": made.data_sha256,
            "start": made.start_sha256,
        }
        now = {"recipe": recipe.to_toml(), "data": record.data_sha256, "start": record.start_sha256}
        require_same(before, now, folder)
    items = [*images.used, *images.test]
    found = survey(items, recipe.specification)
    usable = require_usable(images.used, found[: len(images.used)], record.data, recipe.specification, console)
    prints = [each.fingerprint for each in found]
    require_one_label(items, prints)
    if not duplicates:
        require_no_copies(items, prints)
    counted = replace(record, counts=count_items(usable), left_out=len(images.used) - len(usable))
    write_atomically(folder / RECIPE_FILE, recipe.to_toml())
    write_atomically(folder / RUN_FILE, counted.to_json())


def require_usable(
    items: Sequence[Item], found: Sequence[Surveyed], data: str, stream: Stream, console: Console
) -> list[Item]:
    """Those that the stream can use; tells which it cannot, and wants both classes in each split without them.

    Raises:
        DataError: A split has no usable image of a class.
    """
    problems = [f"{item.name}: {each.problem}" for item, each in zip(items, found, strict=True) if each.problem]
    usable = [item for item, each in zip(items, found, strict=True) if not each.problem]
    if problems:
        console.print(
            f"[yellow]warning:[/] {len(problems)} of {len(items)} images cannot be used and will be left out: "
            f"{shortened(problems)}",
            highlight=False,
            soft_wrap=True,
        )
    for split in sorted({item.split for item in items}):
        require_both_classes(
            (item for item in usable if item.split == split),
            f"{data}, split {split}, of the images that {stream.name} can use",
            f"the first that it cannot use is {problems[0]}" if problems else SPLIT_FIX,
        )
    return usable
