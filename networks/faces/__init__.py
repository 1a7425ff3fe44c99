"""Networks of the face crop: RetinaFace, and GFPGAN with what aligns and parses its faces."""

from ensemble.faces.served import FACE_ALIGNER as ALIGNER
from ensemble.faces.served import FACE_DETECTOR as DETECTOR
from ensemble.faces.served import FACE_RESTORER as RESTORER

FACE_MODELS = (DETECTOR, ALIGNER, RESTORER)
"""Models that are there only where their weights were."""

__all__ = ["ALIGNER", "DETECTOR", "FACE_MODELS", "RESTORER"]
