"""What `deepfake-client score` takes: patterns, tar shards, lists, columns of CSV and Parquet; whole and damaged."""

import csv
import gzip
import io
import os
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deepfake_client.bulk import lists, shards
from deepfake_client.bulk.lists import Columns, check_list, read_list
from deepfake_client.bulk.shards import read_shard
from deepfake_client.images.items import read
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.bulk import make_images, printed, score
from tests.fakes.triton import FakeTriton


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def add(tar: tarfile.TarFile, name: str, data: bytes = b"0.5", **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def make_shard(name: str, count: int = 4) -> Path:
    """A shard as WebDataset lays it out: image n, scored n % 10 / 10, beside its label."""
    mode = "w:gz" if name.endswith("gz") else "w"
    with tarfile.open(name, mode) as tar:
        for n in range(count):
            add(tar, f"{n:04d}.jpg", f"{n % 10 / 10}".encode())
            add(tar, f"{n:04d}.cls", b"1")
    return Path(name)


def brief(rows: list[dict[str, Any]]) -> list[tuple[str, float | None]]:
    return [(row["path"], row["score"]) for row in rows]


@pytest.mark.parametrize("name", ["shard-000.tar", "shard-000.tar.gz", "SHARD.TGZ"])
def test_shard_gives_a_row_for_each_image(server: FakeTriton, name: str) -> None:
    make_shard(name.lower()).rename(name)
    result = score(server.url, name)
    assert result.exit_code == 0
    assert brief(printed(result)) == [(f"{name}/{n:04d}.jpg", n / 10) for n in range(4)]


def test_pattern_is_expanded_as_a_shell_does(server: FakeTriton) -> None:
    for name in ("b-1.tar", "b-0.tar", "a.tar"):
        make_shard(name, 1)
    assert [row["path"] for row in printed(score(server.url, "b-*.tar"))] == ["b-0.tar/0000.jpg", "b-1.tar/0000.jpg"]


def test_pattern_takes_folders_and_two_stars_take_each_file_once(server: FakeTriton) -> None:
    make_images(Path("day1"), 2)
    make_images(Path("day1/cam"), 1)
    expected = ["day1/00000.jpg", "day1/00001.jpg", "day1/cam/00000.jpg"]
    assert [row["path"] for row in printed(score(server.url, "day*"))] == expected
    assert sorted(row["path"] for row in printed(score(server.url, "day1/**/*.jpg"))) == expected
    assert sorted(row["path"] for row in printed(score(server.url, "day1/**"))) == expected


def test_pattern_that_matches_nothing_and_a_name_like_a_pattern(server: FakeTriton) -> None:
    Path("a[1].jpg").write_bytes(b"0.7")
    rows = printed(score(server.url, "a[1].jpg", "b*.jpg"))
    assert brief(rows) == [("a[1].jpg", 0.7), ("b*.jpg", None)]
    assert rows[1]["error"] == "b*.jpg: No such file or directory"


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1536, 3000, 10240])
def test_shard_cut_off_anywhere_loses_only_what_was_cut(server: FakeTriton, cut: int) -> None:
    whole = make_shard("cut.tar", 5).read_bytes()
    Path("cut.tar").write_bytes(whole[:cut])
    make_shard("next.tar", 2)
    result = score(server.url, "cut.tar", "next.tar")
    rows = printed(result)
    assert [row["score"] for row in rows if row["path"].startswith("next.tar")] == [0.0, 0.1]
    scored = [row for row in rows if row["path"].startswith("cut.tar/") and row["status"] == "ok"]
    assert len(scored) == sum(whole[:cut].count(b"%.1f" % (n / 10)) for n in range(5))
    if cut < len(whole):
        assert result.exit_code == 1
        (shard,) = [row for row in rows if row["path"] == "cut.tar"]
        assert shard["status"] == "unreadable_file"
        assert shard["error"].startswith("cut.tar: the shard cannot be read beyond ")


