"""Names and files as strangers make them: nothing hangs, nothing acts on a terminal or a spreadsheet."""

import codecs
import csv
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deepfake_client import DetectorClient, Verdict
from deepfake_client.bulk.inputs import Inputs, find_images
from deepfake_client.bulk.output.text_rows import CSV_COLUMNS, csv_header, csv_row, csv_rows, jsonl, jsonl_row
from deepfake_client.cli import main
from deepfake_client.cli.output.table import table
from deepfake_client.text import printable
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.bulk import COMMAND, make_images, printed, rows_of, score
from tests.fakes.triton import FakeTriton
from tests.golden import CASES
from tests.unit.client.bulk.test_bulk_inputs import add

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# rows


@given(path=TEXTS, error=TEXTS)
def test_a_csv_row_is_one_record_whatever_is_in_it(path: str, error: str) -> None:
    text = csv_header() + csv_row(Verdict(path, "unreadable_file", error=error))
    header, row = csv.reader(io.StringIO(text, newline=""))
    assert header == list(CSV_COLUMNS)
    cells = dict(zip(header, row, strict=True))
    assert cells["path"].removeprefix("./") == path.removeprefix("./")
    assert cells["error"].removeprefix("'") == error.removeprefix("'")
    assert not cells["path"].startswith(("=", "+", "@", "-", "\t", "\r"))
    assert not cells["error"].startswith(("=", "+", "@", "-", "\t", "\r"))


@pytest.mark.parametrize("name", ["cr\r.jpg", "lf\n.jpg", "crlf\r\n.jpg", 'quote".jpg', "comma,.jpg"])
def test_line_ends_in_names_are_quoted(name: str) -> None:
    row = csv_row(Verdict(name, "empty_image"))
    assert row.startswith('"' + name.replace('"', '""') + '",')
    assert row.endswith("\n")
    assert not row.endswith("\r\n")


def test_numbers_stay_numbers(server: FakeTriton) -> None:
    (row,) = csv.DictReader(io.StringIO(csv_header() + csv_row(Verdict("x.jpg", "ok", 0.5, 0.25))))
    assert (row["score"], row["probability"]) == ("0.5", "0.25")


@pytest.mark.parametrize("name", ["=1+1.jpg", "+1.jpg", "-1.jpg", "@sum.jpg"])
def test_a_path_that_is_made_harmless_is_still_the_path_of_its_file(server: FakeTriton, name: str) -> None:
    Path(name).write_bytes(b"0.7")
    Path("list.txt").write_text(f"./{name}\n{name}\n")
    assert score(server.url, "-l", "list.txt", "-o", "scores.csv").exit_code == 0
    assert score(server.url, "-l", "scores.csv", "-o", "again.csv").exit_code == 0
    assert [row["score"] for row in rows_of(Path("again.csv"))] == ["0.7", "0.7"]


@given(TEXTS)
def test_no_row_of_jsonl_acts_on_a_terminal_and_each_says_its_name(path: str) -> None:
    row = jsonl_row(Verdict(path, "empty_image"))
    assert json.loads(row)["path"] == path
    assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in row[:-1])


@given(st.text())
def test_what_is_shown_is_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert printable(text, keep="\n").count("\n") == text.count("\n")


EVIL = "a\x1b[2J\x1b]0;title\x07\x9b31m\r\u202egpj.jpg"


@pytest.mark.parametrize("verdict", [Verdict(EVIL, "ok", 0.5, 0.5), Verdict(EVIL, "unreadable_file", error=EVIL)])
def test_the_table_shows_escapes(verdict: Verdict) -> None:
    shown = io.StringIO()
    table(Console(file=shown, width=120))(verdict)
    assert all(each.isprintable() or each == "\n" for each in shown.getvalue())
    assert "a\\x1b[2J" in shown.getvalue()


def test_csv_on_a_terminal_shows_escapes() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    csv_rows(shown := Terminal())(Verdict(EVIL, "empty_image"))
    assert all(each.isprintable() or each == "\n" for each in shown.getvalue())


def test_nothing_that_is_told_acts_on_a_terminal(server: FakeTriton) -> None:
    Path(EVIL).mkdir()
    (Path(EVIL) / EVIL).write_bytes(b"status:unreadable_image")
    (Path(EVIL) / "link").symlink_to(".")
    server.provenance = json.dumps({"untrained": True, "streams": {EVIL: {EVIL: EVIL}}, EVIL: [EVIL]})
    for arguments in (
        ["score", EVIL, "gone" + EVIL, "--format", "table", "--url", server.url],
        ["score", EVIL, "--list", EVIL + ".csv", "--url", server.url],
        ["score", EVIL, "-o", EVIL, "--url", server.url],
        ["info", "--url", server.url],
        [EVIL],
    ):
        done = subprocess.run([*COMMAND[:-1], *arguments], capture_output=True, text=True, timeout=240)
        assert "Traceback" not in done.stderr
        assert all(each.isprintable() or each == "\n" for each in done.stdout + done.stderr), arguments


# files that are none


