"""What can go wrong with weights.

WeightsError
├── CheckpointError                 a checkpoint cannot be used
│   ├── UnreadableCheckpointError   absent, empty, truncated, damaged, or not a checkpoint at all
│   ├── UnsafeCheckpointError       the pickle holds code; it was not run
│   ├── CheckpointLayoutError       the tensors are not those of the stream
│   └── CheckpointValueError        the tensors have the right names, but not values to compute with
├── ManifestError                   a weights file is not what the manifest says, or that cannot be read
└── RandomWeightsError              random weights cannot be written there
"""

from collections.abc import Iterable
from itertools import islice

NAMES_SHOWN = 4
"""Tensors named in a message; the others are counted."""


class WeightsError(Exception):
    """Base of the errors about weights; the message names the file and says what to do."""


class CheckpointError(WeightsError):
    """A checkpoint cannot be used."""


class UnreadableCheckpointError(CheckpointError):
    """The file is absent, empty, truncated, damaged, or not a checkpoint."""


class UnsafeCheckpointError(CheckpointError):
    """The file is a pickle that asks for code to be run."""


class CheckpointLayoutError(CheckpointError):
    """The tensors are not those of the stream.

    Attributes:
        missing: Names of tensors that the stream needs and the file lacks.
        unexpected: Names of tensors that the stream does not have.
        misshapen: Names of tensors of another shape than the stream's.
    """

    def __init__(
        self,
        message: str,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        misshapen: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.misshapen = tuple(misshapen)


class CheckpointValueError(CheckpointError):
    """A tensor is of a type that the networks do not compute with, or holds values that are not finite."""


class ManifestError(WeightsError):
    """A weights file is not what the manifest of its folder says, or the manifest cannot be read."""


class RandomWeightsError(WeightsError):
    """Random weights cannot be written: other weights are there, or the disk is too small."""


def shortened(names: Iterable[str]) -> str:
    """The first few names, and an ellipsis for the rest."""
    shown = list(islice(names, NAMES_SHOWN + 1))
    return ", ".join(shown[:NAMES_SHOWN]) + (", …" if len(shown) > NAMES_SHOWN else "")
