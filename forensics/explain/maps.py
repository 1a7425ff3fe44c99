"""Score-CAM of images, from the very checkpoints that the server runs; maps are kept, so that a stopped run goes on."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

from ensemble.images import RgbImage
from ensemble.streams import STREAMS, Stream
from forensics.common.errors import ForensicsError
from forensics.common.inspection import Inspection
from forensics.common.progress import progress
from forensics.common.scoring.server import Server
from forensics.explain.saliency import Map
from forensics.explain.score_cam import forwards, score_cam
from networks import StreamNetwork, WeightsError, load_stream
from networks.weights.manifest import sha256_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def checked_checkpoints(weights: Path, server: Server) -> dict[Stream, tuple[Path, str]]:
    """The checkpoint of every stream and its SHA-256, held against those that the server says it runs.

    Raises:
        ForensicsError: One is missing, or is another file than the server's.
    """
    checkpoints = {stream: _find_checkpoint(weights, stream) for stream in STREAMS}
    served = (server.provenance or {}).get("streams", {})
    checked = {}
    for stream, path in checkpoints.items():
        sha256 = sha256_of(path)
        if stream.name in served and served[stream.name]["sha256"] != sha256:
            raise ForensicsError(
                f"{path} is not the checkpoint that the server runs: its SHA-256 is {sha256[:16]}…, the server's "
                f"{served[stream.name]['sha256'][:16]}…; give the folder it was exported from, or export again"
            )
        checked[stream] = path, sha256
    return checked


def _find_checkpoint(weights: Path, stream: Stream) -> Path:
    path = weights / stream.checkpoint
    found = [each for each in (path, path.with_suffix(".safetensors")) if each.is_file()]
    if len(found) != 1:
        state = f"holds both {found[0].name} and {found[1].name}" if found else f"has no {path.name}"
        raise ForensicsError(f"{weights} {state}; give the folder of checkpoints that the server was exported from")
    return found[0]


def score_cam_maps(
    inspections: Sequence[Inspection],
    checkpoints: dict[Stream, tuple[Path, str]],
    folder: Path,
    batch_size: int,
) -> list[dict[str, Map]]:
    """Computes the maps of every stream of every image, one network in memory at a time.

    Args:
        inspections: The images, with status `ok`.
        checkpoints: As `checked_checkpoints` gives them.
        folder: Holds the finished maps; those that it has are not computed again.
        batch_size: Masked images in one forward.

    Returns:
        For each image, its maps by stream: float32 [S, S] in [0, 1].

    Raises:
        ForensicsError: A checkpoint cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maps: list[dict[str, Map]] = [{} for _ in inspections]
    estimated = False
    for stream in STREAMS:
        path, sha256 = checkpoints[stream]
        shown = [each.streams[stream.name].pixels for each in inspections]
        files = [folder / f"{stream.name}-{_key(pixels, sha256)}.npy" for pixels in shown]
        missing = {file: pixels for file, pixels in zip(files, shown, strict=True) if not file.exists()}
        if missing:
            network = _load(stream, path)
            count = forwards(network) * len(missing)
            if not estimated:
                _tell_time(network, stream, batch_size, count, len(STREAMS) - STREAMS.index(stream))
                estimated = True
            with progress(f"Score-CAM, {stream.title}", count, "forwards") as advance:
                for file, pixels in missing.items():
                    _keep(file, score_cam(network, pixels, batch_size=batch_size, advance=advance))
            del network  # its weights, before the next ones are read
        for row, file in zip(maps, files, strict=True):
            row[stream.name] = np.load(file)
    return maps


def _load(stream: Stream, path: Path) -> StreamNetwork:
    try:
        return load_stream(stream, path).to(DEVICE)
    except WeightsError as error:
        raise ForensicsError(str(error)) from error


def _tell_time(network: StreamNetwork, stream: Stream, batch_size: int, count: int, streams: int) -> None:
    """Says how long it will take, from a batch; the first forward, which also reads the weights, does not count."""
    pixels = torch.zeros(batch_size, stream.pixels, stream.pixels, 3, device=DEVICE)
    with torch.inference_mode():
        network(pixels[:1])
        start = time.perf_counter()
        network(pixels)[0].cpu()  # which waits for a GPU to be done
    seconds = (time.perf_counter() - start) / batch_size * count * streams
    click.echo(
        f"Score-CAM: {count} forwards in each of {streams} streams, {_in_words(seconds)} on this machine; "
        "Ctrl-C stops, finished maps are kept",
        err=True,
    )


def _in_words(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds > 1.5 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {max(1, round(seconds))} seconds"


def _key(pixels: RgbImage, sha256: str) -> str:
    return hashlib.sha256(sha256.encode() + pixels.tobytes()).hexdigest()[:24]


def _keep(file: Path, saliency: Map) -> None:
    partial = file.with_name(f".{file.name}.partial.npy")
    np.save(partial, saliency)
    partial.replace(file)
