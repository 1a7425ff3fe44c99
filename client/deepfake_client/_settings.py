"""How a client talks to its server."""

import re
from dataclasses import dataclass

CHANNEL_ARGS = [
    # Triton has no message size limit; gRPC's own default of 4 MiB for answers is not ours to impose.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes between attempts to reconnect; a restarted server is to be found at once.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 5000),  # despite its name, the time that one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True)
class Settings:
    """The values that a client is made with; `Configured` explains them."""

    url: str
    model: str
    timeout: float
    retries: int
    max_in_flight: int
    batch_size: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):[0-9]+", self.url):
            raise ValueError(f"{self.url!r} is not HOST:PORT; give a Triton server's gRPC port, such as localhost:8001")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}; it must be above 0 seconds")
        for name, value, least in (
            ("retries", self.retries, 0),
            ("max_in_flight", self.max_in_flight, 1),
            ("batch_size", self.batch_size, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")

    @property
    def window(self) -> int:
        """Batches taken from the caller ahead of the first unfinished one: enough to keep every request slot busy."""
        return 2 * self.max_in_flight


class Configured:
    """What both clients are made with."""

    def __init__(
        self,
        url: str = "localhost:8001",
        *,
        model: str = "deepfake_detector",
        timeout: float = 600.0,
        retries: int = 10,
        max_in_flight: int = 4,
        batch_size: int = 8,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            url: HOST:PORT of the server's gRPC port.
            model: Name of the detector's model.
            timeout: Deadline of one request in seconds, its time in the server's queue included. The default leaves
                a server without a GPU time for all that this client has in flight; a server that dies is noticed at
                once.
            retries: Times that a request is sent again after an error that may pass, with exponential back-off from
                0.5 to 8 s. The default outlasts the restart of a server: about a minute in all.
            max_in_flight: Most requests of one `score_many` that are under way at once.
            batch_size: Most images in one request. Where the server's own limit is lower, that holds.

        Raises:
            ValueError: A value is out of range.
        """
        self._settings = Settings(url, model, timeout, retries, max_in_flight, batch_size)
