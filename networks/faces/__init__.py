"""Networks of the face crop: RetinaFace, and GFPGAN with what aligns and parses its faces."""

DETECTOR = "face_detector"
ALIGNER = "face_aligner"
RESTORER = "face_restorer"
"""Of the models in the Triton repository."""

FACE_MODELS = (DETECTOR, ALIGNER, RESTORER)
"""Models that are there only where their weights were."""
