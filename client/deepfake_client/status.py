"""What each status means and what mends it, in plain words."""

STATUS_HINTS = {
    # from the server
    "unreadable_image": "the image is damaged; export or download it again",
    "truncated_image": "the file ends before the image does; export or download it again",
    "unsupported_format": "not an image that the server reads; convert it to JPEG, PNG, WebP, BMP or TIFF",
    "too_many_bytes": "the file is over the server's size limit; compress it",
    "too_many_pixels": "the image is over the server's pixel limit; resize it",
    "too_elongated": "the image is too long for its width; crop it around the face",
    "empty_image": "the file holds no bytes; export or download it again",
    "invalid_face_box": "the face box must be x1 < x2, y1 < y2 in pixels, and on the image; correct it or leave it out",
    "non_finite_logits": "a network gave NaN or infinity; check the exported models (fp16 overflow?)",
    # from this client
    "unreadable_file": "the file could not be read; check its path and permissions",
    "unreadable_video": "the video is damaged, or of a kind that is not read; convert it to H.264 in an MP4 file",
    "no_pictures": "the file has sound only; give a video",
    "server_died": "the server died each time it had this image; keep the image, and report it with the server's log",
    "request_failed": "the server did not answer the request; see its error and the server's log",
}
"""Explanation and fix of each `Verdict.status` other than "ok"."""


def explain(status: str) -> str:
    """The explanation of a status with its fix; an unknown status is returned as it is."""
    return STATUS_HINTS.get(status, status)
