"""How both clients send a call, on connections that only note it: to whom, how long, how often, to what end."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from deepfake_client import (
    DetectorError,
    InvalidResponseError,
    RequestFailedError,
    ServerOverloadedError,
    ServerUnavailableError,
)
from deepfake_client.balancing.addresses import Address
from deepfake_client.balancing.balancer import Balancer
from deepfake_client.balancing.request_state import RequestState
from deepfake_client.results import Provenance
from deepfake_client.transport import asynchronous, blocking, channels
from deepfake_client.transport.calls import PROBE_INTERVAL, PROBE_SECONDS, Call
from tritonclient.grpc.service_pb2 import ModelConfigResponse
from tritonclient.utils import InferenceServerException

from tests.fakes.wire import LONG, A, Answered, Asyncio, B, Blocking, Provided, Wire, call, explain, fails

WEIGHTS = Provenance(True, {"untrained": True})


@pytest.fixture(params=[Blocking, Asyncio], ids=["blocking", "asyncio"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of either kind, whose waits between tries take no time."""
    monkeypatch.setattr("deepfake_client.balancing.retries.RetryPolicy.pause", _pause)
    made = request.param(Wire(), monkeypatch)
    yield made
    made.end()


def _pause(policy: Any) -> float:
    if not policy._balancer.has_other(policy._state):
        policy._state.tried.clear()
        policy._waits += 1
    return 0.0


def test_a_call_is_sent_with_its_arguments_and_its_deadline_and_its_answer_understood(way: Any) -> None:
    client = way.client(A)
    assert way.ask(client, call("get_model_config")) == "ANSWER"
    assert way.ask(client, call(scores=True)) == "ANSWER"
    sent = {"model_name": "net", "inputs": [1], "client_timeout": 7.0}
    assert way.wire.sent == [(A, "get_model_config", sent), (A, "infer", sent)]


def test_answers_with_pixels_come_on_a_connection_of_their_own(way: Any) -> None:
    client = way.client(A)
    for pixels in (False, True, False, True):
        way.ask(client, call(pixels=pixels))
    limits = [dict(options["channel_args"])["grpc.max_receive_message_length"] for options in way.wire.made]
    assert len(limits) == 2
    assert limits[0] < limits[1] == 64 << 20


@pytest.mark.parametrize(
    ("servers", "more", "early"),
    [((A,), {"scores": True}, False), ((A, B), {}, False), ((A, B), {"scores": True}, True)],
)
def test_requests_for_scores_may_be_given_up_early_where_there_are_other_servers(
    way: Any, monkeypatch: pytest.MonkeyPatch, servers: tuple[str, ...], more: dict[str, Any], early: bool
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Balancer, "early_timeout", lambda _, *given: asked.append(given) or 3.0)
    client, state = way.client(*servers), RequestState()
    way.ask(client, call(**more), state)
    assert way.wire.early == [3.0] * early
    assert [(given_state is state, timeout) for _, given_state, timeout in asked] == [(True, 7.0)] * early


def test_a_late_answer_is_told_with_the_time_that_it_had(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Balancer, "early_timeout", lambda *_: 3.0)
    way.wire.answers = fails("DEADLINE_EXCEEDED")
    with pytest.raises(RequestFailedError, match=rf"no answer from {A} within 3 s"):
        way.ask(way.client(A), call(), retries=0)


def test_what_a_server_may_lack_is_none_where_it_is_missing_and_an_error_elsewhere(way: Any) -> None:
    client = way.client(A)
    way.wire.answers = fails("NOT_FOUND")
    assert way.ask(client, call(optional=True)) is None
    with pytest.raises(RequestFailedError, match="has no model 'net'"):
        way.ask(client, call())


