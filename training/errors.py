"""What can go wrong before or during a training run; every message names the thing, the limit and the fix.

TrainingError
├── RecipeError        a recipe or an override is not one
├── DataError          the data set cannot be trained on
├── BaseError          the starting weights cannot be read, or are not of the size asked for
├── RunError           the folder of the run holds another run, or a file of it cannot be written
└── NotFiniteError     the loss is no number any more
"""


class TrainingError(Exception):
    """Base of the errors that stop a run."""


class RecipeError(TrainingError):
    """A recipe or an override is not one."""


class DataError(TrainingError):
    """The data set cannot be trained on."""


class BaseError(TrainingError):
    """The starting weights cannot be read, or are not of the size asked for."""


class RunError(TrainingError):
    """The folder of the run holds another run, or a file of it cannot be written."""


class NotFiniteError(TrainingError):
    """The loss is no number any more; the weights saved last are kept, to start another run from."""
