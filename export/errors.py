"""What can go wrong in an export.

ExportError
├── MissingWeightsError   checkpoints are not there
├── DownloadError         the weights cannot be fetched
│   └── NoNetworkError    their server cannot be reached
├── RepositoryError       the repository cannot be written: in use, not a folder, disk too small
├── ParityError           the exported model does not compute what the network computes
├── HalfRangeError        a value is beyond float16
└── TensorrtError         an engine cannot be built: TensorRT or a GPU is not there, or the build fails
"""

from collections.abc import Sequence

from export.difference import Difference


class ExportError(Exception):
    """Base of the errors of an export; the models in the repository are as they were, unless the message says else."""


class MissingWeightsError(ExportError):
    """Checkpoints are not in the weights folder."""


class DownloadError(ExportError):
    """The weights cannot be fetched."""


class NoNetworkError(DownloadError):
    """The server that has the weights cannot be reached."""


class RepositoryError(ExportError):
    """The model repository cannot be written."""


class ParityError(ExportError):
    """An exported model's outputs are further from the network's than the tolerance.

    Attributes:
        differences: Every comparison that was made.
    """

    def __init__(self, message: str, differences: Sequence[Difference]) -> None:
        super().__init__(message)
        self.differences = tuple(differences)


class HalfRangeError(ExportError):
    """A weight, or a value that the model computes on the way, is beyond float16."""


class TensorrtError(ExportError):
    """A TensorRT engine cannot be built here."""
