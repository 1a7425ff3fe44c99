"""Numbers that users rely on, by value: whoever changes one changes what the client does, and what its pages say."""

import inspect
from typing import Any

import pytest
from deepfake_client import AsyncDetectorClient, DetectorClient, RequestFailedError
from deepfake_client.balancing.request_state import state_of
from deepfake_client.bulk.reorder import ReorderBuffer
from deepfake_client.images.items import as_item
from deepfake_client.transport.settings import Settings

from tests.constants import constant

NUMBERS: dict[str, Any] = {
    "balancing.balancer.EARLY_TIMEOUT": 30.0,
    "balancing.balancer.LOOK_UP_SECONDS": 30.0,
    "bulk.batcher.STALL_SECONDS": 0.2,
    "bulk.inputs.VIDEO_EXTENSIONS": (
        *(".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg"),
        *(".mts", ".m2ts", ".3gp", ".wmv", ".flv", ".ogv"),
    ),
    "bulk.output.journal.FORMAT": 2,
    "bulk.lists.STDIN": "-",
    "bulk.lists.BOX_COLUMNS": ("face_x1", "face_y1", "face_x2", "face_y2"),
    "bulk.memory_budget.BYTES": 64 << 20,
    "bulk.parquet.BATCH_ROWS": 10_000,
    "bulk.reorder.HELD_IMAGES": 4096,
    "bulk.output.rows.SHARD_ROWS": 100_000,
    "bulk.shards.MAX_STREAMED_BYTES": 32 << 20,
    "bulk.shards.SHARD_EXTENSIONS": (".tar", ".tar.gz", ".tgz"),
    "decoding.limits.MAX_PIXELS": 50_000_000,
    "evidence.receipt.TOLERANCE": 1e-3,
    "images.faces.MOST_IMAGES": 32,
    "images.items.MAX_IMAGE_BYTES": 1 << 30,
    "images.items.REQUEST_BYTES": 32 << 20,
    "results.STREAM_NAMES": ("global_texture", "local_facial", "semantic_fusion"),
    "transport.calls.PROBE_SECONDS": 60.0,
    "transport.calls.PROBE_INTERVAL": 1.0,
    "video.rule.WINDOW_SECONDS": 3.0,
    "video.rule.LEAST_SAMPLES": 3,
    "decoding.sampling.DEFAULT_FPS": 2.0,
    "video.tracks.LEAST_OVERLAP": 0.3,
    "video.tracks.LONGEST_GAP": 2.0,
    "video.verdict.MOST_TRACKS": 50,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_one_that_was_promised(name: str) -> None:
    assert constant(f"deepfake_client.{name}") == NUMBERS[name]


@pytest.mark.parametrize("client", [DetectorClient, AsyncDetectorClient])
def test_a_client_without_options_is_made_as_its_documentation_says(client: type) -> None:
    defaults = {name: each.default for name, each in inspect.signature(client).parameters.items()}
    assert defaults == {
        "url": "localhost:8001",
        "model": "deepfake_detector",
        "timeout": 600.0,
        "retries": 10,
        "max_in_flight": 16,
        "batch_size": 8,
        "tls": False,
        "ca": None,
        "client_cert": None,
        "client_key": None,
        "headers": None,
        "fresh": False,
    }


@pytest.mark.parametrize(("images", "deaths"), [(1, 3), (2, 2), (8, 2)])
def test_a_request_is_given_up_after_so_many_deaths_of_its_server(images: int, deaths: int) -> None:
    state = state_of([b""] * images, bounded=True)
    assert (state.bounded, state.deaths, state.killed) == (True, 0, False)
    state.deaths = deaths - 1
    assert not state.killed
    state.deaths = deaths
    assert state.killed
    assert state_of([b""], bounded=False, deaths=2).deaths == 2


def settings(**changed: Any) -> Settings:
    return Settings(
        **{"urls": ("h:1",), "model": "m", "timeout": 1.0, "retries": 0, "max_in_flight": 1, "batch_size": 1} | changed
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("urls", (), "no address"),
        ("urls", ("h:1", "h"), "'h' is not HOST:PORT"),
        ("timeout", 0.0, "timeout is 0.0"),
        ("timeout", -1.0, "timeout is -1.0"),
        ("timeout", float("nan"), "timeout is nan"),
        ("timeout", float("inf"), "timeout is inf"),
        ("timeout", 1e6 + 1, "at most 1e\\+06"),
        ("retries", -1, "retries is -1; it must be at least 0"),
        ("max_in_flight", 0, "max_in_flight is 0; it must be at least 1"),
        ("batch_size", 0, "batch_size is 0; it must be at least 1"),
        ("headers", {"grpc-timeout": "1"}, "'grpc-timeout' is no name of a header"),
        ("headers", {"a b": "1"}, "'a b' is no name of a header"),
        ("headers", {"": "1"}, "'' is no name of a header"),
        ("headers", {"token": "a\nb"}, "the value of the header token has characters"),
        ("headers", {"token": "sécret"}, "the value of the header token has characters"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(name: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        settings(**{name: value})
    assert "sécret" not in str(caught.value)


def test_settings_at_the_ends_of_their_ranges_are_taken() -> None:
    assert settings(timeout=1e6).timeout == 1e6
    made = settings(timeout=0.001, headers={"a-b_c.9": " ~", "x": ""})
    assert (made.retries, made.max_in_flight, made.batch_size) == (0, 1, 1)
    assert made.where == "h:1"
    assert settings(urls=("a:1", "b:2")).where == "a:1, b:2"


@pytest.mark.parametrize(("size", "held"), [(8, 512), (4096, 1), (10_000, 1)])
def test_so_many_scored_images_wait_for_one_before_them(size: int, held: int) -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(size, ordered=True)
    buffer.begin(0)
    for number in range(1, held + 1):
        assert buffer.has_room(2)
        buffer.begin(number)
        assert buffer.end(number) == []
    assert not buffer.has_room(2)
    assert buffer.end(0) == list(range(held + 1))
    assert buffer.has_room(2)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_twice_as_many_batches_are_under_way_as_requests_may_be(limit: int) -> None:
    buffer: ReorderBuffer[int] = ReorderBuffer(8, ordered=False)
    begun = 0
    while buffer.has_room(limit):
        buffer.begin(begun)
        begun += 1
    assert begun == 2 * limit - 1  # and one more is being collected


def test_whatever_is_asked_for_is_told_apart() -> None:
    assert as_item(b"data").data == b"data"
    assert as_item(bytearray(b"data")).data == as_item(memoryview(b"data")).data == b"data"
    assert as_item("a.jpg").path == "a.jpg"
    item = as_item((b"data", [1, 2, 3, 4]))
    assert (item.data, item.box) == (b"data", (1.0, 2.0, 3.0, 4.0))
    assert as_item((b"data", None)).box is None
    assert as_item(item) is item
    with pytest.raises(ValueError, match="box"):
        as_item((b"data", [1, 2, 3]))
    wrong: Any = 3
    with pytest.raises(TypeError):
        as_item(wrong)


def test_an_error_keeps_its_code_from_process_to_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(RequestFailedError("it failed", "INTERNAL")))
    assert (str(error), error.code) == ("it failed", "INTERNAL")
