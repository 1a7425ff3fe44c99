"""Which streams early verdicts ask first, and what their last step is given, as the declarations have it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ensemble.decision import late_streams
from ensemble.streams import Stream
from networks.work import asking_tflop


@dataclass(frozen=True)
class Tensor:
    """An input of the step `decision`.

    Attributes:
        name: Of the input.
        kind: Triton's data type.
        dims: Of one image.
        tensor: What it is called in the ensemble.
        zeros: What it is in a warm-up of an image that could not be read.
    """

    name: str
    kind: str
    dims: str
    tensor: str
    zeros: str = "zero_data: true"


def order(streams: Sequence[Stream]) -> tuple[tuple[Stream, ...], tuple[Stream, ...]]:
    """The streams that are asked about every image, and those asked later where that is needed, each in their order."""
    late = late_streams([stream.weight for stream in streams], [asking_tflop(stream) for stream in streams])
    early = tuple(stream for index, stream in enumerate(streams) if index not in late)
    return early, tuple(streams[index] for index in late)


def evidence(streams: Sequence[Stream]) -> Iterator[Tensor]:
    """What `decision` is given: what the early streams said, and what the late ones will have to be shown.

    Faces are searched when a late stream must see one, unless an early stream has seen them all.
    """
    early, late = order(streams)
    for stream in early:
        yield Tensor(stream.logits_name, "TYPE_FP32", "2", f"{stream.name}_logits")
    faces_known = any(stream.sees_face for stream in early)
    for stream in late:
        if faces_known or not stream.sees_face:
            dims = f"{stream.pixels}, {stream.pixels}, 3"
            yield Tensor(stream.pixels_name, "TYPE_UINT8", dims, f"{stream.name}_pixels")
    nothing = 'input_data_file: "nothing"'
    yield Tensor("IMAGE", "TYPE_STRING", "1", "IMAGE", nothing)
    if faces_known:
        yield Tensor("FACE", "TYPE_FP32", "4", "face")
        yield Tensor("FACE_CONFIDENCE", "TYPE_FP32", "1", "face_confidence")
        yield Tensor("FACE_SOURCE", "TYPE_STRING", "1", "face_source", nothing)
    else:
        yield Tensor("DECODED", "TYPE_STRING", "1", "decoded", nothing)
        yield Tensor("BOX", "TYPE_FP32", "4", "box")
    status = "status" if faces_known else "image_status"
    yield Tensor("IMAGE_STATUS", "TYPE_STRING", "1", status, 'input_data_file: "no_image"')
