"""`python -m forensics evaluate` on photographs with labels made up, through the real server."""

import json
import re
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from deepfake_client import DetectorClient

from forensics.__main__ import main
from forensics.common.dataset import read_dataset
from forensics.common.metrics import roc_auc
from tests.conftest import Server
from tests.fakes.triton import hang, serving
from tests.photographs import write_photographs

COMMAND = [sys.executable, "-m", "forensics", "evaluate"]


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.mark.server
def test_report_of_photographs(server: Server, tmp_path: Path) -> None:
    data = write_photographs(tmp_path / "data", 32)
    (data / "fake" / "broken.png").write_bytes(b"no image")
    output = tmp_path / "out"
    done = evaluate(data, "--url", server.url, "--output", output, "--resamples", 100)
    assert done.exit_code == 0, done.stderr
    assert "UNTRAINED" in done.stderr
    said = " ".join(done.stdout.split())
    for part in ("16 real and 16 fake images", "1 more could not be scored", "broken.png", "Vote", "Rounding costs"):
        assert part in said
    assert "these numbers mean nothing" in done.stdout

    report = json.loads((output / "report.json").read_text())
    assert report["untrained"] is True
    assert [Path(each["path"]).name for each in report["unscored"]] == ["broken.png"]
    images = [image for image in read_dataset(data) if image.path.suffix == ".jpg"]
    with DetectorClient(server.url) as client:
        verdicts = list(client.score_many(image.path for image in images))
    labels = np.array([image.fake for image in images])
    measures = report["evaluation"]["measures"]
    for name, values in {
        "mean": [verdict.probability for verdict in verdicts],
        "vote": [verdict.score for verdict in verdicts],
        "local_facial": [verdict.streams["local_facial"].probability for verdict in verdicts],
    }.items():
        assert measures[name]["auc"]["value"] == pytest.approx(roc_auc(labels, np.array(values)))
        assert measures[name]["auc"]["low"] <= measures[name]["auc"]["value"] <= measures[name]["auc"]["high"]
    in_force = next(each for each in report["evaluation"]["weight_choices"] if each["weights"] == [2, 1, 2])
    assert in_force["vote_auc"]["value"] == measures["vote"]["auc"]["value"]

    page = (output / "report.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == 12
    assert "UNTRAINED" in page
    assert "broken.png" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\((?!#)""", page.replace('xlink:href="#', "")), (
        "the page needs another file"
    )

    (data / "real" / "new.jpg").write_bytes((data / "real" / "000.jpg").read_bytes())
    again = evaluate(data, "--url", server.url, "--output", output, "--resamples", 100)
    assert again.exit_code == 0, again.stderr
    assert "33 of 34 images were scored before" in again.stderr
    assert "17 real and 16 fake" in again.stdout


def test_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    for index in range(60):
        path = tmp_path / "data" / ("fake" if index % 2 else "real") / f"{index:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"0.{index:02}".encode())
    output = tmp_path / "out"
    with serving() as server:
        options = ["--url", server.url, "--output", output, "--batch-size", 1, "--in-flight", 1, "--resamples", 100]
        served = count(1)
        # The eleventh request hangs, so that the run cannot end by itself before it is interrupted.
        server.fault = lambda request, context: hang(3600)(request, context) if next(served) > 10 else None
        process = subprocess.Popen([*COMMAND, tmp_path / "data", *map(str, options)], stderr=subprocess.PIPE, text=True)
        store = output / "scores.jsonl"
        while process.poll() is None and not (store.exists() and store.read_text().count("\n") >= 6):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate()[1]
        assert process.returncode == 130, stderr
        assert "goes on with the images that were not scored yet" in stderr
        assert "Traceback" not in stderr
        kept = store.read_text().count("\n") - 1
        assert 5 <= kept <= 10
        server.fault = lambda request, context: None
        server.batches.clear()
        done = evaluate(tmp_path / "data", *options)
    assert done.exit_code == 0, done.stderr
    assert f"{kept} of 60 images were scored before" in done.stderr
    assert sum(server.batches) == 60 - kept
    assert json.loads((output / "report.json").read_text())["server"] == {"provenance": None, "calibration": None}


def test_absent_server_and_wrong_data_end_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\na.jpg,real\nb.jpg,fake\n")
    absent = evaluate(tmp_path / "labels.csv", "--url", "127.0.0.1:1", "--output", tmp_path / "out")
    assert (absent.exit_code, absent.stdout) == (3, "")
    assert "error: no server answers at 127.0.0.1:1" in absent.stderr
    wrong = evaluate(tmp_path / "missing", "--url", "127.0.0.1:1")
    assert wrong.exit_code == 1
    assert "no such file or folder" in wrong.stderr
    usage = evaluate(tmp_path / "labels.csv", "--url", "nonsense")
    assert usage.exit_code == 2
    assert "is not HOST:PORT" in usage.stderr
    assert "Traceback" not in absent.stderr + wrong.stderr + usage.stderr


@pytest.mark.server
def test_an_entry_for_the_challenge_is_one_command(server: Server, tmp_path: Path) -> None:
    data = write_photographs(tmp_path / "data", 6)
    arguments = ["submission", str(data), "--url", server.url, "--output", str(tmp_path / "entry")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    names = (tmp_path / "entry" / "order.txt").read_text().splitlines()
    lines = (tmp_path / "entry" / "submission.txt").read_text().splitlines()
    paths = {path.name: path for path in data.rglob("*.jpg")}
    assert names == sorted(paths)
    with DetectorClient(server.url) as client:
        scores = [verdict.score for verdict in client.score_many(paths[name] for name in names)]
    assert lines == [f"{score:.1f}" for score in scores]
    assert (tmp_path / "entry" / "submission.zip").is_file()
    (data / "broken.png").write_bytes(b"no image")
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "1 of 7 images have no score" in refused.output