def test_why_no_server_is_there_is_looked_for_until_it_has_answered_once(
    way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    reasons = iter([None, RequestFailedError("it is an HTTP port", "UNIMPLEMENTED")])
    for module in (blocking, asynchronous):
        monkeypatch.setattr(module, "explain_absence", lambda at, _: looked.append(at.target) or next(reasons))
    client = way.client(A)
    way.wire.answers = fails("UNAVAILABLE", "failed to connect: nobody")
    with pytest.raises(ServerUnavailableError, match=rf"no server answers at {A} \(nobody\)"):
        way.ask(client, call(), retries=0)
    with pytest.raises(RequestFailedError, match="it is an HTTP port"):
        way.ask(client, call(), retries=0)
    assert looked == [A, A]
    way.wire.answers = fails("INTERNAL")
    with pytest.raises(RequestFailedError, match="INTERNAL"):
        way.ask(client, call(), retries=0)
    way.wire.answers = lambda *_: "answer"
    way.ask(client, call())
    way.wire.answers = fails("UNAVAILABLE", "failed to connect: gone")
    with pytest.raises(ServerUnavailableError, match="gone"):
        way.ask(client, call(), retries=0)
    assert looked == [A, A]


def test_a_result_is_labelled_with_the_weights_which_are_asked_for_once_a_server(way: Any) -> None:
    provenance: list[Any] = [
        InferenceServerException("why", status="StatusCode.INTERNAL"),
        InferenceServerException("why", status="StatusCode.INTERNAL"),
        '{"untrained": true}',
    ]

    def answer(url: str, method: str, arguments: dict[str, Any]) -> Any:
        if arguments["model_name"] != "provenance":
            return "answer"
        found = provenance.pop(0)
        if isinstance(found, Exception):
            raise found
        return Provided(found)

    way.wire.answers = answer
    client = way.client(A)
    labelled = call(scores=True, label=lambda result, weights: (result, weights))
    assert way.ask(client, labelled) == ("ANSWER", None)  # an error there costs no score
    assert way.ask(client, labelled) == ("ANSWER", None)
    for _ in range(3):
        assert way.ask(client, labelled) == ("ANSWER", WEIGHTS)
    assert way.wire.models().count("provenance") == 3
    assert way.ask(client, call(scores=True)) == "ANSWER"


def test_how_a_request_ends_is_told_to_the_balancer_with_what_it_was(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []
    around = Balancer.request

    def request(self: Balancer, server: Any, state: Any, deadline: float, **more: Any) -> Any:
        told.append((server.address.target, state, deadline, more))
        return around(self, server, state, deadline, **more)

    monkeypatch.setattr(Balancer, "request", request)
    client, state = way.client(A), RequestState()
    way.ask(client, call(scores=True, images=3), state)
    way.ask(client, call(timeout=5.0), state)
    assert told == [(A, state, 7.0, {"scores": True, "images": 3}), (A, state, 5.0, {"scores": False, "images": 0})]
    assert (way.fleet(client).status()[0].answered, way.fleet(client).status()[0].in_flight) == (1, 0)


@pytest.mark.parametrize(("own", "given", "tries"), [(2, None, 3), (2, 0, 1), (0, None, 1), (0, 2, 3)])
def test_a_request_is_sent_again_as_often_as_it_or_the_client_says(
    way: Any, own: int, given: int | None, tries: int
) -> None:
    way.wire.answers = fails("INTERNAL")
    with pytest.raises(RequestFailedError, match="INTERNAL"):
        way.ask(way.client(A, retries=own), call(), retries=given)
    assert len(way.wire.sent) == tries


def test_a_request_that_is_turned_away_is_sent_again_until_the_clients_timeout(
    way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("deepfake_client.balancing.retries.RetryPolicy.__init__.__defaults__", (lambda: clock[0],))

    def full(*_: Any) -> Any:
        clock[0] += 10
        raise InferenceServerException("OVERLOADED: the queue is full", status="StatusCode.UNAVAILABLE")

    way.wire.answers = full
    with pytest.raises(ServerOverloadedError):
        way.ask(way.client(A, retries=1, timeout=100), call())
    assert len(way.wire.sent) == 10


def test_the_error_says_of_each_server_why(way: Any) -> None:
    way.wire.answers = fails("UNAVAILABLE", "Socket closed")
    with pytest.raises(ServerUnavailableError, match=rf"(?s)none of the 2 servers answers:.*{A}: .*{B}: ") as caught:
        way.ask(way.client(A, B), call(), retries=0)
    assert isinstance(caught.value.__cause__, ServerUnavailableError)


def test_a_server_that_is_out_is_probed_and_comes_back(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []

    def resolve(urls: Any) -> list[Address]:
        looked_up.extend(urls)
        return [Address(url, url) for url in urls]

    for module in (blocking, asynchronous):
        monkeypatch.setattr(module, "resolve", resolve)
    probed: list[tuple[str, Any]] = []
    end = Balancer.probed

    def note(self: Balancer, server: Any, error: Any) -> None:
        probed.append((server.address.target, error))
        end(self, server, error)

    monkeypatch.setattr(Balancer, "probed", note)
    client = way.client(A, B)
    _, second = way.fleet(client)._servers
    looked_up.clear()
    second.breaker.failed(0.0, certain=True)
    way.wire.answers = lambda url, *_: fails("INTERNAL", "still dead")() if url == B else "answer"
    way.ask(client, call())
    way.wait_until(lambda: len(probed) == 1)
    assert (probed[0][0], type(probed[0][1])) == (B, RequestFailedError)
    assert looked_up == [B]  # its name may stand for another machine by now
    url, method, arguments = next(each for each in way.wire.sent if each[0] == B)
    assert (url, method, arguments["client_timeout"]) == (B, "infer", PROBE_SECONDS)
    assert arguments["parameters"] == {"fresh": True}
    assert not second.breaker.closed
    assert way.wire.sent.count((A, "infer", {"model_name": "net", "inputs": [1], "client_timeout": 7.0})) == 1


def test_names_are_looked_up_while_requests_are_sent(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [["10.0.0.1:1"], ["10.0.0.1:1", "10.0.0.2:1"]]
    for module in (blocking, asynchronous):
        monkeypatch.setattr(module, "resolve", lambda urls: [Address(each, urls[0]) for each in there.pop(0)])
    client = way.client("farm:1")
    fleet = way.fleet(client)
    fleet._looked_up -= 100.0
    way.ask(client, call())
    way.wait_until(lambda: len(fleet.status()) == 2)
    assert there == []


def test_a_request_without_room_looks_after_servers_that_are_out(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PROBE_INTERVAL == 1.0
    for module in (blocking, asynchronous):
        monkeypatch.setattr(module, "PROBE_INTERVAL", 0.01)
    looks: list[float] = []
    client = way.client(A)
    fleet = way.fleet(client)
    (server,) = fleet._servers
    server.in_flight = 100

    def start_probes() -> list[Any]:
        looks.append(time.monotonic())
        if len(looks) == 4:
            server.in_flight = 0  # nobody is told
        return []

    monkeypatch.setattr(fleet, "start_probes", start_probes)
    assert way.ask(client, call(), RequestState(bounded=True)) == "ANSWER"
    assert len(looks) == 4


def test_who_waits_for_room_is_woken_by_it(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (blocking, asynchronous):
        monkeypatch.setattr(module, "PROBE_INTERVAL", 2 * LONG)
    client = way.client(A, max_in_flight=1)
    gate, waits = threading.Event(), threading.Event()
    pick = Balancer.pick

    def notice(self: Balancer, state: RequestState) -> Any:
        found = pick(self, state)
        if found is None:
            waits.set()
        return found

    monkeypatch.setattr(Balancer, "pick", notice)

    def answer(*_: Any) -> str:
        assert gate.wait(LONG)
        return "answer"

    way.wire.answers = answer
    threading.Thread(target=lambda: waits.wait(LONG) and gate.set(), daemon=True).start()
    started = time.monotonic()
    ask_both(way, client)
    assert time.monotonic() - started < LONG


def ask_both(way: Any, client: Any) -> None:
    if isinstance(way, Asyncio):

        async def both() -> None:
            await asyncio.gather(*(client._retry(call(), RequestState(bounded=True)) for _ in range(2)))

        way.runner.run(both())
    else:
        other = threading.Thread(target=way.ask, args=(client, call(), RequestState(bounded=True)))
        other.start()
        way.ask(client, call(), RequestState(bounded=True))
        other.join(LONG)
        assert not other.is_alive()


@pytest.mark.parametrize("fault", [None, "INVALID_ARGUMENT"])
def test_whoever_is_over_lets_others_to_its_server(
    way: Any, monkeypatch: pytest.MonkeyPatch, fault: str | None
) -> None:
    released: list[RequestState] = []
    monkeypatch.setattr(Balancer, "release", lambda _, state: released.append(state))
    client, state = way.client(A), RequestState()
    if fault:
        way.wire.answers = fails(fault)
    with contextlib.suppress(RequestFailedError):
        way.ask(client, call(), state)
    assert released == [state]


def test_the_servers_of_a_client_are_found_once(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[threading.Thread] = []

    def resolve(urls: Any) -> list[Address]:
        found.append(urls)
        if isinstance(way, Blocking) and len(found) == 1:
            others.append(threading.Thread(target=way.fleet, args=(client,)))
            others[0].start()
            others[0].join(0.05)  # it waits for this one
        return [Address(A, A)]

    found: list[Any] = []
    for module in (blocking, asynchronous):
        monkeypatch.setattr(module, "resolve", resolve)
    client = way.client(A)
    if isinstance(way, Asyncio):

        async def both() -> list[Balancer]:
            return await asyncio.gather(client._balancer(), client._balancer())

        first, second = way.runner.run(both())
    else:
        first, second = way.fleet(client), way.fleet(client)
        others[0].join(LONG)
        assert len(found) == 1
    assert first is second


def test_requests_of_a_run_go_over_connections_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are closed where the run is left early, and the client's own stay open."""
    from deepfake_client.transport.flows import once

    way = Blocking(Wire(), monkeypatch)
    client = way.client(A)
    own, other = client._channels, channels.ChannelPool(client._settings)
    for pool in (None, other, other):
        client._run(once(call()), pool)
    assert [len(pool._open) for pool in (own, other)] == [1, 1]
    assert len(way.wire.made) == 2
    way.close()


def test_a_request_that_is_not_called_off_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "PROBE_INTERVAL", 0.005)
    way, stop = Blocking(Wire(), monkeypatch), threading.Event()
    client = way.client(A)
    (server,) = way.fleet(client)._servers
    server.in_flight = 100
    threading.Timer(0.05, lambda: setattr(server, "in_flight", 0)).start()
    assert client._retry(client._channels, call(), RequestState(bounded=True), stop) == "ANSWER"
    way.close()


@pytest.mark.parametrize("code", ["INTERNAL", "UNAVAILABLE"])
def test_a_blocking_request_that_is_called_off_ends_as_that_and_not_as_an_error(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    way, stop = Blocking(Wire(), monkeypatch), threading.Event()
    client = way.client(A)

    def closed(*_: Any) -> Any:
        stop.set()  # whoever leaves closes the connections
        raise InferenceServerException("why", status=f"StatusCode.{code}")

    way.wire.answers = closed
    with pytest.raises(CancelledError):
        client._retry(client._channels, call(), RequestState(), stop)
    (server,) = way.fleet(client)._servers
    server.in_flight = 100
    with pytest.raises(CancelledError):
        client._retry(client._channels, call(), RequestState(bounded=True), stop)
    way.close()


def test_a_wait_for_the_next_try_ends_where_it_is_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake_client.balancing.retries.RetryPolicy.pause", lambda _: 2 * LONG)
    way, stop = Blocking(Wire(), monkeypatch), threading.Event()
    client = way.client(A)
    way.wire.answers = fails("INTERNAL")
    threading.Timer(0.05, stop.set).start()
    started = time.monotonic()
    with pytest.raises((DetectorError, CancelledError)):
        client._retry(client._channels, call(), RequestState(), stop)
    assert time.monotonic() - started < LONG
    way.close()


def test_a_probe_that_ends_after_its_client_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    way = Blocking(Wire(), monkeypatch)
    client = way.client(A, B)
    server, _ = way.fleet(client)._servers[1], client._channels
    told: list[Any] = []
    monkeypatch.setattr(Balancer, "probed", lambda *given: told.append(given))
    way.close()
    client._probe(server)
    assert told == []


def test_a_flow_is_given_results_and_errors_and_its_calls_go_with_their_states(way: Any) -> None:
    from deepfake_client.transport.flows import Ask

    states = [RequestState(), RequestState()]
    way.wire.answers = lambda url, method, arguments: fails("INVALID_ARGUMENT")() if method == "infer" else "answer"

    def flow() -> Any:
        first = yield Ask(call("get_model_config"), states[0])
        try:
            yield Ask(call("infer"), states[1], retries=5)
        except RequestFailedError as error:
            return first, error.code
        raise InvalidResponseError("no error was thrown into it")

    client = way.client(A)
    ran = client._run(flow())
    assert (way.runner.run(ran) if isinstance(way, Asyncio) else ran) == ("ANSWER", "INVALID_ARGUMENT")


# the clients themselves


def test_a_client_that_is_closed_closes_all_its_connections(way: Any) -> None:
    client = way.client(A, B)
    way.ask(client, call())
    way.ask(client, call(pixels=True))
    way.close()
    assert len(way.wire.made) == 2
    assert sorted(way.wire.closed) == sorted(options["url"] for options in way.wire.made)


def test_nothing_is_known_of_servers_before_the_first_request(way: Any) -> None:
    client = way.client(A)
    assert client.servers == ()
    way.ask(client, call(scores=True))
    (server,) = client.servers
    assert (server.address, server.available, server.answered, server.in_flight) == (A, True, 1, 0)


@pytest.mark.parametrize("servers", [(A,), (A, B)])
def test_servers_share_the_time_that_one_of_them_may_take_to_be_ready(way: Any, servers: tuple[str, ...]) -> None:
    answer = Answered()
    way.wire.answers = lambda *_: answer
    client = way.client(*servers)
    way.run(client.wait_ready(3000.0)) if isinstance(way, Asyncio) else client.wait_ready(3000.0)
    ((_, method, arguments),) = way.wire.sent
    assert (method, arguments["parameters"]) == ("infer", {"fresh": True})
    most = 3000.0 / len(servers)
    assert most - LONG < arguments["client_timeout"] <= most


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("UNIMPLEMENTED", RequestFailedError, "is not the gRPC port"),
        ("INTERNAL", ServerUnavailableError, f"{A} was not ready within 0 s: .*INTERNAL"),
    ],
)
def test_what_waiting_does_not_mend_is_told_at_once(way: Any, code: str, error: type[Exception], said: str) -> None:
    way.wire.answers = fails(code)
    client = way.client(A)
    with pytest.raises(error, match=said) as caught:
        way.run(client.wait_ready(0.0)) if isinstance(way, Asyncio) else client.wait_ready(0.0)
    assert type(caught.value) is error
    assert [arguments["client_timeout"] for _, _, arguments in way.wire.sent] == [0.1]


def test_verdicts_alone_are_asked_for_on_the_same_connections_of_the_same_servers(way: Any) -> None:
    client = way.client(A)
    deciding = way.run(client.deciding(0.25)) if isinstance(way, Asyncio) else client.deciding(0.25)
    assert way.fleet(deciding) is way.fleet(client)
    assert deciding._channels is client._channels
    settings = deciding._settings
    assert (settings.model, settings.decide.threshold) == ("deepfake_verdict", 0.25)
    assert client._settings.decide is None


def test_a_run_that_is_left_ends_its_own_connections_and_leaves_those_of_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way = Blocking(Wire(), monkeypatch)
    client = way.client(A, batch_size=1)
    way.ask(client, call())
    made = len(way.wire.made)

    def answer(url: str, method: str, arguments: dict[str, Any]) -> Any:
        if method == "get_model_config":
            reply = ModelConfigResponse()
            reply.config.max_batch_size = 8
            return reply
        return Provided('{"untrained": true}') if arguments.get("model_name") == "provenance" else Answered()

    way.wire.answers = answer
    with contextlib.closing(client.score_many([b"1", b"2", b"3"])) as verdicts:
        assert next(verdicts).score == 0.5
        assert way.wire.closed == []
    assert len(way.wire.closed) == len(way.wire.made) - made > 0
    assert way.ask(client, Call("get_server_metadata", {}, 1.0, lambda _: "fine", explain)) == "fine"
    way.close()