def make_odd_files(folder: Path) -> list[str]:
    os.mkfifo(folder / "pipe.jpg")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket.jpg"))
    listening.close()
    (folder / "tape.tar").unlink(missing_ok=True)
    os.mkfifo(folder / "tape.tar")
    return ["pipe.jpg", "socket.jpg", "tape.tar"]


@pytest.mark.parametrize("how", ["named", "listed", "matched", "two stars"])
def test_pipes_sockets_and_devices_are_rows(server: FakeTriton, how: str) -> None:
    names = [*make_odd_files(Path()), "/dev/null"]
    Path("good.jpg").write_bytes(b"0.3")
    if how == "listed":
        Path("list.txt").write_text("\n".join([*names, "good.jpg"]))
    arguments = {
        "named": [*names, "good.jpg"],
        "listed": ["-l", "list.txt"],
        "matched": ["*.jpg", "*.tar"],
        "two stars": ["**/*.jpg", "**/*.tar"],
    }[how]
    result = score(server.url, *arguments)
    rows = {row["path"]: row for row in printed(result)}
    assert result.exit_code == 1
    assert rows.pop("good.jpg")["score"] == 0.3
    assert set(rows) >= set(names[:3])
    for row in rows.values():
        assert row["status"] == "unreadable_file"
        assert "and not a file" in row["error"]


def test_a_pipe_raises_in_python(server: FakeTriton) -> None:
    make_odd_files(Path())
    with DetectorClient(server.url) as client:
        with pytest.raises(OSError, match="it is a named pipe and not a file"):
            client.score("pipe.jpg")
        with pytest.raises(OSError, match="it is a device and not a file"):
            client.score("/dev/zero")


def test_links_in_folders_are_followed_on_request(server: FakeTriton) -> None:
    make_images(Path("elsewhere"), 2)
    Path("photos").mkdir()
    Path("photos/file.jpg").symlink_to("../elsewhere/00000.jpg")
    Path("photos/folder").symlink_to("../elsewhere")
    Path("photos/circle").symlink_to("..")
    result = score(server.url, "photos")
    assert [(row["path"], row["status"]) for row in printed(result)] == [("photos/file.jpg", "unreadable_file")]
    assert "--follow-links" in printed(result)[0]["error"]
    assert "2 links to folders were not followed, such as photos/circle: see --follow-links" in result.stderr
    followed = {row["path"] for row in printed(score(server.url, "photos", "--follow-links"))}
    assert followed >= {"photos/file.jpg", "photos/folder/00000.jpg", "photos/folder/00001.jpg"}
    assert {row["path"] for row in printed(score(server.url, "photos/folder"))} == {
        "photos/folder/00000.jpg",
        "photos/folder/00001.jpg",
    }
    assert {row["path"] for row in printed(score(server.url, "photos/file.jpg"))} == {"photos/file.jpg"}


def test_two_stars_follow_no_circle(server: FakeTriton) -> None:
    make_images(Path("photos"), 1)
    Path("photos/circle").symlink_to("../photos")
    assert [item.path for item in find_images(Inputs(("**/*.jpg",)))] == ["photos/00000.jpg"]
    followed = [item.path for item in find_images(Inputs(("photos/**/*.jpg",), follow_links=True))]
    assert followed == ["photos/00000.jpg"]


# archives and lists


def test_archives_that_were_joined_are_read_to_the_end(server: FakeTriton) -> None:
    for name, value in (("a", b"0.1"), ("b", b"0.2"), ("c", b"0.3")):
        with tarfile.open(f"{name}.tar", "w") as tar:
            add(tar, f"{name}.jpg", value)
    joined = b"".join(Path(f"{name}.tar").read_bytes() for name in "abc")
    Path("all.tar").write_bytes(joined)
    assert [(row["path"], row["score"]) for row in printed(score(server.url, "all.tar"))] == [
        ("all.tar/a.jpg", 0.1),
        ("all.tar/b.jpg", 0.2),
        ("all.tar/c.jpg", 0.3),
    ]
    Path("rest.tar").write_bytes(joined + b"something else" * 100)
    rows = printed(score(server.url, "rest.tar"))
    assert [row["score"] for row in rows] == [0.1, 0.2, 0.3, None]
    assert "data that are no tar file follow its end mark" in rows[3]["error"]
    Path("cut.tar").write_bytes(joined[:-9728])
    assert [row["score"] for row in printed(score(server.url, "cut.tar"))][:3] == [0.1, 0.2, None]


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
def test_the_cases(server: FakeTriton) -> None:
    assert len(printed(score(server.url, CASES / "concat.tar"))) == 2
    rows = printed(score(server.url, "-l", CASES / "bom_list.txt"))
    assert len(rows) == 2
    assert not any("\ufeff" in row["path"] or "\r" in row["path"] for row in rows)
    result = score(server.url, "-l", CASES / "duplicate.parquet")
    assert result.exit_code == 2
    assert "more than once" in " ".join(result.stderr.split())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "-"])
