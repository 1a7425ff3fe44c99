"""The manifest beside checkpoints: what each file is, and where it came from."""

import hashlib
from pathlib import Path

import pytest

from networks.weights import manifest
from networks.weights.manifest import (
    MANIFEST_FILE,
    Entry,
    ManifestError,
    describe_file,
    read_manifest,
    record,
    write_manifest,
)

CONTENT = b"weights" * 1000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dinov2_252.pth"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_described_by_its_content(file: Path) -> None:
    entry = describe_file(file, "local")
    assert (entry.size, entry.sha256) == (7000, hashlib.sha256(CONTENT).hexdigest())
    assert (entry.source, entry.revision) == ("local", "")


def test_a_hash_that_is_known_is_taken(file: Path) -> None:
    assert describe_file(file, "https://hub", "main", sha256="ab12").sha256 == "ab12"


def test_what_is_written_is_read_and_nothing_else_is_left(file: Path) -> None:
    entries = {file.name: describe_file(file, "https://hub", "c0ffee")}
    write_manifest(file.parent, entries)
    assert read_manifest(file.parent) == entries
    assert {path.name for path in file.parent.iterdir()} == {file.name, MANIFEST_FILE}


def test_a_file_that_is_recorded_again_replaces_what_was_said_of_it_alone(tmp_path: Path) -> None:
    old, new, other = (Entry(size, "ab", "local") for size in (1, 2, 3))
    for name, entry in (("a.pth", old), ("b.pth", other), ("a.pth", new)):
        record(tmp_path, name, entry)
    assert read_manifest(tmp_path) == {"a.pth": new, "b.pth": other}


def test_an_interruption_leaves_the_old_manifest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: describe_file(file, "local")}
    write_manifest(file.parent, before)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(file.parent, {})
    assert read_manifest(file.parent) == before


def test_without_a_manifest_nothing_is_known_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == {}
    for text in ("", "{}", '{"files": {"a.pth": {"length": 1}}}', '{"files": []}'):
        (tmp_path / MANIFEST_FILE).write_text(text)
        with pytest.raises(ManifestError, match="cannot be read"):
            read_manifest(tmp_path)


def test_a_manifest_that_is_there_and_cannot_be_opened_is_not_taken_for_none(tmp_path: Path) -> None:
    """Else all that it knows would be recorded anew, damaged files too."""
    (tmp_path / MANIFEST_FILE).mkdir()
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path)


def test_a_hash_tells_the_bytes_that_it_has_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(manifest, "_CHUNK", 3000)
    assert manifest.sha256_of(file, told.append) == hashlib.sha256(CONTENT).hexdigest()
    assert told == [3000, 3000, 1000]
