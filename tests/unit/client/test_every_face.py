"""A verdict on every face: what is believed of the face finder's answer, what is scored, and the verdict of it all."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from deepfake_client import InvalidResponseError, Verdict
from deepfake_client.column_scoring import score_columns
from deepfake_client.columns import COLUMNS
from deepfake_client.images.faces import MOST_IMAGES, EveryFace, FoundFace, FoundFaces, is_searched
from deepfake_client.images.items import EncodedImage
from deepfake_client.results import Face
from deepfake_client.transport.answers import parse_faces
from deepfake_client.transport.wire import build_search

NAN = float("nan")
ALL = EncodedImage("a.jpg", b"a", None, faces="all")


def found(*names: bytes, count: int | None = None, status: str = "ok") -> FoundFaces:
    faces = [
        FoundFace(Face((n, 0.0, n + 1.0, 1.0), 0.9 - n / 10, "raw"), name, (1.0, 2.0, 3.0, 4.0 + n))
        for n, name in enumerate(names)
    ]
    return FoundFaces(status, len(names) if count is None else count, faces)


def verdict(probability: float | None, status: str = "ok") -> Verdict:
    return Verdict("frame", status, probability, probability)


def test_only_images_without_a_box_are_searched_and_only_where_all_faces_are_wanted() -> None:
    assert is_searched(ALL)
    assert is_searched(replace(ALL, box=(NAN, NAN, NAN, NAN)))
    assert is_searched(replace(ALL, box=(1.0, 2.0, 3.0, NAN)))
    assert not is_searched(replace(ALL, box=(1.0, 2.0, 3.0, 4.0)))
    assert not is_searched(replace(ALL, faces="main"))


def test_faces_are_scored_in_the_place_of_their_image() -> None:
    main = EncodedImage("b.jpg", b"b", None)
    every = EveryFace([ALL, main], [found(b"one", b"two")])
    (request,) = every.requests(8)
    assert [(image.path, image.data, image.box) for image in request] == [
        ("a.jpg", b"one", (1.0, 2.0, 3.0, 4.0)),
        ("a.jpg", b"two", (1.0, 2.0, 3.0, 5.0)),
        ("b.jpg", b"b", None),
    ]
    first, second = every.verdicts([verdict(0.2), verdict(0.8), verdict(0.4)])
    assert (first.path, first.probability) == ("a.jpg", 0.8)  # that of its worst face
    assert first.faces is not None
    assert [(face.path, face.probability) for face in first.faces] == [(None, 0.2), (None, 0.8)]
    assert [face.face.box for face in first.faces] == [(0.0, 0.0, 1.0, 1.0), (1.0, 0.0, 2.0, 1.0)]
    assert first.face == first.faces[1].face
    assert (second.probability, second.faces) == (0.4, None)


def test_a_face_that_was_not_scored_is_not_the_worst_unless_none_was() -> None:
    every = EveryFace([ALL], [found(b"one", b"two")])
    (scored,) = every.verdicts([verdict(None, "unreadable_image"), verdict(0.0)])
    assert (scored.status, scored.probability) == ("ok", 0.0)
    (failed,) = every.verdicts([verdict(None, "unreadable_image"), verdict(None, "unreadable_image")])
    assert failed.status == "unreadable_image"


def test_an_image_without_a_face_is_judged_whole_and_not_searched_again() -> None:
    every = EveryFace([ALL], [found()])
    ((whole,),) = every.requests(8)
    assert (whole.data, whole.faces) == (b"a", "main")
    assert whole.box is not None
    (scored,) = every.verdicts([replace(verdict(0.3), face=Face((0.0, 0.0, 1.0, 1.0), None, "too_small"))])
    assert (scored.probability, scored.faces, scored.face) == (0.3, (), Face(source="none"))


def test_where_all_faces_are_too_small_the_image_is_judged_whole_and_keeps_what_it_says_of_its_face() -> None:
    every = EveryFace([ALL], [found(count=2)])
    ((whole,),) = every.requests(8)
    assert (whole.data, whole.faces, whole.box) == (b"a", "main", None)
    face = Face(None, 0.8, "too_small")
    (scored,) = every.verdicts([replace(verdict(0.3), face=face)])
    assert (scored.faces, scored.face) == ((), face)


def test_a_bad_image_has_its_status_and_nothing_of_it_is_scored() -> None:
    every = EveryFace([ALL, replace(ALL, path="b.jpg")], [found(status="unreadable_image"), found(b"one")])
    ((frame,),) = every.requests(8)
    assert frame.path == "b.jpg"
    bad, good = every.verdicts([verdict(0.6)])
    assert (bad.path, bad.status, bad.probability, bad.faces) == ("a.jpg", "unreadable_image", None, None)
    assert (good.path, good.probability) == ("b.jpg", 0.6)


@pytest.mark.parametrize(("size", "requests"), [(3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_requests_are_no_larger_than_asked(size: int, requests: list[int]) -> None:
    every = EveryFace([ALL], [found(*[b"f"] * 7)])
    assert [len(request) for request in every.requests(size)] == requests


def test_requests_are_no_larger_than_the_detector_takes() -> None:
    every = EveryFace([ALL], [found(*[b"f"] * 70)])
    assert [len(request) for request in every.requests(1000)] == [MOST_IMAGES, MOST_IMAGES, 6]
    assert MOST_IMAGES == 32


class Answer:
    """Stands for tritonclient's result: two images, of which the second has one of two possible faces."""

    def __init__(self, **changed: Any) -> None:
        self.outputs = {
            "FACES": np.full((2, 2, 4), np.nan, np.float32),
            "FRAME_BOXES": np.full((2, 2, 4), np.nan, np.float32),
            "CONFIDENCES": np.full((2, 2), np.nan, np.float32),
            "FRAMES": np.full((2, 2), b"", object),
            "FOUND": np.int32([[0], [3]]),
            "FACE_SOURCE": np.array([[b"none"], [b"raw"]], object),
            "STATUS": np.array([[b"empty_image"], [b"ok"]], object),
        }
        self.outputs["FACES"][1, 0] = (1, 2, 3, 4)
        self.outputs["FRAME_BOXES"][1, 0] = (5, 6, 7, 8)
        self.outputs["CONFIDENCES"][1, 0] = 0.75
        self.outputs["FRAMES"][1, 0] = b"PNG"
        self.outputs |= changed

    def as_numpy(self, name: str) -> np.ndarray | None:
        return self.outputs.get(name)


