"""The blocking client's connections."""

import threading

from tritonclient.grpc import InferenceServerClient

from ..balancing.addresses import Address
from .settings import Settings


class ChannelPool:
    """Connections to servers, made when they are needed."""

    def __init__(self, settings: Settings) -> None:
        """Connects to nothing yet."""
        self._settings = settings
        self._open: dict[Address, InferenceServerClient] = {}
        self._lock = threading.Lock()
        self._closed = False

    def to(self, address: Address) -> InferenceServerClient:
        """The connection to a server; ValueError where all are closed, as gRPC itself raises it."""
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            if address not in self._open:
                self._open[address] = InferenceServerClient(**self._settings.channel(address))
            return self._open[address]

    def close(self) -> None:
        """Ends all connections and what is in flight on them."""
        with self._lock:
            self._closed = True
            for channel in self._open.values():
                channel.close()
