"""Videos on the real server: faces followed; by learnt weights, manipulated seconds and a group's manipulated face."""

from pathlib import Path

import numpy as np
import pytest
from deepfake_client import DetectorClient, Image
from deepfake_client.video import Sampling, VideoOptions, draw_timeline, score_video

from tests.conftest import Server
from tests.faces import Person, encode, picture
from tests.golden import GOLDEN, read_rgb
from tests.videos import write_video

pytestmark = pytest.mark.server
ONE, TWO = (read_rgb(GOLDEN / "images" / name) for name in ("00_face.png", "01_face_close.png"))


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


def test_the_manipulated_face_of_a_group_is_named(learnt: Server) -> None:
    """The manipulated face is of a photograph that the weights never saw. The real ones are of one that they did see:
    of the other they say 0.5, and so "uncertain"."""
    people = [picture("hopper"), picture("hopper", 20)[:, ::-1], picture("astronaut", fake=True)]
    group = np.concatenate(people, axis=1)
    with DetectorClient(learnt.url) as client:
        verdict = client.score(Image(encode(group), faces="all"))
    assert verdict.verdict == "fake"
    assert verdict.faces is not None
    by_place = sorted(verdict.faces, key=lambda face: (face.face.box or (0,))[0])
    assert [face.verdict for face in by_place] == ["real", "real", "fake"]
    assert verdict.face == by_place[2].face
    row = verdict.to_dict()
    assert row["face_count"] == 3
    assert row["face"]["box"][0] > 512


@pytest.mark.parametrize("person", ["hopper", "astronaut"])
def test_three_manipulated_seconds_show_on_the_timeline(learnt: Server, tmp_path: Path, person: Person) -> None:
    frames = (picture(person, n, fake=40 <= n < 70) for n in range(100))
    clip = write_video(tmp_path / "clip.mp4", frames, fps=10)
    with DetectorClient(learnt.url) as client:
        verdict = score_video(client, clip, VideoOptions(Sampling(fps=2)))
    assert verdict.video is not None
    assert verdict.video.judgement is not None
    (track,) = verdict.video.judgement.tracks
    assert verdict.verdict == "fake"
    assert (track.worst.start, track.worst.end) == (4.0, 6.5)
    manipulated = [probability for seconds, probability in track.series if 4 <= seconds < 7]
    others = [probability for seconds, probability in track.series if not 4 <= seconds < 7]
    assert min(manipulated) > max(others)
    assert np.mean(others) < 0.5 < min(manipulated)
    drawn = draw_timeline(verdict)
    assert "fake: worst window 4 to 6.5 s" in drawn
