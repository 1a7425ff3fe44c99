"""Which files are meant by folders, patterns, lists and links, in which order; nothing is read or sent."""

import os
from pathlib import Path
from typing import Any

import pytest
from deepfake_client.bulk.inputs import Inputs, find_images, is_video
from deepfake_client.bulk.lists import Columns
from deepfake_client.images.items import Item

FILES = (
    "b.jpg",
    "a.PNG",
    "notes.txt",
    ".hidden.jpg",
    "clip.MP4",
    "sub/c.webp",
    "sub/deep/d.tif",
    "sub/deep/e.bmp",
    "other/f.jpeg",
    "other/.git/g.jpg",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"0.5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*paths: str, told: list[str] | None = None, **options: Any) -> list[str | None]:
    told = [] if told is None else told
    return [item.path for item in find_images(Inputs(paths, **options), told.append)]


def test_a_folder_s_files_come_by_name_and_before_those_of_its_subfolders(here: Path) -> None:
    assert found(".") == [
        "./.hidden.jpg",
        "./a.PNG",
        "./b.jpg",
        "./clip.MP4",
        "./other/f.jpeg",
        "./other/.git/g.jpg",
        "./sub/c.webp",
        "./sub/deep/d.tif",
        "./sub/deep/e.bmp",
    ]


def test_any_other_path_is_taken_as_it_is(here: Path) -> None:
    assert found("notes.txt", "missing.jpg", "b.jpg", "b.jpg", "nul\0.jpg", "x" * 5000) == [
        "notes.txt",
        "missing.jpg",
        "b.jpg",
        "b.jpg",
        "nul\0.jpg",
        "x" * 5000,
    ]


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*.jpg", ["b.jpg"]),
        (".*.jpg", [".hidden.jpg"]),
        ("?.*", ["a.PNG", "b.jpg"]),
        ("[ab].*", ["a.PNG", "b.jpg"]),
        ("*/*.webp", ["sub/c.webp"]),
        ("sub/*/d.tif", ["sub/deep/d.tif"]),
        ("sub/d*/?.*", ["sub/deep/d.tif", "sub/deep/e.bmp"]),
        ("./*.jpg", ["./b.jpg"]),
        ("s*", ["sub/c.webp", "sub/deep/d.tif", "sub/deep/e.bmp"]),
        ("**/*.tif", ["sub/deep/d.tif"]),
        ("**/f.jpeg", ["other/f.jpeg"]),
        ("sub/**", ["sub/c.webp", "sub/deep/d.tif", "sub/deep/e.bmp"]),
        ("sub/**/*", ["sub/c.webp", "sub/deep/d.tif", "sub/deep/e.bmp"]),
        ("**/deep/*", ["sub/deep/d.tif", "sub/deep/e.bmp"]),
        ("**", ["a.PNG", "b.jpg", "clip.MP4", "notes.txt", "other/f.jpeg", *FILES[5:8]]),
        ("*.gif", ["*.gif"]),
        ("b.jpg/*.jpg", ["b.jpg/*.jpg"]),
        ("missing/*.jpg", ["missing/*.jpg"]),
    ],
)
def test_a_pattern_matches_as_in_a_shell(here: Path, pattern: str, matches: list[str]) -> None:
    assert sorted(path or "" for path in found(pattern)) == sorted(matches)


def test_a_pattern_of_a_whole_path(here: Path) -> None:
    assert found(f"{here}/*.jpg") == [f"{here}/b.jpg"]
    assert found(f"{here}/sub/**/e.*") == [f"{here}/sub/deep/e.bmp"]


def test_a_file_that_is_called_like_a_pattern_is_meant_itself(here: Path) -> None:
    (here / "[ab].*").write_bytes(b"0.5")
    assert found("[ab].*") == ["[ab].*"]


def test_a_link_that_leads_nowhere_is_meant_by_its_name_and_matched_by_a_pattern(here: Path) -> None:
    """Its row says what is wrong with it, instead of its going unseen."""
    (here / "[ab].*").symlink_to("nowhere")
    (here / "sub" / "broken.jpg").symlink_to("nowhere")
    assert found("[ab].*") == ["[ab].*"]
    assert found("*/broken.jpg") == ["sub/broken.jpg"]


