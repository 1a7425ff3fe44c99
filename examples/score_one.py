"""Score one image, and say why the verdict is what it is."""

import argparse
from pathlib import Path

from deepfake_client import DetectorClient, explain

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image", type=Path)
parser.add_argument("--url", default="localhost:8001", help="HOST:PORT of the server")
options = parser.parse_args()

with DetectorClient(options.url) as client:
    verdict = client.score(options.image)

if verdict.status != "ok":
    raise SystemExit(f"{options.image}: {verdict.status}: {explain(verdict.status)}")
print(f"{options.image}: {verdict.verdict}, score {verdict.score}, probability of a fake {verdict.probability:.3f}")
for name, stream in verdict.streams.items():
    print(f"  {name}: probability {stream.probability:.3f}, vote {stream.vote}")
print(f"  face: {verdict.face.source}, box {verdict.face.box}")
