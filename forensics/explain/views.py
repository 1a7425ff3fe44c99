"""Single verdicts explained: what each stream saw, where it looked, and how the votes add up; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ensemble import contract
from ensemble.faces.crop import MARGIN
from ensemble.faces.detection import Box
from ensemble.images import RgbImage
from ensemble.streams import STREAMS, Stream
from forensics.common.attention import side_of
from forensics.common.inspection import Inspection
from forensics.explain.saliency import (
    Drift,
    Map,
    Mass,
    drift,
    entropy,
    mass_of,
    outside_share,
    stream_window,
    to_patches,
    unit_scaled,
)


@dataclass(frozen=True)
class StreamView:
    """Where one stream looked at one image.

    Attributes:
        stream: The stream.
        probability: Probability of fake.
        vote: The same, rounded as it enters the vote.
        saliency: float32 [n, n] in [0, 1], over `window`, to be looked at.
        mass: Over the patches, summing to 1; None where nothing is salient.
        window: What the stream saw: x1, y1, x2, y2 in pixels of the image.
        entropy: Of the mass over the patches, in nats; None where nothing is salient.
        outside_face: Share of the mass outside the face box; None where there is no face or nothing is salient.
        drift: Against the clean image; None for that itself, or where nothing is salient in one of them.
    """

    stream: Stream
    probability: float
    vote: float
    saliency: Map
    mass: Mass | None
    window: Box
    entropy: float | None
    outside_face: float | None
    drift: Drift | None


@dataclass(frozen=True)
class View:
    """One image with what the ensemble made of it.

    Attributes:
        title: `clean`, or the degradation.
        image: uint8 [height, width, 3], RGB.
        score: The vote.
        probability: Weighted mean of the streams before any rounding.
        face: Box of the face used; None where the whole image was.
        face_source: Where the box comes from.
        streams: In the order of `STREAMS`.
    """

    title: str
    image: RgbImage
    score: float
    probability: float
    face: Box | None
    face_source: str
    streams: Sequence[StreamView]


def attention_maps(inspection: Inspection) -> dict[str, Map]:
    """The last block's attention of every stream as maps, float32 [N, N], by name."""
    maps = {}
    for name, each in inspection.streams.items():
        side = side_of(len(each.attention))
        maps[name] = each.attention.reshape(side, side)
    return maps


def view(
    title: str,
    image: RgbImage,
    inspection: Inspection,
    maps: Mapping[str, Map],
    clean: View | None = None,
    framing: tuple[str, float] = ("square", MARGIN),
) -> View:
    """Puts an inspection and the maps of its streams together.

    Args:
        title: What the image is.
        image: The image that was inspected.
        inspection: With status `ok`.
        maps: Of every stream, none negative: over its patches, or over its pixels.
        clean: The clean image, where this one is degraded: its face is taken for the true one.
        framing: Of the server, with its face margin.
    """
    height, width = image.shape[:2]
    face = clean.face if clean is not None and clean.face is not None else inspection.face
    befores = [None] * len(STREAMS) if clean is None else clean.streams
    streams = []
    for stream, before in zip(STREAMS, befores, strict=True):
        seen, saliency = inspection.streams[stream.name], maps[stream.name]
        mass = mass_of(to_patches(saliency, side_of(len(seen.attention))))
        window = stream_window(stream, height, width, inspection.face, *framing)
        moved = None
        if mass is not None and before is not None and before.mass is not None:
            moved = drift(before.mass, before.window, mass, window)
        streams.append(
            StreamView(
                stream=stream,
                probability=seen.probability,
                vote=seen.vote,
                saliency=unit_scaled(saliency),
                mass=mass,
                window=window,
                entropy=None if mass is None else entropy(mass),
                outside_face=None if mass is None or face is None else outside_share(mass, window, face),
                drift=moved,
            )
        )
    score, probability = inspection.score, inspection.probability
    return View(title, image, score, probability, inspection.face, inspection.face_source, streams)


def describe_face(view: View) -> str:
    """Which face the Localized Facial stream looked at, in words."""
    match view.face_source:
        case contract.FACE_NONE:
            return "no face found: the whole image is used"
        case contract.FACE_TOO_SMALL:
            return "face too small: the whole image is used"
        case contract.FACE_SUPPLIED:
            return "face supplied"
        case attempt:
            return f"face found (attempt {attempt})"


def arithmetic(view: View, weights: Sequence[float]) -> str:
    """How the votes add up to the score, as a line."""
    used = [(weight, each.vote) for weight, each in zip(weights, view.streams, strict=True)]
    total = sum(weights)
    mean = sum(weight * vote for weight, vote in used) / total
    products = " + ".join(f"{weight:g} · {vote:g}" for weight, vote in used)
    return f"({products}) / {total:g} = {round(mean, 4):g}, rounded: {view.score:g}"


def to_dict(view: View, weights: Sequence[float]) -> dict[str, Any]:
    """The numbers of a view as plain JSON values."""
    return {
        "title": view.title,
        "score": view.score,
        "probability": view.probability,
        "face": None if view.face is None else list(view.face),
        "face_source": view.face_source,
        "streams": {
            each.stream.name: {
                "probability": each.probability,
                "vote": each.vote,
                "weight": weight,
                "window": list(each.window),
                "entropy": each.entropy,
                "outside_face": each.outside_face,
                "drift": None if each.drift is None else asdict(each.drift),
            }
            for weight, each in zip(weights, view.streams, strict=True)
        },
    }
