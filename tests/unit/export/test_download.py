"""`python -m export.download` against a hub on loopback: whole, broken off, damaged, refused and absent."""

import fcntl
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from export.__main__ import main as export_main
from export.download import CHECKPOINTS, main
from export.weights import hub as hub_module
from export.weights import published as published_module
from export.weights.hub import REPOSITORY
from export.weights.manifest import require_hashes, require_sizes
from export.weights.transfer import unfinished
from networks import write_random_weights
from networks.errors import ManifestError
from networks.faces.retinaface_weights import write_random_retinaface
from networks.weights.manifest import read_manifest
from tests.fakes.hub import COMMIT, Hub, hub_on_loopback

MIB = 2**20
CONTENT = {name: random.Random(name).randbytes(3 * MIB) for name in CHECKPOINTS}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_on_loopback(Hub(dict(CONTENT))) as running:
        monkeypatch.setattr(hub_module, "ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield running


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def download(weights: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--weights", str(weights), "--no-face-detector", *options])


def said(result: Result) -> str:
    return " ".join(result.output.split())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_checkpoints_arrive_and_are_recorded(hub: Hub, weights: Path) -> None:
    result = download(weights)
    assert result.exit_code == 0, result.output
    files = json.loads((weights / "manifest.json").read_text())["files"]
    for name, content in CONTENT.items():
        assert (weights / name).read_bytes() == content
        assert files[name] == {
            "size": len(content),
            "sha256": sha256(content),
            "source": f"{hub.url}/lpmkhoa/hcmusaqua-ntire26-weights",
            "revision": COMMIT,
        }
    # Of that commit, whatever the branch has become meanwhile.
    assert {path.split("/resolve/")[1].split("/")[0] for _, path, _ in hub.requests if "/resolve/" in path} == {COMMIT}


def test_the_token_stays_with_the_hub(hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.elsewhere = True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert download(weights).exit_code == 0
    told = {headers["host"].split(":")[0]: headers.get("authorization") for _, _, headers in hub.requests}
    assert told == {"127.0.0.1": "Bearer hf_secret", "localhost": None}
    assert (weights / CHECKPOINTS[0]).read_bytes() == CONTENT[CHECKPOINTS[0]]


def test_the_token_goes_by_no_other_scheme(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    file = hub_module.PublishedFile(CHECKPOINTS[0], 3 * MIB, "", COMMIT)
    assert hub_module.locate(file).headers == {"Authorization": "Bearer hf_secret"}
    with monkeypatch.context() as patch:
        elsewhere = SimpleNamespace(location="http://127.0.0.1:9/resolve/x")  # another port
        patch.setattr(hub_module.HfApi, "get_hf_file_metadata", lambda *_, **__: elsewhere)
        assert hub_module.locate(file).headers == {}
    monkeypatch.setattr(hub_module, "hf_hub_url", lambda *_, **__: hub.url.replace("http:", "https:") + "/resolve/x")
    monkeypatch.setattr(
        hub_module.HfApi, "get_hf_file_metadata", lambda *_, **__: SimpleNamespace(location=f"{hub.url}/resolve/x")
    )
    assert hub_module.locate(file).headers == {}


def test_a_small_file_has_no_hash_at_the_hub_which_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def model_info(*_: object, **options: object) -> SimpleNamespace:
        asked.append(options)
        small = SimpleNamespace(rfilename="small", size=7, lfs=None)
        return SimpleNamespace(siblings=[small], sha=COMMIT)

    monkeypatch.setattr(hub_module.HfApi, "model_info", model_info)
    assert hub_module.look_up(["small"], "main") == {"small": hub_module.PublishedFile("small", 7, "", COMMIT)}
    assert asked == [{"revision": "main", "files_metadata": True, "timeout": 30}]


def test_a_second_run_verifies_and_asks_nobody(hub: Hub, weights: Path) -> None:
    download(weights)
    hub.requests.clear()
    assert download(weights).exit_code == 0
    assert hub.requests == []


@pytest.mark.parametrize("damage", [b"x" * 3 * MIB, b"shorter"])
def test_a_file_changed_since_is_refused(hub: Hub, weights: Path, damage: bytes) -> None:
    download(weights)
    (weights / CHECKPOINTS[1]).write_bytes(damage)
    result = download(weights)
    assert result.exit_code == 1
    assert "changed or damaged since it was recorded" in said(result)
    assert (weights / CHECKPOINTS[1]).read_bytes() == damage, "the user's file is not theirs any more"


def test_the_commit_is_kept_when_the_hub_moves_on(hub: Hub, weights: Path) -> None:
    download(weights)
    (weights / CHECKPOINTS[0]).unlink()
    assert download(weights).exit_code == 0
    assert any(f"/revision/{COMMIT}" in path for _, path, _ in hub.requests)
    hub.commit = "f" * 40
    result = download(weights, "--revision", "main")
    assert result.exit_code == 1
    assert f"holds files of revision {COMMIT}, not of {'f' * 40}" in said(result)


@pytest.mark.usefixtures("no_pauses")
def test_a_transfer_that_breaks_off_goes_on_in_the_same_run(hub: Hub, weights: Path) -> None:
    hub.cuts = [MIB, MIB]
    result = download(weights)
    assert result.exit_code == 0, result.output
    assert all((weights / name).read_bytes() == content for name, content in CONTENT.items())
    assert (CHECKPOINTS[0], f"bytes={MIB}-") in hub.transfers()
    assert (CHECKPOINTS[0], f"bytes={2 * MIB}-") in hub.transfers()


@pytest.mark.usefixtures("no_pauses")
def test_a_transfer_that_broke_off_for_good_goes_on_in_the_next_run(hub: Hub, weights: Path) -> None:
    hub.cuts = [MIB] + [0] * 4
    result = download(weights)
    assert result.exit_code == 3, result.output
    assert "run the command again, which goes on where it was" in said(result)
    assert not (weights / CHECKPOINTS[0]).exists()
    hub.cuts = []
    hub.requests.clear()
    assert download(weights).exit_code == 0
    assert hub.transfers()[0] == (CHECKPOINTS[0], f"bytes={MIB}-")
    assert (weights / CHECKPOINTS[0]).read_bytes() == CONTENT[CHECKPOINTS[0]]


def test_a_file_that_was_all_there_is_not_taken_for_granted(hub: Hub, weights: Path) -> None:
    weights.mkdir()
    tag = sha256(sha256(CONTENT[CHECKPOINTS[0]]).encode())[:8]
    (weights / f".{CHECKPOINTS[0]}.{tag}.partial").write_bytes(bytes(4 * MIB))
    result = download(weights)
    assert result.exit_code == 0, result.output
    assert (weights / CHECKPOINTS[0]).read_bytes() == CONTENT[CHECKPOINTS[0]]


def test_bytes_that_are_not_those_announced_are_thrown_away(hub: Hub, weights: Path) -> None:
    hub.damaged = True
    result = download(weights)
    assert result.exit_code == 1
    assert f"published at {hub.url}" in said(result)
    assert not (weights / CHECKPOINTS[0]).exists()
    assert read_manifest(weights) == {}
    hub.damaged = False
    assert download(weights).exit_code == 0


def test_a_disk_too_small_is_refused_before_anything_is_fetched(
    hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: SimpleNamespace(free=9 * MIB - 1 if path == weights else 1 << 40)
    )
    result = download(weights)
    assert result.exit_code == 1
    assert "take 0.01 GB more, 0.01 GB are free" in said(result)
    assert hub.transfers() == []


def test_what_an_earlier_run_left_needs_no_room_again(hub: Hub, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.mkdir()
    content = CONTENT[CHECKPOINTS[0]]
    tag = sha256(sha256(content).encode())[:8]
    (weights / f".{CHECKPOINTS[0]}.{tag}.partial").write_bytes(content[:MIB])
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 8 * MIB}))
    result = download(weights)
    assert result.exit_code == 0, result.output
    assert hub.transfers()[0] == (CHECKPOINTS[0], f"bytes={MIB}-")


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (401, "", "set HF_TOKEN"),
        (401, "RepoNotFound", "set HF_TOKEN"),
        (403, "GatedRepo", "terms to be accepted"),
        (403, "", "set HF_TOKEN to a valid token"),
        (404, "RepoNotFound", "HF_ENDPOINT to a mirror"),
        (404, "RevisionNotFound", "choose another --revision"),
        (500, "", "try again later"),
    ],
)
def test_a_refusal_says_what_to_do(hub: Hub, weights: Path, status: int, code: str, advice: str) -> None:
    hub.status = status, code
    result = download(weights)
    assert result.exit_code == 1, result.output
    assert advice in said(result)
    assert hub.url in said(result)


