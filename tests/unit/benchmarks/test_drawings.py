"""Drawings that stand for photographs of many origins."""

import numpy as np

from benchmarks.learnt.drawings import draw_origins


def test_each_origin_has_an_untouched_image_and_a_manipulated_one_and_looks_like_no_other() -> None:
    samples = list(draw_origins(3, seed=4))
    assert [(each.photograph, each.label) for each in samples] == [
        (f"drawing-{number:03}", label) for number in range(3) for label in (0, 1)
    ]
    for sample in samples:
        assert (sample.image.shape, sample.image.dtype) == ((256, 256, 3), np.uint8)
        assert sample.image.std() > 5
        assert sample.mask.any() == (sample.label == 1)
    colours = [each.image.mean(axis=(0, 1)) for each in samples]
    own = [np.abs(colours[n] - colours[n + 1]).max() for n in (0, 2, 4)]
    others = [np.abs(colours[n] - colours[m]).max() for n, m in ((0, 2), (2, 4), (0, 4))]
    assert max(own) < min(others)
    again = list(draw_origins(3, seed=4))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(samples, again, strict=True))
