"""One image under one sweep, as the deployed models see it: a row of plain numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from degradation import Sweep
from ensemble import status
from ensemble.faces.detection import Box
from ensemble.images import ImageError, RgbImage
from ensemble.streams import STREAMS
from forensics.common.attention import attention_entropy, cosine
from forensics.common.errors import ForensicsError
from forensics.common.inspection import Inspection
from forensics.common.pixels import encode_png, image_seed, read_pixels

NO_FACE: Box = (0.0, 0.0, 1.0, 1.0)
"""Supplied as a face box, it is too small to be cropped, so that the whole image is used."""

Degrade = Literal["file", "streams"]
"""What is degraded: the file, as a user would see it, in which the face is found again; or each stream's own pixels, as
the paper's scripts do, with the face crop taken from the clean image."""


class Looker(Protocol):
    """What is asked of an `Inspector`."""

    def inspect(self, images: Sequence[bytes], boxes: Sequence[Box | None] | None = None) -> list[Inspection]: ...

    def inspect_pixels(self, clean: Inspection, pixels: Sequence[Mapping[str, RgbImage]]) -> list[Inspection]: ...


def measure(
    path: Path, sweep: Sweep, seed: int, degrade: Degrade, keep_face: bool, inspector: Looker
) -> dict[str, Any]:
    """Looks at one image, clean and at every level of a sweep.

    Args:
        path: The image.
        sweep: The sweep.
        seed: Of the study (`image_seed`).
        degrade: What is degraded. Only files of more than a megapixel are reduced first.
        keep_face: Of files: whether the face of the clean image is used at every level, instead of being found anew.
        inspector: Asks the models.

    Returns:
        `status`; where that is `ok`, `clean` and, in the order of the sweep, `levels`: the measures of each image.
    """
    try:
        data = path.read_bytes()
        image = read_pixels(data) if degrade == "file" else None
    except OSError as error:
        return {"status": "unreadable_file", "error": error.strerror or str(error)}
    except ImageError as error:
        return {"status": error.status, "error": str(error)}
    own = image_seed(data, seed)
    clean = inspector.inspect([data if image is None else encode_png(image)])[0]
    if clean.status != status.OK:
        return {"status": clean.status}
    if image is None:
        shown = {name: each.pixels for name, each in clean.streams.items()}
        pixels = [{name: sweep.apply(each, level, own) for name, each in shown.items()} for level in sweep.levels]
        degraded = inspector.inspect_pixels(clean, pixels)
    else:
        boxes = [clean.face or NO_FACE] * len(sweep.levels) if keep_face else None
        degraded = inspector.inspect([encode_png(sweep.apply(image, level, own)) for level in sweep.levels], boxes)
    failed = [each.status for each in degraded if each.status != status.OK]
    if failed:
        return {"status": failed[0]}
    return {
        "status": status.OK,
        "clean": _measures(clean, clean),
        "levels": [_measures(each, clean) for each in degraded],
    }


def _measures(inspection: Inspection, clean: Inspection) -> dict[str, Any]:
    dino = dino_width(inspection)
    streams = {}
    for stream in STREAMS:
        now, before = inspection.streams[stream.name], clean.streams[stream.name]
        streams[stream.name] = {
            "probability": now.probability,
            "vote": now.vote,
            "cosine": cosine(now.features[:dino], before.features[:dino]),
            "entropy": attention_entropy(now.attention),
        }
    return {
        "score": inspection.score,
        "probability": inspection.probability,
        "face": inspection.face,
        "face_source": inspection.face_source,
        "streams": streams,
    }


def dino_width(inspection: Inspection) -> int:
    """Channels of DINOv2 among the features: those of a stream that has nothing else; all streams share its size.

    Raises:
        ForensicsError: They do not.
    """
    widths = {len(inspection.streams[stream.name].features) for stream in STREAMS if not stream.has_clip}
    fused = [len(inspection.streams[stream.name].features) for stream in STREAMS if stream.has_clip]
    width = min(widths)
    if len(widths) > 1 or any(width >= each for each in fused):
        raise ForensicsError(
            f"the streams' DINOv2 differ in size (features of {sorted(widths)}, fused {fused}), so which of the fusion "
            "stream's features are DINOv2's is not known"
        )
    return width
