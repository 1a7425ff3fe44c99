"""Each degradation is what its definition says, on images where that can be computed apart."""

import io
import math

import cv2
import numpy as np
import PIL.Image
import PIL.JpegImagePlugin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from degradation.artefacts import Band, ChromaticAberration, Glitch, Moire
from degradation.blur import (
    AnisotropicGaussianBlur,
    BoxBlur,
    GaussianBlur,
    MotionBlur,
    anisotropic_gaussian_kernel,
    gaussian_profile,
    motion_kernel,
)
from degradation.colour import ChannelGains, Greyscale, Saturation, Tone, Vignetting
from degradation.compression import ChromaSubsampling, ColourBanding, JpegCompression, encode_jpeg
from degradation.distractors import MEAN, STD, TextDistractor, ThumbnailDistractor
from degradation.noise import (
    GaussianNoise,
    PoissonNoise,
    SaltAndPepperNoise,
    SpeckleNoise,
    correlated_factor,
)
from degradation.pixels import GRID, Image, Operation, Values, from_bytes, generator, to_bytes
from degradation.resampling import Interpolation, Resize, resized
from tests.golden import GOLDEN, IMAGES, read_rgb

STUDIES = np.load(GOLDEN / "studies" / "degradation.npz")

PHOTOGRAPH = from_bytes(read_rgb(IMAGES[0]))
STEP = 1 / GRID
"""Results are laid on this grid: an expected value may be off by nearly as much."""


def flat(level: float, height: int = 200, width: int = 200) -> Image:
    return np.full((height, width, 3), level, np.float32)


def random_image(height: int, width: int, seed: int = 0) -> Image:
    return generator(seed).random((height, width, 3), np.float32)


@given(st.floats(0, 30), st.floats(0, 30), st.floats(0, math.pi))
def test_anisotropic_kernel_sums_to_one_and_is_symmetric_about_its_centre(l1: float, l2: float, angle: float) -> None:
    kernel = anisotropic_gaussian_kernel((l1, l2), angle)
    assert kernel.shape == (2 * int(max(l1, l2)) + 1,) * 2
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert kernel.min() >= 0
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(kernel.T, anisotropic_gaussian_kernel((l1, l2), math.pi / 2 - angle), atol=1e-12)


def test_anisotropic_kernel_has_the_covariance_asked_for() -> None:
    kernel = anisotropic_gaussian_kernel((9.0, 3.0), math.pi / 6)
    y, x = np.mgrid[-9:10, -9:10]
    moments = [[np.sum(kernel * a * b) for b in (x, y)] for a in (x, y)]
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    axes = np.array([[cos, -sin], [sin, cos]])
    np.testing.assert_allclose(moments, axes @ np.diag([9, 3]) @ axes.T, rtol=0.03)  # Its tails are cut at 3 sigma.


@given(st.sampled_from(range(7, 26, 2)), st.floats(0, 30))
def test_gaussian_profile_is_that_of_opencv(size: int, sigma: float) -> None:
    profile = gaussian_profile(size, sigma)
    assert profile.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(profile, profile[::-1])
    if sigma > 0.01:  # OpenCV takes 0 for "choose one".
        np.testing.assert_allclose(profile, cv2.getGaussianKernel(size, sigma)[:, 0], atol=1e-12)


@pytest.mark.parametrize("key", [key for key in STUDIES.files if key.startswith("motion")])
def test_motion_kernels_are_those_of_the_authors(key: str) -> None:
    strength, angle = key.removeprefix("motion_strength").split("_angle")
    kernel = motion_kernel(int(max(3, 12 * float(strength))) | 1, float(angle))
    np.testing.assert_array_equal(kernel, STUDIES[key])


