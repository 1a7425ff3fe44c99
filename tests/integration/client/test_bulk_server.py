"""Bulk scoring on the real server: killed again and again, every image has one row with the right score."""

import random
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from deepfake_client import DetectorClient
from PIL import Image

from tests.bulk import COMMAND, rows_of, run_killed
from tests.conftest import Server
from tests.golden import ROOT

pytestmark = [pytest.mark.server, pytest.mark.slow]

GOLDEN = ROOT / "tests" / "golden" / "images"


def make_crops(folder: Path, count: int) -> list[tuple[str, bytes]]:
    """Different pieces of the golden images, as PNG, each with its name."""
    sources = [Image.open(path).convert("RGB") for path in sorted(GOLDEN.glob("*.png"))]
    chance = random.Random(0)
    crops = []
    for n in range(count):
        source = sources[n % len(sources)]
        side = chance.randint(40, 120)
        left, top = chance.randint(0, source.width - side), chance.randint(0, source.height - side)
        file = BytesIO()
        source.crop((left, top, left + side, top + side)).save(file, "PNG")
        crops.append((str(folder / f"{n:04d}.png"), file.getvalue()))
    return crops


@pytest.mark.parametrize(("kind", "order"), [("jsonl", []), ("parquet", ["--unordered"])])
def test_killed_runs_give_every_image_its_score(server: Server, tmp_path: Path, kind: str, order: list[str]) -> None:
    (tmp_path / "x").mkdir()
    images = make_crops(tmp_path / "x", 160)
    for path, data in images:
        Path(path).write_bytes(data)
    with DetectorClient(server.url) as client:
        verdicts = client.score_many((data, (4.0, 4.0, 36.0, 36.0)) for _, data in images)
        right = Counter((path, v.score, v.probability) for (path, _), v in zip(images, verdicts, strict=True))
    boxes = tmp_path / "boxes.csv"
    lines = ["path,face_x1,face_y1,face_x2,face_y2", *(f"{path},4,4,36,36" for path, _ in images)]
    boxes.write_text("\n".join(lines))
    output = tmp_path / f"scores.{kind}"
    options = ["--list", str(boxes), "--face-boxes", "--url", server.url, "--output", str(output), "--in-flight", "2"]
    assert run_killed([*COMMAND, *options, *order], random.Random(kind), 3) >= 1
    assert Counter((row["path"], row["score"], row["probability"]) for row in rows_of(output)) == right