def test_a_file_that_the_revision_lacks_is_named(hub: Hub, weights: Path) -> None:
    del hub.files[CHECKPOINTS[2]]
    result = download(weights)
    assert result.exit_code == 1
    assert f"has no {CHECKPOINTS[2]} at revision main" in said(result)


def test_without_a_network_the_message_names_the_ways_out(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "ENDPOINT", "http://127.0.0.1:9")
    result = download(weights)
    assert result.exit_code == 3, result.output
    for part in ("cannot be reached", "HTTPS_PROXY", "HF_ENDPOINT", "download the files by hand from https://"):
        assert part in said(result)


def test_files_put_there_by_hand_are_compared_with_the_hub(hub: Hub, weights: Path) -> None:
    weights.mkdir()
    for name, content in CONTENT.items():
        (weights / name).write_bytes(content)
    assert download(weights).exit_code == 0
    assert hub.transfers() == []
    assert {entry.revision for entry in read_manifest(weights).values()} == {COMMIT}

    (weights / "manifest.json").unlink()
    (weights / CHECKPOINTS[1]).write_bytes(CONTENT[CHECKPOINTS[0]])
    result = download(weights)
    assert result.exit_code == 1
    assert f"{CHECKPOINTS[1]}: sha256 {sha256(CONTENT[CHECKPOINTS[0]])}" in said(result)
    assert (weights / CHECKPOINTS[1]).exists(), "a file that the user put there was removed"