@given(st.sampled_from(range(3, 14, 2)), st.floats(0, 180))
def test_a_motion_kernel_has_one_pixel_a_column_at_most(size: int, angle: float) -> None:
    kernel = motion_kernel(size, angle)
    assert kernel.shape == (size, size)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert ((kernel > 0).sum(axis=0) <= 1).all()
    assert kernel[size // 2, size // 2] > 0


def test_a_level_motion_blur_is_a_row_and_a_steep_one_a_pixel() -> None:
    np.testing.assert_allclose(motion_kernel(5, 0)[2], 0.2)
    assert motion_kernel(5, 90)[2, 2] == 1


@pytest.mark.parametrize(
    ("blur", "kernel"),
    [
        (AnisotropicGaussianBlur((8.5, 2.0), 0.7), anisotropic_gaussian_kernel((8.5, 2.0), 0.7)),
        (GaussianBlur(7, 2.0), np.outer(gaussian_profile(7, 2.0), gaussian_profile(7, 2.0))),
        (BoxBlur(5), np.full((5, 5), 1 / 25)),
        (MotionBlur(7, 30.0), motion_kernel(7, 30.0)),
    ],
)
def test_a_blur_is_the_weighted_mean_under_its_kernel_with_mirrored_border(blur: Operation, kernel: Values) -> None:
    image = random_image(30, 40)
    reach = len(kernel) // 2
    padded = np.pad(image.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    expected = sum(
        kernel[y, x] * padded[y : y + 30, x : x + 40] for y in range(len(kernel)) for x in range(len(kernel))
    )
    np.testing.assert_allclose(blur.apply(image), expected, atol=STEP)


def test_an_even_box_is_the_mean_of_its_square() -> None:
    image = random_image(20, 20)
    blurred = BoxBlur(4).apply(image)
    np.testing.assert_allclose(blurred[10, 10], image[9:13, 9:13].mean((0, 1)), atol=STEP)


def covariance_of(noise: Values) -> Values:
    return np.asarray(np.cov(noise.reshape(-1, 3).T))


@pytest.mark.parametrize("speckle", [False, True])
@pytest.mark.parametrize("channels", ["independent", "grey", "correlated"])
def test_normal_noise_has_the_moments_asked_for(channels: str, speckle: bool) -> None:
    kind = SpeckleNoise if speckle else GaussianNoise
    operation = kind(0.05, 0.08, channels, 7)  # type: ignore[arg-type]
    noise = (operation.apply(flat(0.5)) - np.float64(0.5)) / (0.5 if speckle else 1)
    factor = correlated_factor(generator(7))
    expected = {
        "independent": 0.05**2 * np.eye(3),
        "grey": 0.05**2 * np.ones((3, 3)),
        "correlated": 0.08**2 * factor @ factor,
    }[channels]
    scale, count = expected.max(), 200 * 200
    np.testing.assert_allclose(noise.mean((0, 1)), 0, atol=4.5 * math.sqrt(scale / count))
    np.testing.assert_allclose(covariance_of(noise), expected, atol=4.5 * math.sqrt(2 / count) * scale)
    if channels == "grey":
        np.testing.assert_allclose(np.ptp(noise, axis=2), 0, atol=2e-6)


def test_the_correlated_factor_is_symmetric_and_its_covariance_no_wider_than_one() -> None:
    rng = generator(3)
    for _ in range(300):
        factor = correlated_factor(rng)
        np.testing.assert_allclose(factor, factor.T, atol=1e-12)
        assert np.linalg.eigvalsh(factor)[0] >= -1e-12
        assert np.linalg.norm(factor @ factor, 2) <= math.sqrt(3)


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_has_the_variance_of_its_mean(grey: bool) -> None:
    noisy = PoissonNoise(500, grey, 3).apply(flat(0.4)).astype(np.float64)  # 0.4 is 102 of 255
    count = 200 * 200
    variance = 0.4 / 500
    np.testing.assert_allclose(noisy.mean((0, 1)), 0.4, atol=4.5 * math.sqrt(variance / count))
    np.testing.assert_allclose(noisy.var((0, 1)), variance, rtol=4.5 * math.sqrt(2 / count) * 1.1)
    assert (np.ptp(noisy, axis=2).max() < 1e-6) == grey
    if not grey:  # A whole number of photons.
        np.testing.assert_allclose(noisy * 500, np.round(noisy * 500), atol=500 * STEP)


def test_poisson_noise_sees_eight_bits() -> None:
    same = [PoissonNoise(200, False, 3).apply(flat(level)) for level in (100.4 / 255, 99.6 / 255, 100.6 / 255)]
    np.testing.assert_array_equal(same[0], same[1])
    assert (same[0] != same[2]).any()


def test_salt_and_pepper_hits_its_share_of_whole_pixels() -> None:
    noisy = SaltAndPepperNoise(0.06, 1).apply(flat(0.5))
    count = 200 * 200
    spread = 4.5 * math.sqrt(0.03 * 0.97 / count)
    assert abs(float((noisy == 1).all(axis=2).mean()) - 0.03) < spread
    assert abs(float((noisy == 0).all(axis=2).mean()) - 0.03) < spread
    assert set(np.unique(noisy)) == {0.0, 0.5, 1.0}
    assert (np.ptp(noisy, axis=2) == 0).all()
    np.testing.assert_array_equal(SaltAndPepperNoise(0.0, 1).apply(flat(0.5)), flat(0.5))


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 1.37])
def test_resize_keeps_the_new_size(factor: float) -> None:
    resized = Resize(factor, "linear").apply(random_image(40, 61))
    assert resized.shape == (int(40 * factor), int(61 * factor), 3)
    assert Resize(0.25, "area").apply(random_image(1, 2)).shape == (1, 1, 3)


