"""Which of several faces an image is judged by (method, face crop, step 3)."""

from collections.abc import Sequence

from ensemble.faces.detection import Detection

CLEAR_LEAD = 0.02
"""Lead in confidence from which the best detection is taken whatever its place and size."""


def main_face(detections: Sequence[Detection], height: int, width: int) -> Detection | None:
    """The face that the Localized Facial stream looks at.

    The most confident detection where its lead is clear; else, of those that contain the image centre, the largest;
    else the one whose centre is nearest to the image centre. Of equal confidences or areas the detection with the
    greatest key name wins; of equal distances the first one.

    Args:
        detections: In the detector's order, by falling confidence.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        One of the detections, or None where there is none.
    """
    if not detections:
        return None
    # The reference's keys are compared as text: of face_1, face_10 and face_2 the last is the greatest.
    keyed = [(f"face_{number}", face) for number, face in enumerate(detections, start=1)]
    best, *others = [face for _, face in sorted(keyed, key=lambda item: (item[1].confidence, item[0]), reverse=True)]
    if not others or best.confidence - others[0].confidence >= CLEAR_LEAD:
        return best
    x, y = width / 2, height / 2
    central = [
        (key, face) for key, face in keyed if face.box[0] <= x <= face.box[2] and face.box[1] <= y <= face.box[3]
    ]
    if central:
        return max(central, key=lambda item: (_area(item[1]), item[0]))[1]
    return min(detections, key=lambda face: _squared_distance(face, x, y))


def _area(face: Detection) -> float:
    x1, y1, x2, y2 = face.box
    return (x2 - x1) * (y2 - y1)


def _squared_distance(face: Detection, x: float, y: float) -> float:
    x1, y1, x2, y2 = face.box
    return float(((x1 + x2) / 2 - x) ** 2 + ((y1 + y2) / 2 - y) ** 2)
