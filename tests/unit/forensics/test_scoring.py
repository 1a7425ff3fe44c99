"""Images through a server, resumably: what is asked, what is kept, what is warned of, and a challenge entry from it."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from deepfake_client import Calibration, DetectorError, Provenance, Verdict

from ensemble import calibration_file
from ensemble.calibration import PAPER_VOTE, NoMap, Temperature, Vote
from forensics.common.errors import ForensicsError
from forensics.common.scoring.server import SCORES_FILE, Server, ask_server, score_images
from forensics.common.scoring.store import ScoreStore
from forensics.submission.command import sorted_by_name, write_entry

TRAINED = {"untrained": False, "precision": "fp32", "streams": {}}


class Client:
    """Stands for a connected client: scores the images whose names are numbers, and counts what it was asked."""

    def __init__(self, provenance: dict[str, Any] | None = None, error: DetectorError | None = None) -> None:
        self.document, self.error = provenance, error
        self.scored: list[str] = []
        self.found = False

    def server_info(self) -> None:
        self.found = True

    def provenance(self) -> Provenance | None:
        assert self.found  # a wrong address is told first
        if self.error is not None:
            raise self.error
        return None if self.document is None else Provenance(bool(self.document["untrained"]), self.document)

    def calibration(self) -> Calibration | None:
        return None

    def score_many(self, items: Sequence[Path]) -> Iterator[Verdict]:
        for path in items:
            self.scored.append(path.name)
            if path.stem.isdigit():
                yield Verdict(str(path), "ok", int(path.stem) / 10, int(path.stem) / 10)
            else:
                yield Verdict(str(path), "unreadable_image")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / name for name in ("3.jpg", "7.jpg", "bad.jpg")]
    for path in paths:
        path.write_bytes(b"image")
    return paths


def scored(client: Any, images: list[Path], folder: Path, server: Server | None = None) -> list[dict[str, Any]]:
    return score_images(client, server or Server(TRAINED, None), images, folder)


def test_rows_are_in_the_order_of_the_images_and_scored_once(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client()
    output = tmp_path / "new" / "output"
    rows = scored(client, images, output)
    assert [(row["path"], row["status"], row["score"]) for row in rows] == [
        (str(images[0]), "ok", 0.3),
        (str(images[1]), "ok", 0.7),
        (str(images[2]), "unreadable_image", None),
    ]
    assert "scored before" not in capsys.readouterr().err
    assert scored(client, images[::-1], output) == rows[::-1]
    assert client.scored == ["3.jpg", "7.jpg", "bad.jpg"]
    assert f"3 of 3 images were scored before ({output / SCORES_FILE})" in capsys.readouterr().err


def test_an_image_that_changed_is_scored_again(images: list[Path], tmp_path: Path) -> None:
    client = Client()
    scored(client, images, tmp_path)
    images[1].write_bytes(b"another image")
    assert [row["score"] for row in scored(client, images, tmp_path)] == [0.3, 0.7, None]
    assert client.scored[3:] == ["7.jpg"]


def test_scores_of_other_weights_are_not_mixed_in(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = Client()
    scored(client, images, tmp_path)
    scored(client, images, tmp_path, Server(TRAINED | {"precision": "fp16"}, None))
    assert len(client.scored) == 6
    assert "held scores of other weights or another calibration" in capsys.readouterr().err
    assert (tmp_path / "scores.old.jsonl").exists()


def test_a_row_that_no_json_can_hold_is_refused_and_leaves_the_file_whole(images: list[Path], tmp_path: Path) -> None:
    path = tmp_path / SCORES_FILE
    with ScoreStore(path, {}) as store:
        store.keep(images[0], {"status": "ok", "score": 0.3})
        with pytest.raises(ValueError, match="JSON"):
            store.keep(images[1], {"status": "ok", "score": float("nan")})
    with ScoreStore(path, {}) as store:
        assert len(store) == 1


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        (None, "the server does not say which weights it runs"),
        (TRAINED | {"untrained": True}, "UNTRAINED weights: the networks are random"),
        (TRAINED | {"stand_in": "of samples"}, "STAND-IN weights: of samples"),
        (TRAINED, ""),
        (TRAINED | {"stand_in": None}, ""),
    ],
)
def test_a_server_whose_scores_mean_little_is_warned_of(
    provenance: dict[str, Any] | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client: Any = Client(provenance)
    server = ask_server(client)
    warned = capsys.readouterr().err
    assert said in warned
    assert bool(warned) == bool(said)
    assert server.provenance == provenance
    assert server.untrained == (provenance is not None and provenance["untrained"])
    assert bool(server.warning) == (bool(said) and provenance is not None)


def test_weights_that_cannot_be_asked_for_end_the_run() -> None:
    client: Any = Client(error=DetectorError("no answer"))
    with pytest.raises(DetectorError, match="it is not known which weights the server runs: no answer"):
        ask_server(client)


def calibrated(document: dict[str, Any] | None) -> Server:
    return Server(None, Calibration(document, ()))


def test_the_vote_is_the_server_s() -> None:
    vote = Vote((Temperature(2.0), NoMap(), NoMap()), (1.0, 1.0, 2.0), 0.05)
    digests = dict.fromkeys(("global_texture", "local_facial", "semantic_fusion"), "ab")
    document = json.loads(calibration_file.Calibration("today", False, 60, 70, digests, vote, ()).to_text())
    assert Server(None, None).vote == calibrated(None).vote == PAPER_VOTE
    assert calibrated(document).vote == vote
    with pytest.raises(ForensicsError, match="the server's calibration cannot be read"):
        calibrated(document | {"version": 99}).vote  # noqa: B018


def test_the_framing_is_what_the_server_says_or_the_default() -> None:
    assert Server(None, None).framing == Server(TRAINED, None).framing == ("square", 1.3)
    assert Server(TRAINED | {"framing": "face", "face_margin": "1.7"}, None).framing == ("face", 1.7)


def test_an_entry_has_a_line_for_each_image_by_its_name(images: list[Path], tmp_path: Path) -> None:
    paths = sorted_by_name([tmp_path / "z" / "a.png", tmp_path / "b" / "c.png", tmp_path / "a" / "b.png"])
    assert [path.name for path in paths] == ["a.png", "b.png", "c.png"]
    rows = [{"status": "ok", "score": score} for score in (0.30000001, 0.0, 1.0)]
    write_entry(tmp_path, paths, rows)
    assert (tmp_path / "submission.txt").read_text() == "0.3\n0.0\n1.0\n"
    assert (tmp_path / "order.txt").read_text() == "a.png\nb.png\nc.png\n"
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == ["submission.txt"]
        assert archive.read("submission.txt") == b"0.3\n0.0\n1.0\n"


def test_an_entry_needs_every_score_and_every_name_once(tmp_path: Path) -> None:
    bad = {"status": "unreadable_image", "score": None, "path": "b.png"}
    with pytest.raises(ForensicsError, match=r"1 of 2 images have no score, and an entry needs all: b.png: unreadable"):
        write_entry(tmp_path, [], [{"status": "ok", "score": 0.1}, bad])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ForensicsError, match="have the same name"):
        sorted_by_name([tmp_path / "a" / "x.png", tmp_path / "y.png", tmp_path / "b" / "x.png"])
