"""What the steps of a server are asked when images are looked at, and what is made of their answers."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deepfake_client import RequestFailedError, ServerUnavailableError
from tritonclient.utils import InferenceServerException, deserialize_bytes_tensor, triton_to_np_dtype

from ensemble.streams import FACE_STREAMS, IMAGE_STREAMS, MAX_BATCH_SIZE, STREAMS
from forensics.common.errors import ForensicsError
from forensics.common.inspection import Inspector

Arrays = dict[str, np.ndarray]
NAMES = {stream.name for stream in STREAMS}


def pixels(number: int, side: int = 4) -> np.ndarray:
    return np.full((side, side, 3), number, np.uint8)


def column(*values: str | bytes) -> np.ndarray:
    return np.array([[each.encode() if isinstance(each, str) else each] for each in values], np.object_)


class Models:
    """Stands for the models of a server.

    Image `b"7"` has pixels of 7; `b"bad"` cannot be decoded, and of `b"0"` no face be cropped.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, Arrays, dict[str, Any]]] = []
        self.closed = False
        self.error: InferenceServerException | None = None
        self.lacks: tuple[str, ...] = ()

    def infer(self, model: str, tensors: Sequence[Any], **options: Any) -> Any:
        if self.error is not None:
            raise self.error
        given = {}
        for each in tensors:
            data, shape = each._get_content(), each.shape()
            if each.datatype() == "BYTES":
                given[each.name()] = deserialize_bytes_tensor(data).reshape(shape)
            else:
                given[each.name()] = np.frombuffer(data, triton_to_np_dtype(each.datatype())).reshape(shape)
        self.asked.append((model, given, options))
        answer = {name: value for name, value in self.answer(model, given).items() if name not in self.lacks}
        outputs = [SimpleNamespace(name=name) for name in answer]
        return SimpleNamespace(as_numpy=answer.get, get_response=lambda: SimpleNamespace(outputs=outputs))

    def answer(self, model: str, given: Arrays) -> Arrays:
        if model == "preprocess":
            images = given["IMAGE"][:, 0]
            numbers = [int(data) if data.isdigit() else 0 for data in images]
            return {
                **{stream.pixels_name: np.stack([pixels(n) for n in numbers]) for stream in IMAGE_STREAMS},
                "DECODED": column(*(b"decoded " + data for data in images)),
                "BOX": given["FACE_BOX"],
                "IMAGE_STATUS": column(*("ok" if data.isdigit() else "unreadable_image" for data in images)),
                "PERMIT": np.array([[99]] * len(images), np.int64),
            }
        if model == "face_crop":
            images = given["IMAGE"][:, 0]
            numbers = [int(data) if data.isdigit() else 0 for data in images]
            nowhere = np.isnan(given["BOX"]).any(axis=1)
            return {
                **{stream.pixels_name: np.stack([pixels(n + 100) for n in numbers]) for stream in FACE_STREAMS},
                "STATUS": np.where(images == b"0", b"invalid_face_box", given["IMAGE_STATUS"][:, 0])[:, None],
                "FACE": given["BOX"],
                "FACE_SOURCE": column(*("none" if each else "supplied" for each in nowhere)),
            }
        if model == "voter":
            sums = sum(given[stream.logits_name][:, 1] * 10**n for n, stream in enumerate(STREAMS))
            return {
                "STATUS": given["IMAGE_STATUS"],
                "SCORE": np.float32(sums)[:, None] / np.float32(10),
                "PROBABILITY": np.float32(sums)[:, None] / np.float32(3),
                "STREAM_PROBABILITIES": np.stack([given[s.logits_name][:, 1] for s in STREAMS], 1) + np.float32(0.25),
                "STREAM_VOTES": np.stack([given[s.logits_name][:, 1] for s in STREAMS], 1) + np.float32(0.3),
            }
        assert model in NAMES
        shown = given["PIXELS"][:, 0, 0, 0].astype(np.float32)
        return {
            "LOGITS": np.stack([-shown, shown], 1),
            "FEATURES": np.stack([shown, shown + 0.5], 1),
            "ATTENTION": np.stack([shown + 1, shown + 2], 1),
        }

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def models() -> Models:
    return Models()


def inspector(models: Models, **options: Any) -> Inspector:
    connection: Any = SimpleNamespace(urls=("one:8001", "other:8001"), connect=lambda: (models, {"authorization": "t"}))
    return Inspector(connection, **options)


