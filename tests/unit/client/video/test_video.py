"""Videos: which frames, damage of every kind, tracks, the rule, rows, timelines; against the stand-in server."""

import json
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deepfake_client import DetectorClient
from deepfake_client.decoding.frames import VideoError, VideoFile
from deepfake_client.results import Face, Verdict
from deepfake_client.video import Sample, Sampling, VideoOptions, draw_timeline, judge, score_video
from deepfake_client.video.reading import read_frames
from deepfake_client.video.rule import worst_window
from deepfake_client.video.tracks import Tracker, overlap
from deepfake_client.video.verdict import samples_of
from hypothesis import given
from hypothesis import strategies as st

from tests.bulk import COMMAND, rows_of, run_killed, score
from tests.fakes.triton import FakeTriton, serving
from tests.videos import av, greys, number_of, rotate, write_audio, write_video


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with serving() as fake:
        yield fake


def pixels_of(png: bytes) -> np.ndarray:
    """The pixels of a PNG file: uint8 [height, width, 3]."""
    codec = av().CodecContext.create("png", "r")
    (frame,) = codec.decode(av().Packet(png))
    return frame.to_ndarray(format="rgb24")


def numbers_of(path: Path, sampling: Sampling) -> list[int]:
    """Which of the frames of `greys` are chosen."""
    frames = list(read_frames(str(path), sampling, VideoFile()))
    return [number_of(pixels_of(frame.data)) for frame in frames]


