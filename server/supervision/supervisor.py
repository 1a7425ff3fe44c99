"""Keep a tritonserver answering: start it, wait for a real inference, restart it when it stops answering.

tritonserver never restarts a stub that died, and requests lost inside it cannot drain, so a restart kills the whole
process tree and starts anew.
"""

import dataclasses
import time
from collections.abc import Callable

import psutil

from server import access
from server.errors import GaveUpError, StartError
from server.supervision.health import Health, Policy
from server.supervision.http_probe import HttpProber
from server.supervision.in_flight import InFlight
from server.supervision.probe import Kind, PendingProbe, Prober
from server.supervision.process import Installation, Options, TritonProcess, adopt_orphans, has_ended, has_lost_stub
from server.supervision.restarts import Restarts
from server.supervision.stop import Stop

TICK = 0.1  # seconds between two looks
COUNTS_INTERVAL = 1.0  # seconds between two looks at the statistics
REMINDER_INTERVAL = 15.0  # seconds between two words about a long start
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # addresses to listen on → to reach them by


class Supervisor:
    """Runs one server until it is asked to stop.

    Attributes:
        stop: Set it to end the server in good order.
        force: Set it as well to end the server at once.
    """

    def __init__(
        self,
        installation: Installation,
        options: Options,
        *,
        say: Callable[[str], None],
        show_log: Callable[[str], None],
        on_ready: Callable[[float], None],
        startup_seconds: float = 900.0,
        max_batch_size: int = 1,
        policy: Policy | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            installation: Where tritonserver is.
            options: What to serve.
            say: Called with each event, one line.
            show_log: Called with each line of the server's log, from another thread.
            on_ready: Called with the start's duration in seconds each time the server answers a real inference.
            startup_seconds: How long a start may take.
            max_batch_size: The ensemble's: how many times longer than one image a busy model may stay silent.
            policy: How patient to be with a running server.
        """
        self._installation = installation
        self._options = options
        self._say = say
        self._show_log = show_log
        self._on_ready = on_ready
        self._startup_seconds = startup_seconds
        self._max_batch_size = max_batch_size
        self._policy = policy or Policy()
        self.stop = Stop()
        self.force = Stop()

    def run(self) -> None:
        """Serve until `stop` is set.

        Raises:
            StartError: The first start failed, and neither tritonserver nor a stub crashed.
            GaveUpError: Several starts in a row failed. A server that does start is started again, however often it
                ends.
        """
        adopt_orphans()
        restarts = Restarts()
        while not self.stop.is_set():
            options = dataclasses.replace(self._options, key=access.new_key())
            process = TritonProcess(self._installation, options, self._show_log, restarts.environment)
            prober = make_prober(options)
            try:
                reason, served, last_request = self._serve(process, prober)
                crashed = process.has_crashed()
            finally:
                prober.close()
                if self.stop.is_set():
                    self._end(process)
                else:
                    process.kill()
            if reason is None:
                return
            errors = process.error_lines()
            # A crash while the models load may be over the next time; what the server itself refuses is not.
            if not restarts.total and served is None and not crashed and not has_lost_stub([reason, *errors]):
                raise StartError("\n".join([f"the server did not start: {reason}", *errors]))
            restarts.server_ended(served, last_request)
            if restarts.hopeless:
                count = restarts.failed_starts
                raise GaveUpError(
                    "\n".join([f"gave up after {count} failed starts in a row; the last: {reason}", *errors])
                )
            self._say(restarts.describe(reason))
            self.stop.wait(restarts.pause)

    def _serve(self, process: TritonProcess, prober: Prober | HttpProber) -> tuple[str | None, float | None, str]:
        """Wait until the server answers, then watch it.

        Returns:
            Why it must be replaced (None: we were asked to stop), for how many seconds it had served (None: not at
            all), and the SHA-256 of the request that was last under way (empty: none was).
        """
        began = time.monotonic()
        reason, probe_seconds = self._wait_until_ready(process, prober)
        if reason is not None or self.stop.is_set():
            return reason, None, ""
        ready = time.monotonic()
        # Found before anybody is told that the server is ready: those that die from then on are among them.
        stubs = process.stubs()
        in_flight = InFlight(stub.pid for stub in stubs)
        self._on_ready(ready - began)
        # A busy model is silent for as long as a full batch takes; twice that is a stall.
        stall = max(self._policy.stall, 2 * self._max_batch_size * probe_seconds)
        pause = max(self._policy.probe_interval, probe_seconds / self._policy.share)
        reason = self._watch(process, stubs, prober, dataclasses.replace(self._policy, stall=stall), pause)
        return reason, time.monotonic() - ready, in_flight.last()

    def _wait_until_ready(self, process: TritonProcess, prober: Prober | HttpProber) -> tuple[str | None, float]:
        """Wait for the first real answer.

        Returns:
            Why there will be none (None: there was one, or we were asked to stop), and how long the answer took.
        """
        began = time.monotonic()
        deadline, reminder = began + self._startup_seconds, began + REMINDER_INTERVAL
        probe: PendingProbe | None = None
        failures = 0
        heard = ""
        while not self.stop.wait(TICK):
            now = time.monotonic()
            if (status := process.exit_status()) is not None:
                return f"tritonserver ended while it loaded the models ({status})", 0.0
            if now > deadline:
                last = f"; the last error: {heard}" if heard else ""
                advice = f"raise --startup-timeout if it only is slow{last}"
                return f"no answer within {self._startup_seconds:g} s; {advice}", 0.0
            if now > reminder:
                self._say(f"still loading the models ({now - began:.0f} s)")
                reminder = now + REMINDER_INTERVAL
            probe = probe or prober.start(timeout=deadline - now)
            outcome = probe.outcome()
            if outcome is None:
                continue
            if outcome.kind is Kind.ANSWERED:
                return None, outcome.seconds
            probe = None
            heard = outcome.detail
            if outcome.kind is Kind.FAILED:
                failures += 1
                if failures >= self._policy.failures:
                    return f"the models are loaded, but a real inference fails: {outcome.detail}", 0.0
        return None, 0.0

    def _watch(
        self,
        process: TritonProcess,
        stubs: list[psutil.Process],
        prober: Prober | HttpProber,
        policy: Policy,
        pause: float,
    ) -> str | None:
        """Watch a server that has answered, and its stubs, and probe it after `pause` seconds.

        Returns:
            Why it must be replaced; None when we were asked to stop.
        """
        health = Health(policy, progressed=time.monotonic(), next_probe=time.monotonic() + pause)
        probe: PendingProbe | None = None
        next_counts = 0.0
        while not self.stop.wait(TICK):
            if (status := process.exit_status()) is not None:
                return f"tritonserver ended ({status})"
            if (dead := _first_ended(stubs)) is not None:
                return f"a model's stub (process {dead.pid}) died"
            now = time.monotonic()
            if now >= next_counts:
                counts = prober.counts()
                if counts is not None:
                    health.saw_counts(counts, now)
                next_counts = now + COUNTS_INTERVAL
            if probe is None and now >= health.next_probe:
                probe = prober.start(policy.probe_timeout)
                health.started_probe(now)
            if probe is not None and (outcome := probe.outcome()) is not None:
                health.saw_outcome(outcome, now)
                probe = None
            if (reason := health.verdict(now)) is not None:
                return reason
        return None

    def _end(self, process: TritonProcess) -> None:
        self._say("stopping: waiting for requests in flight")
        began = time.monotonic()
        if process.stop(self.force):
            self._say(f"stopped in {time.monotonic() - began:.1f} s")
        else:
            self._say(f"KILLED after {time.monotonic() - began:.1f} s: requests in flight were lost")


def _first_ended(processes: list[psutil.Process]) -> psutil.Process | None:
    return next((process for process in processes if has_ended(process)), None)


def make_prober(options: Options) -> Prober | HttpProber:
    """What probes a server with these options."""
    name = "http" if options.probes_http else "grpc"
    address = local_address(options.hosts[name], options.ports[name])
    headers = access.headers(name, options.words)
    if options.probes_http:
        return HttpProber(address, headers)
    if not access.uses_tls(options.extra):
        return Prober(address, headers)
    near = access.is_loopback(options.host) or options.host in WILDCARDS
    return Prober(address, headers, options.credentials, made_out_to="localhost" if near else None)


def local_address(host: str, port: int) -> str:
    """The address under which this machine reaches a server that listens on `host`."""
    host = WILDCARDS.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
