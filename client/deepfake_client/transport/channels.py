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
        self._open: dict[tuple[Address, bool], InferenceServerClient] = {}
        self._lock = threading.Lock()
        self._closed = False

    def to(self, address: Address, *, pixels: bool = False) -> InferenceServerClient:
        """The connection to a server for answers of a kind; ValueError where all are closed, as gRPC itself raises it.

        See `Settings.channel`.
        """
        with self._lock:
            if self._closed:
                raise ValueError("the client is closed")
            kind = (address, pixels)
            if kind not in self._open:
                self._open[kind] = InferenceServerClient(**self._settings.channel(address, pixels=pixels))
            return self._open[kind]

    def close(self) -> None:
        """Ends all connections and what is in flight on them."""
        with self._lock:
            self._closed = True
            for channel in self._open.values():
                channel.close()
