"""Whether saliency falls on what was manipulated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from deepfake_client import DetectorClient

from benchmarks.common.serving import Endpoint
from ensemble.faces.crop import crop_face
from ensemble.images.framing import frame
from ensemble.streams import LOCAL_FACIAL, STREAMS, Stream
from forensics.common.inspection import Inspection, Inspector
from forensics.common.scoring.server import ask_server
from forensics.explain.maps import checked_checkpoints, score_cam_maps
from forensics.explain.saliency import Map
from forensics.explain.views import attention_maps


def measure_saliency(server: Endpoint, test: Path, own: Path, cams: int) -> dict[str, dict[str, Any]]:
    """Share of a map's mass inside the mask, beside the mask's share of the area, over the fakes of the test."""
    paths = sorted((test / "fake").glob("*.png"))
    with Inspector(server.url, batch_size=2) as inspector:
        inspections = inspector.inspect([path.read_bytes() for path in paths])
    masks = [cv2.imread(str(test / "masks" / path.name), cv2.IMREAD_GRAYSCALE) for path in paths]
    shares = {"attention": _shares([attention_maps(each) for each in inspections], inspections, masks)}
    chosen = list(range(0, len(paths), max(1, len(paths) // cams)))[:cams]
    with DetectorClient(server.url) as client:
        checkpoints = checked_checkpoints(own / "weights", ask_server(client))
    some = [inspections[index] for index in chosen]
    maps = score_cam_maps(some, checkpoints, own / "maps", 8)
    shares["score-cam"] = _shares(maps, some, [masks[index] for index in chosen])
    return shares


def _shares(
    maps: Sequence[Mapping[str, Map]], inspections: Sequence[Inspection], masks: Sequence[Any]
) -> dict[str, dict[str, float]]:
    found = {}
    for stream in STREAMS:
        pairs = [
            _inside(row[stream.name], _framed(mask, inspection, stream))
            for row, inspection, mask in zip(maps, inspections, masks, strict=True)
            if row[stream.name].sum() > 0
        ]
        inside, chance = np.array(pairs).T
        rng = np.random.default_rng(0)
        draws = rng.integers(len(pairs), size=(1000, len(pairs)))
        low, high = np.quantile(inside[draws].mean(axis=1) / chance[draws].mean(axis=1), (0.025, 0.975))
        found[stream.name] = {
            "inside": float(inside.mean()),
            "chance": float(chance.mean()),
            "ratio": float(inside.mean() / chance.mean()),
            "low": float(low),
            "high": float(high),
            "images": len(pairs),
        }
    return found


def _framed(mask: Any, inspection: Inspection, stream: Stream) -> Any:
    """The mask as the stream was shown the image."""
    whole = np.repeat(mask[..., None], 3, axis=2)
    if stream.name == LOCAL_FACIAL.name and inspection.face is not None:
        whole = crop_face(whole, inspection.face)
    return frame(whole, stream)[..., 0].astype(np.float64) / 255


def _inside(saliency: Map, mask: Any) -> tuple[float, float]:
    small = cv2.resize(mask, saliency.shape[::-1], interpolation=cv2.INTER_AREA)
    return float((saliency * small).sum() / saliency.sum()), float(small.mean())
