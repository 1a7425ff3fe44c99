"""Score a folder with several requests in flight, and print the images that are most likely fake."""

import argparse
from pathlib import Path

from deepfake_client import DetectorClient

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--url", action="append", help="HOST:PORT of a server; may be given several times")
parser.add_argument("--most", type=int, default=5)
options = parser.parse_args()

verdicts = []
with DetectorClient(options.url or ["localhost:8001"], batch_size=32, max_in_flight=8) as client:
    for verdict in client.score_many(sorted(options.folder.rglob("*.png"))):
        if verdict.status == "ok":
            verdicts.append(verdict)
        else:
            print(f"{verdict.path}: {verdict.status}")

for verdict in sorted(verdicts, key=lambda each: each.probability, reverse=True)[: options.most]:
    print(f"{verdict.probability:.3f}  {verdict.score}  {verdict.path}")
