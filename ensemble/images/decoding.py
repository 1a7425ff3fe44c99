"""From a still image file to pixels by OpenCV, as the method decodes; what the decoders say of it is listened to.

OpenCV reports success for images that its decoders had to make up in part: libjpeg paints what is missing grey, libtiff
leaves out rows. Both say so on standard error, and nowhere else.
"""

import re
from collections.abc import Callable

import cv2
import numpy as np

from ensemble import status
from ensemble.images.errors import ImageError
from ensemble.images.framing import RgbImage
from ensemble.images.headers import jpeg, tiff

_MISSING = "premature end"
_JPEG_DAMAGE = re.compile(r"bad Huffman code|bad arithmetic code|instead of RST")
_TIFF_DAMAGE = re.compile(
    r"Not enough data|Read error|Decoding error|Error at scanline|Discarding \d+|Premature EOL|Bad code word|Corrupt"
    r"|not yet in table|Line length mismatch|Uncompressed data|Zlib error"
)
_PADDING = bytes(range(3, 251, 4))
"""What a JPEG's pixels are padded with to see whether any were missing: bytes that decode to something, no 0xFF."""

Canvas = tuple[int, int, int, int]
"""Width and height of an animation's canvas, and x and y of its first frame on it, in pixels."""


def decode_still(still: bytes, canvas: Canvas | None, heard: Callable[[], str]) -> RgbImage:
    """Decodes a still image: EXIF orientation applied where OpenCV does, alpha dropped, grey to three channels.

    Args:
        still: As `Header.still`.
        canvas: Where the image lies on a larger, black one; None where it is the whole.
        heard: What was written to standard error since it was last called.

    Returns:
        BGR, uint8 [height, width, 3].

    Raises:
        ImageError: `truncated_image` or `unreadable_image` where OpenCV gives no image, or its decoders say that they
            made up pixels that the file does not hold.
    """
    bgr = _imdecode(still)
    said = heard()
    is_jpeg = still.startswith(jpeg.SIGNATURE)
    if is_jpeg:
        # libjpeg tells its first complaint alone: a harmless one may hide a missing end. And the arithmetic decoder
        # never complains. Pixels that stay the same when more bytes follow each part were not missing.
        missing = _MISSING in said
        if not missing and (said or jpeg.is_arithmetic(still)):
            missing = not np.array_equal(bgr, _imdecode(jpeg.with_padded_scans(still, _PADDING)))
            heard()
        if missing:
            raise ImageError(
                status.TRUNCATED_IMAGE, "pixels are missing before the JPEG's end marker; fetch the file again"
            )
    damages = _JPEG_DAMAGE if is_jpeg else _TIFF_DAMAGE if still.startswith(tiff.SIGNATURES) else None
    if damages and (damage := damages.search(said)):
        raise ImageError(status.UNREADABLE_IMAGE, f"the pixels are damaged ({damage.group()}); fetch the file again")
    if canvas is None:
        return bgr
    width, height, x, y = canvas
    whole = np.zeros((height, width, 3), np.uint8)
    whole[y : y + bgr.shape[0], x : x + bgr.shape[1]] = bgr
    return whole


def _imdecode(still: bytes) -> RgbImage:
    try:
        bgr = cv2.imdecode(np.frombuffer(still, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(status.UNREADABLE_IMAGE, f"cannot be decoded: {error.err}") from error
    if bgr is None:
        raise ImageError(status.UNREADABLE_IMAGE, "cannot be decoded; the file is damaged or of an unusual kind")
    return bgr.astype(np.uint8, copy=False)
