"""Stand-in weights: trained, but only to tell manipulations of sample photographs from the photographs.

They make scores that mean something to those who try the software, and nothing on any other image. Whoever serves
them must be told, as with random weights.
"""

from pathlib import Path

import torch

MARKER = "STAND-IN"
"""File beside stand-in checkpoints, whose first line says what they were trained on."""

WARNING = "good for nothing else"

UNMARKED = f"trained on manipulations of sample photographs, {WARNING}"
"""What is said of such weights where the marker is lost."""

POSITIONS = "vision_model.embeddings.position_embeddings"


def write_marker(folder: Path, manipulations: int, photographs: int) -> None:
    """Says in a weights folder what its checkpoints are."""
    line = f"trained on {manipulations} manipulations of {photographs} sample photographs, {WARNING}"
    (folder / MARKER).write_text(f"{line}\n", encoding="utf-8")


def stand_in_note(path: Path, network: torch.nn.Module) -> str:
    """What stand-in weights were trained on; empty for any other weights.

    Known by the marker beside the checkpoint, or by its content: the stand-in bases have no positions, which no
    pretrained DINOv2 lacks.

    Args:
        path: The checkpoint that was read.
        network: What `load_stream` made of it.
    """
    marker = path.parent / MARKER
    if marker.is_file():
        return marker.read_text(encoding="utf-8").partition("\n")[0].strip() or UNMARKED
    positions = network.state_dict().get(POSITIONS)
    return UNMARKED if positions is not None and not positions.any() else ""