def test_each_image_has_its_own_faces() -> None:
    first, second = parse_faces(Answer(), [ALL, ALL])  # type: ignore[arg-type]
    assert (first.status, first.found, list(first.faces)) == ("empty_image", 0, [])
    assert (second.status, second.found) == ("ok", 3)
    assert second.faces == [FoundFace(Face((1.0, 2.0, 3.0, 4.0), 0.75, "raw"), b"PNG", (5.0, 6.0, 7.0, 8.0))]


@pytest.mark.parametrize(
    "changed",
    [
        {"FRAME_BOXES": np.full((2, 2, 4), np.nan, np.float32)},
        {"FACES": np.zeros((2, 2, 5), np.float32)},
        {"CONFIDENCES": np.full((2, 3), np.nan, np.float32)},
        {"CONFIDENCES": np.full((2, 2), 2, np.float32)},
        {"FRAMES": np.full((2, 1), b"", object)},
        {"FOUND": np.float32([[0], [3]])},
        {"STATUS": np.array([[b"odd"], [b"ok"]], object)},
        {"STATUS": None},
    ],
)
def test_what_is_outside_the_contract_is_not_believed(changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidResponseError):
        parse_faces(Answer(**changed), [ALL, ALL])  # type: ignore[arg-type]


def test_a_search_says_for_each_image_how_many_attempts_it_is_worth() -> None:
    images = [replace(ALL, attempts=3), replace(ALL, box=(NAN,) * 4)]
    encoded, attempts = build_search(images)
    assert (encoded.name(), encoded.shape(), encoded.datatype()) == ("IMAGE", [2, 1], "BYTES")
    assert (attempts.name(), attempts.shape(), attempts.datatype()) == ("ATTEMPTS", [2, 1], "INT32")
    assert np.frombuffer(attempts._get_content(), np.int32).tolist() == [3, 0]


class Recorder:
    """Stands for a client: scores whatever it is given."""

    def score_many(self, items: Any) -> Any:
        self.items = list(items)
        return [Verdict(None, "ok", 0.5, 0.25 * n) for n, _ in enumerate(self.items)]


def test_columns_have_a_value_for_each_cell_and_a_missing_cell_is_an_empty_image() -> None:
    client: Any = Recorder()
    columns = score_columns(client, [b"one", None, float("nan")])
    assert client.items == [b"one", b"", b""]
    assert list(columns) == list(COLUMNS)
    assert columns["probability"] == [0.0, 0.25, 0.5]
    assert columns["status"] == ["ok"] * 3
    box = (1.0, 2.0, 3.0, 4.0)
    score_columns(client, [b"one", b"two"], [None, box])
    assert client.items == [(b"one", None), (b"two", box)]
    with pytest.raises(ValueError, match="shorter"):
        score_columns(client, [b"one", b"two"], [box])
