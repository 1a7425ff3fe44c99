"""What goes into the graphs and comes out of them."""

from dataclasses import dataclass

from ensemble.faces import retinaface
from ensemble.faces.gfpgan import ALIGNER_INPUT, ALIGNER_OUTPUTS, FACE_SIDE, RESTORER_INPUT, RESTORER_OUTPUTS
from ensemble.streams import Stream

INPUT = "PIXELS"
OUTPUTS = ("LOGITS", "FEATURES", "ATTENTION")
"""Of the streams."""


@dataclass(frozen=True)
class Interface:
    """What a graph takes and gives.

    Attributes:
        input: Name of the pixels, uint8 [batch, height, width, 3].
        outputs: Names of the outputs; each has the batch as its first axis.
        height: Of the images that the network is traced with.
        width: Of the same.
        any_size: Whether height and width are free.
        free_outputs: Outputs [batch, N] whose N is free in the graph (`export.onnx.free_outputs`).
    """

    input: str
    outputs: tuple[str, ...]
    height: int
    width: int
    any_size: bool = False
    free_outputs: tuple[str, ...] = ()


def stream_interface(stream: Stream) -> Interface:
    """Give a stream's interface.

    PIXELS uint8 [batch, pixels, pixels, 3] → LOGITS float32 [batch, 2], FEATURES float32 [batch, D], ATTENTION float32
    [batch, patches]; what they are, `networks.StreamNetwork.forward` says. D and patches are free in the graph, as
    config.pbtxt has them.
    """
    return Interface(INPUT, OUTPUTS, stream.pixels, stream.pixels, free_outputs=OUTPUTS[1:])


DETECTOR_INTERFACE = Interface(retinaface.INPUT, retinaface.OUTPUTS, 75, 101, any_size=True)
"""Of RetinaFace: `OUTPUTS` float32 [batch, rows, columns, channels] (`ensemble.faces.retinaface`)."""

ALIGNER_INTERFACE = Interface(ALIGNER_INPUT, ALIGNER_OUTPUTS, 75, 101, any_size=True)
RESTORER_INTERFACE = Interface(RESTORER_INPUT, RESTORER_OUTPUTS, FACE_SIDE, FACE_SIDE)
"""Of GFPGAN (`ensemble.faces.gfpgan`)."""
