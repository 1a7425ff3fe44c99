"""The rule by which frames become one verdict, number by number; no video file and no server."""

from dataclasses import replace
from typing import Any

import pytest
from deepfake_client import Verdict
from deepfake_client.decoding.sampling import Sampling
from deepfake_client.results import STREAM_NAMES, Face, StreamVerdict
from deepfake_client.video.rule import Sample, judge, worst_window
from deepfake_client.video.tracks import Tracker, overlap
from deepfake_client.video.verdict import FrameVerdict, VideoSummary, samples_of, video_verdict

LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (100.0, 0.0, 110.0, 10.0)
SUMMARY = VideoSummary(
    duration=4.5,
    width=640,
    height=360,
    frames=5,
    frames_failed=1,
    frames_without_face=2,
    rate=1.0,
    judgement=None,
    warning=None,
)


def sample(seconds: float, probability: float, box: Any = LEFT, score: float | None = None) -> Sample:
    streams = (probability, probability / 2, probability / 4)
    return Sample(seconds, probability, probability if score is None else score, streams, box)


def two_faces() -> list[list[Sample]]:
    """Five frames at one a second: a face that turns fake, one that never does, and one seen twice only."""
    left = [0.1, 0.2, 0.8, 0.9, 0.7]
    frames = [[sample(n, value), sample(n, 0.25, RIGHT)] for n, value in enumerate(left)]
    for n in (1, 2):
        frames[n].append(sample(n, 0.99, (50.0, 50.0, 60.0, 60.0)))
    return frames


def test_the_worst_three_seconds_of_any_face_are_the_video_s() -> None:
    judgement = judge(two_faces(), 1.0)
    worst, other = judgement.tracks
    assert (worst.number, other.number) == (0, 1)
    assert (worst.samples, worst.start, worst.end, worst.mean) == (5, 0, 4, 0.54)
    assert worst.fake_share == 0.6
    assert list(worst.series) == [(0, 0.1), (1, 0.2), (2, 0.8), (3, 0.9), (4, 0.7)]
    window = worst.worst
    assert (window.start, window.end, window.probability, window.score) == (2, 4, 0.8, 0.8)
    assert window.streams == (0.8, 0.4, 0.2)
    assert window.worst.probability == 0.9
    assert (other.mean, other.fake_share, other.worst.probability) == (0.25, 0.0, 0.25)
    # Over the frames the worst face of each counts, also one that is seen too rarely to count by itself.
    assert judgement.mean == pytest.approx((0.25 + 0.99 + 0.99 + 0.9 + 0.7) / 5)
    assert judgement.fake_share == 0.8


def test_a_threshold_is_held_against_each_sample() -> None:
    judgement = judge(two_faces(), 1.0, 0.75)
    assert [track.fake_share for track in judgement.tracks] == [0.4, 0.0]
    assert judgement.fake_share == 0.6
    assert judge(two_faces(), 1.0, 0.9).tracks[0].fake_share == 0.0  # fake strictly above it


def test_a_window_takes_three_seconds_and_at_least_three_samples() -> None:
    values = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    frames = [[sample(n / 2, value)] for n, value in enumerate(values)]
    (track,) = judge(frames, 2.0).tracks
    assert (track.worst.start, track.worst.end, track.worst.probability) == (0.0, 2.5, pytest.approx(1 / 3, abs=1e-6))
    slow = [[sample(5.0 * n, value)] for n, value in enumerate(values)]
    (track,) = judge(slow, 0.2).tracks
    assert (track.worst.start, track.worst.end, track.worst.probability) == (15.0, 25.0, pytest.approx(2 / 3, abs=1e-6))


def test_of_equal_windows_the_first_is_taken_and_a_short_run_is_one_window() -> None:
    assert worst_window([sample(n, 0.5) for n in range(6)], 3).start == 0
    short = worst_window([sample(1, 0.5), sample(2, 0.7)], 3)
    assert (short.start, short.end, short.probability) == (1, 2, 0.6)
    assert worst_window([replace(sample(0, 0.5), streams=()), sample(1, 0.5)], 2).streams == ()


def test_where_no_face_is_seen_three_times_the_worst_of_each_frame_make_one_series() -> None:
    frames = [[sample(0, 0.2), sample(0, 0.9, RIGHT)], [sample(1, 0.4, None)], [sample(2, 0.3)], [sample(5, 0.6)]]
    (track,) = judge(frames, 1.0).tracks
    assert track.number is None
    assert list(track.series) == [(0, 0.9), (2, 0.3), (5, 0.6)]  # a frame without a face says nothing of faces
    (whole,) = judge([[sample(n, 0.4, None)] for n in range(3)], 1.0).tracks
    assert (whole.number, whole.samples) == (None, 3)
    with pytest.raises(ValueError, match="no frame"):
        judge([], 1.0)