def test_frames_by_rate_and_by_number(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", greys(40), fps=10)
    assert numbers_of(path, Sampling(fps=2)) == [0, 5, 10, 15, 20, 25, 30, 35]
    assert numbers_of(path, Sampling(fps=100)) == list(range(40))
    assert numbers_of(path, Sampling(frames=4)) == [5, 15, 25, 35]
    assert numbers_of(path, Sampling(frames=1000)) == list(range(40))


def test_variable_rate_is_taken_by_time(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.3, 2.0, 2.1, 3.95, 4.0, 4.1]
    path = write_video(tmp_path / "clip.mkv", greys(9), seconds=times)
    frames = list(read_frames(str(path), Sampling(fps=1), VideoFile()))
    assert [frame.seconds for frame in frames] == [0, 2.0, 3.95, 4.0]


def test_far_frames_are_gone_to_and_are_the_right_ones(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", greys(190), fps=1)
    assert numbers_of(path, Sampling(frames=5)) == [19, 7, 45, 33, 21]  # modulo 50


def test_the_last_of_far_frames_is_not_lost(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", greys(300), fps=10)
    assert numbers_of(path, Sampling(fps=1 / 14.9)) == [0, 149 % 50, 298 % 50]


def test_times_are_counted_from_the_first_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", greys(9), seconds=[5 + n / 2 for n in range(9)])
    frames = list(read_frames(str(path), Sampling(fps=1), VideoFile()))
    assert [frame.seconds for frame in frames] == [0, 1, 2, 3, 4]


def test_what_a_video_says_of_itself_need_not_be_text(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", greys(3), fps=2)
    assert b"Lavf" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert len(list(read_frames(str(path), Sampling(fps=2), VideoFile()))) == 3


@pytest.mark.parametrize(("fps", "frames"), [(0, None), (-1, None), (float("inf"), None), (None, 0), (1, 1)])
def test_nonsense_is_refused(fps: float | None, frames: int | None) -> None:
    with pytest.raises(ValueError, match=r"above 0|one of them"):
        Sampling(fps, frames)


@given(
    rate=st.floats(0.01, 200),
    steps=st.lists(st.floats(0, 1e9, allow_nan=False), min_size=1, max_size=50),
)
def test_choosing_ends_and_never_comes_late(rate: float, steps: list[float]) -> None:
    chooser = Sampling(fps=rate).chooser(None)
    for seconds in sorted(steps):
        target = chooser.target
        assert target is not None
        assert chooser.wants(seconds) == (seconds >= target)
        assert chooser.target is not None
        assert chooser.target > seconds - 1e-2 or not seconds >= target


def test_a_phone_held_upright_is_shown_upright(tmp_path: Path) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255  # top left; a quarter turn clockwise brings it to the top right
    path = rotate(write_video(tmp_path / "phone.mp4", [picture] * 3))
    about = VideoFile()
    (frame, *_) = read_frames(str(path), Sampling(), about)
    shown = pixels_of(frame.data)
    assert (about.width, about.height) == (64, 96)
    assert shown.shape == (96, 64, 3)
    assert shown[:40, 40:].min() > 200
    assert shown[:, :24].max() < 50


def test_a_recording_without_a_length_is_spread_over_its_packets(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mpg", greys(50), fps=25, codec="mpeg1video")
    numbers = numbers_of(path, Sampling(frames=5))
    assert np.abs(np.array(numbers) - [5, 15, 25, 35, 45]).max() <= 3


def test_damage_costs_no_more_than_what_is_damaged(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", greys(100), fps=10, key_frames=10)
    whole = path.read_bytes()
    for name, data in {
        "cut": whole[: len(whole) * 2 // 3],
        "garbled": whole[: len(whole) // 3] + random.Random(0).randbytes(2000) + whole[len(whole) // 3 + 2000 :],
    }.items():
        damaged = tmp_path / f"{name}.mkv"
        damaged.write_bytes(data)
        about = VideoFile()
        assert 10 < len(list(read_frames(str(damaged), Sampling(fps=10), about))) <= 100, name


def test_what_is_damaged_is_told_with_what_could_be_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", greys(100), fps=10, key_frames=10)
    whole = path.read_bytes()
    pixels = whole.index(b"mdat") + 4
    end = pixels + int.from_bytes(whole[pixels - 8 : pixels - 4], "big") - 8
    path.write_bytes(whole[: pixels + 200] + random.Random(0).randbytes(400) + whole[pixels + 600 :])
    about = VideoFile()
    assert 80 <= len(list(read_frames(str(path), Sampling(fps=10), about))) < 100  # what depends on it is lost
    assert str(about.warning).startswith("parts of it are damaged: ")
    assert (about.duration, about.width, about.height) == (10, 96, 64)
    path.write_bytes(whole[:pixels] + b"\xff" * (end - pixels) + whole[end:])
    with pytest.raises(VideoError, match="parts of it are damaged: ") as caught:
        list(read_frames(str(path), Sampling(fps=10), VideoFile()))
    assert caught.value.status == "unreadable_video"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.mp4", b""),
        ("noise.mp4", random.Random(1).randbytes(5000)),
        ("text.mp4", b"0.9"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        ("sound.mp4", b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0@\x1f\0\0\1\0\x08\0data\0\0\0\0"),
    ],
)
def test_what_is_no_video_has_a_row_that_says_so(server: FakeTriton, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    output = tmp_path / "rows.jsonl"
    result = score(server.url, tmp_path / name, "--output", output)
    assert result.exit_code == 1, result.output
    (row,) = rows_of(output)
    assert row["status"] == "unreadable_video"
    assert row["error"]
    assert server.calls == 0


def test_sound_alone_and_a_missing_file(server: FakeTriton, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    score(server.url, write_audio(tmp_path / "song.mp4"), tmp_path / "gone.mp4", tmp_path, "--output", output)
    assert [row["status"] for row in rows_of(output)] == ["no_pictures", "unreadable_file", "no_pictures"]


def test_frames_beyond_the_limit_are_refused(server: FakeTriton, tmp_path: Path, monkeypatch) -> None:
    clip = write_video(tmp_path / "clip.mp4", greys(3))
    monkeypatch.setattr("deepfake_client.video.reading.MAX_PIXELS", 96 * 64 - 1)
    with DetectorClient(server.url) as client:
        verdict = score_video(client, clip)
    assert (verdict.status, server.calls) == ("too_many_pixels", 0)
    monkeypatch.setattr("deepfake_client.video.reading.MAX_PIXELS", 96 * 64)
    assert len(list(read_frames(str(clip), Sampling(fps=10), VideoFile()))) == 3


def test_tracks_follow_faces_that_cross_and_pause() -> None:
    tracker = Tracker(0.5)
    left = [(10.0 * n, 0.0, 100 + 10.0 * n, 100.0) for n in range(10)]
    right = [(400 - 10.0 * n, 0.0, 500 - 10.0 * n, 100.0) for n in range(10)]
    numbers = [tracker.follow(n / 2, [right[n], left[n]] if n % 2 else [left[n], right[n]]) for n in range(10)]
    assert numbers == [[1, 0] if n % 2 else [0, 1] for n in range(10)]
    assert tracker.follow(6.0, [left[9]]) == [0]
    assert tracker.follow(12.0, [left[9]]) == [2]


@given(st.lists(st.tuples(*[st.floats(0, 1000)] * 2, *[st.floats(1, 500)] * 2), max_size=6))
def test_no_two_faces_of_a_frame_share_a_track(corners: list[tuple[float, ...]]) -> None:
    boxes = [(x, y, x + w, y + h) for x, y, w, h in corners]
    tracker = Tracker(0.5)
    first = tracker.follow(0.0, boxes)
    assert first == list(range(len(boxes)))
    again = tracker.follow(0.5, boxes[::-1])
    assert len(set(again)) == len(boxes)
    assert all(0 <= overlap(one, other) <= 1.0001 for one in boxes for other in boxes)


def sample(seconds: float, probability: float, x: float = 0.0) -> Sample:
    return Sample(seconds, probability, round(probability, 1), (probability,) * 3, (x, 0.0, x + 100, 100.0))


def test_three_manipulated_seconds_in_ten_make_the_video_fake() -> None:
    frames = [[sample(n / 2, 0.9 if 4 <= n / 2 < 7 else 0.1), sample(n / 2, 0.2, 500)] for n in range(20)]
    judgement = judge(frames, 2.0)
    worst = judgement.tracks[0].worst
    assert (worst.start, worst.end, worst.probability, worst.score) == (4.0, 6.5, 0.9, 0.9)
    assert [track.number for track in judgement.tracks] == [0, 1]
    assert judgement.fake_share == 0.3
    assert judgement.mean < 0.5


def test_one_bad_frame_makes_no_video_fake_and_a_flicker_does_not_count() -> None:
    frames = [[sample(n / 2, 0.99 if n == 7 else 0.1)] for n in range(20)]
    frames[3].append(sample(1.5, 1.0, 500))
    assert judge(frames, 2.0).tracks[0].worst.probability < 0.5
    assert judge([[sample(0, 0.9)], [sample(0.5, 0.7)]], 2.0).tracks[0].number is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 20))
def test_no_window_is_worse_than_the_worst(values: list[float], size: int) -> None:
    samples = [sample(n, value) for n, value in enumerate(values)]
    worst = worst_window(samples, size)
    size = min(size, len(values))
    means = [sum(values[n : n + size]) / size for n in range(len(values) - size + 1)]
    assert worst.probability == pytest.approx(max(means), abs=1e-5)
    assert values[int(worst.start) : int(worst.end) + 1] == values[int(worst.start) : int(worst.start) + size]


def test_a_row_a_video_and_on_request_a_row_a_frame(server: FakeTriton, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", greys(40), fps=10)
    (tmp_path / "photo.jpg").write_bytes(b"0.8")
    for kind in ("jsonl", "csv", "parquet"):
        output = tmp_path / f"rows.{kind}"
        options = ["--faces", "main", "--frame-rows", "--frames", "4", "--timelines", tmp_path / "timelines"]
        result = score(server.url, clip, tmp_path / "photo.jpg", *options, "--output", output)
        assert result.exit_code == 0, result.output
        rows = rows_of(output)
        assert [Path(row["path"]).name for row in rows] == ["clip.mp4"] * 5 + ["photo.jpg"]
        assert "scored 2 of 2" in result.stderr
        assert [float(row["time"]) for row in rows[:4]] == [0.5, 1.5, 2.5, 3.5]
        score(server.url, clip, tmp_path / "photo.jpg", *options, "--output", output)
        assert rows_of(output) == rows
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[4])
    assert row["video"]["frames"] == 4
    assert row["video"]["duration"] == pytest.approx(4.0)
    assert row["video"]["worst_window"]["start"] == 0.5
    assert len(list((tmp_path / "timelines").iterdir())) == 1


def test_frames_of_videos_use_bounded_memory(server: FakeTriton, tmp_path: Path, monkeypatch) -> None:
    """The decoder waits where frames wait for their verdicts, also where not one batch is full."""
    monkeypatch.setattr("deepfake_client.video.scoring._FRAMES_BYTES", 1)
    clip = write_video(tmp_path / "clip.mp4", greys(20), fps=10)
    with DetectorClient(server.url) as client:
        verdict = score_video(client, clip, VideoOptions(Sampling(fps=5), "main"))
    assert verdict.video is not None
    assert verdict.video.frames == 10
    assert server.peak == 1


@pytest.mark.slow
def test_a_killed_run_goes_on_with_one_row_a_video(server: FakeTriton, tmp_path: Path) -> None:
    clips = [write_video(tmp_path / f"{n:03}.mp4", greys(12), fps=10) for n in range(60)]
    output = tmp_path / "rows.jsonl"
    options = ["--faces", "main", "--fps", "10", "--url", server.url, "--output", str(output)]
    run_killed([*COMMAND, str(tmp_path), *options], random.Random(3), most=4)
    assert sorted(row["path"] for row in rows_of(output)) == sorted(map(str, clips))


def test_timelines_are_pictures_whatever_the_name(server: FakeTriton, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", greys(20), fps=10)
    with DetectorClient(server.url) as client:
        verdict = score_video(client, clip, VideoOptions(faces="main"), name="<script>alert('x')</script>&.mp4")
        nothing = score_video(client, b"", name="none.mp4")
    root = ET.fromstring(draw_timeline(verdict))
    assert not root.findall(".//{http://www.w3.org/2000/svg}script")
    assert root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert "unreadable_video" in draw_timeline(nothing)
    assert nothing.status == "unreadable_video"


def test_without_pyav_the_row_says_what_to_install(server: FakeTriton, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    output = tmp_path / "rows.jsonl"
    assert score(server.url, tmp_path, "--output", output).exit_code == 1
    (row,) = rows_of(output)
    assert "deepfake-client[video]" in row["error"]


def test_frames_that_cannot_be_scored_are_counted(server: FakeTriton, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", greys(20), fps=10)
    left = iter(range(3))

    def garble(outputs: dict[str, np.ndarray]) -> None:
        if next(left, None) is not None:
            outputs["STATUS"][0] = b"unreadable_image"
            outputs["SCORE"][0] = outputs["PROBABILITY"][0] = np.nan

    server.garble = garble
    with DetectorClient(server.url, batch_size=1) as client:
        verdict = score_video(client, clip, VideoOptions(Sampling(fps=5), "main"))
    assert verdict.video is not None
    assert (verdict.status, verdict.video.frames, verdict.video.frames_failed) == ("ok", 7, 3)


def test_whole_frames_decide_where_no_face_is() -> None:
    whole = [[Sample(n / 2, 0.7, 0.7)] for n in range(8)]
    judgement = judge(whole, 2.0)
    assert judgement.tracks[0].number is None
    assert judgement.tracks[0].worst.probability == pytest.approx(0.7)
    mixed = [*whole[:4], *([sample(n / 2, 0.2)] for n in range(4, 8))]
    assert judge(mixed, 2.0).tracks[0].worst.probability == pytest.approx(0.2)


def test_the_face_of_a_main_verdict_is_followed() -> None:
    verdict = Verdict("x", "ok", 0.6, 0.6, face=Face((1, 2, 3, 4)))
    assert samples_of(verdict, 1.0)[0].box == (1, 2, 3, 4)


_PEAK = """
import resource, sys
from deepfake_client import DetectorClient
from deepfake_client.video import Sampling, VideoOptions, score_video
with DetectorClient(sys.argv[1], batch_size=32) as client:
    video = score_video(client, sys.argv[2], VideoOptions(Sampling(fps=1000), "main")).video
print(video.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_ten_thousand_frames_use_no_more_memory_than_a_thousand(server: FakeTriton, tmp_path: Path) -> None:
    peaks = {}
    for count in (1000, 10_000):
        clip = write_video(tmp_path / f"{count}.mp4", greys(count), fps=25)
        command = [sys.executable, "-c", _PEAK, server.url, str(clip)]
        frames, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(frames) == count
        peaks[count] = int(peak)
    assert peaks[10_000] < peaks[1000] + 40, peaks  # MiB: a few hundred bytes a frame
