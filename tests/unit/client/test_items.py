"""From what callers give to requests: what is an image, how requests are cut, and what becomes of those unread."""

import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deepfake_client import Image, Verdict
from deepfake_client.errors import RequestFailedError, ServerDiedError, ServerUnavailableError
from deepfake_client.images import files
from deepfake_client.images.files import open_file
from deepfake_client.images.items import (
    MAX_IMAGE_BYTES,
    REQUEST_BYTES,
    EncodedImage,
    Item,
    as_item,
    check_size,
    failed,
    make_item,
    may_be_one_image,
    merge,
    plan_requests,
    read,
    read_group,
    with_indexes,
)

BOX = (1.0, 2.0, 3.0, 4.0)


def test_what_is_given_becomes_an_item(tmp_path: Path) -> None:
    for data in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert as_item(data) == Item(None, b"x")
        assert as_item((data, [1, 2, 3, 4])) == Item(None, b"x", BOX)
        assert as_item(Image(data, [1, 2, 3, 4], "all")) == Item(None, b"x", BOX, faces="all")
    for path in ("a.jpg", Path("a.jpg")):
        assert as_item(path) == Item("a.jpg")
        assert as_item((path, None)) == Item("a.jpg")
        assert as_item(Image(path, BOX, faces="all")) == Item("a.jpg", None, BOX, faces="all")
        assert make_item(path, BOX, "all") == Item("a.jpg", None, BOX, faces="all")
    item = Item("a.jpg", attempts=3, digest=True)
    assert as_item(item) is item


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((Image("a"), BOX), TypeError, "says face_box and faces itself"),
        ((Image("a"), None, "all"), TypeError, "says face_box and faces itself"),
        (("a", (1, 2, 3)), ValueError, "got 3 numbers"),
        (("a", (1, 2, 3, 4, 5)), ValueError, "got 5 numbers"),
        (("a", None, "each"), ValueError, "faces is 'each'; it must be main or all"),
        ((Image("a", None, "each"), None), ValueError, "faces is 'each'"),  # type: ignore[arg-type]
        ((7, None), TypeError, "an image is bytes or a path; got int"),
    ],
)
def test_what_is_no_image_is_told(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_item(*given)


def gone() -> bytes:
    raise OSError("the archive ended")


def test_all_that_is_wanted_of_an_image_is_wanted_of_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    about: dict[str, Any] = {"box": BOX, "faces": "all", "attempts": 3, "digest": True}
    for item in (
        Item(str(tmp_path / "a.jpg"), **about),
        Item(str(tmp_path / "a.jpg"), b"x", **about),
        Item(str(tmp_path / "a.jpg"), load=lambda: b"x", **about),
    ):
        assert read(item) == EncodedImage(str(tmp_path / "a.jpg"), b"x", BOX, "all", 3, True)
    with pytest.raises(OSError, match="the archive ended"):
        read(Item("a.jpg", load=gone))
    with pytest.raises(OSError, match="no such member"):
        read(Item("a.jpg", b"x", error="no such member"))


def test_a_fleeting_item_is_loaded_before_the_next_one_is_taken() -> None:
    item = Item("a.jpg", load=lambda: b"x", fleeting=True, digest=True)
    held = item.held()
    assert (held, held.load) == (Item("a.jpg", b"x", digest=True), None)
    lost = replace(item, load=gone).held()
    assert (lost, lost.load) == (Item("a.jpg", error="the archive ended", digest=True), None)
    lasting = replace(item, fleeting=False)
    assert lasting.held() is lasting


MIB = 1 << 20


@pytest.mark.parametrize(
    ("sizes", "planned"),
    [
        ([], [(0, 0)]),
        ([16 * MIB, 16 * MIB], [(32 * MIB, 2)]),
        ([16 * MIB, 16 * MIB, 1], [(32 * MIB, 2), (1, 1)]),
        ([16 * MIB, 16 * MIB + 1], [(16 * MIB, 1), (16 * MIB + 1, 1)]),
        ([40 * MIB, 1, 2], [(40 * MIB, 1), (3, 2)]),
        ([0, None, 40 * MIB], [(40 * MIB, 3)]),
        ([10, 101 * MIB, 100 * MIB], [(10, 2), (100 * MIB, 1)]),  # the second is not read at all
        ([1] * 5, [(5, 5)]),
    ],
)
def test_requests_end_at_32_mib(sizes: list[int | None], planned: list[tuple[int, int]]) -> None:
    items = [Item(f"{n}", load=gone, size=size) for n, size in enumerate(sizes)]
    groups = plan_requests(items, 100 * MIB)
    assert [(total, len(group)) for total, group in groups] == planned
    assert [item for _, group in groups for item in group] == items
    assert (REQUEST_BYTES, MAX_IMAGE_BYTES) == (32 * MIB, 1 << 30)


def test_files_and_bytes_are_weighed_and_what_cannot_be_is_left_to_reading(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(7))
    items = [
        Item(str(tmp_path / "a.jpg")),
        Item(None, bytes(5)),
        Item("name", bytes(3)),
        Item(str(tmp_path / "a.jpg"), load=gone),  # the name of something else
        Item(str(tmp_path / "gone.jpg")),
        Item("a\0.jpg"),
    ]
    ((total, group),) = plan_requests(items, 100)
    assert total == 15
    assert [item.size for item in group] == [7, 5, 3, None, None, None]
    verdicts = read_group(group, 5)
    assert [getattr(each, "status", "read") for each in verdicts] == [
        "too_many_bytes",
        "read",
        "read",
        *["unreadable_file"] * 3,
    ]
    errors = [each.error for each in verdicts if isinstance(each, Verdict)]
    assert errors == [
        None,
        f"{tmp_path / 'a.jpg'}: the archive ended",
        f"{tmp_path / 'gone.jpg'}: No such file or directory",
        "a\0.jpg: embedded null byte",
    ]


def test_a_size_over_the_limit_is_told() -> None:
    check_size(5 * MIB, 5 * MIB)
    with pytest.raises(OSError, match="over the limit of 5 MiB for one image"):
        check_size(5 * MIB + 1, 5 * MIB)


IMAGES = [EncodedImage("a.jpg", b"a", None, digest=True), EncodedImage("b.jpg", b"b", None)]


def test_verdicts_come_back_between_those_of_files_that_were_not_read() -> None:
    bad = Verdict("c.jpg", "unreadable_file")
    merged = merge([bad, IMAGES[0], bad, IMAGES[1]], [Verdict("a.jpg", "ok"), Verdict("b.jpg", "ok")])
    assert [verdict.path for verdict in merged] == ["c.jpg", "a.jpg", "c.jpg", "b.jpg"]
    assert [verdict.sha256 for verdict in merged] == [None, hashlib.sha256(b"a").hexdigest(), None, None]
    assert [verdict.index for verdict in with_indexes(merged, 5)] == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("error", "alone", "status"),
    [
        (RequestFailedError("x", code="INVALID_ARGUMENT"), True, "request_failed"),
        (RequestFailedError("x", code="INTERNAL"), True, "request_failed"),
        (RequestFailedError("x", code="NOT_FOUND"), False, "request_failed"),
        (ServerDiedError("x"), True, "server_died"),
        (ServerUnavailableError("x"), False, "request_failed"),
    ],
)
def test_images_are_sent_alone_where_one_of_them_may_be_why(error: Any, alone: bool, status: str) -> None:
    assert may_be_one_image(IMAGES, error) is alone
    assert not may_be_one_image(IMAGES[:1], error)
    verdicts = failed(IMAGES, error)
    assert [(verdict.path, verdict.status, verdict.error) for verdict in verdicts] == [
        ("a.jpg", status, str(error)),
        ("b.jpg", status, str(error)),
    ]


def test_a_file_that_turns_into_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at before it is opened, and others may change it in between."""
    os.mkfifo(tmp_path / "pipe")
    looked, held = os.stat, len(list(Path("/proc/self/fd").iterdir()))
    regular = looked(__file__)
    monkeypatch.setattr(files.os, "stat", lambda path: regular)
    with pytest.raises(OSError, match="a named pipe and not a file; give a file with the image in it"):
        open_file(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        open_file(tmp_path)
    monkeypatch.undo()
    assert len(list(Path("/proc/self/fd").iterdir())) == held


def test_what_is_no_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open a device may do something to it."""
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(files.os, "open", lambda *about: pytest.fail("opened"))
    with pytest.raises(OSError, match="a named pipe and not a file"):
        open_file(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (stat.S_IFIFO, "a named pipe"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
        (0, "something else"),
    ],
)
def test_what_is_no_file_is_told_by_its_kind(kind: int, name: str) -> None:
    with pytest.raises(OSError, match=f"it is {name} and not a file; do this"):
        files._require_file(kind | 0o600, "do this")