def test_three_samples_make_a_face_count() -> None:
    frames = [[sample(n, 0.3), sample(n, 0.2, RIGHT)] for n in range(3)]
    assert [track.number for track in judge(frames, 1.0).tracks] == [0, 1]
    assert [track.number for track in judge([*frames[:2], [sample(2, 0.3)]], 1.0).tracks] == [0]


def shifted(by: float) -> tuple[float, float, float, float]:
    return (by, 0.0, 10.0 + by, 10.0)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (LEFT, LEFT, 1.0),
        (LEFT, shifted(5), 1 / 3),
        (LEFT, (0.0, 0.0, 5.0, 10.0), 0.5),
        (LEFT, (2.0, 2.0, 7.0, 7.0), 0.25),
        (LEFT, shifted(10), 0.0),
        (LEFT, (0.0, 10.0, 10.0, 20.0), 0.0),
        (LEFT, RIGHT, 0.0),
    ],
)
def test_overlap_is_intersection_over_union(one: Any, other: Any, share: float) -> None:
    assert overlap(one, other) == overlap(other, one) == pytest.approx(share)


def test_a_face_is_the_same_while_it_overlaps_by_three_tenths() -> None:
    tracker = Tracker(0.5)
    assert tracker.follow(0.0, [LEFT]) == [0]
    assert tracker.follow(0.5, [shifted(5)]) == [0]  # a third
    assert tracker.follow(1.0, [shifted(11)]) == [1]  # a quarter


def test_a_face_that_moves_on_is_the_same_all_the_way() -> None:
    tracker = Tracker(0.5)
    assert [tracker.follow(n / 2, [shifted(5 * n)]) for n in range(6)] == [[0]] * 6


@pytest.mark.parametrize(("interval", "gap"), [(0.1, 2.0), (0.8, 2.0), (2.0, 5.0)])
def test_a_face_may_be_away_for_two_seconds_or_two_samples(interval: float, gap: float) -> None:
    tracker = Tracker(interval)
    tracker.follow(0.0, [LEFT])
    assert tracker.follow(gap, [LEFT]) == [0]
    assert tracker.follow(2 * gap + 0.01, [LEFT]) == [1]
    assert tracker.follow(2 * gap + 0.02, [LEFT, RIGHT, shifted(50)]) == [1, 2, 3]


def test_faces_that_overlap_most_are_joined_first() -> None:
    tracker = Tracker(0.5)
    tracker.follow(0.0, [shifted(0), shifted(4)])
    assert tracker.follow(0.5, [shifted(3.5), shifted(-1)]) == [1, 0]
    assert tracker.follow(1.0, [shifted(3.5), shifted(3.6)]) == [1, 0]


@pytest.mark.parametrize(
    ("sampling", "native", "wanted"),
    [
        (Sampling(), None, [0.0, 0.5, 1.0, 1.5]),
        (Sampling(fps=1), None, [0.0, 1.0]),
        (Sampling(fps=4), 10.0, [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]),
        (Sampling(frames=2), None, [0.5, 1.5]),
        (Sampling(frames=4), None, [0.25, 0.75, 1.25, 1.75]),
        (Sampling(frames=20), 10.0, [n / 10 for n in range(20)]),  # every frame, from the first on
        (Sampling(frames=19), 10.0, None),
    ],
)
def test_frames_are_wanted_at_even_times(sampling: Sampling, native: float | None, wanted: list[float] | None) -> None:
    chooser = sampling.chooser(2.0, native)
    times = [n / 100 for n in range(200)]
    chosen = [seconds for seconds in times if chooser.wants(seconds)]
    if wanted is None:
        assert len(chosen) == sampling.frames
    else:
        assert chosen == wanted
    assert (chooser.target is None) == (sampling.frames is not None)


def test_a_frame_a_tick_early_is_on_time_and_one_that_is_late_uses_up_what_came_before() -> None:
    chooser = Sampling(fps=1).chooser(None)
    assert [chooser.wants(seconds) for seconds in (0.0, 0.998, 0.9995, 3.4, 3.9, 4.0)] == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("sampling", "duration", "rate"),
    [
        (Sampling(), None, 2.0),
        (Sampling(fps=0.25), None, 0.25),
        (Sampling(frames=10), 4.0, 2.5),
        (Sampling(frames=10), None, 2.0),
        (Sampling(frames=10), 0.0, 2.0),
    ],
)
def test_the_rate_follows_from_what_is_asked_for(sampling: Sampling, duration: float | None, rate: float) -> None:
    assert sampling.rate(duration) == rate