def test_shrinking_by_area_is_the_mean_and_by_nearest_picks_pixels() -> None:
    image = random_image(8, 8)
    means = image.reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(Resize(0.5, "area").apply(image), means, atol=STEP)
    picked = Resize(0.5, "nearest").apply(image)
    np.testing.assert_allclose(picked, image[::2, ::2], atol=STEP)


@pytest.mark.parametrize("size", [(1, 1), (37, 20), (50, 61), (133, 90)])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_interpolation_is_that_of_opencv(interpolation: Interpolation, size: tuple[int, int]) -> None:
    image = 0.3 + 0.4 * random_image(50, 61)
    flag = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}[interpolation]
    expected = np.clip(cv2.resize(image, size[::-1], interpolation=flag), 0, 1)
    np.testing.assert_allclose(resized(image, *size, interpolation), expected, atol=3e-5)


@pytest.mark.parametrize("quality", [1, 10, 37, 50, 75, 95, 100])
def test_jpeg_has_the_quantisation_tables_of_its_quality(quality: int) -> None:
    encoded = PIL.Image.open(io.BytesIO(encode_jpeg(PHOTOGRAPH, quality)))
    reference = io.BytesIO()
    PIL.Image.fromarray(to_bytes(PHOTOGRAPH)).save(reference, "JPEG", quality=quality)
    expected = PIL.Image.open(io.BytesIO(reference.getvalue()))
    assert isinstance(encoded, PIL.JpegImagePlugin.JpegImageFile)
    assert isinstance(expected, PIL.JpegImagePlugin.JpegImageFile)
    assert encoded.quantization == expected.quantization
    assert PIL.JpegImagePlugin.get_sampling(encoded) == 2  # 4:2:0
    np.testing.assert_allclose(
        JpegCompression(quality).apply(PHOTOGRAPH) * 255, np.asarray(encoded, np.float32), atol=1.01
    )