def test_shard_with_a_damaged_header_says_from_where(server: FakeTriton) -> None:
    data = bytearray(make_shard("bad.tar", 5).read_bytes())
    data[2 * 2048 : 2 * 2048 + 20] = b"\xff" * 20  # the header of the third image
    Path("bad.tar").write_bytes(data)
    rows = printed(score(server.url, "bad.tar"))
    assert [row["path"] for row in rows] == ["bad.tar/0000.jpg", "bad.tar/0001.jpg", "bad.tar"]
    assert "beyond member 0001.cls: bad checksum; copy it again" in rows[2]["error"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_damaged_compressed_shard_gets_its_row(server: FakeTriton, damage: str) -> None:
    noise = np.random.default_rng(0)
    with tarfile.open("bad.tar.gz", "w:gz") as tar:
        for n in range(20):
            add(tar, f"{n}.jpg", b"0.5" + noise.bytes(20_000))
    data = bytearray(Path("bad.tar.gz").read_bytes())
    middle = len(data) // 2
    if damage == "cut":
        del data[middle:]
    elif damage == "flipped":
        data[middle : middle + 2000] = bytes(2000)
    else:
        data = bytearray(b"no archive at all" * 100)
    Path("bad.tar.gz").write_bytes(data)
    make_shard("next.tar.gz", 2)
    result = score(server.url, "bad.tar.gz", "next.tar.gz")
    rows = printed(result)
    assert result.exit_code == 1
    assert rows[-3]["path"] == "bad.tar.gz"
    assert rows[-3]["status"] == "unreadable_file"
    assert brief(rows[-2:]) == [("next.tar.gz/0000.jpg", 0.0), ("next.tar.gz/0001.jpg", 0.1)]
    assert sum(row["status"] == "ok" for row in rows) >= (2 if damage == "not gzip" else 10)
    if damage == "flipped":
        assert "some of it is damaged: CRC check failed" in rows[-3]["error"]


@pytest.mark.parametrize("name", ["odd.tar", "odd.tar.gz"])
def test_strange_members(server: FakeTriton, name: str, tmp_path: Path) -> None:
    with tarfile.open(name, "w:gz" if name.endswith("gz") else "w") as tar:
        add(tar, "/etc/absolute.jpg", b"0.1")
        add(tar, "../../up.jpg", b"0.2")
        add(tar, "new\nline.jpg", b"0.3")
        add(tar, os.fsdecode(b"caf\xe9.jpg"), b"0.4")
        add(tar, "long/" * 60 + "name.jpg", b"0.6")
        add(tar, "linked.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.jpg", b"", type=tarfile.LNKTYPE, linkname="new\nline.jpg")
        add(tar, "device.jpg", b"", type=tarfile.CHRTYPE)
        add(tar, "folder.jpg", b"", type=tarfile.DIRTYPE)
        add(tar, "empty.jpg", b"")
        add(tar, "readme.txt", b"no image")
        add(tar, "last.JPEG", b"0.7")
    before = sorted(tmp_path.rglob("*"))
    rows = printed(score(server.url, name))
    assert brief(rows) == [
        (f"{name}//etc/absolute.jpg", 0.1),
        (f"{name}/../../up.jpg", 0.2),
        (f"{name}/new\nline.jpg", 0.3),
        (f"{name}/caf\udce9.jpg", 0.4),
        (f"{name}/{'long/' * 60}name.jpg", 0.6),
        (f"{name}/linked.jpg", None),
        (f"{name}/hard.jpg", None),
        (f"{name}/device.jpg", None),
        (f"{name}/empty.jpg", 0.5),
        (f"{name}/last.JPEG", 0.7),
    ]
    assert [row["error"].partition(": ")[2].partition(",")[0] for row in rows[5:8]] == [
        "the member is a link",
        "the member is a link",
        "the member is not a plain file",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_huge_members_are_refused_unread(server: FakeTriton) -> None:
    member = tarfile.TarInfo("huge.jpg")
    member.size = 2 << 30
    with Path("huge.tar").open("wb") as file:  # sparse: it takes no room
        file.write(member.tobuf())
        file.truncate(512 + member.size)
        file.seek(0, os.SEEK_END)
        small = tarfile.TarInfo("small.jpg")
        small.size = 3
        file.write(small.tobuf() + b"0.3".ljust(512, b"\0") + bytes(1024))
    with tarfile.open("big.tar.gz", "w:gz", compresslevel=1) as tar:
        add(tar, "big.jpg", bytes(33 << 20))
        add(tar, "small.jpg", b"0.3")
    rows = printed(score(server.url, "huge.tar", "big.tar.gz"))
    assert [row["score"] for row in rows] == [None, 0.3, None, 0.3]
    assert rows[0]["status"] == "too_many_bytes"
    assert "over the limit of 32 MiB" in rows[2]["error"]


def test_member_over_the_servers_limit_is_not_sent(server: FakeTriton) -> None:
    server.max_bytes = "3"
    with tarfile.open("shard.tar", "w") as tar:
        add(tar, "small.jpg", b"0.5")
        add(tar, "large.jpg", b"0.50")
    rows = printed(score(server.url, "shard.tar"))
    assert [row["status"] for row in rows] == ["ok", "too_many_bytes"]
    assert server.batches == [1]


def test_empty_and_missing_shards(server: FakeTriton) -> None:
    with tarfile.open("empty.tar", "w"):
        pass
    result = score(server.url, "empty.tar")
    assert (result.exit_code, result.stdout) == (5, "")
    (row,) = printed(score(server.url, "missing.tar"))
    assert row["error"] == "missing.tar: No such file or directory"


def write_table(name: str, **columns: list[Any]) -> str:
    if name.endswith(".parquet"):
        pq.write_table(pa.table(columns), name)
    else:
        with Path(name).open("w", newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    return name


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_column_of_a_table_names_images_folders_and_shards(server: FakeTriton, name: str) -> None:
    make_images(Path("x"), 2)
    make_shard("s.tar", 1)
    Path("new\nline,é.jpg").write_bytes(b"0.9")
    write_table(name, id=[1, 2, 3, 4, 5], file=["x/00001.jpg", "new\nline,é.jpg", "x", "s.tar", "x/00001.jpg"])
    result = score(server.url, "--list", name, "--column", "file")
    assert result.exit_code == 0
    assert brief(printed(result)) == [
        ("x/00001.jpg", 0.1),
        ("new\nline,é.jpg", 0.9),
        ("x/00000.jpg", 0.0),
        ("x/00001.jpg", 0.1),
        ("s.tar/0000.jpg", 0.0),
        ("x/00001.jpg", 0.1),
    ]


def test_text_list_is_taken_literally(server: FakeTriton) -> None:
    Path("a b.jpg").write_bytes(b"0.2")
    Path(os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"0.3")
    too_long = b"n" * 5000 + b"\n" + b"n" * 300 + b".tar"
    Path("list.txt").write_bytes(b"a b.jpg\r\n\ncaf\xe9.jpg\n*.jpg\nx\0y.jpg\nx\0y.tar\n" + too_long)
    rows = printed(score(server.url, "-l", "list.txt"))
    assert brief(rows[:3]) == [("a b.jpg", 0.2), ("caf\udce9.jpg", 0.3), ("*.jpg", None)]
    assert [row["status"] for row in rows[3:]] == ["unreadable_file"] * 4


def test_csv_with_a_name_that_is_not_utf8(server: FakeTriton) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    Path(name).write_bytes(b"0.3")
    write_table("list.csv", path=[name])
    assert brief(printed(score(server.url, "-l", "list.csv"))) == [(name, 0.3)]


@pytest.mark.usefixtures("whole_batches")
@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_face_boxes_come_from_the_columns_that_this_client_writes(server: FakeTriton, name: str) -> None:
    make_images(Path("x"), 4)
    boxes = {f"face_{corner}": [n + 0.5, None, n] for n, corner in enumerate(("x1", "y1", "x2", "y2"))}
    write_table(name, path=[f"x/{n:05d}.jpg" for n in range(3)], **boxes)
    assert score(server.url, "-l", name, "--face-boxes").exit_code == 0
    (sent,) = server.boxes
    assert sent is not None
    assert np.array_equal(sent, [[0.5, 1.5, 2.5, 3.5], [np.nan] * 4, [0, 1, 2, 3]], equal_nan=True)


def test_entry_that_is_no_path_or_box_gets_its_row(server: FakeTriton) -> None:
    make_images(Path("x"), 3)
    Path("list.csv").write_text(
        "face_x1,face_y1,face_x2,face_y2,path\n1,2,3,4,\nleft,2,3,4,x/00001.jpg\n1,2\n1,2,3,4,x/00002.jpg\n1,,3,4,x/00002.jpg"
    )
    rows = printed(score(server.url, "-l", "list.csv", "--face-boxes"))
    assert brief(rows) == [
        ("list.csv", None),
        ("x/00001.jpg", None),
        ("list.csv", None),
        ("x/00002.jpg", 0.2),
        ("x/00002.jpg", None),
    ]
    assert rows[0]["error"] == "list.csv: entry 1 has no path"
    assert "the face box of entry 2 is ['left', '2', '3', '4']; it must be four numbers" in rows[1]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-l", "ok.csv", "--column", "file"], "ok.csv has no column file; it has path"),
        (["-l", "ok.parquet", "--column", "file"], "ok.parquet has no column file; it has path"),
        (["-l", "ok.csv", "--face-boxes"], "has no column face_x1, face_y1, face_x2, face_y2"),
        (["-l", "ok.txt", "--face-boxes"], "ok.txt is a list of paths alone"),
        (["-l", "empty.csv"], "empty.csv has no column path; it has none"),
        (["-l", "bad.parquet"], "bad.parquet is not readable as Parquet"),
        (["-l", "no_files.parquet"], "the folder no_files.parquet holds no .parquet files"),
        (["-l", "lists.parquet"], "lists.parquet has no column path; it has id"),
        (["-l", "twice.parquet"], "twice.parquet has the column path more than once; rename or drop the other"),
        (["-l", "twice.csv"], "twice.csv has the column path more than once; rename or drop the other"),
        (["-l", "ok.tsv"], "ok.tsv has no column path; it has file, id"),
        (["-l", "missing.txt"], "'missing.txt' does not exist"),
    ],
)
def test_list_that_cannot_be_used_is_refused_before_anything(arguments: list[str], message: str) -> None:
    write_table("ok.csv", path=["x.jpg"])
    write_table("ok.parquet", path=["x.jpg"])
    write_table("lists.parquet", path=[["x.jpg"]], id=[1])
    pq.write_table(pa.Table.from_arrays([pa.array(["x.jpg"])] * 2, names=["path", "path"]), "twice.parquet")
    Path("twice.csv").write_text("path,path\nx.jpg,y.jpg\n")
    Path("ok.tsv").write_text("file\tid\nx.jpg\t1\n")
    Path("ok.txt").write_text("x.jpg")
    Path("empty.csv").touch()
    Path("bad.parquet").write_bytes(b"PAR1 no PAR1")
    Path("no_files.parquet").mkdir()
    result = score("localhost:1", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("name", ["l.csv", "l.tsv", "l.txt", "l.parquet", "folder.parquet/l.parquet"])
def test_a_list_that_is_a_pipe_is_refused_and_waited_for_by_nobody(name: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    os.mkfifo(name)
    result = score("localhost:1", "-l", name.partition("/")[0])
    assert result.exit_code == 2
    assert f"{name}" in result.stderr
    assert "not a file" in " ".join(result.stderr.split())


def test_parquet_damaged_in_the_middle_says_from_where(server: FakeTriton) -> None:
    names = [str(path) for path in make_images(Path("x"), 300)]
    pq.write_table(pa.table({"path": names}), "list.parquet", row_group_size=100, compression="gzip")
    offset = pq.read_metadata("list.parquet").row_group(1).column(0).data_page_offset
    data = bytearray(Path("list.parquet").read_bytes())
    data[offset : offset + 60] = b"\xff" * 60
    Path("list.parquet").write_bytes(data)
    result = score(server.url, "-l", "list.parquet", "--batch-size", 32)
    rows = printed(result)
    assert result.exit_code == 1
    assert rows[-1]["path"] == "list.parquet"
    assert "cannot be read beyond its entry" in rows[-1]["error"]


def test_folder_of_parquet_files_is_one_list(server: FakeTriton) -> None:
    paths = [str(path) for path in make_images(Path("x"), 3)]
    Path("lists.parquet").mkdir()
    write_table("lists.parquet/part-1.parquet", path=paths[1:])
    write_table("lists.parquet/part-0.parquet", path=paths[:1])
    assert [row["path"] for row in printed(score(server.url, "-l", "lists.parquet"))] == paths


@pytest.mark.parametrize("arguments", [["-l", "list.parquet"], ["x.jpg", "-o", "scores.parquet"]])
def test_missing_pyarrow_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    write_table("list.parquet", path=["x.jpg"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = score("localhost:1", *arguments)
    assert result.exit_code == 2
    assert "pip install 'deepfake-client[parquet]'" in result.stderr


def test_gzip_file_named_tar_says_what_it_is(server: FakeTriton) -> None:
    Path("packed.tar").write_bytes(gzip.compress(b"x" * 2000))
    (row,) = printed(score(server.url, "packed.tar"))
    assert row["path"] == "packed.tar"
    assert "cannot be read beyond its start" in row["error"]


@given(st.data(), st.sampled_from(["shard.tar", "shard.tar.gz"]))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_damage_to_a_shard_stops_the_run_or_hides_an_image(tmp_path: Path, data: st.DataObject, name: str) -> None:
    damaged = bytearray(make_shard(name, 6).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + data.draw(st.integers(1, 40))] = data.draw(st.binary(max_size=40))
        assume(damaged)
    Path(name).write_bytes(damaged)
    items = [item.held() for item in read_shard(name, (".jpg",))]
    for item in items:
        with suppress(OSError):
            read(item)
    images = {f"{name}/{n:04d}.jpg" for n in range(6)}
    assert images <= {item.path for item in items} or any(item.path == name and item.error for item in items)


def test_the_checksum_of_a_compressed_shard_counts_however_much_follows_its_end_mark(tmp_path: Path) -> None:
    make_shard("whole.tar", 2)
    following = np.random.default_rng(0).bytes(3 << 20)
    data = gzip.compress(Path("whole.tar").read_bytes() + following, 1)
    Path("good.tar.gz").write_bytes(data)
    Path("bad.tar.gz").write_bytes(data[:-8] + bytes(4) + data[-4:])
    for name, said in {"good.tar.gz": "data that are no tar file follow its end mark", "bad.tar.gz": "CRC"}.items():
        *images, error = read_shard(name, (".jpg",))
        assert [image.path for image in images] == [f"{name}/0000.jpg", f"{name}/0001.jpg"]
        assert said in (error.error or "")


def listed(source: str) -> list[tuple[str | None, str | None]]:
    return [(item.path, item.error) for item in read_list(source, Columns())]


def test_spaces_of_a_text_list_are_those_of_its_names() -> None:
    Path("list.txt").write_bytes(b" a.jpg \n\tb.jpg\r\n")
    assert listed("list.txt") == [(" a.jpg ", None), ("\tb.jpg", None)]


def test_of_a_folder_of_parquet_hidden_files_are_no_part() -> None:
    Path("lists.parquet").mkdir()
    for name in ("b", "_b", ".b"):
        write_table(f"lists.parquet/{name}.parquet", path=[f"{name}.jpg"])
    assert listed("lists.parquet") == [("b.jpg", None)]


def test_a_sparse_member_is_not_a_plain_file() -> None:
    with tarfile.open("s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "a.jpg", pax_headers={"GNU.sparse.map": "0,3", "GNU.sparse.size": "3", "GNU.sparse.name": "a.jpg"})
        add(tar, "b.jpg")
    sparse, plain = read_shard("s.tar", (".jpg",))
    assert sparse.error is not None
    assert "not a plain file" in sparse.error
    assert plain.error is None


def test_members_that_went_by_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    make_shard("s.tar", 20)
    opened = []
    monkeypatch.setattr(
        tarfile, "open", lambda *_, _open=tarfile.open, **each: opened.append(_open(**each)) or opened[-1]
    )
    assert max(len(opened[0].members) for _ in read_shard("s.tar", (".jpg",))) <= 1


@pytest.mark.parametrize("empty", ["", None, b""])
def test_an_entry_of_nothing_has_no_path(empty: str | bytes | None) -> None:
    write_table("list.parquet", path=[empty, b"a.jpg" if isinstance(empty, bytes) else "a.jpg"])
    assert listed("list.parquet") == [("list.parquet", "entry 1 has no path"), ("a.jpg", None)]


@pytest.mark.parametrize("name", ["LIST.CSV", "list.Tsv", "List.PARQUET"])
def test_a_table_is_known_by_its_ending_however_that_is_written(name: str) -> None:
    if name.endswith("PARQUET"):
        pq.write_table(pa.table({"id": [1], "path": ["a.jpg"]}), name)
    else:
        Path(name).write_text("id,path\n1,a.jpg\n".replace(",", "," if name.endswith("CSV") else "\t"))
    check_list(name, Columns())
    assert listed(name) == [("a.jpg", None)]


def test_a_field_beyond_all_bounds_ends_its_list_with_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv.field_size_limit(100)
    monkeypatch.setattr(lists, "_MOST_FIELD", 100)
    Path("list.csv").write_text(f"path,caption\na.jpg,x\nb.jpg,{'x' * 101}\nc.jpg,x\n")
    try:
        first, last = listed("list.csv")
    finally:
        csv.field_size_limit(before)
    assert first == ("a.jpg", None)
    assert last[0] == "list.csv"
    assert "cannot be read beyond its entry 1: field larger than field limit" in (last[1] or "")


@pytest.mark.parametrize("name", ["joined.tar", "joined.tar.gz"])
def test_of_archives_that_were_joined_each_needs_its_end(name: str) -> None:
    first, second = (make_shard(each, 2).read_bytes() for each in ("a.tar", "b.tar"))
    data = first + second[:2048]
    Path(name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    *images, error = read_shard(name, (".jpg",))
    assert [image.path for image in images] == [f"{name}/{n:04d}.jpg" for n in (0, 1, 0)]
    assert "ends without the end mark of a tar file" in (error.error or "")


def test_no_member_is_read_that_is_larger_than_any_image(monkeypatch: pytest.MonkeyPatch) -> None:
    make_shard("s.tar", 1)
    monkeypatch.setattr(shards, "MAX_IMAGE_BYTES", 2)
    (image,) = read_shard("s.tar", (".jpg",))
    assert image.load is not None
    with pytest.raises(OSError, match="over the limit"):
        image.load()
