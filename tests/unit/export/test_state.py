"""What weights are, by one rule: untrained, stand-in, of unknown origin, own, published."""

from pathlib import Path

import pytest
from deepfake_client import Provenance

from ensemble.contract import STATE, UNTRAINED, WEIGHTS_STATES
from export.exporters.stream_export import StreamExport
from export.repository import describe
from export.state import weakest, weights_state
from networks.weights.manifest import TRAINING_RUN, Entry, record
from tests.unit.export.test_repository import face_model, stream_exports

HUB = "https://huggingface.co/lpmkhoa/hcmusaqua-ntire26-weights"


def exported(folder: Path, **changed: object) -> StreamExport:
    export = stream_exports(folder)[0]
    return StreamExport(**{**vars(export), "weights": (folder / "a.pth",), "hashes": ("12ab",), **changed})


@pytest.mark.parametrize(
    ("entry", "state"),
    [
        (None, "unknown"),
        (Entry(1, "12ab", HUB, "c0ffee"), "published"),
        (Entry(1, "other", HUB, "c0ffee"), "unknown"),
        (Entry(1, "12ab", HUB), "unknown"),  # of no commit: the hub was not asked
        (Entry(1, "12ab", "local"), "unknown"),
        (Entry(1, "12ab", HUB.replace("/lpmkhoa", "/notlpmkhoa"), "c0ffee"), "unknown"),
        (Entry(1, "12ab", f"as of a {TRAINING_RUN}june"), "unknown"),
        (Entry(1, "12ab", f"{TRAINING_RUN}june"), "own"),
    ],
)
def test_learnt_weights_are_what_their_manifest_says_of_their_digest(
    tmp_path: Path, entry: Entry | None, state: str
) -> None:
    if entry is not None:
        record(tmp_path, "a.pth", entry)
    assert weights_state(exported(tmp_path)) == state
    assert weights_state(exported(tmp_path, untrained=True)) == "untrained"
    assert weights_state(exported(tmp_path, stand_in="of samples")) == "stand-in"


def test_several_networks_are_what_promises_least() -> None:
    assert weakest(["published", "own", "published"]) == "own"
    assert weakest(reversed(WEIGHTS_STATES)) == "untrained"


def test_clients_read_what_the_export_wrote(tmp_path: Path) -> None:
    record(tmp_path, "a.pth", Entry(1, "12ab", HUB, "c0ffee"))
    one = exported(tmp_path)
    for exports, state in (([one], "published"), ([one, exported(tmp_path, hashes=("0",))], "unknown")):
        document = describe(exports)
        assert document[STATE] == state
        assert Provenance(bool(document[UNTRAINED]), document).state == state
    assert describe([one], [face_model(tmp_path)])[STATE] == "unknown"  # its own weights are of no known origin
    assert Provenance(False, {}).state == "unknown"  # an export from before
    assert Provenance(True, document).state == "untrained"
    assert Provenance(False, {"stand_in": "of samples"}).state == "stand-in"
