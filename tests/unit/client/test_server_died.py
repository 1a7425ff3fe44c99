"""A request under which the server dies: the image that does it gets a row, and all others are scored."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from deepfake_client import AsyncDetectorClient, DetectorClient, Verdict
from deepfake_client.balancing.addresses import Address
from deepfake_client.balancing.balancer import Balancer
from deepfake_client.balancing.request_state import RequestState, state_of
from deepfake_client.errors import ConnectionLostError, ServerDiedError
from tritonclient.grpc import service_pb2 as pb

from tests.fakes.triton import FakeTriton

POISON = b"poison"


class Mortal(FakeTriton):
    """A server that dies of some images, with all that is under way, and starts again a little later.

    A death counts before a client can notice it, and the next one can happen as soon as the server is back: what the
    client does at once finds both so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.deaths = 0
        self.fault = self.die_of_poison
        self._dying = threading.Lock()
        self._restarts: list[threading.Thread] = []

    def die_of_poison(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> None:
        if POISON not in request.raw_input_contents[0]:
            return
        if self._dying.acquire(blocking=False):
            self.deaths += 1
            self._restarts.append(threading.Thread(target=self._restart))
            self._restarts[-1].start()
        while context.is_active():
            threading.Event().wait(0.005)
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def _restart(self) -> None:
        self.stop()
        self._dying.release()
        self.start()

    def end(self) -> None:
        """Stops it for good: what has died last is back by then."""
        for restart in self._restarts:
            restart.join()
        self.stop()


@contextmanager
def mortal() -> Iterator[Mortal]:
    server = Mortal()
    server.start()
    try:
        yield server
    finally:
        server.end()


def blocking(urls: Any, images: list[Any], **options: Any) -> list[Verdict]:
    with DetectorClient(urls, **options) as client:
        return list(client.score_many(images))


def asynchronous(urls: Any, images: list[Any], **options: Any) -> list[Verdict]:
    async def run() -> list[Verdict]:
        async with AsyncDetectorClient(urls, **options) as client:
            return [verdict async for verdict in client.score_many(images)]

    return asyncio.run(run())


@pytest.mark.parametrize("score_many", [blocking, asynchronous])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_image_gets_a_row_and_the_rest_goes_on(score_many: Callable[..., list[Verdict]], batch_size: int) -> None:
    with mortal() as server:
        images = [b"0.%d" % (n % 10) for n in range(40)]
        images[13] = POISON
        verdicts = score_many(server.url, images, batch_size=batch_size)
    died = verdicts.pop(13)
    assert died.status == "server_died"
    assert "died 3 times while it had this image" in str(died.error)
    assert [verdict.score for verdict in verdicts] == [n % 10 / 10 for n in range(40) if n != 13]
    assert server.deaths == 3


def test_a_single_image_gets_its_row_too() -> None:
    with mortal() as server, DetectorClient(server.url) as client:
        assert client.score(POISON).status == "server_died"
        assert client.score(b"0.7").score == 0.7


def test_with_several_servers_all_others_are_scored() -> None:
    with mortal() as first, mortal() as second:
        images = [b"0.%d" % (n % 10) for n in range(60)]
        images[7] = POISON
        verdicts = blocking([first.url, second.url], images, batch_size=4, max_in_flight=4)
    assert verdicts.pop(7).status == "server_died"
    assert all(verdict.ok for verdict in verdicts)
    assert first.deaths + second.deaths == 3


def lost() -> ConnectionLostError:
    return ConnectionLostError("Socket closed")


def fail(balancer: Balancer, state: RequestState) -> None:
    server = balancer.pick(state)
    assert server is not None
    with pytest.raises(ConnectionLostError), balancer.request(server, state, 60, scores=True):
        raise lost()


def test_a_request_under_which_a_server_died_is_alone_at_its_server() -> None:
    balancer = Balancer([Address("a:1", "a:1")], 4)
    other, suspect, later, light = RequestState(), RequestState(), RequestState(), RequestState(light=True)
    fail(balancer, suspect)
    server = balancer.pick(other)
    assert server is not None
    with balancer.request(server, other, 60, scores=True):
        assert balancer.pick(suspect) is None  # waits for the other's end
        assert balancer.pick(later) is None  # and who comes later waits for it
    assert balancer.pick(suspect) is server
    assert balancer.pick(later) is None
    with balancer.request(server, suspect, 60, scores=True):
        assert balancer.pick(light) is server
    assert balancer.pick(later) is server


def test_a_request_that_is_given_up_keeps_no_server() -> None:
    balancer = Balancer([Address("a:1", "a:1")], 4)
    suspect, first, later = RequestState(), RequestState(), RequestState()
    fail(balancer, suspect)
    assert balancer.pick(first) is not None
    assert balancer.pick(suspect) is None
    assert balancer.pick(later) is None
    balancer.release(suspect)
    assert balancer.pick(later) is not None


def test_two_suspects_take_turns() -> None:
    balancer = Balancer([Address("a:1", "a:1"), Address("b:1", "b:1")], 4)
    suspects = [RequestState() for _ in range(3)]
    for suspect in suspects:
        fail(balancer, suspect)
        suspect.tried.clear()
    first, second = balancer.pick(suspects[0]), balancer.pick(suspects[1])
    assert {first, second} == set(balancer._servers)
    assert balancer.pick(suspects[2]) is None
    assert first is not None
    with balancer.request(first, suspects[0], 60, scores=True):
        pass
    assert balancer.pick(suspects[2]) is first


@pytest.mark.parametrize(("images", "deaths", "killed"), [(8, 1, False), (8, 2, True), (1, 2, False), (1, 3, True)])
def test_when_a_request_is_given_up(images: int, deaths: int, killed: bool) -> None:
    state = state_of([None] * images, bounded=True, deaths=deaths)
    assert state.killed is killed
    balancer = Balancer([Address("a:1", "a:1")], 4)
    assert isinstance(balancer.explain(lost(), state), ServerDiedError) is killed


def test_only_requests_for_scores_are_suspected() -> None:
    balancer = Balancer([Address("a:1", "a:1")], 4)
    state = RequestState(light=True)
    server = balancer.pick(state)
    assert server is not None
    with pytest.raises(ConnectionLostError), balancer.request(server, state, 60, scores=False):
        raise lost()
    assert state.deaths == 0
