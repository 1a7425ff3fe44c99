"""A calibration goes into a model repository whole or not at all, and nothing else there changes."""

import json
from pathlib import Path

import pytest

from ensemble.calibration import PAPER_VOTE, NoMap, Vote
from ensemble.calibration_file import Calibration, echo_of, read_in_force
from ensemble.streams import STREAMS
from forensics.calibrate.install import CALIBRATION_FILE, install_calibration, with_parameters
from forensics.common.errors import ForensicsError

CONFIG = """# Keeps its comments.
backend: "python"
parameters { key: "calibration_file" value { string_value: "" } }
parameters {
  key: "CALIBRATION" value { string_value: "paper" }
}
parameters { key: "other" value { string_value: "stays \\"as\\" it is" } }
"""
DIGESTS = {stream.name: f"digest of {stream.name}" for stream in STREAMS}
VOTE = Vote((NoMap(),) * 3, (1.0, 2.0, 3.0), 0.2)


def text(digests: dict[str, str] = DIGESTS, created: str = 'a "day"\\n') -> str:
    return Calibration(created, False, 60, 70, digests, VOTE, ()).to_text()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "voter" / "1").mkdir(parents=True)
    (tmp_path / "voter" / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "provenance" / "1").mkdir(parents=True)
    streams = {name: {"sha256": digest} for name, digest in DIGESTS.items()}
    (tmp_path / "provenance" / "1" / "provenance.json").write_text(json.dumps({"streams": streams}))
    return tmp_path


def files(repository: Path) -> dict[str, str]:
    return {str(path.relative_to(repository)): path.read_text() for path in repository.rglob("*") if path.is_file()}


def test_what_is_installed_is_in_force(repository: Path) -> None:
    before = files(repository)
    path = install_calibration(repository, text())
    assert path == repository / "voter" / "1" / CALIBRATION_FILE
    read = read_in_force(path.parent, CALIBRATION_FILE, echo_of(text()))
    assert read is not None
    assert read.vote == VOTE != PAPER_VOTE
    after = files(repository)
    assert set(after) == {*before, f"voter/1/{CALIBRATION_FILE}"}
    config = after["voter/config.pbtxt"].splitlines()
    kept = CONFIG.splitlines()
    assert [line for line in config if line in kept] == [kept[0], kept[1], kept[3], kept[5], kept[6]]
    assert f'string_value: "{CALIBRATION_FILE}"' in config[2]


def test_another_one_takes_its_place(repository: Path) -> None:
    install_calibration(repository, text())
    install_calibration(repository, text(created="another day"))
    read = read_in_force(repository / "voter" / "1", CALIBRATION_FILE, echo_of(text(created="another day")))
    assert read is not None
    assert read.created == "another day"


def test_one_of_other_checkpoints_changes_nothing(repository: Path) -> None:
    before = files(repository)
    others = DIGESTS | {"local_facial": "another"}
    with pytest.raises(ForensicsError, match=r"not installed: .* other checkpoints of local_facial"):
        install_calibration(repository, text(others))
    assert files(repository) == before


@pytest.mark.parametrize("count", [0, 2])
def test_a_configuration_that_has_a_parameter_not_once_is_refused(repository: Path, count: int) -> None:
    line = CONFIG.splitlines(keepends=True)[2]
    (repository / "voter" / "config.pbtxt").write_text(CONFIG.replace(line, line * count))
    before = files(repository)
    with pytest.raises(ForensicsError, match=f"must have this line once, and has it {count} times"):
        install_calibration(repository, text())
    assert files(repository) == before


def test_a_folder_that_is_no_repository_is_told(tmp_path: Path) -> None:
    with pytest.raises(ForensicsError, match=r"voter/config\.pbtxt is not there"):
        install_calibration(tmp_path, text())


def test_values_come_back_whatever_characters_they_have() -> None:
    value = 'back\\slash "quotes" and\nlines'
    changed = with_parameters(CONFIG, {"CALIBRATION": value})
    assert with_parameters(changed, {"CALIBRATION": "paper"}) == CONFIG


def test_the_file_is_there_before_the_configuration_names_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts in between would find no such file, and not start."""
    moved = []
    replace = Path.replace

    def record(path: Path, target: Path) -> Path:
        moved.append(Path(target).name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", record)
    install_calibration(repository, text())
    assert moved == [CALIBRATION_FILE, "config.pbtxt"]
