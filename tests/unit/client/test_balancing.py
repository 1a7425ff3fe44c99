"""Which server gets a request, for how long, and how many: the balancer and its parts, without a network."""

import heapq
import socket
from collections.abc import Callable

import grpc
import pytest
from deepfake_client import DetectorClient, RequestFailedError, ServerOverloadedError, ServerUnavailableError
from deepfake_client.balancing import balancer as balancing
from deepfake_client.balancing.addresses import Address, is_name, resolve
from deepfake_client.balancing.balancer import Balancer
from deepfake_client.balancing.circuit_breaker import CircuitBreaker
from deepfake_client.balancing.concurrency import ConcurrencyLimit
from deepfake_client.balancing.latencies import Latencies
from deepfake_client.balancing.request_state import RequestState, Server
from deepfake_client.balancing.retries import RetryPolicy
from deepfake_client.errors import ConnectionLostError
from deepfake_client.results import Provenance

from tests.fakes.triton import FakeTriton, hang

DOWN = ServerUnavailableError("nobody is there")
SLOW = RequestFailedError("no answer", "DEADLINE_EXCEEDED")
FULL = ServerOverloadedError("the queue is full")
FAILED = RequestFailedError("a step died", "INTERNAL")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_balancer(clock: Clock, servers: int = 3, most: int = 4) -> Balancer:
    return Balancer([Address(f"{name}:1", f"{name}:1") for name in "abcdef"[:servers]], most, clock=clock)


def pick(balancer: Balancer, state: RequestState | None = None) -> Server:
    server = balancer.pick(state or RequestState())
    assert server is not None
    return server


def answer(balancer: Balancer, clock: Clock, seconds: float, server: Server | None = None, images: int = 1) -> None:
    state = RequestState()
    server = server or pick(balancer, state)
    with balancer.request(server, state, 600, scores=True, images=images):
        clock.now += seconds


def fail(balancer: Balancer, state: RequestState, error: Exception, *, scores: bool = True) -> Server:
    server = pick(balancer, state)
    with pytest.raises(type(error)), balancer.request(server, state, 600, scores=scores):
        raise error
    return server


def test_the_server_with_the_fewest_requests_is_picked_and_equals_take_turns(clock: Clock) -> None:
    balancer = make_balancer(clock)
    first, second, third = (pick(balancer) for _ in range(3))
    assert len({first, second, third}) == 3
    with balancer.request(second, RequestState(), 600, scores=True):
        pass
    assert pick(balancer) is second
    assert pick(balancer) is first


def test_a_bounded_request_waits_for_room(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1, most=2)
    states = [RequestState(bounded=True) for _ in range(3)]
    servers = [balancer.pick(state) for state in states]
    assert servers[2] is None
    assert balancer.limit == 2
    assert servers[0] is not None
    with balancer.request(servers[0], states[0], 600, scores=True):
        pass
    assert balancer.pick(states[2]) is servers[0]


def test_a_request_goes_to_a_server_that_has_not_failed_it(clock: Clock) -> None:
    balancer = make_balancer(clock)
    state = RequestState()
    failed = {fail(balancer, state, FAILED) for _ in range(3)}
    assert len(failed) == 3
    assert not balancer.has_other(state)
    state.tried.clear()
    assert balancer.has_other(state)


