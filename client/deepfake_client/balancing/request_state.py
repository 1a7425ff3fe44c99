"""What is known of each server, and of each request while it is tried."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import DetectorError
from ..results import Provenance
from .addresses import Address
from .circuit_breaker import CircuitBreaker
from .concurrency import ConcurrencyLimit
from .latencies import Latencies

DEATHS_BEFORE_SPLIT, _MOST_DEATHS = 2, 3
"""Deaths of a server under a request after which its images are sent one by one; and after which one is blamed."""


@dataclass(eq=False)
class Server:
    """What is known of one server.

    Attributes:
        address: Where it is.
        concurrency: How many requests it may have.
        breaker: Whether it gets any.
        in_flight: Requests that it has now.
        answered: Requests for scores that it has answered.
        failed: Requests that it has failed.
        error: Its last failure, where it has not answered since.
        seen: Whether it has ever answered anything: then what fails is not how we connect.
        picked: When it was picked last, as a running number.
        latencies: How long its answers took.
        reserved: The request that has it, or waits to have it, for itself alone.
        weights: What it said of its weights; None where it was not asked since it last failed.
    """

    address: Address
    concurrency: ConcurrencyLimit
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    in_flight: int = 0
    answered: int = 0
    failed: int = 0
    error: DetectorError | None = None
    seen: bool = False
    picked: int = -1
    latencies: Latencies = field(default_factory=Latencies)
    reserved: "RequestState | None" = None
    weights: Provenance | None = None

    @property
    def has_room(self) -> bool:
        """Whether it may get one more request."""
        return self.in_flight < self.concurrency.limit


@dataclass(eq=False)
class RequestState:
    """What is known of one request.

    A request under which a server died is sent again with nothing else of ours at the server. So what makes a server
    die does not take others with it, and can be told from them.

    Attributes:
        bounded: Whether it waits while the servers have as many requests as they should.
        light: Whether it asks for no scores, and so goes to servers that others have for themselves as well.
        deaths: How often a server died while it had this request.
        most_deaths: It is given up after so many.
        tried: Servers that have failed it since it last waited, and how.
    """

    bounded: bool = False
    light: bool = False
    deaths: int = 0
    most_deaths: int = _MOST_DEATHS
    tried: dict[Server, DetectorError] = field(default_factory=dict)

    @property
    def killed(self) -> bool:
        """Whether servers died so often under it that it is not sent again."""
        return self.deaths >= self.most_deaths


StateOf = Callable[[Sequence[object]], RequestState]
"""Makes the state of a request for some images."""


def state_of(images: Sequence[object], *, bounded: bool, deaths: int = 0) -> RequestState:
    """The state of a request for images before it is sent: one with several is split before one image is blamed."""
    most = DEATHS_BEFORE_SPLIT if len(images) > 1 else _MOST_DEATHS
    return RequestState(bounded=bounded, deaths=deaths, most_deaths=most)