def test_a_video_s_verdict_is_that_of_its_worst_window() -> None:
    frames = [each[:1] for each in two_faces()]
    verdict = video_verdict("clip.mp4", SUMMARY, frames, None)
    assert (verdict.path, verdict.status, verdict.score, verdict.probability) == ("clip.mp4", "ok", 0.8, 0.8)
    assert [verdict.streams[name] for name in STREAM_NAMES] == [StreamVerdict(value) for value in (0.8, 0.4, 0.2)]
    assert (verdict.face, verdict.verdict) == (Face(LEFT), "fake")
    assert video_verdict("clip.mp4", SUMMARY, frames, 0.8).verdict == "real"
    window = {"start": 2, "end": 4, "probability": 0.8, "score": 0.8}
    assert verdict.to_dict()["video"] == {
        "duration": 4.5,
        "width": 640,
        "height": 360,
        "frames": 5,
        "frames_failed": 1,
        "frames_without_face": 2,
        "rate": 1.0,
        "warning": None,
        "mean": 0.54,
        "fake_share": 0.6,
        "worst_window": {**window, "track": 0},
        "tracks": [
            {
                "track": 0,
                "samples": 5,
                "start": 0,
                "end": 4,
                "mean": 0.54,
                "fake_share": 0.6,
                "box": list(LEFT),
                "worst_window": window,
            }
        ],
        "track_count": 1,
    }
    assert verdict.extra_columns() == {
        "video_duration": 4.5,
        "video_frames": 5,
        "video_frames_failed": 1,
        "video_warning": None,
        "video_mean": 0.54,
        "video_fake_share": 0.6,
        "video_worst_start": 2,
        "video_worst_end": 4,
    }


def test_a_row_lists_fifty_faces_and_says_how_many_there_are() -> None:
    faces = [(100.0 * n, 0.0, 100.0 * n + 10, 10.0) for n in range(60)]
    frames = [[sample(t, 0.3 + n / 100, box) for n, box in enumerate(faces)] for t in range(3)]
    row = video_verdict(None, SUMMARY, frames, None).to_dict()["video"]
    assert (len(row["tracks"]), row["track_count"]) == (50, 60)
    assert [track["track"] for track in row["tracks"]] == list(range(59, 9, -1))


def test_a_video_of_which_nothing_could_be_scored_has_no_judgement() -> None:
    assert "mean" not in SUMMARY.to_dict()
    assert set(replace(video_verdict("a", SUMMARY, [[sample(0, 0.1)]], None), video=SUMMARY).extra_columns()) == {
        "video_duration",
        "video_frames",
        "video_frames_failed",
        "video_warning",
    }
    assert replace(video_verdict("a", SUMMARY, [[sample(0, 0.1)]], None), video=None).extra_columns() == {}


def test_whole_frames_have_no_box() -> None:
    frames = [[replace(sample(n, 0.4, None), streams=())] for n in range(3)]
    verdict = video_verdict("clip.mp4", SUMMARY, frames, None)
    assert verdict.face == Face(None)
    assert all(stream == StreamVerdict(None) for stream in verdict.streams.values())
    assert verdict.to_dict()["video"]["tracks"][0]["box"] is None


def test_a_frame_s_rows_say_its_time_and_come_before_the_video_s() -> None:
    frame = FrameVerdict("clip.mp4", "ok", 0.3, 0.3, seconds=1.5)
    assert frame.to_dict()["time"] == 1.5
    assert frame.extra_columns() == {"time": 1.5}
    verdict = replace(video_verdict("clip.mp4", SUMMARY, [[sample(0, 0.1)]], None), frames=(frame,))
    assert list(verdict.rows()) == [frame, verdict]


def test_a_frame_gives_a_sample_for_each_face_that_was_scored() -> None:
    streams = {name: StreamVerdict(0.5) for name in STREAM_NAMES}
    face = Verdict(None, "ok", 0.6, 0.61, streams, Face(LEFT))
    failed = Verdict(None, "unreadable_image")
    frame = Verdict("f", "ok", 0.6, 0.61, streams, Face(RIGHT), faces=(failed, face))
    assert samples_of(frame, 2.0) == [Sample(2.0, 0.61, 0.6, (0.5, 0.5, 0.5), LEFT)]
    whole = replace(frame, faces=())
    assert [each.box for each in samples_of(whole, 2.0)] == [RIGHT]
    assert samples_of(failed, 2.0) == []
