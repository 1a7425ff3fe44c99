"""What a run needs to go on where it was: written beside and moved into place, never half."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import RunError
from training.networks import learning

STATE_FILE = "state.pt"
BEST_FILE = "best.pt"


@dataclass
class Progress:
    """Where a run is; all at the border of two updates.

    Attributes:
        updates: Made so far.
        epoch: From 0.
        micro_batch: Of the epoch, that comes next.
        best: The best validation AUC so far; None before the first validation.
        best_update: The updates made when it was measured.
        since_best: Validations since then.
        validated: The updates made at the last validation.
        skipped: Images that could not be read so far.
        logged: Bytes of the metrics file that belong to it; what follows is of updates that will be made again.
        unlogged: Lines of metrics that belong to it and found no room on the disk.
    """

    updates: int = 0
    epoch: int = 0
    micro_batch: int = 0
    best: float | None = None
    best_update: int = 0
    since_best: int = 0
    validated: int = 0
    skipped: int = 0
    logged: int = 0
    unlogged: str = ""


@dataclass(frozen=True)
class State:
    """All of a run that changes.

    Attributes:
        identity: What must be the same to go on: recipe, data, starting weights and processes.
        progress: Where it is.
        learnt: The tensors that learn, by name.
        optimiser: Adam's own.
    """

    identity: dict[str, str]
    progress: Progress
    learnt: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)


def learnt_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors that learn, on the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in learning(network)}


def restore_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts them back, in place."""
    parameters = dict(learning(network))
    with torch.no_grad():
        for name, value in tensors.items():
            parameters[name].copy_(value)


def save_state(folder: Path, state: State) -> None:
    """Writes the state of a run.

    Raises:
        RunError: The disk is full or cannot be written; the last state is still there then.
    """
    content = {
        "identity": state.identity,
        "progress": asdict(state.progress),
        "learnt": state.learnt,
        "optimiser": state.optimiser,
    }
    write_atomically(folder / STATE_FILE, content)


def read_state(folder: Path) -> State | None:
    """The state that a run left; None where there is none.

    Raises:
        RunError: It cannot be read.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return State(content["identity"], Progress(**content["progress"]), content["learnt"], content["optimiser"])
    except Exception as error:  # a damaged file can raise anything; all of it means the same
        reason = str(error).partition(". ")[0]  # torch goes on to advise loading what could run code
        raise RunError(
            f"{path}: cannot be read ({type(error).__name__}: {reason}); give another --output, or remove the file to "
            "begin again"
        ) from error


def read_tensors_file(path: Path) -> dict[str, Tensor]:
    """Tensors by name, as `write_atomically` wrote them."""
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def write_atomically(path: Path, content: object) -> None:
    """torch.save beside, a text as it is, flushed to the disk, then moved into place.

    Raises:
        RunError: It cannot be written; what was at `path` is still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise RunError(f"{path}: cannot be written: {error}; make room: the last one is kept") from error
    finally:
        partial.unlink(missing_ok=True)
