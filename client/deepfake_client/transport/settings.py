"""How a client talks to its server."""

import os
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from ..balancing.addresses import Address, check_url
from ..contract.contract import VERDICT_ENSEMBLE
from ..contract.streams import ENSEMBLE_NAME
from ..early import Decide
from .tls import Tls

_CHANNEL_ARGS = [
    ("grpc.max_send_message_length", -1),  # what a server takes is for the server to say
    # gRPC waits up to two minutes between attempts to reconnect; a restarted server is to be found at once.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 5000),  # despite its name, the time that one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1000),
]

_MOST_ANSWER = 4 << 20
"""Most bytes of an answer without pixels, such as a configuration or provenance, …"""

_MOST_ROW = 1 << 10
"""… and of the scores of each image of a request, in all their outputs."""

_MOST_PIXELS = 64 << 20
"""Most bytes of an answer with pixels: every face of the images of a request, or what a step of the detector gives."""

_LONGEST_TIMEOUT = 1e6
"""Seconds; gRPC gives a request at once up whose deadline overflows its clock."""


@dataclass(frozen=True)
class Settings:
    """The values that a client is made with; `ClientBase` explains them."""

    urls: tuple[str, ...]
    model: str
    timeout: float
    retries: int
    max_in_flight: int
    batch_size: int
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    decide: Decide | None = None
    """Set where verdicts alone are asked for."""
    fresh: bool = False
    """Whether answers that a server keeps are passed over."""

    def __post_init__(self) -> None:
        if not self.urls:
            raise ValueError("no address; give at least one HOST:PORT")
        for url in self.urls:
            check_url(url)
        if not 0 < self.timeout <= _LONGEST_TIMEOUT:
            raise ValueError(f"timeout is {self.timeout}; it must be above 0 seconds and at most {_LONGEST_TIMEOUT:g}")
        for name, value, least in (
            ("retries", self.retries, 0),
            ("max_in_flight", self.max_in_flight, 1),
            ("batch_size", self.batch_size, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        for name, text in self.headers.items():
            if not re.fullmatch(r"[0-9a-z_.-]+", name) or name.startswith("grpc-"):
                raise ValueError(
                    f"{name!r} is no name of a header: letters, digits, _ . and -, not beginning with grpc-"
                )
            if not re.fullmatch(r"[\x20-\x7e]*", text):  # the value may be a secret, so it is not shown
                raise ValueError(
                    f"the value of the header {name} has characters beyond printable ASCII; gRPC sends none"
                )

    @property
    def where(self) -> str:
        """The addresses, for messages."""
        return ", ".join(self.urls)

    def channel(self, address: Address, *, pixels: bool = False) -> dict[str, Any]:
        """The arguments of a tritonclient client for one server.

        Args:
            address: Of the server.
            pixels: Whether answers may hold pixels; one that is larger than its kind can be is not taken.
        """
        most = _MOST_PIXELS if pixels else _MOST_ANSWER + _MOST_ROW * self.batch_size
        arguments = [*_CHANNEL_ARGS, ("grpc.max_receive_message_length", most)]
        options: dict[str, Any] = {"url": address.target, "channel_args": arguments}
        if address.target != address.url:  # what the server is called, and its certificate is for, is the name
            options["channel_args"] += [("grpc.default_authority", address.url)]
        if self.tls is not None:
            options["creds"] = self.tls.credentials
            if address.target != address.url:
                options["channel_args"] += [("grpc.ssl_target_name_override", address.host)]
        return options


class ClientBase:
    """What both clients are made with."""

    def __init__(
        self,
        url: str | Sequence[str] = "localhost:8001",
        *,
        model: str = ENSEMBLE_NAME,
        timeout: float = 600.0,
        retries: int = 10,
        max_in_flight: int = 16,
        batch_size: int = 8,
        tls: bool = False,
        ca: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            url: HOST:PORT of the server's gRPC port, or several of them. A name with several addresses of one kind
                (IPv4 or IPv6) stands for a server at each. Requests go where the fewest are in flight; a server that
                fails is left out until it scores a test image.
            model: Name of the detector's model.
            timeout: Deadline of one request in seconds, its time in the server's queue included. The default leaves
                a server without a GPU time for all that this client has in flight; a server that dies is noticed at
                once. Where there are other servers, a request that takes far longer than any before it is sent to
                one of them before its deadline.
            retries: Times that a request is sent again to all servers after an error that may pass, with exponential
                back-off from 0.5 to 8 s. The default outlasts the restart of a server: about a minute in all. Answers
                that a server is overloaded do not count: the request is sent again until `timeout` has passed.
            max_in_flight: Most requests of `score_many` that are under way at once at each server. Fewer are where
                answers become slow for waiting in the server's queue, or the server says that it is overloaded.
            batch_size: Most images in one request. Where the server's own limit is lower, that holds.
            tls: Whether the connection is encrypted. Any of the following three files implies it.
            ca: PEM file of the authorities that the server's certificate is signed by. None: those of the system.
            client_cert: PEM file of this client's certificate, where the server asks for one.
            client_key: PEM file of its private key.
            headers: Sent with each request, such as tokens. A server started with
                `--grpc-restricted-protocol=inference:KEY=VALUE` wants {"triton-grpc-protocol-KEY": "VALUE"}.
            fresh: Whether every image is to be computed, also where a server keeps answers (`--response-cache`): for
                measuring.

        Raises:
            ValueError: A value is out of range, or a file is not what it should be.
        """
        self._settings = Settings(
            (url,) if isinstance(url, str) else tuple(url),
            model,
            timeout,
            retries,
            max_in_flight,
            batch_size,
            Tls(*map(_path, (ca, client_cert, client_key))) if tls or ca or client_cert or client_key else None,
            {name.lower(): value for name, value in (headers or {}).items()},
            fresh=fresh,
        )

    def _deciding(self, threshold: float | None) -> Self:
        """A client that asks for verdicts alone, on the connections of this one."""
        early = copy(self)
        early._settings = replace(self._settings, model=VERDICT_ENSEMBLE, decide=Decide(threshold))
        return early


def _path(value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else Path(value)
