"""Several servers: requests spread, a failed server left out and taken back, nothing lost or doubled."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import psutil
import pytest
from click.testing import CliRunner
from deepfake_client import (
    AsyncDetectorClient,
    DetectorClient,
    RequestFailedError,
    ServerUnavailableError,
    Verdict,
)
from deepfake_client.balancing.addresses import Address
from deepfake_client.balancing.balancer import Balancer
from deepfake_client.balancing.request_state import RequestState, Server
from deepfake_client.balancing.retries import RetryPolicy
from deepfake_client.cli import main
from deepfake_client.errors import ServerOverloadedError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Server as RealServer
from tests.conftest import start_server
from tests.fakes.triton import FakeTriton, fail_times, hang, serving, untrained
from tests.golden import BOXES, GOLDEN, ROWS
from tests.waiting import PATIENCE, wait_for

Scorer = Callable[..., list[Verdict]]
IMAGES = [b"%.1f" % (n % 11 / 10) for n in range(300)]
SCORES = [float(image) for image in IMAGES]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that requests wait for their next try."""
    waited: list[float] = []
    pause = RetryPolicy.pause
    monkeypatch.setattr(RetryPolicy, "pause", lambda policy: waited.append(pause(policy)) or waited[-1])
    return waited


@pytest.fixture
def three() -> Iterator[list[FakeTriton]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serving()) for _ in range(3)]


def score_blocking(servers: list[FakeTriton], items: Any, **options: Any) -> list[Verdict]:
    with DetectorClient([server.url for server in servers], **options) as client:
        return list(client.score_many(items))


def score_asyncio(servers: list[FakeTriton], items: Any, **options: Any) -> list[Verdict]:
    async def run() -> list[Verdict]:
        async with AsyncDetectorClient([server.url for server in servers], **options) as client:
            return [verdict async for verdict in client.score_many(items)]

    return asyncio.run(run())


@pytest.fixture(params=[score_blocking, score_asyncio], ids=["blocking", "asyncio"])
def score(request: pytest.FixtureRequest) -> Scorer:
    return request.param


def scores_of(verdicts: list[Verdict]) -> list[float | None]:
    return [verdict.score for verdict in verdicts]


# which server


def test_requests_are_spread_evenly_over_equal_servers(three: list[FakeTriton], score: Scorer) -> None:
    for server in three:
        server.fault = hang(0.02)
    assert scores_of(score(three, IMAGES, batch_size=5)) == SCORES
    assert all(15 <= len(server.batches) <= 25 for server in three)


def test_a_slow_server_gets_less_and_holds_no_other_up(three: list[FakeTriton]) -> None:
    def wait_for_the_others(_: Any, context: grpc.ServicerContext) -> None:
        while len(three[0].batches) + len(three[1].batches) < len(IMAGES) - 20 and context.is_active():
            time.sleep(0.01)

    for server, fault in zip(three, (hang(0.02), hang(0.02), wait_for_the_others), strict=True):
        server.fault = fault
    with DetectorClient([server.url for server in three], batch_size=1, max_in_flight=4) as client:
        verdicts = list(client.score_many(IMAGES, ordered=False))
        assert sum(status.answered for status in client.servers) == len(IMAGES)
    assert sorted((v.index, v.score) for v in verdicts) == list(enumerate(SCORES))  # type: ignore[type-var]
    assert len(three[2].batches) < 30
    assert min(len(three[0].batches), len(three[1].batches)) > 100


def test_a_slow_server_holds_no_other_up_where_order_is_kept_either(three: list[FakeTriton], score: Scorer) -> None:
    def seconds(servers: list[FakeTriton]) -> float:
        started = time.monotonic()
        assert scores_of(score(servers, IMAGES, batch_size=1, max_in_flight=2)) == SCORES
        return time.monotonic() - started

    for server, pause in zip(three, (0.02, 0.02, 2.0), strict=True):
        server.fault = hang(pause)
    assert seconds(three) < 2.5 * seconds(three[:2]) + 4 * 2.0


def test_single_images_are_spread_too(three: list[FakeTriton]) -> None:
    with DetectorClient([server.url for server in three]) as client:
        assert [client.score(image).score for image in IMAGES[:30]] == SCORES[:30]
    assert [server.calls for server in three] == [10, 10, 10]


# servers that fail


