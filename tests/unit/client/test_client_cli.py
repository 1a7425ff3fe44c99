"""`deepfake-client` as its users run it: files, folders, lists, terminals, pipes and Ctrl-C."""

import csv
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from deepfake_client import DetectorClient
from deepfake_client.cli import main

from tests.bulk import hold_when, interrupt
from tests.fakes.triton import FakeTriton, fail_times, hang, untrained
from tests.processes import is_idle
from tests.waiting import PATIENCE, wait_for

COMMAND = [sys.executable, "-m", "deepfake_client"]
FIELDS = ["path", "status", "score", "probability", "verdict", "streams", "face"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images, one that the server refuses, and files that are none."""
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "fake.jpg").write_bytes(b"0.9")
    (folder / "deep" / "REAL.JPEG").write_bytes(b"0.2")
    (folder / "deep" / "er" / "half.TIF").write_bytes(b"0.5")
    (folder / "deep" / "broken.png").write_bytes(b"status:unreadable_image")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(server: FakeTriton, *arguments: Any, **options: Any) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--url", server.url], **options)


def rows_of(text: str) -> dict[str, dict[str, Any]]:
    return {Path(row["path"]).name: row for row in map(json.loads, text.splitlines())}


def test_folder_gives_a_row_for_each_image(server: FakeTriton, photos: Path) -> None:
    result = run(server, "score", photos)
    rows = rows_of(result.stdout)
    assert result.exit_code == 1
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "fake.jpg": "fake",
        "REAL.JPEG": "real",
        "half.TIF": "uncertain",
        "broken.png": None,
    }
    assert all(list(row) == FIELDS for row in rows.values())
    assert "scored 3 of 4 images" in result.stderr
    assert "1 unreadable_image" in result.stderr
    assert "export or download it again" in result.stderr


def test_folders_are_read_by_name(server: FakeTriton, photos: Path) -> None:
    (photos / "a.png").write_bytes(b"0.1")
    result = run(server, "score", photos)
    assert list(rows_of(result.stdout)) == ["a.png", "fake.jpg", "REAL.JPEG", "broken.png", "half.TIF"]


@pytest.mark.parametrize(
    ("kind", "expected"), [("csv", "path,status,score"), ("jsonl", '{"path"'), ("table", "verdict")]
)
def test_format_chooses_what_is_printed(server: FakeTriton, photos: Path, kind: str, expected: str) -> None:
    result = run(server, "score", photos / "fake.jpg", "--format", kind)
    assert result.exit_code == 0
    assert expected in result.stdout.splitlines()[0]


def test_all_scored_exits_with_zero(server: FakeTriton, photos: Path) -> None:
    result = run(server, "score", photos / "fake.jpg", photos / "notes.txt")
    assert result.exit_code == 0
    assert list(rows_of(result.stdout)) == ["fake.jpg", "notes.txt"]  # a file that is named is sent whatever its name


def test_missing_file_gets_its_row_and_costs_no_other(server: FakeTriton, photos: Path) -> None:
    result = run(server, "score", photos / "fake.jpg", photos / "missing.jpg", photos / "deep" / "REAL.JPEG")
    rows = rows_of(result.stdout)
    assert result.exit_code == 1
    assert [row["status"] for row in rows.values()] == ["ok", "unreadable_file", "ok"]
    assert list(rows["missing.jpg"]) == [*FIELDS, "error"]
    assert rows["missing.jpg"]["error"].endswith("missing.jpg: No such file or directory")


def test_links_and_pipes_in_a_folder_get_rows_and_circles_are_left_alone(server: FakeTriton, tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "circle").symlink_to(tmp_path)
    result = run(server, "score", tmp_path)
    assert [(name, row["status"]) for name, row in rows_of(result.stdout).items()] == [
        ("link.jpg", "unreadable_file"),
        ("pipe.jpg", "unreadable_file"),
    ]


def test_list_on_standard_input_names_files_and_folders(server: FakeTriton, photos: Path) -> None:
    listed = f"{photos / 'fake.jpg'}\r\n\n{photos / 'deep' / 'er'}\n"
    result = run(server, "score", "-", input=listed)
    assert result.exit_code == 0
    assert list(rows_of(result.stdout)) == ["fake.jpg", "half.TIF"]


def test_empty_folder_says_so(server: FakeTriton, tmp_path: Path) -> None:
    result = run(server, "score", tmp_path)
    assert (result.exit_code, result.stdout) == (5, "")
    assert "no images found (in folders: .jpg" in result.stderr


def test_jsonl_file_holds_what_is_printed_elsewhere(server: FakeTriton, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    result = run(server, "score", photos / "fake.jpg", "--output", output)
    row = json.loads(output.read_text())
    assert (result.exit_code, result.stdout) == (0, "")
    assert row["score"] == 0.9
    assert row["streams"]["local_facial"] == {"probability": 0.123, "vote": 0.1}
    assert row["face"] == {"box": [1.5, 2.0, 100.1, 200.25], "confidence": 0.97, "source": "raw"}


def test_csv_file_holds_the_same_fields_flattened(server: FakeTriton, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.CSV"
    run(server, "score", photos / "fake.jpg", photos / "missing.jpg", "-o", output)
    fake, missing = csv.DictReader(output.read_text().splitlines())
    assert fake == {
        "path": str(photos / "fake.jpg"),
        "status": "ok",
        "score": "0.9",
        "probability": "0.9",
        "verdict": "fake",
        "global_texture_probability": "0.9",
        "global_texture_vote": "0.9",
        "local_facial_probability": "0.123",
        "local_facial_vote": "0.1",
        "semantic_fusion_probability": "0.9",
        "semantic_fusion_vote": "0.9",
        "face_x1": "1.5",
        "face_y1": "2.0",
        "face_x2": "100.1",
        "face_y2": "200.25",
        "face_confidence": "0.97",
        "face_source": "raw",
        "error": "",
        "threshold": "",
        "weights": "",
    }
    assert (missing["status"], missing["score"], missing["face_x1"]) == ("unreadable_file", "", "")
    assert missing["error"].endswith("No such file or directory")


def test_name_that_is_not_utf8_goes_there_and_back(server: FakeTriton, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xbc.jpg")
    (tmp_path / name).write_bytes(b"0.9")
    command = [*COMMAND, "score", "--url", server.url]
    piped = subprocess.run([*command, tmp_path], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert piped.returncode == 0, piped.stderr
    assert json.loads(piped.stdout)["path"] == str(tmp_path / name)
    assert "ü" in piped.stdout.decode()
    for output in (tmp_path / "scores.csv", tmp_path / "scores.jsonl"):
        assert subprocess.run([*command, tmp_path, "-o", output], capture_output=True).returncode == 0
        assert "ü.jpg" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "Missing argument"),
        (["score", "a.jpg", "--output", "scores.xlsx"], "must end in .jsonl, .csv or .parquet, such as scores.csv"),
        (["score", "a.jpg", "--output", "no/folder/scores.csv"], "the folder no/folder does not exist"),
        (["score", "a.jpg", "--retry-failed"], "name it with --output"),
        (["score", "a.jpg", "--batch-size", "0"], "0 is not in the range"),
        (["score", "a.jpg", "--timeout", "0"], "0.0 is not in the range"),
        (["score", "a.jpg", "--url", "http://localhost:8000"], "is not HOST:PORT"),
        (["score", "a.jpg", "--url", "a..b:8001"], "names no host"),
        (["score", "a.jpg", "--timeout", "inf"], "at most 1e+06"),
    ],
)
def test_wrong_command_line_exits_with_two(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_absent_server_exits_with_three_at_once_and_keeps_the_old_file(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.csv"
    output.write_text("old")
    monkeypatch.setattr("deepfake_client.balancing.retries.RetryPolicy.pause", lambda _: 2 * PATIENCE)
    started = time.monotonic()
    result = run(FakeTriton(), "score", photos, "--output", output)
    assert result.exit_code == 3
    assert "no server answers at 127.0.0.1" in result.stderr
    assert "python -m server" in result.stderr
    assert output.read_text() == "old"
    assert time.monotonic() - started < PATIENCE


def test_server_that_goes_away_exits_with_three_and_keeps_the_rows(
    server: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake_client.cli.connection.DetectorClient", partial(DetectorClient, retries=1))
    for n in range(100):
        (tmp_path / f"{n}.jpg").write_bytes(b"0.1")
    server.fault = lambda request, context: hang(60 if len(server.batches) >= 10 else 0.01)(request, context)
    killer = threading.Thread(target=lambda: wait_for(lambda: len(server.batches) >= 10) and server.stop())
    killer.start()
    result = run(server, "score", tmp_path, "--batch-size", 1, "--in-flight", 1)
    killer.join()
    assert result.exit_code == 3
    assert "error: no server answers" in result.stderr
    assert len(rows_of(result.stdout)) == 10
    assert "scored 10 of 10 images" in result.stderr
    server.start()


def test_failed_requests_get_rows_with_the_error(server: FakeTriton, photos: Path) -> None:
    server.fault = fail_times(99, grpc.StatusCode.INVALID_ARGUMENT, "wrong shape")
    result = run(server, "score", photos / "fake.jpg")
    row = json.loads(result.stdout)
    assert result.exit_code == 1
    assert row["status"] == "request_failed"
    assert "INVALID_ARGUMENT: wrong shape" in row["error"]
    assert "wrong shape" in result.stderr


@pytest.mark.parametrize("command", [["info"], ["score", "x.jpg"]])
def test_untrained_weights_are_named(server: FakeTriton, command: list[str]) -> None:
    assert "UNTRAINED" not in run(server, *command).output
    server.provenance = untrained()
    assert "warning: UNTRAINED weights: these scores mean nothing" in run(server, *command).stderr


def test_unknown_provenance_is_told_and_stops_nothing(server: FakeTriton, photos: Path) -> None:
    server.provenance = "?"
    result = run(server, "score", photos / "fake.jpg")
    assert result.exit_code == 0
    assert "not known which weights" in result.stderr


def test_info_shows_version_limits_weights_and_readiness(server: FakeTriton) -> None:
    server.provenance = untrained()
    result = run(server, "info")
    assert result.exit_code == 0
    for part in ("triton 2.51.0", "deepfake_detector, at most 32", "UNTRAINED", "fp32", "dinov2_252.pth", "test image"):
        assert part in result.stdout


def test_info_waits_for_a_server_that_starts_late() -> None:
    server = FakeTriton()
    starter = threading.Timer(1, server.start)
    starter.start()
    assert run(server, "info", "--wait", 120).exit_code == 0
    starter.join()
    server.stop()


def test_info_of_a_server_with_a_dead_step_exits_with_three(server: FakeTriton) -> None:
    server.fault = hang(60)
    result = run(server, "info", "--wait", 1)
    assert result.exit_code == 3
    assert "was not ready within 1 s" in result.stderr


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    for n in range(count):
        (folder / f"{n}.jpg").write_bytes(b"0.1")
    return folder


def interrupted(server: FakeTriton, command: list[str], output: Path, times: int) -> tuple[int, str, float]:
    """Runs a command, presses Ctrl-C once there are rows; exit code, what it told then, seconds until the end.

    The server answers no more until Ctrl-C was noticed, and where it is pressed twice not at all.
    """
    go_on = hold_when(server, lambda: len(server.batches) >= 3)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    wait_for(lambda: process.poll() is not None or (output.exists() and output.read_text().count("\n") >= 3))
    wait_for(lambda: is_idle(process.pid))  # the last row is counted
    started = time.monotonic()
    interrupt(process)
    if times == 1:
        go_on.set()
    else:
        process.send_signal(signal.SIGINT)
    with process.stderr as stderr:
        told = stderr.read()
    return process.wait(PATIENCE), told, time.monotonic() - started


def test_ctrl_c_finishes_what_is_in_flight(server: FakeTriton, tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    options = ["--url", server.url, "--output", str(output), "--batch-size", "2", "--in-flight", "2"]
    code, stderr, _ = interrupted(server, [*COMMAND, "score", str(many(tmp_path / "x", 500)), *options], output, 1)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 130
    assert "Traceback" not in stderr
    assert f"scored {len(rows)} of {len(rows)} images" in stderr
    assert len(rows) == sum(server.batches) < 100


def test_second_ctrl_c_stops_at_once(server: FakeTriton, tmp_path: Path) -> None:
    output = tmp_path / "scores.jsonl"
    options = ["--url", server.url, "--output", str(output), "--batch-size", "1", "--in-flight", "1"]
    code, stderr, seconds = interrupted(
        server, [*COMMAND, "score", str(many(tmp_path / "x", 500)), *options], output, 2
    )
    assert code == 130
    assert "Traceback" not in stderr
    assert "scored 3 of 3 images" in stderr
    assert seconds < PATIENCE  # the answer would never have come


def test_rows_do_not_wait_for_the_rest_of_a_list_on_standard_input(server: FakeTriton, photos: Path) -> None:
    """Two whole batches and a piece of one, then the list stands still; Ctrl-C twice ends it in spite of that."""
    command = [*COMMAND, "score", "-", "--url", server.url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{photos / 'fake.jpg'}\n" * 19)
        process.stdin.flush()
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        rows = [json.loads(process.stdout.readline()) for _ in range(19)]
        watch.cancel()
        wait_for(lambda: is_idle(process.pid))  # the last row is counted
        interrupt(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert {row["status"] for row in rows} == {"ok"}
    assert "scored 19 of 19 images" in told
    assert "Traceback" not in told


def test_closed_pipe_ends_quietly(server: FakeTriton, tmp_path: Path) -> None:
    command = [*COMMAND, "score", str(many(tmp_path / "x", 200)), "--url", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        json.loads(process.stdout.readline())
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_full_disk_is_told_in_a_line(server: FakeTriton, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    output.symlink_to("/dev/full")
    result = run(server, "score", photos, "--output", output)
    assert result.exit_code == 4
    assert "scores.csv: No space left on device" in result.stderr


def on_terminal(command: list[str]) -> tuple[int, str]:
    """Runs a command on a terminal of 100 columns; its exit code and what it shows."""
    terminal, end = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    # Not `pty.fork`: it would copy this process, whose threads serve gRPC.
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux says so that the other side has ended
            break
        if not chunk:
            break
        shown += chunk
    os.close(terminal)
    return process.wait(), shown.decode()


def test_terminal_shows_a_table_with_headings_once(server: FakeTriton, photos: Path) -> None:
    code, shown = on_terminal([*COMMAND, "score", str(photos), "--url", server.url])
    assert code == 1
    assert shown.count("verdict") == 1
    for part in ("fake.jpg", "uncertain", "0.123", "unreadable_image: the image is damaged", "scored 3 of 4 images"):
        assert part in shown


def test_terminal_shows_progress_while_a_file_is_written(server: FakeTriton, tmp_path: Path) -> None:
    server.fault = hang(0.1)
    folder, output = many(tmp_path / "x", 60), tmp_path / "scores.csv"
    code, shown = on_terminal(
        [*COMMAND, "score", str(folder), "--url", server.url, "-o", str(output), "--batch-size", "2"]
    )
    assert code == 0
    assert "/60" in shown
    assert "images/s" in shown
    assert "verdict" not in shown
    assert len(output.read_text().splitlines()) == 61


def test_thousands_of_files_pass_in_order_of_the_list(server: FakeTriton, tmp_path: Path) -> None:
    folder = many(tmp_path / "x", 3000)
    names = [str(folder / f"{n}.jpg") for n in range(3000)]
    result = run(server, "score", "-", "--batch-size", 32, input="\n".join(names))
    assert result.exit_code == 0
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == names
