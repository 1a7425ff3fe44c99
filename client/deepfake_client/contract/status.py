"""Values of the `STATUS` output: `ok`, or why an image has no score."""

OK = "ok"

EMPTY_IMAGE = "empty_image"
TOO_MANY_BYTES = "too_many_bytes"
UNSUPPORTED_FORMAT = "unsupported_format"
UNREADABLE_IMAGE = "unreadable_image"
TRUNCATED_IMAGE = "truncated_image"
TOO_MANY_PIXELS = "too_many_pixels"
TOO_ELONGATED = "too_elongated"
INVALID_FACE_BOX = "invalid_face_box"
NON_FINITE_LOGITS = "non_finite_logits"
