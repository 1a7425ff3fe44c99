"""Score images as they come, in a program that does other things beside it."""

import argparse
import asyncio
from pathlib import Path

from deepfake_client import AsyncDetectorClient

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("images", type=Path, nargs="+")
parser.add_argument("--url", default="localhost:8001", help="HOST:PORT of the server")
options = parser.parse_args()


async def main() -> None:
    """Verdicts come as they are there, none waiting for a slower one before it."""
    async with AsyncDetectorClient(options.url) as client:
        async for verdict in client.score_many(options.images, ordered=False):
            print(verdict.path, verdict.status, verdict.score)


asyncio.run(main())