def test_chroma_subsampling_keeps_luma_and_averages_chroma() -> None:
    subsampled = to_bytes(ChromaSubsampling().apply(PHOTOGRAPH[:100, :80]))
    before, after = (
        cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb).astype(float)
        for pixels in (to_bytes(PHOTOGRAPH[:100, :80]), subsampled)
    )
    inside = ((subsampled > 0) & (subsampled < 255)).all(axis=2)  # elsewhere a channel is clipped
    assert inside.mean() > 0.5
    np.testing.assert_allclose(after[..., 0][inside], before[..., 0][inside], atol=1)
    means = before[..., 1:].reshape(50, 2, 40, 2, 2).mean(axis=(1, 3)).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(after[..., 1:][inside], means[inside], atol=2)
    np.testing.assert_array_equal(ChromaSubsampling().apply(flat(0.3, 1, 9)), flat(0.3, 1, 9))


@pytest.mark.parametrize("levels", [4, 18, 25, 32])
def test_banding_leaves_that_many_levels_from_black_to_white(levels: int) -> None:
    ramp = np.linspace(0, 1, 3 * 4000, dtype=np.float32).reshape(40, 100, 3)
    banded = ColourBanding(levels).apply(ramp)
    np.testing.assert_allclose(np.unique(banded), np.linspace(0, 1, levels), atol=STEP)
    assert np.abs(banded - ramp).max() <= 0.5 / (levels - 1) + STEP


LUMA = np.array([0.299, 0.587, 0.114])
LEVEL = 1 / 255


def test_saturation_moves_colours_between_grey_and_themselves() -> None:
    luma = PHOTOGRAPH.astype(np.float64) @ LUMA
    np.testing.assert_allclose(Greyscale().apply(PHOTOGRAPH), np.stack([luma] * 3, axis=2), atol=LEVEL)
    np.testing.assert_array_equal(Saturation(1).apply(PHOTOGRAPH), PHOTOGRAPH)
    half = luma[..., None] + 0.5 * (PHOTOGRAPH - luma[..., None])
    np.testing.assert_allclose(Saturation(0.5).apply(PHOTOGRAPH), half, atol=1.6 * LEVEL)


def test_gains_and_tone_multiply_and_clip() -> None:
    np.testing.assert_allclose(ChannelGains((0.8, 1.2, 3)).apply(flat(0.5))[0, 0], [0.4, 0.6, 1], atol=STEP)
    np.testing.assert_array_equal(Tone(brightness=1.5).apply(flat(0.8)), 1)
    np.testing.assert_allclose(Tone(brightness=0.5).apply(PHOTOGRAPH), 0.5 * PHOTOGRAPH, atol=LEVEL)
    np.testing.assert_array_equal(Tone(brightness=1).apply(PHOTOGRAPH), PHOTOGRAPH)
    mean = round(float((PHOTOGRAPH * 255 @ LUMA).mean())) / 255
    flattened = Tone(contrast=0.4).apply(PHOTOGRAPH)
    np.testing.assert_allclose(flattened, mean + 0.4 * (PHOTOGRAPH - mean), atol=1.6 * LEVEL)
    both = Tone(1.5, 0.4).apply(PHOTOGRAPH)
    np.testing.assert_array_equal(both, Tone(contrast=0.4).apply(Tone(brightness=1.5).apply(PHOTOGRAPH)))


@pytest.mark.parametrize("operation", [Greyscale(), Saturation(1), Tone(1.0, 1.0), ChromaSubsampling()])
def test_eight_bit_operations_cut_down_to_whole_levels(operation: Operation) -> None:
    np.testing.assert_allclose(operation.apply(flat(100.9 / 255, 8, 8)), 100 / 255, atol=1e-6)
    np.testing.assert_allclose(operation.apply(flat(101 / 255, 8, 8)), 101 / 255, atol=1e-6)


def test_vignetting_darkens_corners_by_its_falloff_and_leaves_the_centre() -> None:
    vignetted = Vignetting(0.6).apply(flat(1.0, 101, 51))
    assert vignetted[50, 25, 0] == 1
    np.testing.assert_allclose(vignetted[[0, 0, -1, -1], [0, -1, 0, -1]], 0.4, atol=STEP)
    np.testing.assert_allclose(vignetted[50, 0], 1 - 0.6 / math.sqrt(2), atol=STEP)


