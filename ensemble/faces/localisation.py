"""From images to the Localized Facial stream's pixels: detect, select, crop (method, face crop)."""

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.faces.crop import crop_face, is_too_small, is_valid_box
from ensemble.faces.detection import Box, FaceDetector
from ensemble.faces.selection import main_face
from ensemble.images import RgbImage, centre, square
from ensemble.streams import LOCAL_FACIAL

SUPPLIED = "supplied"
TOO_SMALL = "too_small"
NONE = "none"
RAW = "raw"


@dataclass(frozen=True)
class FaceLocation:
    """Where the Localized Facial stream looks.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image; None where the whole image is used.
        confidence: The detector's, in [0, 1]; None where nothing was detected.
        source: `supplied`, the name of the attempt that found the face, `too_small`, or `none`.
    """

    box: Box | None
    confidence: float | None
    source: str


def locate_faces(
    images: Sequence[RgbImage], supplied: Sequence[Box | None], detector: FaceDetector
) -> list[FaceLocation]:
    """The main face of each image; a supplied box replaces detection.

    Args:
        images: N images, uint8 [height, width, 3], RGB, each of its own size.
        supplied: N boxes for which `is_valid_box` holds, or None where the face is to be detected.
        detector: Called once, with the images that need it.
    """
    searched = [index for index, box in enumerate(supplied) if box is None]
    found = dict(zip(searched, detector.detect([images[index] for index in searched]), strict=True))
    locations = []
    for index, (image, box) in enumerate(zip(images, supplied, strict=True)):
        height, width = image.shape[:2]
        confidence, source = None, SUPPLIED
        if box is None:
            plausible = [face for face in found[index] if is_valid_box(face.box, height, width)]
            face = main_face(plausible, height, width)
            if face is None:
                locations.append(FaceLocation(None, None, NONE))
                continue
            box, confidence, source = face.box, face.confidence, RAW
        if is_too_small(box, height, width):
            locations.append(FaceLocation(None, confidence, TOO_SMALL))
        else:
            locations.append(FaceLocation(box, confidence, source))
    return locations


def local_pixels(image: RgbImage, location: FaceLocation) -> RgbImage:
    """The Localized Facial stream's input, uint8 [252, 252, 3]: centre of the face crop, or of the whole image."""
    framed = square(image) if location.box is None else crop_face(image, location.box)
    return centre(framed, LOCAL_FACIAL.pixels)