def test_a_folder_that_cannot_be_read_gets_a_row_and_costs_no_other(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).rstrip("/").endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert found("sub", "other") == ["sub/c.webp", "sub/deep", "other/f.jpeg", "other/.git/g.jpg"]
    assert found("sub/*/d.tif") == ["sub/deep/d.tif"]
    assert found("sub/deep/*") == ["sub/deep/*"]


def test_links_in_folders_are_rows_or_told_and_followed_on_request(here: Path) -> None:
    (here / "links").mkdir()
    (here / "links" / "file.jpg").symlink_to(here / "b.jpg")
    (here / "links" / "folder").symlink_to(here / "sub")
    (here / "links" / "images.jpg").symlink_to(here / "other")
    (here / "links" / "broken.jpg").symlink_to(here / "nowhere")
    (here / "links" / "round").symlink_to(here / "links")
    told: list[str] = []
    items = list(find_images(Inputs(("links",)), told.append))
    assert [item.path for item in items] == ["links/broken.jpg", "links/file.jpg", "links/images.jpg"]
    assert all(item.error is not None and "--follow-links" in item.error for item in items)
    assert told == ["links/folder", "links/round"]
    followed = found("links", follow_links=True)
    assert followed == [
        "links/broken.jpg",
        "links/file.jpg",
        "links/folder/c.webp",
        "links/folder/deep/d.tif",
        "links/folder/deep/e.bmp",
        "links/images.jpg/f.jpeg",
        "links/images.jpg/.git/g.jpg",
    ]
    assert not any(item.error for item in find_images(Inputs(("links",), follow_links=True)))
    assert found("links/file.jpg") == ["links/file.jpg"]  # what is named is followed
    assert found("links/folder") == ["links/folder/c.webp", "links/folder/deep/d.tif", "links/folder/deep/e.bmp"]


@pytest.mark.parametrize("pattern", ["sub", "sub/**"])
def test_a_link_that_leads_back_from_further_down_is_followed_round_once(here: Path, pattern: str) -> None:
    (here / "sub" / "deep" / "up").symlink_to(here / "sub")
    images = ["sub/c.webp", "sub/deep/d.tif", "sub/deep/e.bmp"]
    assert sorted(map(str, found(pattern, follow_links=True))) == images


def test_the_box_of_a_listed_folder_is_that_of_its_images(here: Path) -> None:
    (here / "list.csv").write_text("path,face_x1,face_y1,face_x2,face_y2\nsub/deep,1,2,3,4\nb.jpg,,,,\nb.jpg,1,,,\n")
    items = list(find_images(Inputs((), ("list.csv",), Columns(boxes=True))))
    assert [(item.path, item.box, item.error is None) for item in items] == [
        ("sub/deep/d.tif", (1, 2, 3, 4), True),
        ("sub/deep/e.bmp", (1, 2, 3, 4), True),
        ("b.jpg", None, True),
        ("b.jpg", None, False),
    ]


def test_lists_come_after_paths(here: Path) -> None:
    (here / "list.txt").write_text("other\nmissing.jpg\n")
    assert found("b.jpg", lists=("list.txt",)) == ["b.jpg", "other/f.jpeg", "other/.git/g.jpg", "missing.jpg"]


def test_what_is_known_of_inputs_without_reading_them(here: Path) -> None:
    assert Inputs((f"{here}/b.jpg",)).are_absolute
    assert not Inputs((f"{here}/b.jpg", "b.jpg")).are_absolute
    assert not Inputs((f"{here}/b.jpg",), ("notes.txt",)).are_absolute
    assert Inputs(("b.jpg",), ("notes.txt", "sub")).are_files
    assert not Inputs(("-",)).are_files
    assert not Inputs(("b.jpg",), ("/dev/null",)).are_files


@pytest.mark.parametrize(
    ("item", "video"),
    [
        (Item("a/clip.MP4"), True),
        (Item("clip.mkv"), True),
        (Item("clip.ts"), False),
        (Item("a.jpg"), False),
        (Item(None, b"data"), False),
        (Item("clip.mp4", error="gone"), False),
        (Item("shard.tar/clip.mp4", load=bytes), True),
    ],
)
def test_a_video_is_known_by_its_name(item: Item, video: bool) -> None:
    assert is_video(item) is video
