"""The way of images to their verdicts, driven by hand: what is asked for, and what comes of answers and errors."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from deepfake_client import (
    AccessDeniedError,
    DetectorClient,
    InvalidResponseError,
    RequestFailedError,
    ServerUnavailableError,
    Verdict,
)
from deepfake_client.balancing.addresses import Address
from deepfake_client.early import Decide
from deepfake_client.errors import ServerDiedError
from deepfake_client.images import items
from deepfake_client.images.faces import FoundFace, FoundFaces
from deepfake_client.images.items import (
    MAX_IMAGE_BYTES,
    EncodedImage,
    Item,
    check_size,
    may_be_one_image,
    merge,
    plan_requests,
    read,
    read_group,
)
from deepfake_client.results import Face, Provenance
from deepfake_client.transport import calls, flows
from deepfake_client.transport.answers import parse_max_bytes
from deepfake_client.transport.flows import Ask
from deepfake_client.transport.settings import Settings
from deepfake_client.transport.tls import Tls
from tritonclient.grpc.service_pb2 import ModelConfigResponse
from tritonclient.utils import InferenceServerException

SETTINGS = Settings(("h:1",), "net", 30.0, 3, 4, 8)
DIED = ServerDiedError("it died")
FAILED = RequestFailedError("a step died", "INTERNAL")
ODD = InvalidResponseError("odd")


def image(name: str, faces: Any = "main") -> EncodedImage:
    return EncodedImage(f"{name}.jpg", name.encode(), None, faces)


def drive(flow: Any, *answers: Any) -> tuple[Any, list[Ask]]:
    """The result of a flow whose asks get these answers, one after the other; an exception is thrown into it."""
    asks: list[Ask] = []
    given = iter(answers)
    try:
        asks.append(next(flow))
        while True:
            answer = next(given)
            asks.append(flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer))
    except StopIteration as end:
        assert not list(given)
        return end.value, asks


def verdicts(*names: str) -> list[Verdict]:
    return [Verdict(f"{name}.jpg", "ok", 0.1, 0.1) for name in names]


def paths(ask: Ask) -> int:
    return ask.call.images


def test_light_calls_wait_for_no_server() -> None:
    info, asks = drive(flows.server_info(SETTINGS), ("triton", "2.51"), 32)
    assert (info.name, info.version, info.model, info.max_batch_size) == ("triton", "2.51", "net", 32)
    assert [(ask.state.light, ask.retries) for ask in asks] == [(True, 0), (True, 0)]


@pytest.mark.parametrize(
    ("most_images", "most_bytes", "expected"),
    [(32, 1000, (8, 1000)), (4, 1000, (4, 1000)), (32, None, (8, 1 << 30)), (8, 7, (8, 7))],
)
def test_the_smaller_of_both_limits_holds(most_images: int, most_bytes: int | None, expected: tuple[int, int]) -> None:
    limits, asks = drive(flows.limits(SETTINGS), most_images, most_bytes)
    assert limits == expected
    assert [(ask.state.light, ask.retries) for ask in asks] == [(True, None), (True, None)]


def test_a_model_that_takes_no_batches_is_not_the_detector() -> None:
    with pytest.raises(InvalidResponseError, match="takes no batches"):
        drive(flows.limits(SETTINGS), 0)


def test_one_image_is_not_held_back_and_its_error_is_raised() -> None:
    verdict, (ask,) = drive(flows.score_one(SETTINGS, image("a")), verdicts("a"))
    assert verdict.path == "a.jpg"
    assert (ask.state.bounded, ask.state.most_deaths, paths(ask)) == (False, 3, 1)
    for error in (FAILED, ODD, AccessDeniedError("no", "UNAVAILABLE")):
        with pytest.raises(type(error)):
            drive(flows.score_one(SETTINGS, image("a")), error)
    died, _ = drive(flows.score_one(SETTINGS, image("a")), DIED)
    assert (died.path, died.status, died.error) == ("a.jpg", "server_died", "it died")


def test_a_group_is_one_request_and_keeps_its_order() -> None:
    group = [Verdict("bad", "unreadable_file"), image("a"), Verdict("worse", "too_many_bytes"), image("b")]
    found, (ask,) = drive(flows.score_group(SETTINGS, group), verdicts("a", "b"))
    assert [each.path for each in found] == ["bad", "a.jpg", "worse", "b.jpg"]
    assert (ask.state.bounded, ask.state.most_deaths, paths(ask)) == (True, 2, 2)


def test_a_group_without_images_asks_for_nothing() -> None:
    found, asks = drive(flows.score_group(SETTINGS, [Verdict("bad", "unreadable_file")]))
    assert ([each.path for each in found], asks) == (["bad"], [])


@pytest.mark.parametrize(
    ("error", "deaths"), [(FAILED, 0), (DIED, 2), (RequestFailedError("bad", "INVALID_ARGUMENT"), 0)]
)
def test_a_request_that_one_image_may_have_failed_is_sent_image_by_image(error: Exception, deaths: int) -> None:
    group = [image("a"), image("b"), image("c")]
    found, asks = drive(flows.score_group(SETTINGS, group), error, verdicts("a"), FAILED, verdicts("c"))
    assert [(each.path, each.status) for each in found] == [
        ("a.jpg", "ok"),
        ("b.jpg", "request_failed"),
        ("c.jpg", "ok"),
    ]
    assert found[1].error == "a step died"
    assert [paths(ask) for ask in asks] == [3, 1, 1, 1]
    assert all(ask.state.bounded and ask.state.deaths == deaths for ask in asks[1:])
    assert all(ask.state.most_deaths == 3 for ask in asks[1:])


@pytest.mark.parametrize("error", [RequestFailedError("late", "DEADLINE_EXCEEDED"), ODD])
def test_another_error_fails_all_of_a_request_at_once(error: Exception) -> None:
    found, asks = drive(flows.score_group(SETTINGS, [image("a"), image("b")]), error)
    assert [each.status for each in found] == ["request_failed"] * 2
    assert len(asks) == 1


def test_a_lone_image_that_kills_servers_is_blamed_and_not_sent_again() -> None:
    found, asks = drive(flows.score_group(SETTINGS, [image("a")]), DIED)
    assert ([each.status for each in found], len(asks)) == (["server_died"], 1)


@pytest.mark.parametrize("first", [True, False])
def test_a_refused_client_ends_the_run(first: bool) -> None:
    refused = AccessDeniedError("no", "UNAVAILABLE")
    answers: list[Any] = [refused] if first else [DIED, refused]
    with pytest.raises(AccessDeniedError):
        drive(flows.score_group(SETTINGS, [image("a"), image("b")]), *answers)


def test_every_face_is_searched_for_first_and_scored_in_requests_of_the_batch_size() -> None:
    faces = [FoundFace(Face((n, 0.0, n + 1.0, 1.0)), b"%d" % n, (0.0, 0.0, 1.0, 1.0)) for n in range(9)]
    group = [image("a", "all"), image("b")]
    first = [Verdict("f", "ok", 0.1, n / 10) for n in range(8)]
    second = [Verdict("f", "ok", 0.1, 0.95), Verdict("b.jpg", "ok", 0.5, 0.5)]
    found, asks = drive(flows.score_group(SETTINGS, group), [FoundFaces("ok", 9, faces)], first, second)
    assert [(each.path, each.probability) for each in found] == [("a.jpg", 0.95), ("b.jpg", 0.5)]
    assert len(found[0].faces) == 9
    assert [paths(ask) for ask in asks] == [0, 8, 2]
    assert asks[0].call.arguments["model_name"] == "face_finder"
    assert all(ask.state.bounded for ask in asks)


@pytest.mark.parametrize(
    ("count", "error", "expected"),
    [
        (2, FAILED, True),
        (1, FAILED, False),
        (2, DIED, True),
        (1, DIED, False),
        (2, RequestFailedError("bad", "INVALID_ARGUMENT"), True),
        (2, RequestFailedError("late", "DEADLINE_EXCEEDED"), False),
        (2, RequestFailedError("gone", "NOT_FOUND"), False),
        (2, ODD, False),
    ],
)
def test_which_errors_may_be_one_image_s(count: int, error: Any, expected: bool) -> None:
    assert may_be_one_image([image("a")] * count, error) is expected


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, int], Item]:
    def make(name: str, size: int) -> Item:
        (tmp_path / name).write_bytes(bytes(size))
        return Item(str(tmp_path / name))

    return make


def sizes(planned: list[tuple[int, list[Item]]]) -> list[tuple[int, int]]:
    return [(total, len(group)) for total, group in planned]


def test_a_request_is_closed_before_its_images_are_too_many_bytes(
    file: Callable[[str, int], Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "REQUEST_BYTES", 100)
    files = [file(f"{n}.jpg", size) for n, size in enumerate((60, 40, 1, 150, 99, 1))]
    assert sizes(plan_requests(files, 1000)) == [(100, 2), (1, 1), (150, 1), (100, 2)]
    # What is over the limit is not read, and so takes no room.
    assert sizes(plan_requests(files, 100)) == [(100, 2), (100, 3), (1, 1)]
    in_memory = [Item("a", b"x" * 70), Item("b", b"x" * 40), Item("c", load=bytes), Item("d", error="gone")]
    assert sizes(plan_requests(in_memory, 1000)) == [(70, 1), (40, 3)]
    assert sizes(plan_requests([Item("/nowhere/a.jpg"), Item("nul\0")], 1000)) == [(0, 2)]


def test_what_cannot_be_read_is_a_row_that_says_why(file: Callable[[str, int], Item]) -> None:
    good, large = file("good.jpg", 10), file("large.jpg", 11)
    planned = plan_requests([good, large, Item("/nowhere/a.jpg"), Item("nul\0"), Item("e", error="gone")], 10)
    read_, too_large, missing, odd, told = read_group([item for _, group in planned for item in group], 10)
    assert isinstance(read_, EncodedImage)
    assert read_.data == bytes(10)
    assert (too_large.status, missing.status) == ("too_many_bytes", "unreadable_file")  # type: ignore[union-attr]
    assert missing.error == "/nowhere/a.jpg: No such file or directory"  # type: ignore[union-attr]
    assert odd.status == "unreadable_file"  # type: ignore[union-attr]
    assert told.error == "e: gone"  # type: ignore[union-attr]


def test_an_image_in_memory_keeps_what_was_said_of_it() -> None:
    item = Item("a", b"data", (1.0, 2.0, 3.0, 4.0), faces="all", attempts=3, digest=True)
    assert read(item) == EncodedImage("a", b"data", (1.0, 2.0, 3.0, 4.0), "all", 3, True)
    lazy = Item("a", load=lambda: b"lazy", faces="all", attempts=2, digest=True)
    assert read(lazy) == EncodedImage("a", b"lazy", None, "all", 2, True)


def test_a_file_beyond_what_can_be_sent_is_refused(
    file: Callable[[str, int], Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "MAX_IMAGE_BYTES", 1 << 20)
    assert len(read(file("a.jpg", 1 << 20)).data) == 1 << 20
    with pytest.raises(OSError, match="over the limit of 1 MiB for one image"):
        read(file("b.jpg", (1 << 20) + 1))
    check_size(5, 5)
    with pytest.raises(OSError, match="over the limit"):
        check_size(6, 5)


def test_a_digest_is_of_the_bytes_that_were_sent() -> None:
    asked = EncodedImage("a", b"data", None, digest=True)
    first, second = merge([asked, image("b")], verdicts("a", "b"))
    assert (first.sha256, second.sha256) == (sha256(b"data").hexdigest(), None)


@pytest.mark.parametrize(
    ("make", "model"),
    [
        (calls.metadata_call, "net"),
        (calls.max_batch_size_call, "net"),
        (calls.max_bytes_call, "preprocess"),
        (calls.calibration_call, "voter"),
        (calls.provenance_call, "provenance"),
    ],
)
def test_a_light_call_that_fails_names_the_model_that_was_asked(make: Any, model: str) -> None:
    call = make(SETTINGS)
    address = Address("h:1", "h:1")
    missing = InferenceServerException("unknown", status="StatusCode.NOT_FOUND")
    assert f"has no model {model!r}" in str(call.explain(missing, address, 10.0))
    late = call.explain(InferenceServerException("late", status="StatusCode.DEADLINE_EXCEEDED"), address, 10.0)
    assert isinstance(late, ServerUnavailableError)
    assert str(late) == "no server answers at h:1 within 10 s"
    assert (call.timeout, call.scores, call.images) == (10.0, False, 0)
    assert call.optional is (make not in (calls.metadata_call, calls.max_batch_size_call))


def test_a_server_without_a_face_finder_says_what_to_do() -> None:
    call = calls.find_faces_call(SETTINGS, [image("a", "all")])
    missing = InferenceServerException("unknown", status="StatusCode.NOT_FOUND")
    error = call.explain(missing, Address("h:1", "h:1"), 1.0)
    assert "the server at h:1 has no model 'face_finder'; export the models again" in str(error)
    other = call.explain(InferenceServerException("died", status="StatusCode.INTERNAL"), Address("h:1", "h:1"), 1.0)
    assert "INTERNAL: died" in str(other)
    assert (call.timeout, call.scores) == (30.0, False)


def test_scores_and_verdicts_are_asked_of_their_own_models() -> None:
    scored = calls.score_call(SETTINGS, [image("a"), image("b")])
    assert (scored.arguments["model_name"], scored.timeout, scored.scores, scored.images) == ("net", 30.0, True, 2)
    assert [tensor.name() for tensor in scored.arguments["inputs"]] == ["IMAGE"]
    early = replace(SETTINGS, model="deepfake_verdict", decide=Decide(0.4))
    decided = calls.score_call(early, [image("a")])
    assert decided.arguments["model_name"] == "deepfake_verdict"
    assert [tensor.name() for tensor in decided.arguments["inputs"]] == ["IMAGE", "THRESHOLD"]
    probe = calls.probe_call(early, 60.0)  # every step of the ensemble is tried, not those of an early verdict alone
    assert (probe.arguments["model_name"], probe.timeout, probe.scores, probe.images) == (
        "deepfake_detector",
        60.0,
        True,
        0,
    )
    assert probe.arguments["parameters"] == {"fresh": True}  # what the server kept says nothing of its steps
    assert "parameters" not in scored.arguments


def test_verdicts_are_labelled_with_the_weights_where_they_are_known() -> None:
    label = calls.score_call(SETTINGS, [image("a")]).label
    assert label is not None
    plain = verdicts("a")
    assert label(plain, None) == plain
    known = Provenance(True, {"untrained": True, "stand_in": "learnt in an hour"})
    (labelled,) = label(plain, known)
    assert (labelled.weights, labelled.untrained, labelled.stand_in) == (known.identity, True, "learnt in an hour")
    (own,) = label(plain, Provenance(False, {"untrained": False}))
    assert (own.untrained, own.stand_in) == (False, None)


def test_what_a_server_need_not_have_may_be_missing_and_may_not_fail() -> None:
    address = Address("h:1", "h:1")
    call = calls.provenance_call(SETTINGS)
    assert call.failure(InferenceServerException("unknown", status="StatusCode.NOT_FOUND"), address, 1.0) is None
    for code in ("INTERNAL", "UNAVAILABLE", "PERMISSION_DENIED", "INVALID_ARGUMENT"):
        assert call.failure(InferenceServerException("no", status=f"StatusCode.{code}"), address, 1.0) is not None
    needed = calls.metadata_call(SETTINGS)
    assert needed.failure(InferenceServerException("unknown", status="StatusCode.NOT_FOUND"), address, 1.0) is not None


def test_no_limit_of_a_server_is_above_what_can_be_sent() -> None:
    def limit(text: str) -> int:
        reply = ModelConfigResponse()
        reply.config.parameters["max_bytes"].string_value = text
        return parse_max_bytes(reply)

    assert (limit("7"), limit(str(MAX_IMAGE_BYTES)), limit("9" * 18)) == (7, MAX_IMAGE_BYTES, MAX_IMAGE_BYTES)


def test_a_framing_that_is_empty_is_not_known() -> None:
    for text, framing in (("", None), ("square", "square")):
        reply = ModelConfigResponse()
        reply.config.parameters["framing"].string_value = text
        assert calls.framing_call(SETTINGS).parse(reply) == framing


def test_headers_are_sent_in_small_letters() -> None:
    assert DetectorClient(headers={"X-Key": "Value"})._settings.headers == {"x-key": "Value"}


def test_files_of_tls_are_looked_at_before_anything_is_sent(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    for cert, key in ((missing, None), (None, missing)):
        with pytest.raises(ValueError, match="give both"):
            Tls(None, cert, key)
    with pytest.raises(ValueError, match=r"missing\.pem: no PEM file"):
        Tls(missing)
    with pytest.raises(ValueError, match="no PEM files of a certificate and its key"):
        Tls(None, missing, missing)


def test_answers_are_bounded_by_what_they_may_hold() -> None:
    def most(settings: Settings, *, pixels: bool) -> int:
        arguments = dict(settings.channel(Address("h:1", "h:1"), pixels=pixels)["channel_args"])
        return int(arguments["grpc.max_receive_message_length"])

    assert calls.find_faces_call(SETTINGS, [image("a")]).pixels  # each face is a picture
    assert not calls.score_call(SETTINGS, [image("a")]).pixels
    assert 4 << 20 < most(SETTINGS, pixels=False) < most(replace(SETTINGS, batch_size=32), pixels=False) < 5 << 20
    assert most(SETTINGS, pixels=True) == 64 << 20


def test_a_connection_has_the_credentials_and_the_name_that_the_certificate_is_for() -> None:
    plain = SETTINGS.channel(Address("h:1", "h:1"))
    assert plain["url"] == "h:1"
    assert "creds" not in plain
    arguments = dict(plain["channel_args"])
    assert arguments["grpc.max_send_message_length"] == -1  # what a server takes is for the server to say
    backoffs = [arguments[f"grpc.{which}_reconnect_backoff_ms"] for which in ("initial", "min", "max")]
    assert backoffs == [250, 5000, 1000]  # a restarted server is found at once
    names = {"grpc.default_authority", "grpc.ssl_target_name_override"}
    assert not names & {name for name, _ in plain["channel_args"]}
    secured = replace(SETTINGS, tls=Tls(None, None, None))
    found = secured.channel(Address("10.0.0.7:1", "farm:1"))
    assert (found["url"], type(found["creds"]).__name__) == ("10.0.0.7:1", "ChannelCredentials")
    arguments = dict(found["channel_args"])
    assert (arguments["grpc.default_authority"], arguments["grpc.ssl_target_name_override"]) == ("farm:1", "farm")
    assert "creds" in secured.channel(Address("h:1", "h:1"))