def test_each_image_has_its_own_numbers_in_whatever_batches_it_goes(models: Models) -> None:
    boxes = [None, (1.0, 2.0, 3.0, 4.0), None, (5.0, 6.0, 7.0, 8.0), None]
    found = inspector(models, batch_size=2).inspect([b"1", b"2", b"bad", b"4", b"5"], boxes)
    assert [each.status for each in found] == ["ok", "ok", "unreadable_image", "ok", "ok"]
    assert [model for model, *_ in models.asked].count("preprocess") == 3
    assert (found[2].streams, found[2].face, np.isnan(found[2].score)) == ({}, None, True)
    for each, number, box in zip(found, (1, 2, 0, 4, 5), boxes, strict=True):
        if each.status != "ok":
            continue
        assert (each.face, each.face_source) == (box, "none" if box is None else "supplied")
        for stream in STREAMS:
            shown = number + 100 if stream.sees_face else number
            seen = each.streams[stream.name]
            np.testing.assert_array_equal(seen.pixels, pixels(shown))
            assert (seen.probability, seen.vote) == (shown + 0.25, shown + 0.3)
            np.testing.assert_array_equal(seen.features, [shown, shown + 0.5])
            np.testing.assert_array_equal(seen.attention, [shown + 1, shown + 2])
        total = sum(10**n * each.streams[s.name].pixels[0, 0, 0].astype(float) for n, s in enumerate(STREAMS))
        assert each.score == pytest.approx(total / 10)
        assert each.probability == pytest.approx(total / 3)


def test_what_one_step_gives_goes_to_the_next(models: Models) -> None:
    """With the permit, or the server would count the images as inside for ever."""
    inspector(models).inspect([b"7"], [(1.0, 2.0, 3.0, 4.0)])
    given: Mapping[str, Arrays] = {model: arrays for model, arrays, _ in models.asked}
    assert [model for model, *_ in models.asked][:2] == ["preprocess", "face_crop"]
    assert models.asked[-1][0] == "voter"
    np.testing.assert_array_equal(given["preprocess"]["FACE_BOX"], [[1, 2, 3, 4]])
    assert given["face_crop"]["IMAGE"].tolist() == [[b"7"]]
    assert given["face_crop"]["DECODED"].tolist() == [[b"decoded 7"]]
    assert given["voter"]["PERMIT"].tolist() == [[99]]
    assert given["voter"]["IMAGE_STATUS"].tolist() == [[b"ok"]]
    for _, _, options in models.asked:
        assert options == {"client_timeout": 600.0, "headers": {"authorization": "t"}}


def test_a_face_is_looked_for_where_none_is_given(models: Models) -> None:
    inspector(models, timeout=5).inspect([b"1", b"2"])
    _, given, options = models.asked[0]
    assert np.isnan(given["FACE_BOX"]).all()
    assert given["FACE_BOX"].shape == (2, 4)
    assert options["client_timeout"] == 5


def test_an_image_that_a_later_step_finds_fault_with_has_its_status(models: Models) -> None:
    assert [each.status for each in inspector(models).inspect([b"0", b"1"])] == ["invalid_face_box", "ok"]


def test_no_request_is_larger_than_the_models_take(models: Models) -> None:
    inspector(models, batch_size=1000).inspect([b"1"] * (MAX_BATCH_SIZE + 1))
    sizes = [len(given["IMAGE"]) for model, given, _ in models.asked if model == "preprocess"]
    assert sizes == [MAX_BATCH_SIZE, 1]


def test_pixels_are_shown_in_batches_and_the_face_stays(models: Models) -> None:
    looking = inspector(models, batch_size=2)
    (clean,) = looking.inspect([b"1"], [(1.0, 2.0, 3.0, 4.0)])
    models.asked.clear()
    shown = [{name: pixels(n) for name in NAMES} for n in (7, 8, 9)]
    found = looking.inspect_pixels(clean, shown)
    assert [each.streams["global_texture"].probability for each in found] == [7.25, 8.25, 9.25]
    assert [(each.status, each.face, each.face_source) for each in found] == [("ok", clean.face, "supplied")] * 3
    assert [len(given["PIXELS"]) for model, given, _ in models.asked if model == "local_facial"] == [2, 1]
    assert not {"preprocess", "face_crop"} & {model for model, *_ in models.asked}


@pytest.mark.parametrize(
    ("code", "kind"), [("StatusCode.UNAVAILABLE", ServerUnavailableError), ("StatusCode.INTERNAL", RequestFailedError)]
)
def test_a_step_that_does_not_answer_is_named_with_its_server(models: Models, code: str, kind: type[Exception]) -> None:
    models.error = InferenceServerException("broken", status=code)
    name = code.rpartition(".")[2]
    with pytest.raises(kind, match=f"the model preprocess at one:8001 gives no answer: {name}: broken"):
        inspector(models).inspect([b"1"])


def test_networks_of_an_older_export_are_told(models: Models) -> None:
    models.lacks = ("ATTENTION",)
    with pytest.raises(ForensicsError, match=r"global_texture at one:8001 has no output ATTENTION.*export again"):
        inspector(models).inspect([b"1"])


def test_its_connection_is_closed(models: Models) -> None:
    with inspector(models):
        assert not models.closed
    assert models.closed
