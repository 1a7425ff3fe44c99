"""When is a server that answers badly, or not at all, worse than a restart? Pure judgement, no clock, no network."""

from dataclasses import dataclass, field

from server.supervision.probe import Kind, Outcome


@dataclass(frozen=True)
class Policy:
    """How patient to be; times in seconds.

    Attributes:
        probe_interval: The server is probed this often, unless answers take long.
        probe_timeout: A probe is given up after this time.
        failures: This many failed probes in a row are a verdict; one alone may be an accident.
        stall: While a probe waits, this long without any model answering anything is a verdict. It must be longer
            than the slowest full batch takes, because a busy model answers nothing until its batch is done.
        share: Probing may take this share of the server's time.
    """

    probe_interval: float = 5.0
    probe_timeout: float = 30.0
    failures: int = 2
    stall: float = 60.0
    share: float = 0.02


@dataclass
class Health:
    """What is known of one running server.

    Attributes:
        policy: How patient to be.
        progressed: When some model last answered something.
        next_probe: When to probe next.
        waiting_since: When the first probe started that has had no answer; None when none waits.
        stuck_since: When the first of the latest probes in a row was refused although nothing leaves the server; None
            where the latest one was not.
    """

    policy: Policy
    progressed: float
    next_probe: float = 0.0
    waiting_since: float | None = None
    stuck_since: float | None = None
    _failures: list[str] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def saw_counts(self, counts: dict[str, int], now: float) -> None:
        """Take note of the models' statistics: how many requests each has answered well."""
        if counts != self._counts:
            self.progressed = now
        self._counts = counts

    def started_probe(self, now: float) -> None:
        """A probe was sent."""
        if self.waiting_since is None:
            self.waiting_since = now

    def saw_outcome(self, outcome: Outcome, now: float) -> None:
        """A probe ended."""
        self.next_probe = now + max(self.policy.probe_interval, outcome.seconds / self.policy.share)
        if outcome.kind is not Kind.STUCK:
            self.stuck_since = None
        elif self.stuck_since is None:
            self.stuck_since = now
        if outcome.kind is Kind.ANSWERED:
            self.progressed = now
            self.waiting_since = None
            self._failures.clear()
        elif outcome.kind not in (Kind.BUSY, Kind.STUCK):
            self.next_probe = now + min(1.0, self.policy.probe_interval)
            self.waiting_since = None
            self._failures.append(outcome.detail)

    def verdict(self, now: float) -> str | None:
        """Why the server must be restarted; None while it need not be."""
        if len(self._failures) >= self.policy.failures:
            return f"{len(self._failures)} real inferences in a row failed: {self._failures[-1]}"
        if self.stuck_since is not None and now - self.stuck_since > self.policy.stall:
            return f"requests are refused, and nothing has left for {now - self.stuck_since:.0f} s"
        if self.waiting_since is None:
            return None
        silent = now - max(self.progressed, self.waiting_since)
        if silent > self.policy.stall:
            return f"a real inference waits, and no model has answered anything for {silent:.0f} s"
        return None