def test_an_absent_server_costs_nothing(three: list[FakeTriton], score: Scorer, pauses: list[float]) -> None:
    three[1].stop()
    assert scores_of(score(three, IMAGES, retries=0)) == SCORES
    assert not any(pauses)
    three[1].start()


@pytest.mark.parametrize("code", ["INTERNAL", "NOT_FOUND", "UNIMPLEMENTED", "UNAVAILABLE"])
def test_a_server_whose_inference_fails_is_left_out_until_it_scores(
    three: list[FakeTriton], code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its ready end-points go on to say yes."""
    three[0].fault = fail_times(10**6, grpc.StatusCode[code])
    with DetectorClient([server.url for server in three], batch_size=5) as client:
        assert scores_of(list(client.score_many(IMAGES))) == SCORES
        assert [status.available for status in client.servers] == [False, True, True]
        assert three[0].url in caplog.text
        assert "left out" in caplog.text
        failed = three[0].calls
        assert failed < 30
        three[0].fault = hang(0)
        wait_for(lambda: client.score(b"0.1") and client.servers[0].available)
        assert scores_of(list(client.score_many(IMAGES))) == SCORES
        assert "scores again" in caplog.text
    assert len(three[0].batches) > 5


def test_a_server_that_is_killed_and_comes_back_costs_no_image(three: list[FakeTriton], score: Scorer) -> None:
    def disaster() -> None:
        while len(three[1].batches) < 20:
            time.sleep(0.01)
        three[1].stop()
        killed.append(len(three[1].batches))
        time.sleep(1)
        three[1].start()

    for server in three:
        server.fault = hang(0.05)
    killed: list[int] = []
    saboteur = threading.Thread(target=disaster)
    saboteur.start()
    verdicts = score(three, IMAGES * 4, batch_size=2, max_in_flight=4)
    saboteur.join()
    assert scores_of(verdicts) == SCORES * 4
    assert [verdict.index for verdict in verdicts] == list(range(len(IMAGES) * 4))
    assert len(three[1].batches) > killed[0] + 5


@pytest.mark.parametrize("answers", [0, 4])
def test_a_hanging_server_is_given_up_before_the_deadline(
    three: list[FakeTriton], score: Scorer, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    """Whether it hangs from the start, when nothing tells yet how long an answer takes, or later."""
    monkeypatch.setattr("deepfake_client.balancing.balancer.EARLY_TIMEOUT", 1.0)
    long = 4 * PATIENCE
    three[2].fault = lambda request, context: hang(long if len(three[2].batches) >= answers else 0)(request, context)
    started = time.monotonic()
    assert scores_of(score(three, IMAGES, batch_size=2, timeout=long)) == SCORES
    assert time.monotonic() - started < PATIENCE


def test_a_name_that_is_not_known_for_a_while_costs_no_server() -> None:
    pods = [Address(f"10.0.0.{n}:1", "farm:1") for n in range(3)]
    balancer = Balancer(pods, 4)
    balancer.update("farm:1", [Address("farm:1", "farm:1")])  # what a failed look-up gives
    assert [status.address for status in balancer.status()] == [f"10.0.0.{n}:1 (farm)" for n in range(3)]
    for _ in pods:
        server = balancer.pick(RequestState())
        assert server is not None
        with suppress(ServerUnavailableError), balancer.request(server, RequestState(), 9, scores=True):
            raise ServerUnavailableError("gone")
    balancer.update("farm:1", [Address("farm:1", "farm:1")])
    assert [status.address for status in balancer.status()][3:] == ["farm:1"]


def test_a_request_that_takes_long_everywhere_gets_its_whole_deadline_in_the_end(
    three: list[FakeTriton], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake_client.balancing.balancer.EARLY_TIMEOUT", 0.3)
    for server in three:
        server.fault = lambda request, context: hang(2 if b"0.9" in request.raw_input_contents[0] else 0)(
            request, context
        )
    with DetectorClient([server.url for server in three], retries=0) as client:
        assert [client.score(image).score for image in (b"0.1", b"0.9")] == [0.1, 0.9]


def test_a_request_that_fails_everywhere_is_one_row_and_leaves_the_servers_in(three: list[FakeTriton]) -> None:
    def poison(request: Any, context: grpc.ServicerContext) -> None:
        if b"poison" in request.raw_input_contents[0]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no poison")

    for server in three:
        server.fault = poison
    verdicts = score_blocking(three, [b"0.1", b"poison", b"0.2"], batch_size=1)
    assert [verdict.status for verdict in verdicts] == ["ok", "request_failed", "ok"]
    assert sum(server.calls for server in three) == 3


def test_where_all_are_out_the_error_says_which_and_why(three: list[FakeTriton], score: Scorer) -> None:
    three[0].fault = fail_times(10**6, grpc.StatusCode.UNAVAILABLE, "Model is not ready")
    for server in three[1:]:
        server.stop()
    with pytest.raises(ServerUnavailableError, match="none of the 3 servers answers:") as caught:
        score(three, IMAGES, retries=1)
    assert all(server.url in str(caught.value) for server in three)
    assert "Model is not ready" in str(caught.value)
    assert "refused" in str(caught.value)
    for server in three[1:]:
        server.start()


def test_a_wrong_model_is_told_at_once(three: list[FakeTriton], score: Scorer, pauses: list[float]) -> None:
    with pytest.raises(RequestFailedError, match="has no model 'nothing'"):
        score(three, [b"0.1"], model="nothing")
    assert not any(pauses)


def test_leaving_early_blames_no_server(three: list[FakeTriton]) -> None:
    for server in three:
        server.fault = lambda request, context: hang(60 if b"0.9" in request.raw_input_contents[0] else 0)(
            request, context
        )
    with DetectorClient([server.url for server in three], batch_size=1) as client:
        with closing(client.score_many([b"0.1", *[b"0.9"] * 50])) as verdicts:
            next(verdicts)
        assert all(status.available and status.in_flight == 0 for status in client.servers)


# the command line


def test_score_takes_several_servers_and_warns_where_their_weights_differ(three: list[FakeTriton]) -> None:
    urls = [word for server in three for word in ("--url", server.url)]
    three[0].provenance = three[1].provenance = untrained()
    done = CliRunner().invoke(main, ["score", str(GOLDEN / "images" / "00_face.png"), *urls])
    assert done.exit_code == 0, done.stderr
    assert f"different weights or face detectors: {three[0].url}, {three[1].url} / {three[2].url}" in done.stderr
    three[2].stop()
    done = CliRunner().invoke(main, ["score", str(GOLDEN / "images" / "00_face.png"), *urls])
    assert done.exit_code == 0, done.stderr
    assert "different" not in done.stderr
    three[2].start()


def test_info_shows_each_server_and_fails_where_one_is_absent(three: list[FakeTriton]) -> None:
    three[1].stop()
    done = CliRunner().invoke(main, ["info", *(word for server in three for word in ("--url", server.url))])
    assert done.exit_code == 3
    assert done.stdout.count("yes, it scored a test image") == 2
    assert f"no server answers at {three[1].url}" in done.stderr
    three[1].start()


# names


def answers(*numbers: str, name: str = "farm", known: Callable[..., Any] = socket.getaddrinfo) -> Callable[..., Any]:
    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host != name:
            return known(host, port, *args, **options)
        kinds = [(socket.AF_INET6 if ":" in number else socket.AF_INET, number) for number in numbers]
        return [(kind, socket.SOCK_STREAM, 6, "", (number, port)) for kind, number in kinds]

    return getaddrinfo


def test_a_name_is_looked_up_again_when_one_of_its_servers_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        monkeypatch.setattr(socket, "getaddrinfo", answers("127.0.0.8", "127.0.0.1"))
        with DetectorClient(f"farm:{server.port}") as client:
            assert scores_of(list(client.score_many(IMAGES))) == SCORES
            assert [status.available for status in client.servers] == [False, True]
            assert client.servers[0].address == f"127.0.0.8:{server.port} (farm)"
            monkeypatch.setattr(socket, "getaddrinfo", answers("127.0.0.9", "127.0.0.1"))
            wait_for(lambda: client.score(b"0.1") and "127.0.0.9" in str(client.servers))
            assert "127.0.0.8" not in str(client.servers)


@pytest.fixture(params=[[], ["127.0.0.1"]], ids=["unknown", "one"])
def farm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTriton]:
    """A server with a name that stands for none or one at first, and for two, of which one is absent, from then on."""
    looked_up = 0

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        nonlocal looked_up
        looked_up += host == "farm"
        numbers = request.param if looked_up == 1 else ["127.0.0.1", "127.0.0.8"]
        if host == "farm" and not numbers:
            raise socket.gaierror(socket.EAI_AGAIN, "for a while")
        return answers(*numbers, known=known)(host, *args, **options)

    known = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("deepfake_client.balancing.balancer.LOOK_UP_SECONDS", 0.2)
    with serving() as server:
        yield server


def test_a_name_that_was_one_server_is_looked_up_again(farm: FakeTriton) -> None:
    with DetectorClient(f"farm:{farm.port}", retries=0) as client:

        def both() -> bool:
            with suppress(ServerUnavailableError):
                client.score(b"0.1")
            return len(client.servers) == 2

        wait_for(both)
        assert [status.address for status in client.servers] == [
            f"{number}:{farm.port} (farm)" for number in ("127.0.0.1", "127.0.0.8")
        ]
        assert scores_of(list(client.score_many(IMAGES))) == SCORES


def test_asyncio_a_name_that_was_one_server_is_looked_up_again(farm: FakeTriton) -> None:
    async def run() -> int:
        async with AsyncDetectorClient(f"farm:{farm.port}", retries=0) as client:
            end = time.monotonic() + PATIENCE
            while len(client.servers) < 2 and time.monotonic() < end:
                with suppress(ServerUnavailableError):
                    await client.score(b"0.1")
                await asyncio.sleep(0.05)
            return len(client.servers)

    assert asyncio.run(run()) == 2


class Neighbour(FakeTriton):
    """A server at another address, with the same port."""

    def __init__(self, other: FakeTriton) -> None:
        super().__init__()
        self.port = other.port

    @property
    def url(self) -> str:
        return f"127.0.0.8:{self.port}"


def test_servers_that_join_a_run_get_as_many_requests_as_the_first(farm: FakeTriton, score: Scorer) -> None:
    neighbour = Neighbour(farm)
    neighbour.start()
    under_way, peaks, lock = 0, [0], threading.Lock()

    def count(request: Any, context: grpc.ServicerContext) -> None:
        nonlocal under_way
        with lock:
            under_way += 1
            peaks.append(under_way)
        time.sleep(0.1)
        with lock:
            under_way -= 1

    def source() -> Iterator[bytes]:
        end = time.monotonic() + PATIENCE
        while max(peaks) < 4 and time.monotonic() < end:
            yield b"0.1"

    farm.fault = neighbour.fault = count
    name = Mock(url=f"farm:{farm.port}")
    assert score([name], source(), batch_size=1, max_in_flight=2)
    neighbour.stop()
    assert max(peaks) == 4


# the balancer by itself


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def balancer_of(count: int, clock: Clock, most: int = 8) -> Balancer:
    return Balancer([Address(f"s{n}:1", f"s{n}:1") for n in range(count)], most, clock=clock)


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 4),
    most=st.integers(1, 9),
    steps=st.lists(st.tuples(st.sampled_from(["pick", "ok", "fail", "busy", "cancel"]), st.floats(0, 5)), max_size=60),
)
def test_in_flight_is_bounded_least_first_and_always_given_back(
    count: int, most: int, steps: list[tuple[str, float]]
) -> None:
    clock = Clock()
    balancer = balancer_of(count, clock, most)
    under_way: list[tuple[Server, Any]] = []
    errors = {
        "fail": ServerUnavailableError("gone"),
        "busy": ServerOverloadedError("full"),
        "cancel": KeyboardInterrupt(),
    }
    for action, seconds in steps:
        clock.now += seconds
        if action == "pick":
            state = RequestState(bounded=True)
            before = {s.address: s for s in balancer.status()}
            server = balancer.pick(state)
            inside = [s for s in before.values() if s.available] or list(before.values())
            with_room = [s for s in inside if s.in_flight < s.limit]
            if server is None:
                assert not with_room
                continue
            assert before[str(server.address)].in_flight == min(s.in_flight for s in with_room)
            request = balancer.request(server, state, 60, scores=True)
            request.__enter__()
            under_way.append((server, request))
        elif under_way:
            _, request = under_way.pop(0)
            error = errors.get(action)
            if error is None:
                request.__exit__(None, None, None)
            else:
                assert not request.__exit__(type(error), error, None)
        assert all(1 <= s.limit <= most for s in balancer.status())
        assert sum(s.in_flight for s in balancer.status()) == len(under_way)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.01, 30), min_size=1, max_size=40))
def test_a_server_that_is_out_is_probed_ever_more_rarely_and_taken_back_by_one_answer(waits: list[float]) -> None:
    clock = Clock()
    balancer = balancer_of(2, clock)
    server, state = balancer.pick(RequestState()), RequestState()
    assert server is not None
    with pytest.raises(ServerUnavailableError), balancer.request(server, state, 60, scores=True):
        raise ServerUnavailableError("gone")
    last, pause = 0.0, 0.5
    for wait in waits:
        clock.now += wait
        probes = balancer.start_probes()
        assert (probes == [server]) is (clock.now >= last + pause)
        if probes:
            assert balancer.start_probes() == []  # one at a time
            balancer.probed(server, ServerUnavailableError("gone"))
            last, pause = clock.now, min(2 * pause, 5.0)
    assert balancer.pick(RequestState()) is not server
    balancer.probed(server, None)
    assert server in {balancer.pick(RequestState()) for _ in range(2)}


def test_names_are_looked_up_now_and_then_and_numbers_never() -> None:
    clock = Clock()
    urls = ["farm:1", "10.0.0.1:1", "[::1]:1", "other:1"]
    balancer = Balancer(
        [Address(f"10.0.0.{n}:1", "farm:1") for n in range(2)] + [Address(u, u) for u in urls[1:]], 8, clock=clock
    )
    for now, due in ((0.0, False), (29.0, False), (31.0, True), (32.0, False), (60.0, False), (61.5, True)):
        clock.now = now
        assert balancer.start_look_ups() == (["farm:1", "other:1"] if due else [])


# the real thing


def kill(server: RealServer) -> None:
    """The launcher with all that it started, at once; what they leave is removed."""
    launcher = psutil.Process(server.process.pid)
    for process in [launcher, *launcher.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    server.process.wait(120)
    for region in Path("/dev/shm").glob(f"deepfake_detector_{server.process.pid}_*"):
        region.unlink()


def wait_for_port(port: int) -> None:
    def is_closed() -> bool:
        with socket.socket() as sock:
            return bool(sock.connect_ex(("127.0.0.1", port)))

    wait_for(is_closed)


@pytest.mark.server
@pytest.mark.slow
def test_one_of_three_real_servers_is_killed_and_comes_back(tiny_repository: Path, tmp_path: Path) -> None:
    servers = [start_server(tiny_repository, tmp_path / f"{n}.log") for n in range(3)]
    rounds = 20
    items = [(GOLDEN / "images" / row["image"], BOXES[row["image"]]) for row in ROWS] * rounds
    verdicts: list[Verdict] = []
    back = threading.Event()

    def source() -> Iterator[Any]:
        yield from items
        assert back.wait(2 * PATIENCE)
        answered, end = client.servers[1].answered, time.monotonic() + PATIENCE
        while client.servers[1].answered <= answered and time.monotonic() < end:
            yield from items

    try:
        # Seven of the eight images in a request: neighbouring requests differ, and answers that are swapped are wrong.
        with DetectorClient([server.url for server in servers], batch_size=7, timeout=PATIENCE) as client:

            def disaster() -> None:
                while sum(status.answered for status in client.servers) < 10:
                    time.sleep(0.05)
                kill(servers[1])
                wait_for_port(servers[1].grpc_port)
                servers[1] = start_server(tiny_repository, tmp_path / "again.log", grpc_port=servers[1].grpc_port)
                back.set()

            saboteur = threading.Thread(target=disaster)
            saboteur.start()
            seen = 0
            for verdict in client.score_many(source()):
                verdicts.append(verdict)
                if back.is_set() and not seen:
                    seen = client.servers[1].answered
            saboteur.join()
            assert client.servers[1].failed > 0
            assert client.servers[1].available
            assert client.servers[1].answered > seen
    finally:
        for server in servers:
            server.stop()
    assert len(verdicts) >= 2 * len(items)
    assert [verdict.index for verdict in verdicts] == list(range(len(verdicts)))
    assert [(verdict.path, verdict.score) for verdict in verdicts] == [
        (str(GOLDEN / "images" / row["image"]), row["vote"]) for row in ROWS
    ] * (len(verdicts) // len(ROWS))