def test_files_put_there_by_hand_do_without_a_network(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "ENDPOINT", "http://127.0.0.1:9")
    weights.mkdir()
    for name, content in CONTENT.items():
        (weights / name).write_bytes(content)
    result = download(weights)
    assert result.exit_code == 0, result.output
    assert "not compared with the hub" in said(result)
    assert {entry.source for entry in read_manifest(weights).values()} == {"local"}


def test_a_revision_that_is_asked_for_needs_a_network(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "ENDPOINT", "http://127.0.0.1:9")
    weights.mkdir()
    for name, content in CONTENT.items():
        (weights / name).write_bytes(content)
    assert download(weights, "--revision", "v1").exit_code == 3
    assert read_manifest(weights) == {}


def test_converted_checkpoints_are_not_joined_by_the_published_ones(hub: Hub, weights: Path) -> None:
    weights.mkdir()
    (weights / "dinov2_252.safetensors").touch()
    assert "would stand beside the published files" in said(download(weights))
    assert hub.requests == []


def test_two_downloads_do_not_meet_in_one_folder(hub: Hub, weights: Path) -> None:
    weights.mkdir()
    handle = os.open(weights, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # beside it another may look, and none write
    assert "another download is at work there" in said(download(weights))
    os.close(handle)
    assert download(weights).exit_code == 0


def test_a_manifest_that_cannot_be_read_is_an_error(hub: Hub, weights: Path) -> None:
    weights.mkdir()
    for content in ("{", '{"files": [1]}', '{"files": {"a": {"size": 1}}}', "[]"):
        (weights / "manifest.json").write_text(content)
        result = download(weights)
        assert result.exit_code == 1, content
        assert "cannot be read" in said(result)


# As a process of its own, with the settings of the environment


def start(weights: Path, url: str, tmp_path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-m", "export.download", "--weights", str(weights), "--no-face-detector"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kept(weights: Path) -> int:
    """Bytes that a later run can go on from."""
    return sum(unfinished(weights / name) for name in CHECKPOINTS)


def test_ctrl_c_leaves_what_the_next_run_goes_on_from(hub: Hub, weights: Path, tmp_path: Path) -> None:
    hub.files[CHECKPOINTS[0]] = large = random.Random(0).randbytes(24 * MIB)
    hub.hold_after = 4 * MIB
    process = start(weights, hub.url, tmp_path)
    while kept(weights) < MIB:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    hub.hold_after = None
    hub.go_on.set()
    assert process.returncode == 130, output
    assert "interrupted; run the same command again to go on" in output
    assert "Traceback" not in output

    there = kept(weights)
    assert there > 0
    hub.requests.clear()
    process = start(weights, hub.url, tmp_path)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert hub.transfers()[0] == (CHECKPOINTS[0], f"bytes={there}-")
    assert (weights / CHECKPOINTS[0]).read_bytes() == large
    asked = [(headers.get("authorization"), path) for _, path, headers in hub.requests if REPOSITORY in path]
    assert {authorization for authorization, _ in asked} == {"Bearer hf_secret"}


# The face detector


@pytest.fixture(scope="module")
def retinaface(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("retinaface") / "retinaface.h5"
    write_random_retinaface(path)
    return path.read_bytes()


@pytest.fixture
def published(retinaface: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeded file stands for the published one."""
    known = published_module.Known(len(retinaface), sha256(retinaface))
    monkeypatch.setitem(published_module.KNOWN, "retinaface.h5", known)  # type: ignore[arg-type]


def with_detector(weights: Path, hub: Hub) -> Result:
    url = f"{hub.url}/releases/retinaface.h5"
    return CliRunner().invoke(main, ["--weights", str(weights), "--face-detector-url", url])


@pytest.mark.usefixtures("no_pauses", "published")
def test_the_face_detector_goes_on_where_it_broke_off_and_is_recorded(
    hub: Hub, weights: Path, retinaface: bytes
) -> None:
    hub.released = retinaface
    assert download(weights).exit_code == 0
    hub.requests.clear()
    hub.cuts = [5 * MIB, 7 * MIB]
    result = with_detector(weights, hub)
    assert result.exit_code == 0, result.output
    assert (weights / "retinaface.h5").read_bytes() == retinaface
    assert [span for _, span in hub.transfers()] == ["", f"bytes={5 * MIB}-", f"bytes={12 * MIB}-"]
    assert read_manifest(weights)["retinaface.h5"].sha256 == sha256(retinaface)
    assert not list(weights.glob(".*.partial"))
    hub.requests.clear()
    assert with_detector(weights, hub).exit_code == 0
    assert hub.requests == []


@pytest.mark.usefixtures("no_pauses", "published")
def test_parts_of_different_releases_are_never_kept_together(hub: Hub, weights: Path, retinaface: bytes) -> None:
    assert download(weights).exit_code == 0
    hub.released, hub.cuts = bytes(len(retinaface)), [MIB] + [0] * 4
    assert with_detector(weights, hub).exit_code == 3
    hub.released, hub.cuts = retinaface, []
    refused = with_detector(weights, hub)
    assert refused.exit_code == 1
    assert "not kept" in said(refused)
    assert with_detector(weights, hub).exit_code == 0
    assert (weights / "retinaface.h5").read_bytes() == retinaface


@pytest.mark.usefixtures("no_pauses")
def test_a_mirror_has_to_serve_the_published_detector(hub: Hub, weights: Path, retinaface: bytes) -> None:
    """Seeded weights are a face detector that can be read, but not the published one."""
    hub.released = retinaface
    known = published_module.KNOWN["retinaface.h5"]
    assert (known.size, known.sha256[:8]) == (118667368, "ecb2393a")
    result = with_detector(weights, hub)
    assert result.exit_code == 1
    assert f"announced are {known.size}" in said(result) or known.sha256 in said(result)
    assert not (weights / "retinaface.h5").exists()


@pytest.mark.usefixtures("published")
def test_it_is_said_which_digests_were_known_and_which_are_trusted_on_first_use(
    hub: Hub, weights: Path, retinaface: bytes
) -> None:
    hub.released = retinaface
    lines = with_detector(weights, hub).output.splitlines()
    for name in CHECKPOINTS:
        assert [line.endswith("trusted on first use") for line in lines if line.startswith(f"{name} ")] == [True]
    assert [line.endswith("known digest") for line in lines if line.startswith("retinaface.h5 ")] == [True]


def test_a_detector_of_ones_own_is_recorded_as_found(hub: Hub, weights: Path, retinaface: bytes) -> None:
    weights.mkdir()
    (weights / "retinaface.h5").write_bytes(retinaface)
    (weights / "GFPGANv1.4.pth").write_bytes(b"another")
    result = download(weights)
    assert result.exit_code == 0, result.output
    for name in ("retinaface.h5", "GFPGANv1.4.pth"):
        assert f"{name} is not the published file: recorded as found" in said(result)
        assert read_manifest(weights)[name].source == "local"


def test_a_detector_put_there_by_hand_must_be_one(hub: Hub, weights: Path) -> None:
    weights.mkdir()
    (weights / "retinaface.h5").write_bytes(b"not HDF5")
    result = download(weights)
    assert result.exit_code == 1
    assert "retinaface.h5" in said(result)
    assert "retinaface.h5" not in read_manifest(weights)


@pytest.mark.usefixtures("published")
def test_a_release_that_changed_is_refused(hub: Hub, weights: Path, retinaface: bytes) -> None:
    hub.released = retinaface
    assert with_detector(weights, hub).exit_code == 0
    manifest = (weights / "manifest.json").read_text()
    (weights / "manifest.json").write_text(manifest.replace(sha256(retinaface), "0" * 64))
    (weights / "retinaface.h5").unlink()
    result = with_detector(weights, hub)
    assert result.exit_code == 1
    assert "manifest.json says 0000" in said(result)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("released", [b"not HDF5", b""])
def test_a_file_that_is_no_face_detector_is_thrown_away(hub: Hub, weights: Path, released: bytes) -> None:
    hub.released = released
    assert download(weights).exit_code == 0
    result = with_detector(weights, hub)
    assert result.exit_code == 1, result.output
    assert sorted(path.name for path in weights.iterdir()) == [*CHECKPOINTS, "manifest.json"]


# What the export does with the manifest


def test_recorded_files_are_compared_by_size_and_hash(hub: Hub, weights: Path) -> None:
    download(weights)
    path, stranger = weights / CHECKPOINTS[0], weights / "stranger.pth"
    stranger.touch()
    require_sizes([path, stranger])
    require_hashes({path: sha256(CONTENT[path.name]), stranger: "0" * 64})
    with pytest.raises(ManifestError, match=r"python -m export\.download --weights"):
        require_hashes({path: "0" * 64})


def test_an_export_refuses_what_is_not_as_recorded(weights: Path, tmp_path: Path) -> None:
    write_random_weights(weights, "tiny")
    sizes = {name: (weights / name).stat().st_size for name in CHECKPOINTS}
    files = {name: {"size": size, "sha256": "0" * 64, "source": "local"} for name, size in sizes.items()}
    (weights / "manifest.json").write_text(json.dumps({"files": files}))
    arguments = ["--weights", str(weights), "--repository", str(tmp_path / "models")]
    result = CliRunner().invoke(export_main, arguments)
    assert result.exit_code == 1
    assert "changed or damaged since it was recorded" in said(result)
    assert not (tmp_path / "models/provenance/1/provenance.json").exists()

    files[CHECKPOINTS[0]]["size"] = 1
    (weights / "manifest.json").write_text(json.dumps({"files": files}))
    result = CliRunner().invoke(export_main, arguments)
    assert f"{sizes[CHECKPOINTS[0]]} bytes, manifest.json says 1" in said(result)