def test_aberration_is_that_of_the_authors() -> None:
    shifted = ChromaticAberration(int(4 * 0.8)).apply(STUDIES["image"])
    np.testing.assert_array_equal(shifted, STUDIES["aberration_s0.8"])


@pytest.mark.parametrize(
    ("key", "moire"),
    [("moire_f1.2_a0.7_s0.8", Moire(1.2, 0.7, 0.15 * 0.8)), ("moire_f0.6_a2.1_s0.5", Moire(0.6, 2.1, 0.15 * 0.5))],
)
def test_moire_is_that_of_the_authors(key: str, moire: Moire) -> None:
    np.testing.assert_allclose(moire.apply(STUDIES["image"]), STUDIES[key], rtol=0, atol=1e-6)


def test_glitch_fills_and_rolls_its_rows_alone() -> None:
    image = random_image(20, 10)
    glitched = Glitch((Band(0.25, 2, 0.5, 0), Band(0.5, 3, None, -4), Band(0.95, 8, 1.0, 0))).apply(image)
    np.testing.assert_array_equal(glitched[5:7], 0.5)
    np.testing.assert_allclose(glitched[10:13], np.roll(image[10:13], -4, axis=1), atol=STEP)
    untouched = [*range(5), *range(7, 10), *range(13, 20)]  # the last band reaches the lower border: left out
    np.testing.assert_allclose(glitched[untouched], image[untouched], atol=STEP)


def test_a_text_is_drawn_in_its_colour_and_an_empty_one_is_nothing() -> None:
    text = TextDistractor("X", 0, 3.0, 6, (1.0, 0.0, 0.5), 20, 80, 0)
    drawn = text.apply(flat(0.0, 100, 100))
    assert (drawn == np.array([1, 0, 0.5], np.float32)).all(axis=2).mean() > 0.05
    assert drawn[..., 1].max() == 0
    empty = TextDistractor("", 0, 3.0, 6, (1.0, 0.0, 0.5), 20, 80, 2)
    np.testing.assert_array_equal(empty.apply(flat(0.25)), flat(0.25))
    outside = TextDistractor("X", 0, 1.0, 1, (1.0, 0.0, 0.5), -100, 300, 1)
    np.testing.assert_array_equal(outside.apply(flat(0.25)), flat(0.25))


@pytest.mark.parametrize(
    ("left", "top", "rows", "columns"),
    [
        (0.0, 0.0, slice(0, 0), slice(0, 0)),  # at −30, −20: only its corner touches the image
        (0.999999, 0.999999, slice(50, 50), slice(50, 50)),
        (40.5 / 81, 30.5 / 71, slice(10, 30), slice(10, 40)),
        (10.5 / 81, 60.5 / 71, slice(40, 50), slice(0, 10)),
    ],
)
def test_a_thumbnail_is_pasted_where_it_fits_and_cut_where_not(
    left: float, top: float, rows: slice, columns: slice
) -> None:
    pasted = ThumbnailDistractor(flat(1.0, 60, 30), 20, 30, "area", left, top).apply(flat(0.0, 50, 50))
    expected = flat(0.0, 50, 50).astype(np.float64)
    expected[rows, columns] = (1 - MEAN) / STD / 2 + 0.5
    np.testing.assert_allclose(pasted, expected, atol=1e-6)


def test_a_thumbnail_whose_normalised_values_look_like_an_image_is_pasted_as_they_are() -> None:
    picture = flat(0.0, 8, 8) + (MEAN + 0.5 * STD).astype(np.float32)
    pasted = ThumbnailDistractor(picture, 8, 8, "area", 8.5 / 17, 8.5 / 17).apply(flat(0.0, 8, 8))
    np.testing.assert_allclose(pasted, 0.5, atol=1e-5)
