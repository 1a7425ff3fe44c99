"""`python docs/pictures/framing.py`: draws framing.jpg, what each framing looks at of a 12-megapixel photograph.

The photograph is scikit-image's `astronaut` (public domain, NASA), cut to 4:3 and enlarged to 4000×3000 pixels.
"""

from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from skimage.data import astronaut

from ensemble.contract import FACE_SUPPLIED
from ensemble.faces.crop import MARGIN, frame_face
from ensemble.faces.haar import HaarDetector
from ensemble.faces.localisation import FaceLocation, face_square, main_faces, unless_too_small
from ensemble.faces.restoration import ATTEMPTS
from ensemble.images import FRAMINGS, frame, frame_whole
from ensemble.streams import STREAMS
from forensics.common.plots import COLOURS, STYLE
from forensics.explain.saliency import stream_window

WIDTH, HEIGHT = 4000, 3000
WORDS = {
    "native": "native: the authors' code",
    "square": "square: the default",
    "face": "face: the square around the main face",
}

photograph = np.asarray(cv2.resize(astronaut()[:384, :, :3], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
[face] = main_faces([photograph], [None], HaarDetector(), ATTEMPTS[:1])
assert face.box is not None
cropped = unless_too_small(face, photograph)

with mpl.rc_context(STYLE):
    figure = Figure(figsize=(11, 10.5), layout="constrained")
    grid = figure.add_gridspec(len(FRAMINGS), 1 + len(STREAMS), width_ratios=(1.9, 1, 1, 1))
    for row, framing in enumerate(FRAMINGS):
        native = framing == "native"
        whole, local = frame_whole(photograph, native), face_square(photograph, cropped, native)
        box = cropped.box
        if framing == "face":
            whole, in_frame = frame_face(photograph, face.box)
            local, box = face_square(whole, FaceLocation(in_frame, None, FACE_SUPPLIED)), face.box
        axes = figure.add_subplot(grid[row, 0])
        axes.imshow(cv2.resize(photograph, (1000, 750), interpolation=cv2.INTER_AREA), extent=(0, WIDTH, HEIGHT, 0))
        axes.set_title(WORDS[framing])
        axes.set(xticks=[], yticks=[])
        for column, stream in enumerate(STREAMS, start=1):
            x1, y1, x2, y2 = stream_window(stream, HEIGHT, WIDTH, box, framing, MARGIN)
            style = {"ec": COLOURS[stream.name], "lw": 2.4, "ls": ("-", "--", ":")[column - 1]}
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))
            seen = figure.add_subplot(grid[row, column])
            seen.imshow(frame(local if stream.sees_face else whole, stream))
            seen.set_title(stream.title, color=COLOURS[stream.name])
            share = (x2 - x1) * (y2 - y1) / (WIDTH * HEIGHT)
            seen.set_xlabel(f"{share:.1%} of it, as {stream.pixels}×{stream.pixels} px")
            seen.set(xticks=[], yticks=[])
    figure.savefig(Path(__file__).with_suffix(".jpg"), dpi=80, pil_kwargs={"quality": 85})
