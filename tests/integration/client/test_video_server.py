"""Videos on the real server: faces followed, a clip with manipulated seconds, a group with a manipulated face.

What trained weights must find is tried where there are such: DEEPFAKE_DEMO_WEIGHTS names a folder of checkpoints, and
DEEPFAKE_DEMO_SAMPLES one with `real/` and `fake/` pictures of faces, some of which they judge rightly.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from deepfake_client import DetectorClient, Item
from deepfake_client.video import Sampling, VideoOptions, draw_timeline, score_video

from tests.conftest import Server, start_server
from tests.golden import GOLDEN, read_rgb
from tests.videos import write_video

pytestmark = pytest.mark.server
ONE, TWO = (read_rgb(GOLDEN / "images" / name) for name in ("00_face.png", "01_face_close.png"))
WEIGHTS, SAMPLES = (Path(os.environ.get(f"DEEPFAKE_DEMO_{name}", "not given")) for name in ("WEIGHTS", "SAMPLES"))
learnt = pytest.mark.skipif(
    not (WEIGHTS.is_dir() and SAMPLES.is_dir()),
    reason="needs trained weights: set DEEPFAKE_DEMO_WEIGHTS and DEEPFAKE_DEMO_SAMPLES",
)


def test_two_faces_are_followed_through_a_clip(server: Server, tmp_path: Path) -> None:
    both = np.concatenate([ONE, TWO], axis=1)
    clip = write_video(tmp_path / "clip.mp4", [both] * 10, fps=5)
    with DetectorClient(server.url) as client:
        verdict = score_video(client, clip, VideoOptions(Sampling(fps=5), keep_frames=True))
    assert verdict.video is not None
    assert verdict.video.judgement is not None
    assert verdict.video.frames == 10
    assert sorted(track.samples for track in verdict.video.judgement.tracks) == [10, 10]
    assert [len(frame.faces or ()) for frame in verdict.frames] == [2] * 10
    worst = verdict.video.judgement.tracks[0]
    assert verdict.probability == worst.worst.probability
    assert "face 1" in draw_timeline(verdict)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DetectorClient]:
    """A client of a server with the trained weights."""
    folder = tmp_path_factory.mktemp("trained")
    options = ["--weights", str(WEIGHTS), "--repository", str(folder / "models")]
    subprocess.run([sys.executable, "-m", "export", *options], check=True)
    server = start_server(folder / "models", folder / "log")
    with DetectorClient(server.url) as client:
        yield client
    server.stop()


def samples(client: DetectorClient, label: str, count: int) -> list[np.ndarray]:
    """Pictures of one person that alone are judged rightly, the surest first: uint8 [256, 256, 3]."""
    paths = sorted(path for path in (SAMPLES / label).iterdir() if path.is_file())
    verdicts = client.score_many([Item(str(path), faces="all", attempts=1) for path in paths])
    right = [each for each in verdicts if each.verdict == label and len(each.faces or ()) == 1]
    if len(right) < count:
        pytest.skip(f"these weights call {len(right)} of {len(paths)} {label} faces {label}; {count} are needed")
    right.sort(key=lambda each: each.probability or 0.0, reverse=label == "fake")
    return [cv2.resize(read_rgb(Path(str(each.path))), (256, 256)) for each in right[:count]]


@learnt
def test_the_manipulated_face_of_a_group_is_named(trained: DetectorClient) -> None:
    group = np.concatenate([*samples(trained, "real", 2), *samples(trained, "fake", 1)], axis=1)
    encoded = cv2.imencode(".png", cv2.cvtColor(group, cv2.COLOR_RGB2BGR))[1].tobytes()
    verdict = trained.score(encoded, faces="all")
    assert verdict.verdict == "fake"
    assert verdict.faces is not None
    by_place = sorted(verdict.faces, key=lambda face: (face.face.box or (0,))[0])
    assert [face.verdict for face in by_place] == ["real", "real", "fake"]
    assert verdict.face == by_place[2].face


@learnt
def test_three_manipulated_seconds_show_on_the_timeline(trained: DetectorClient, tmp_path: Path) -> None:
    real, fake = samples(trained, "real", 1)[0], samples(trained, "fake", 1)[0]
    clip = write_video(tmp_path / "clip.mp4", [real] * 40 + [fake] * 30 + [real] * 30, fps=10)
    verdict = score_video(trained, clip, VideoOptions(Sampling(fps=2)))
    assert verdict.video is not None
    assert verdict.video.judgement is not None
    worst = verdict.video.judgement.tracks[0].worst
    assert 3.5 <= worst.start <= worst.end <= 7.5
    assert verdict.probability is not None
    assert verdict.probability > verdict.video.judgement.mean