def test_lists_with_a_byte_order_mark(server: FakeTriton, encoding: str, kind: str) -> None:
    names = ["ä.jpg", "b.jpg", "ਊ.jpg"]  # one with the byte of a line end in it
    for name in names:
        Path(name).write_bytes(b"0.4")
    lines = ["path,x", *(f"{name},1" for name in names)] if kind in ("csv", "tsv") else names
    text = "\r\n".join(lines).replace(",", "\t" if kind == "tsv" else ",")
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    data = mark + text.encode(encoding)
    if kind == "-":
        result = score(server.url, "-", input=data)
    else:
        Path(f"list.{kind}").write_bytes(data)
        result = score(server.url, "-l", f"list.{kind}")
    assert [(row["path"], row["score"]) for row in printed(result)] == [(name, 0.4) for name in names]


def test_long_fields_and_many_kinds_of_parquet(server: FakeTriton) -> None:
    make_images(Path("x"), 2)
    names = ["x/00000.jpg", "x/00001.jpg"]
    long = "word " * 100_000
    Path("list.csv").write_text(f'path,caption\n{names[0]},"{long}"\n{names[1]},\n')
    assert [row["path"] for row in printed(score(server.url, "-l", "list.csv"))] == names
    encoded = [name.encode() for name in names]
    arrays: list[Any] = [
        pa.array(encoded),
        pa.array(encoded, pa.large_binary()),
        pa.array(encoded, pa.binary(len(encoded[0]))),
        pa.array(names, pa.large_string()),
        pa.array(names).dictionary_encode(),
        pa.array(encoded).dictionary_encode(),
    ]
    for array in arrays:
        pq.write_table(pa.table({"path": array}), "list.parquet")
        result = score(server.url, "-l", "list.parquet")
        assert [row["path"] for row in printed(result)] == names, array.type


def test_a_column_twice_in_a_later_file_of_a_folder(server: FakeTriton) -> None:
    make_images(Path("x"), 1)
    Path("lists.parquet").mkdir()
    pq.write_table(pa.table({"path": ["x/00000.jpg"]}), "lists.parquet/a.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["y.jpg"])] * 2, names=["path", "path"]), "lists.parquet/b.parquet")
    result = score(server.url, "-l", "lists.parquet")
    assert [row["status"] for row in printed(result)] == ["ok", "unreadable_file"]


# closed streams


@pytest.mark.parametrize(
    ("closed", "arguments", "code", "told"),
    [
        ("<&-", ["-"], 2, "standard input is closed"),
        (">&-", ["x"], 4, "standard output is closed"),
        (">&-", ["x", "-o", "scores.csv"], 0, "scored 2 of 2"),
        ("<&- >&- 2>&-", ["x", "-o", "scores.csv"], 0, ""),
        ("<&-", ["x", "-o", "scores.csv"], 0, "scored 2 of 2"),
    ],
)
def test_closed_streams_are_told_and_harm_no_file(
    server: FakeTriton, closed: str, arguments: list[str], code: int, told: str
) -> None:
    make_images(Path("x"), 2)
    command = " ".join([sys.executable, "-m", "deepfake_client", "score", *arguments, "--url", server.url, closed])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    if code == 0:
        assert len(rows_of(Path("scores.csv"))) == 2


def test_a_misspelt_command_is_answered_with_the_right_one() -> None:
    from click.testing import CliRunner

    assert "No such command 'scroe'. Did you mean 'score'?" in CliRunner().invoke(main, ["scroe"]).stderr
    assert "No such command 'inof'. Did you mean 'info'?" in CliRunner().invoke(main, ["inof"]).stderr
    assert "Did you mean" not in CliRunner().invoke(main, ["xyz"]).stderr


def test_every_control_character_of_a_name_is_escaped_and_its_neighbours_are_not() -> None:
    acting = [*range(0x7F, 0xA0), *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
    for code in acting:
        row = jsonl_row(Verdict(chr(code), "empty_image"))
        assert f'"\\u{code:04x}"' in row
        assert json.loads(row)["path"] == chr(code)
    for code in (0x7E, 0xA0, 0x200A, 0x2010, 0x2027, 0x202F, 0x2065, 0x206A):
        assert f'"{chr(code)}"' in jsonl_row(Verdict(chr(code), "empty_image"))


@pytest.mark.parametrize("first", ["=", "+", "@", "-", "\t", "\r"])
def test_no_cell_begins_a_formula(first: str) -> None:
    (row,) = csv.DictReader(
        io.StringIO(csv_header() + csv_row(Verdict(f"{first}a", "unreadable_file", error=f"{first}b")), newline="")
    )
    assert (row["path"], row["error"]) == (f"./{first}a", f"'{first}b")


@pytest.mark.parametrize("sink", [jsonl, csv_rows])
def test_each_row_is_passed_on_at_once(sink: Any, tmp_path: Path) -> None:
    with (tmp_path / "rows").open("w") as file:
        emit = sink(file)
        for n in range(2):
            emit(Verdict(f"{n}.jpg", "empty_image"))
            assert f"{n}.jpg" in (tmp_path / "rows").read_text()
