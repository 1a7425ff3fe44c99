"""Whether the three checkpoints were trained from the same base: only LoRA and heads were, so DINOv2 itself is one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from networks.architecture import DINO
from networks.weights.checkpoint_file import read_tensors


@dataclass(frozen=True)
class BaseComparison:
    """The base networks of several checkpoints beside each other.

    Attributes:
        sha256: Digest of each checkpoint's base network, hexadecimal.
        tensors: How many tensors a base network has.
        different: Those that are not the same in all, in the order of the network.
    """

    sha256: Mapping[str, str]
    tensors: int
    different: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether all are the same."""
        return not self.different


def base_digests(checkpoint: Path) -> dict[str, str]:
    """Give the SHA-256 of each tensor of a checkpoint's base network, as float32; one is in memory at a time.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    return {
        name.removeprefix(DINO): hashlib.sha256(tensor.float().contiguous().numpy().data).hexdigest()
        for name, tensor in read_tensors(checkpoint).items()
        if name.startswith(DINO) and ".lora_" not in name
    }


def compare_bases(digests: Mapping[str, Mapping[str, str]]) -> BaseComparison:
    """Compare base networks.

    Args:
        digests: By checkpoint, what `base_digests` gives.
    """
    names = {name: None for tensors in digests.values() for name in tensors}
    different = [name for name in names if len({tensors.get(name) for tensors in digests.values()}) > 1]
    whole = {checkpoint: _digest(tensors) for checkpoint, tensors in digests.items()}
    return BaseComparison(whole, len(names), tuple(different))


def _digest(tensors: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{name} {tensors[name]}" for name in sorted(tensors)).encode()).hexdigest()
