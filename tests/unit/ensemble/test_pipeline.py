"""The method in one function: which pixels each network is shown, and what becomes of its logits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ensemble.faces.detection import Box, Detection
from ensemble.faces.restoration import ATTEMPTS
from ensemble.images import FRAMINGS, ImageFraming, RgbImage, centre, decode, shrink, square
from ensemble.pipeline import score
from ensemble.streams import STREAMS
from ensemble.voting import score_logits
from tests.golden import GOLDEN, IMAGES, read_rgb
from tests.unit.ensemble.test_framing import Fixed, through


class OneFace:
    """Finds the same face in every image that is asked about."""

    name = "one"

    def __init__(self) -> None:
        self.asked = 0

    def detect(self, images: Sequence[RgbImage]) -> list[list[Detection]]:
        self.asked += len(images)
        return [[Detection((60.0, 50.0, 200.0, 210.0), 0.97)] for _ in images]


class Network:
    """Says what it was shown: the mean of the pixels as the logit of fake."""

    def __init__(self) -> None:
        self.shown: npt.NDArray[np.uint8] | None = None

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.shown = pixels
        means = pixels.reshape(len(pixels), -1).mean(axis=1) / 64 - 2
        return np.stack([np.zeros_like(means), means], axis=1).astype(np.float32)


@pytest.fixture
def networks() -> dict[str, Network]:
    return {stream.name: Network() for stream in STREAMS}


def test_each_network_is_shown_its_part_of_the_image_or_of_the_face(networks: dict[str, Network]) -> None:
    images = [read_rgb(path) for path in IMAGES[:2]]
    scored = score(images, networks, OneFace())
    for index, image in enumerate(images):
        np.testing.assert_array_equal(scored.pixels["global_texture"][index], centre(square(image), 252))
        np.testing.assert_array_equal(scored.pixels["semantic_fusion"][index], shrink(square(image), 224))
        assert not np.array_equal(scored.pixels["local_facial"][index], centre(square(image), 252))
    for name, network in networks.items():
        assert network.shown is scored.pixels[name]
    assert [(face.source, face.box) for face in scored.faces] == [("raw", (60.0, 50.0, 200.0, 210.0))] * 2


def test_a_supplied_face_is_not_looked_for(networks: dict[str, Network]) -> None:
    images = [read_rgb(path) for path in IMAGES[:2]]
    detector = OneFace()
    scored = score(images, networks, detector, boxes=[(10.0, 10.0, 250.0, 250.0), None])
    assert detector.asked == 1
    assert [face.source for face in scored.faces] == ["supplied", "raw"]


def test_the_logits_are_voted_on_in_the_order_of_the_streams(networks: dict[str, Network]) -> None:
    images = [read_rgb(path) for path in IMAGES[:3]]
    scored = score(images, networks, OneFace())
    logits = np.stack([networks[stream.name](scored.pixels[stream.name]) for stream in STREAMS], axis=1)
    expected = score_logits(logits)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(scored.result, name), values)
    assert len(np.unique(scored.result.stream_probabilities)) == 9


def test_another_vote_may_be_given(networks: dict[str, Network]) -> None:
    seen = []

    def vote(logits: npt.NDArray[np.float32]):  # type: ignore[no-untyped-def]
        seen.append(logits.shape)
        return score_logits(-logits)

    image = read_rgb(IMAGES[0])
    scored = score([image], networks, OneFace(), vote=vote)
    assert seen == [(1, len(STREAMS), 2)]
    plain = score([image], networks, OneFace())
    np.testing.assert_allclose(scored.result.probability, 1 - plain.result.probability, atol=1e-6)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("box", [(300.0, 60.0, 420.0, 240.0), (20.0, 30.0, 60.0, 70.0), None])
def test_each_framing_is_what_the_steps_of_the_server_make_of_it(
    framing: ImageFraming, box: Box | None, networks: dict[str, Network]
) -> None:
    data = (GOLDEN / "sizes" / "china_q92.jpg").read_bytes()
    detector = Fixed(*([box] if box else []))
    prepared, local = through(data, framing, detector, margin=1.5)
    scored = score([decode(data)], networks, detector, attempts=ATTEMPTS[:1], framing=framing, face_margin=1.5)
    assert scored.faces == [local.location]
    for name, pixels in {**prepared.pixels, **local.pixels}.items():
        np.testing.assert_array_equal(scored.pixels[name][0], pixels)


@pytest.mark.parametrize("path", IMAGES[:4], ids=[path.stem for path in IMAGES[:4]])
def test_all_framings_are_one_for_an_image_of_the_challenge(path: Path, networks: dict[str, Network]) -> None:
    results = [score([read_rgb(path)], networks, OneFace(), framing=framing) for framing in FRAMINGS]
    for other in results[1:]:
        assert other.faces == results[0].faces
        for name, pixels in results[0].pixels.items():
            np.testing.assert_array_equal(other.pixels[name], pixels)