def test_tried_servers_are_avoided_even_when_they_are_idle(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    state = RequestState()
    first = fail(balancer, state, FAILED)
    (other,) = (server for server in balancer._servers if server is not first)
    for _ in range(3):
        assert pick(balancer, RequestState()) is not None
    other.in_flight += 10
    assert pick(balancer, state) is other


def test_a_request_is_given_up_early_only_where_another_server_may_be_faster(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    server, other = balancer._servers
    state = RequestState()
    assert balancer.early_timeout(server, state, 600) == 600  # nothing is known
    answer(balancer, clock, 10.0)
    answer(balancer, clock, 1.0)
    assert balancer.early_timeout(server, state, 600) == 80  # eight times the longest, not the last
    assert balancer.early_timeout(server, state, 50) == 50
    assert balancer.early_timeout(server, None, 600) == 600  # a probe has no other server
    state.tried[other] = FAILED
    assert balancer.early_timeout(server, state, 600) == 600
    state.tried.clear()
    other.breaker.failed(clock.now, certain=True)
    assert balancer.early_timeout(server, state, 600) == 600  # a server that is out is none to go to
    assert balancer.early_timeout(other, state, 600) == 80


def test_quick_answers_do_not_make_it_impatient(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    answer(balancer, clock, 0.01)
    assert balancer.early_timeout(balancer._servers[0], RequestState(), 600) == balancing.EARLY_TIMEOUT


def test_a_lone_server_is_waited_for(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    answer(balancer, clock, 1.0)
    assert balancer.early_timeout(balancer._servers[0], RequestState(), 600) == 600
    assert not balancer.several


def test_a_server_that_is_absent_is_left_out_at_once_and_one_that_fails_after_three(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    absent = fail(balancer, RequestState(), DOWN)
    assert {pick(balancer) for _ in range(4)} == set(balancer._servers) - {absent}
    balancer = make_balancer(clock, servers=1)
    for closed in (True, True, False):
        fail(balancer, RequestState(), FAILED)
        assert balancer.status()[0].available is closed


def test_overload_leaves_a_server_in_and_halves_its_limit(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    for _ in range(5):
        clock.now += 1
        fail(balancer, RequestState(), FULL)
    (status,) = balancer.status()
    assert (status.available, status.limit, status.failed) == (True, 1, 5)


def test_slowness_halves_the_limit_and_counts_as_a_failure(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    clock.now += 1
    fail(balancer, RequestState(), SLOW)
    assert balancer.limit == 2
    for _ in range(2):
        fail(balancer, RequestState(), SLOW)
    assert not balancer.status()[0].available


def test_a_wrong_request_says_that_its_server_is_well(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    state = RequestState()
    for _ in range(2):
        fail(balancer, RequestState(), FAILED)
    server = fail(balancer, state, RequestFailedError("bad", "INVALID_ARGUMENT"))
    assert not state.tried
    assert server.error is None
    assert server.answered == 1


def test_only_answers_with_scores_count(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    server = pick(balancer)
    with balancer.request(server, RequestState(), 600, scores=False):
        clock.now += 100
    assert (server.answered, server.seen, server.latencies.quantile(0.5)) == (0, True, None)


def test_a_request_that_is_given_up_leaves_no_trace(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    server = pick(balancer)
    with pytest.raises(KeyboardInterrupt), balancer.request(server, RequestState(), 600, scores=True):
        raise KeyboardInterrupt
    assert (server.in_flight, server.answered, server.failed) == (0, 0, 0)


def test_probes_are_for_servers_that_are_out_where_there_are_several(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    out = fail(balancer, RequestState(), DOWN)
    assert balancer.start_probes() == []  # not at once
    clock.now += 1
    assert balancer.start_probes() == [out]
    assert balancer.start_probes() == []  # one at a time
    balancer.probed(out, FAILED)
    assert balancer.status()[balancer._servers.index(out)].error == str(FAILED)  # no longer why it was left out
    assert not balancer.status()[balancer._servers.index(out)].available
    clock.now += 0.9
    assert balancer.start_probes() == []  # half a second became one
    clock.now += 0.2
    assert balancer.start_probes() == [out]
    balancer.probed(out, None)
    assert all(status.available for status in balancer.status())
    assert out.error is None
    lone = make_balancer(clock, servers=1)
    fail(lone, RequestState(), DOWN)
    clock.now += 60
    assert lone.start_probes() == []


def test_names_are_looked_up_from_time_to_time(clock: Clock) -> None:
    balancer = Balancer([Address("10.0.0.1:1", "cluster:1"), Address("10.0.0.9:1", "10.0.0.9:1")], 4, clock=clock)
    assert balancer.start_look_ups() == []
    clock.now += balancing.LOOK_UP_SECONDS
    assert balancer.start_look_ups() == ["cluster:1"]
    assert balancer.start_look_ups() == []


def test_servers_come_and_go_with_their_name(clock: Clock) -> None:
    one, two, three = (Address(f"10.0.0.{n}:1", "cluster:1") for n in (1, 2, 3))
    other = Address("b:1", "b:1")
    balancer = Balancer([one, two, other], 4, clock=clock)
    kept = balancer._servers[1]
    balancer.update("cluster:1", [two, three])
    assert [server.address for server in balancer._servers] == [two, three, other]
    assert balancer._servers[0] is kept
    balancer.update("cluster:1", [Address("cluster:1", "cluster:1")])  # not known now: nobody is lost
    assert [server.address for server in balancer._servers] == [two, three, other]
    balancer._servers[0].breaker.failed(clock.now, certain=True)
    balancer.update("cluster:1", [Address("cluster:1", "cluster:1")])
    assert [server.address for server in balancer._servers] == [two, three, other]  # one of them is in
    balancer._servers[1].breaker.failed(clock.now, certain=True)
    balancer.update("cluster:1", [Address("cluster:1", "cluster:1")])
    assert [server.address.target for server in balancer._servers] == [two.target, three.target, "cluster:1", "b:1"]


def test_the_servers_of_a_name_keep_its_place_among_the_addresses(clock: Clock) -> None:
    first, *cluster = Address("a:1", "a:1"), *(Address(f"10.0.0.{n}:1", "cluster:1") for n in (1, 2))
    balancer = Balancer([first, cluster[0]], 4, clock=clock)
    balancer.update("cluster:1", cluster)
    assert [server.address for server in balancer._servers] == [first, *cluster]


def test_where_none_answers_each_is_named(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    state = RequestState()
    fail(balancer, state, DOWN)
    assert balancer.explain(DOWN, state) is DOWN
    fail(balancer, state, DOWN)
    assert "none of the 2 servers answers:\n  a:1: nobody is there\n  b:1: " in str(balancer.explain(DOWN, state))
    assert balancer.explain(FAILED, state) is FAILED


def test_waiting_threads_and_loops_are_woken(clock: Clock) -> None:
    woken: list[None] = []
    balancer = Balancer([Address("a:1", "a:1")], 4, clock=clock, on_room=lambda: woken.append(None))
    answer(balancer, clock, 1.0)
    assert len(woken) == 1
    balancer.probed(balancer._servers[0], None)
    assert len(woken) == 2
    balancer.release(RequestState())
    assert len(woken) == 3


def test_an_ipv6_address_is_no_name_and_has_no_brackets_as_a_host() -> None:
    assert (Address("[::1]:81", "[::1]:81").host, Address("10.0.0.1:81", "farm:81").host) == ("::1", "farm")
    assert [is_name(url) for url in ("[::1]:81", "127.0.0.1:81", "farm:81")] == [False, False, True]


V4, V6 = ("10.0.0.1", "10.0.0.2"), ("fe80::1", "fe80::2")


@pytest.mark.parametrize(
    ("found", "targets"),
    [
        (V4, ["10.0.0.1:81", "10.0.0.2:81"]),
        (V4 + V4, ["10.0.0.1:81", "10.0.0.2:81"]),  # as for each kind of socket
        (V6, ["[fe80::1]:81", "[fe80::2]:81"]),
        (V4[:1] + V6, ["[fe80::1]:81", "[fe80::2]:81"]),
        (V4 + V6, ["10.0.0.1:81", "10.0.0.2:81"]),
        (V4[:1], ["farm:81"]),
        (V4[:1] + V6[:1], ["farm:81"]),  # one machine, such as localhost
        ((), ["farm:81"]),
    ],
)
def test_a_name_stands_for_a_server_at_each_address_of_one_kind(
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, ...], targets: list[str]
) -> None:
    asked: list[tuple[str, int]] = []

    def getaddrinfo(host: str, port: int, **options: object) -> list[tuple[object, ...]]:
        asked.append((host, port))
        if not found:
            raise OSError("not known")
        kinds = [socket.AF_INET6 if ":" in number else socket.AF_INET for number in found]
        return [(kind, options["type"], 6, "", (number, port)) for kind, number in zip(kinds, found, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert resolve(["farm:81", "farm:81"]) == [Address(target, "farm:81") for target in targets]
    assert asked == [("farm", 81)] * 2
    assert resolve(["127.0.0.1:1", "[::1]:1", "127.0.0.1:1"]) == [Address(u, u) for u in ("127.0.0.1:1", "[::1]:1")]
    assert len(asked) == 2  # a number is no name


def test_an_address_is_told_with_the_name_that_it_was_found_by() -> None:
    assert str(Address("10.0.0.1:81", "farm:81")) == "10.0.0.1:81 (farm)"
    assert str(Address("farm:81", "farm:81")) == "farm:81"


def test_servers_that_others_have_for_themselves_are_for_light_requests_alone(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    suspect = RequestState()
    lost = ConnectionLostError("it died")
    server = fail(balancer, suspect, lost)
    assert suspect.deaths == 1
    server.breaker.succeeded()
    assert pick(balancer, suspect) is server
    assert balancer.pick(RequestState()) is None
    assert pick(balancer, RequestState(light=True)) is server
    balancer.release(suspect)
    assert pick(balancer, RequestState()) is server


def test_a_server_that_a_suspect_no_longer_waits_for_is_for_others_again(clock: Clock) -> None:
    balancer = make_balancer(clock)
    suspect, others = RequestState(), (RequestState(), RequestState())
    fail(balancer, suspect, ConnectionLostError("it died"))
    busy = {pick(balancer, state): state for state in others}
    assert balancer.pick(suspect) is None
    (awaited,) = (server for server in busy if server.reserved is suspect)
    (left,) = busy.keys() - {awaited}
    with pytest.raises(ServerUnavailableError), balancer.request(awaited, busy[awaited], 600, scores=True):
        raise DOWN
    assert balancer.pick(suspect) is None  # which now waits for the one that is left
    assert left.reserved is suspect
    awaited.breaker.succeeded()
    assert pick(balancer, RequestState()) is awaited


@pytest.mark.parametrize(
    ("error", "scores", "deaths"), [(DOWN, True, 0), (FAILED, True, 0), (None, False, 0), (None, True, 1)]
)
def test_a_request_is_suspected_where_the_server_was_lost_while_it_scored(
    clock: Clock, error: Exception | None, scores: bool, deaths: int
) -> None:
    state = RequestState()
    fail(make_balancer(clock), state, error or ConnectionLostError("it died"), scores=scores)
    assert state.deaths == deaths


def test_a_failure_makes_weights_unknown_and_overload_does_not(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    (server,) = balancer._servers
    server.weights = known = Provenance(False, {})
    fail(balancer, RequestState(), FULL)
    assert server.weights is known
    fail(balancer, RequestState(), FAILED)  # it may be started again with others
    assert server.weights is None


# the circuit breaker


def test_the_breaker_doubles_its_pauses_up_to_five_seconds() -> None:
    breaker, now = CircuitBreaker(), 0.0
    breaker.failed(now, certain=True)
    pauses = []
    for _ in range(6):
        start = now
        while not breaker.start_probe(now):
            now += 0.25
        pauses.append(now - start)
        breaker.probe_failed(now)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    breaker.succeeded()
    assert breaker.closed
    assert not breaker.start_probe(now + 100)
    breaker.failed(now, certain=True)
    assert breaker.start_probe(now + 0.5)


def test_a_success_forgets_failures() -> None:
    breaker = CircuitBreaker()
    for _ in range(2):
        breaker.failed(0.0, certain=False)
        breaker.failed(0.0, certain=False)
        assert breaker.closed
        breaker.succeeded()
    for _ in range(3):
        breaker.failed(0.0, certain=False)
    assert not breaker.closed
    assert breaker.start_probe(0.5)
    breaker.failed(0.4, certain=True)  # a request that was under way does not put the probe off
    assert not breaker.start_probe(0.6)


def test_a_request_that_was_under_way_puts_the_probe_not_off() -> None:
    breaker = CircuitBreaker()
    breaker.failed(0.0, certain=True)
    breaker.failed(0.4, certain=True)
    assert breaker.start_probe(0.5)


# how long answers take


def test_quantiles_are_within_a_hundredth() -> None:
    latencies = Latencies()
    assert latencies.quantile(0.5) is None
    for milliseconds in range(1, 101):
        latencies.add(milliseconds / 1000)
    for share in (0.01, 0.5, 0.95, 1.0):
        assert latencies.quantile(share) == pytest.approx(share / 10, rel=0.0101)
    latencies.add(0.0)
    assert latencies.quantile(0.001) == pytest.approx(1e-6, rel=0.0101)


# the limit on concurrency


@pytest.mark.parametrize(("seconds", "limit"), [(299.0, 4), (301.0, 2)])
def test_an_answer_after_half_of_the_deadline_halves_the_limit(seconds: float, limit: int) -> None:
    concurrency = ConcurrencyLimit(4)
    concurrency.answered(0.0, seconds, deadline=600.0, in_flight=1)
    assert concurrency.limit == limit


def feed(concurrency: ConcurrencyLimit, started: float, seconds: float, answers: int, images: int = 1) -> None:
    for _ in range(answers):
        concurrency.answered(started, started + seconds, deadline=1e6, in_flight=concurrency.limit, images=images)


def test_what_was_sent_before_halves_the_limit_once_and_is_not_counted_in_a_window_after_it() -> None:
    concurrency = ConcurrencyLimit(64)
    feed(concurrency, 0.0, 1.0, 12)
    assert concurrency.limit == 8
    feed(concurrency, 0.5, 1.0, 200)  # sent under the limit of four
    assert concurrency.limit == 8
    feed(concurrency, 2.0, 1.0, 24)
    assert concurrency.limit == 16
    concurrency.overloaded(3.0, 10.0)
    concurrency.overloaded(9.0, 11.0)
    assert concurrency.limit == 8
    concurrency.overloaded(10.0, 12.0)
    assert concurrency.limit == 4


def test_after_an_overload_the_limit_takes_turns_with_its_half_and_doubles_no_more() -> None:
    concurrency = ConcurrencyLimit(64)
    for n in range(2):
        feed(concurrency, 10.0 * n, 1.0, 12 * 2**n)
    assert concurrency.limit == 16
    concurrency.overloaded(20.0, 21.0)
    limits = []
    for n in range(3):
        limits.append(concurrency.limit)
        feed(concurrency, 30.0 + 10 * n, 1.0, 4 * concurrency.limit)
    assert limits == [8, 4, 10]  # the half, and then more, for latency was the same at both


def test_larger_requests_than_ever_begin_a_window_anew_and_smaller_ones_do_not() -> None:
    concurrency = ConcurrencyLimit(64)
    feed(concurrency, 0.0, 1.0, 11, images=2)
    feed(concurrency, 0.0, 1.0, 11, images=8)
    assert concurrency.limit == 4
    feed(concurrency, 0.0, 1.0, 1, images=2)
    assert concurrency.limit == 8


def test_answers_of_which_many_agree_stop_the_limit_though_each_differs() -> None:
    concurrency = ConcurrencyLimit(64)
    for started, seconds, answers in ((0.0, 1.0, 12), (10.0, 2.0, 24)):
        for n in range(answers):
            later = started + seconds * (1.6 if n % 2 else 0.625)
            concurrency.answered(started, later, deadline=1e6, in_flight=concurrency.limit)
    assert concurrency.limit < 8  # twice the requests took twice as long


def test_images_of_a_request_and_requests_under_way_are_what_the_limit_learns_from(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1, most=64)
    (server,) = balancer._servers
    for n in range(20):
        server.in_flight = 4
        with balancer.request(server, RequestState(), 600, scores=True, images=2 if n < 9 else 8):
            clock.now += 1
    assert balancer.limit == 4
    server.in_flight = 4
    with balancer.request(server, RequestState(), 600, scores=True, images=0):  # tells nothing of how busy it is
        clock.now += 1
    assert balancer.limit == 4
    server.in_flight = 4
    with balancer.request(server, RequestState(), 600, scores=True, images=8):
        clock.now += 1
    assert balancer.limit == 8


def limits_at(width: int, answers: int, most: int = 64, slower: Callable[[int], float] = lambda _: 1.0) -> list[int]:
    """The limits, one after the other, at a server that works on `width` requests at once for 1.0 to 1.4 s each."""
    concurrency, free, under_way, now = ConcurrencyLimit(most), [0.0] * width, list[tuple[float, float, int]](), 0.0
    limits = [concurrency.limit]
    for n in range(answers):
        while len(under_way) < concurrency.limit:
            seconds = slower(n) * (1.0 + ((n * 7 + len(under_way)) % 5) / 10)
            end = max(now, heapq.heappop(free)) + seconds
            heapq.heappush(free, end)
            heapq.heappush(under_way, (end, now, n * 1000 + len(under_way)))
        now, sent, _ = heapq.heappop(under_way)
        concurrency.answered(sent, now, deadline=1e6, in_flight=len(under_way) + 1)
        if concurrency.limit != limits[-1]:
            limits.append(concurrency.limit)
    return limits


def test_the_limit_takes_the_way_that_was_measured() -> None:
    """It doubles until latency does too, then takes turns with its half and rests near 1.4 times the server's width.

    What benchmarks say of throughput and waiting was measured with these steps: a change of theirs is to be measured.
    """
    rising = [4, 8, 16]
    first = [6, 11, 10, 9, 8, 7, 3, 8, 9, 10, 11, 12, 13, 7, 12, 11, 5, 10, 9, 5, 9, 5, 9]
    assert limits_at(6, 1500) == [*rising, *first]
    rest = limits_at(6, 6000)[-20:]
    assert set(rest) <= {4, 5, 8, 9, 10, 11}
    assert limits_at(1, 600) == [4, 8, 3, 5, 2, 4, *[2, 3] * 7]
    assert limits_at(40, 2500, most=16) == [*rising, 8, 16, 8, 16]  # with its half now and then, at its upper bound too
    slowed = limits_at(6, 4000, slower=lambda n: 1.0 if n < 1500 else 5.0)
    assert slowed[: len(rising + first)] == rising + first
    assert set(slowed[-12:]) <= {4, 5, 8, 9, 10, 11}  # a server that has become slower is as wide as before


# retries


def test_an_overloaded_server_is_asked_until_the_deadline(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    state = RequestState()
    policy = RetryPolicy(balancer, state, 2, 60.0, clock)
    for _ in range(20):
        fail(balancer, state, FULL)
        assert policy.goes_on(FULL)
        assert policy.pause() > 0
        clock.now += 2.9
    clock.now += 10
    fail(balancer, state, FULL)
    assert not policy.goes_on(FULL)


def test_other_errors_are_retried_a_number_of_times(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    state = RequestState()
    policy = RetryPolicy(balancer, state, 2, 60.0, clock)
    tries = 0
    while True:
        fail(balancer, state, FAILED)
        tries += 1
        if not policy.goes_on(FAILED):
            break
        assert 0.25 * 2**tries <= policy.pause() <= 0.25 * 2**tries + 1
    assert tries == 3


def test_waits_for_an_overloaded_server_are_no_retries(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    state = RequestState()
    policy = RetryPolicy(balancer, state, 2, 600.0, clock)
    for error, goes_on in ((FULL, True), (FULL, True), (FULL, True), (FAILED, True), (FAILED, True), (FAILED, False)):
        fail(balancer, state, error)
        assert policy.goes_on(error) is goes_on
        policy.pause()


def test_pauses_differ_so_that_clients_do_not_come_back_all_at_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = make_balancer(clock, servers=1)
    monkeypatch.setattr("random.random", lambda: 0.75)
    policy = RetryPolicy(balancer, RequestState(), 9, 60.0, clock)
    pauses = []
    for _ in range(6):
        state = policy._state
        fail(balancer, state, FAILED)
        pauses.append(policy.pause() - 0.75)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_without_retries_nothing_is_sent_again(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    for error in (FULL, FAILED, SLOW, DOWN):
        state = RequestState()
        policy = RetryPolicy(balancer, state, 0, 60.0, clock)
        fail(balancer, state, error)
        assert not policy.goes_on(error)


def test_a_slow_server_is_not_waited_for_again_and_again(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=1)
    state = RequestState()
    policy = RetryPolicy(balancer, state, 10, 600.0, clock)
    fail(balancer, state, SLOW)
    assert policy.goes_on(SLOW)
    policy.pause()
    clock.now += 59
    fail(balancer, state, SLOW)
    assert policy.goes_on(SLOW)
    clock.now += 1
    assert not policy.goes_on(SLOW)
    assert policy.goes_on(FAILED)


def test_a_request_is_sent_to_another_server_without_a_pause(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    state = RequestState()
    policy = RetryPolicy(balancer, state, 1, 60.0, clock)
    denied = RequestFailedError("no such model", "NOT_FOUND")
    fail(balancer, state, denied)
    assert policy.goes_on(denied)
    assert policy.pause() == 0
    fail(balancer, state, denied)
    assert not policy.goes_on(denied)  # of all servers none may mend it
    assert not policy.goes_on(ValueError())
    assert not policy.goes_on(RequestFailedError("bad", "INVALID_ARGUMENT"))


def test_where_one_server_may_come_back_the_other_s_refusal_is_not_the_last_word(clock: Clock) -> None:
    balancer = make_balancer(clock, servers=2)
    state = RequestState()
    policy = RetryPolicy(balancer, state, 1, 60.0, clock)
    denied = RequestFailedError("no such model", "NOT_FOUND")
    fail(balancer, state, FAILED)
    fail(balancer, state, denied)
    assert policy.goes_on(denied)
    assert policy.pause() > 0
    fail(balancer, state, denied)
    fail(balancer, state, denied)
    assert not policy.goes_on(denied)


# calls


def test_a_server_that_hangs_at_a_light_call_is_told_as_unavailable(
    server: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake_client.transport.calls._LIGHT_TIMEOUT", 0.5)
    wait = hang(20)
    config = server.ModelConfig

    def hanging(request: object, context: grpc.ServicerContext) -> object:
        wait(request, context)  # type: ignore[arg-type]
        return config(request, context)

    server.stop()
    server.ModelConfig = hanging  # type: ignore[method-assign]
    server.start()
    told = r"no server answers at .* within 0\.5 s"
    with DetectorClient(server.url, retries=0) as client, pytest.raises(ServerUnavailableError, match=told):
        client.calibration()
