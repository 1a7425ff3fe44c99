"""Who trains and who judges: splits by group."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from training.data.manifest import SPLITS, Item
from training.errors import DataError

_SHOWN = 3


def split_by_group(items: Sequence[Item], validation_share: float, seed: int) -> list[Item]:
    """Gives every item without a split train or validation, by a hash of its group.

    The same group lands in the same split whatever else is in the data set; except where a class would have no group
    in one of the two: the group of it whose hash is nearest goes there, if the other split keeps both classes.
    """
    shares = {item.group: _share(item.group, seed) for item in items if not item.split}
    drawn = {group: SPLITS[int(share < validation_share)] for group, share in shares.items()}
    if validation_share > 0:
        _fill(items, drawn, shares)
    return [item if item.split else replace(item, split=drawn[item.group]) for item in items]


def require_groups_apart(items: Iterable[Item]) -> None:
    """Refuses a group in two splits.

    Raises:
        DataError: Naming the groups.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items:
        splits[item.group].add(item.split)
    leaks = [f"{group} ({' and '.join(sorted(names))})" for group, names in splits.items() if len(names) > 1]
    if leaks:
        raise DataError(f"{listed(leaks)}: a group in two splits; what is judged must not have been learnt from")


def listed(leaks: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    return "; ".join(leaks[:_SHOWN]) + more


def _share(group: str, seed: int) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}:{group}".encode()).digest()[:8]) / 2**64


def _fill(items: Sequence[Item], drawn: dict[str, str], shares: Mapping[str, float]) -> None:
    """Moves one group for each class that a split has none of, where that costs the other split no class."""
    labels: dict[str, set[int]] = defaultdict(set)
    holders: Counter[tuple[str, int]] = Counter()
    """How many groups of a split hold a class; those that the manifest puts there count as well."""
    for group, label, given in {(item.group, item.label, item.split) for item in items}:
        holders[given or drawn[group], label] += 1
        if not given:
            labels[group].add(label)
    train, validation, _ = SPLITS
    for target, source, order in ((validation, train, 1), (train, validation, -1)):
        for label in (0, 1):
            if holders[target, label]:
                continue
            movable = [
                group
                for group, split in drawn.items()
                if split == source
                and label in labels[group]
                and all(holders[source, each] > 1 for each in labels[group])
            ]
            if movable:
                chosen = min(movable, key=lambda group: order * shares[group])
                drawn[chosen] = target
                for each in labels[chosen]:
                    holders[source, each] -= 1
                    holders[target, each] += 1
