"""One score of a video from many frames: the client's rule beside others."""

from dataclasses import replace

import numpy as np
import pytest
from deepfake_client.video.rule import LEAST_SAMPLES

from forensics.common.scoring.scores import Scores
from forensics.evaluate.videos import WORST_WINDOW, rules, video_rules


def frames(values: list[list[float]], fakes: list[bool]) -> Scores:
    flat = np.concatenate([np.asarray(each, np.float64) for each in values])
    videos = np.repeat(np.arange(len(values)), [len(each) for each in values])
    labels = np.repeat(np.asarray(fakes, np.bool_), [len(each) for each in values])
    streams = np.repeat(flat[:, None].astype(np.float32), 3, axis=1)
    return Scores(labels, streams, streams, flat, np.round(flat, 1), videos)


def test_each_rule_is_what_its_name_says() -> None:
    video = np.array([0.1, 0.9, 0.1, 0.6, 0.7, 0.8, 0.2, 0.2, 0.2, 0.2])
    assert rules(3)["share of fake frames"](np.array([0.5, 0.51])) == 0.5  # a half itself is real
    said = {name: rule(video) for name, rule in rules(3).items()}
    assert said == pytest.approx(
        {
            WORST_WINDOW: 0.7,
            "mean": 0.4,
            "highest frame": 0.9,
            "mean of the highest 10%": 0.9,
            "share of fake frames": 0.4,
        }
    )


def test_three_manipulated_seconds_and_one_bad_frame_are_told_apart_by_the_window_alone() -> None:
    quiet, seconds, flicker = [0.2] * 20, [0.2] * 8 + [0.7] * 6 + [0.2] * 6, [0.2] * 10 + [0.95] + [0.2] * 9
    measured = video_rules(
        frames([quiet, flicker] * 5 + [seconds] * 10, [False] * 10 + [True] * 10), 2.0, resamples=100
    )
    assert measured is not None
    assert (measured.real, measured.fake, measured.window) == (10, 10, 6)
    by_name = {rule.name: rule for rule in measured.rules}
    assert (by_name[WORST_WINDOW].auc.value, by_name[WORST_WINDOW].accuracy, by_name[WORST_WINDOW].accused) == (1, 1, 0)
    assert (by_name["highest frame"].auc.value, by_name["highest frame"].accused) == (0.5, 5)
    assert by_name["highest frame"].gain.value == -0.5
    assert by_name["mean"].accuracy == 0.5  # ranked rightly, and below 0.5 all the same


def test_copies_of_a_video_in_its_group_narrow_no_interval() -> None:
    rng = np.random.default_rng(0)
    fakes = [False, True] * 6
    values = [(0.3 * rng.random(6) + 0.1 * fake + 0.3 * rng.random()).tolist() for fake in fakes]
    once = video_rules(frames(values, fakes), 2.0, resamples=100)
    copied = frames([each for each in values for _ in range(3)], [each for each in fakes for _ in range(3)])
    again = video_rules(replace(copied, groups=np.repeat(np.arange(12), 18)), 2.0, resamples=100)
    assert once is not None
    assert again is not None
    for rule, grouped in zip(once.rules, again.rules, strict=True):
        assert (grouped.auc.low, grouped.auc.high) == pytest.approx((rule.auc.low, rule.auc.high))
    assert once.rules[0].auc.low < once.rules[0].auc.high


def test_without_videos_of_both_kinds_there_is_nothing_to_measure() -> None:
    scores = frames([[0.2], [0.7]], [False, True])
    assert video_rules(Scores(**{**vars(scores), "videos": None}), 2.0, resamples=100) is None
    assert video_rules(frames([[0.2], [0.7]], [True, True]), 2.0, resamples=100) is None


def test_few_frames_have_a_highest_one_too() -> None:
    assert rules(3)["mean of the highest 10%"](np.array([0.2, 0.8, 0.3])) == 0.8


def test_a_video_of_one_frame_is_a_video_and_no_window_is_shorter_than_a_client_s() -> None:
    measured = video_rules(frames([[0.2], [0.7]], [False, True]), 0.1, resamples=5)
    assert measured is not None
    assert (measured.real, measured.fake, measured.window) == (1, 1, LEAST_SAMPLES)
