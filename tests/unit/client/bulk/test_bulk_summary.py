"""What a bulk run shows: progress while it lasts, and its summary."""

import hashlib
import json
import re
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from deepfake_client.balancing.latencies import Latencies
from hypothesis import given
from hypothesis import strategies as st

from tests.bulk import COMMAND, make_images, rows_of, score
from tests.fakes.triton import FakeTriton, hang, serving, untrained
from tests.unit.client.test_client_cli import on_terminal


@given(st.lists(st.floats(1e-6, 1e4), min_size=1), st.floats(0.01, 1))
def test_latencies_are_right_within_one_percent(times: list[float], share: float) -> None:
    latencies = Latencies()
    for time in times:
        latencies.add(time)
    quantile = latencies.quantile(share)
    assert quantile == pytest.approx(float(np.quantile(times, share, method="inverted_cdf")), rel=0.0101)


def test_no_latencies_have_no_quantile() -> None:
    assert Latencies().quantile(0.5) is None


@pytest.mark.usefixtures("whole_batches")
def test_summary_tells_speed_failures_and_latencies(server: FakeTriton, tmp_path: Path) -> None:
    server.fault = hang(0.2)
    make_images(tmp_path / "x", 16)
    (tmp_path / "x" / "bad.jpg").write_bytes(b"status:unreadable_image")
    told = score(server.url, tmp_path / "x", tmp_path / "gone.jpg", "-o", tmp_path / "scores.csv").stderr
    assert re.search(r"scored 16 of 18 images in [0-9.]+ s \([0-9.]+ images/s\)", told)
    assert "not scored: 1 unreadable_image, 1 unreadable_file" in told
    shown = re.search(rf"requests to {server.url}: 3 answered, p50 ([0-9.]+) s, p95 ([0-9.]+) s", told)
    assert shown is not None
    assert all(0.19 < float(value) < 190 for value in shown.groups())  # no milliseconds


def progress(server: FakeTriton, arguments: str, output: Path) -> str:
    command = f"{shlex.join(COMMAND)} {arguments} --url {server.url} -o {output}"
    code, shown = on_terminal(["/bin/bash", "-c", command])
    assert code == 0, shown
    return shown


def test_total_counts_shards_and_lists(server: FakeTriton, tmp_path: Path) -> None:
    paths = make_images(tmp_path / "x", 5)
    with tarfile.open(tmp_path / "s.tar", "w") as tar, tarfile.open(tmp_path / "s.tar.gz", "w:gz") as packed:
        for path in paths:
            tar.add(path, path.name)
            packed.add(path, path.name)
    (tmp_path / "list.txt").write_text(f"{paths[0]}\n")
    server.fault = hang(1.5)  # they are counted meanwhile
    assert "11/11" in progress(server, f"{tmp_path}/x {tmp_path}/s.tar -l {tmp_path}/list.txt", tmp_path / "a.csv")
    assert "5/?" in progress(server, f"{tmp_path}/s.tar.gz", tmp_path / "b.csv")


def test_list_from_a_pipe_is_read_once(server: FakeTriton, tmp_path: Path) -> None:
    make_images(tmp_path / "x", 200)
    server.fault = hang(0.02)
    shown = progress(server, f"-l <(find {tmp_path}/x -name '*.jpg')", tmp_path / "a.jsonl")
    assert "200/?" in shown
    assert len({row["path"] for row in rows_of(tmp_path / "a.jsonl")}) == 200


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_beside_the_rows_says_what_gave_them(tmp_path: Path, kind: str) -> None:
    with serving() as server:
        server.provenance = untrained()
        images = make_images(tmp_path / "images", 20)
        (tmp_path / "images" / "gone.jpg").symlink_to("nowhere")
        output = tmp_path / f"rows.{kind}"
        result = score(server.url, tmp_path / "images", "--sha256", "--output", output)
    assert "21 inputs, 21 rows" in result.stderr
    beside = json.loads((tmp_path / f"rows.{kind}.run.json").read_text())
    assert (beside["inputs"], beside["rows"], beside["complete"]) == (21, 21, True)
    assert beside["weights"]["state"] == "untrained"
    assert beside["weights"]["identity"]
    assert {"client", "server", "calibration", "threshold", "framing", "started", "finished"} <= set(beside)
    digests = {row["path"]: row.get("sha256") for row in rows_of(output)}
    for path in images:
        assert digests[str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()
