"""Which files of a weights folder are exported as what; nothing is read but their names and sizes."""

from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.streams import STREAMS
from export.errors import MissingWeightsError
from export.weights import checkpoints
from export.weights.checkpoints import FACE_DETECTOR_FILE, FACE_RESTORER_FILES, find_checkpoints, find_face_weights
from networks.errors import ManifestError
from networks.weights.manifest import Entry, record

ALIGNER, GFPGAN, PARSENET = FACE_RESTORER_FILES


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"weights")


def test_each_face_model_gets_its_own_files(tmp_path: Path) -> None:
    assert find_face_weights(tmp_path) == {}
    put(tmp_path, FACE_DETECTOR_FILE)
    detector = {"face_detector": (tmp_path / FACE_DETECTOR_FILE,)}
    assert find_face_weights(tmp_path) == detector
    put(tmp_path, *FACE_RESTORER_FILES)
    restorers = {
        "face_aligner": (tmp_path / ALIGNER,),
        "face_restorer": (tmp_path / GFPGAN, tmp_path / PARSENET),
    }
    assert find_face_weights(tmp_path) == detector | restorers
    (tmp_path / FACE_DETECTOR_FILE).unlink()
    assert find_face_weights(tmp_path) == restorers


@pytest.mark.parametrize("there", [(ALIGNER,), (GFPGAN, PARSENET), (ALIGNER, PARSENET)])
def test_some_of_the_files_that_restore_faces_are_none(tmp_path: Path, there: tuple[str, ...]) -> None:
    put(tmp_path, FACE_DETECTOR_FILE, *there)
    lacking = ", ".join(name for name in FACE_RESTORER_FILES if name not in there)
    with pytest.raises(MissingWeightsError, match=f"lacks {lacking}: add what is missing"):
        find_face_weights(tmp_path)


def test_a_file_of_another_size_than_was_recorded_is_refused_before_it_is_read(tmp_path: Path) -> None:
    put(tmp_path, FACE_DETECTOR_FILE, *(stream.checkpoint for stream in STREAMS))
    assert list(find_checkpoints(tmp_path)) == list(STREAMS)
    for name, find in ((FACE_DETECTOR_FILE, find_face_weights), (STREAMS[1].checkpoint, find_checkpoints)):
        record(tmp_path, name, Entry(8, "ab", "local"))
        with pytest.raises(ManifestError, match=f"{name}: 7 bytes, manifest.json says 8"):
            find(tmp_path)


def test_a_checkpoint_in_either_form_is_found_and_one_in_both_is_refused(tmp_path: Path) -> None:
    put(tmp_path, *(stream.checkpoint for stream in STREAMS[1:]), "dinov2_252.safetensors")
    assert find_checkpoints(tmp_path)[STREAMS[0]] == tmp_path / "dinov2_252.safetensors"
    put(tmp_path, STREAMS[0].checkpoint)
    with pytest.raises(MissingWeightsError, match=r"both dinov2_252\.pth and dinov2_252\.safetensors: remove one"):
        find_checkpoints(tmp_path)


def test_a_network_of_another_method_has_one_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(STREAMS[0], checkpoint="other.onnx")
    monkeypatch.setattr(checkpoints, "STREAMS", (other,))
    put(tmp_path, "other.safetensors")
    with pytest.raises(MissingWeightsError, match=r"other\.onnx is missing"):
        find_checkpoints(tmp_path)
    put(tmp_path, "other.onnx")
    assert find_checkpoints(tmp_path) == {other: tmp_path / "other.onnx"}
