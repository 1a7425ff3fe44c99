"""Score the frames of a video that lie in a folder, and say what the video comes to.

For video files there is `deepfake-client score clip.mp4`, which finds the worst seconds: docs/how-to/videos.md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from deepfake_client import DetectorClient, Item

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path, help="frames, whose names sort in time")
parser.add_argument("--url", default="localhost:8001", help="HOST:PORT of the server")
options = parser.parse_args()


def frames() -> Iterator[Item]:
    """One at a time: a video of hours must not be in memory as a whole."""
    for number, path in enumerate(sorted(options.folder.glob("*.png"))):
        yield Item(f"{options.folder.name}#{number}", path.read_bytes())


with DetectorClient(options.url) as client:
    scored = [verdict for verdict in client.score_many(frames()) if verdict.status == "ok"]

if not scored:
    raise SystemExit(f"{options.folder}: no frame could be scored")
mean = sum(verdict.probability for verdict in scored) / len(scored)
without_face = sum(verdict.face.box is None for verdict in scored)
print(
    f"{options.folder}: probability of a fake {mean:.3f}, mean of {len(scored)} frames, {without_face} without a face"
)
