"""TLS: what a connection is secured with, and what is wrong with one that cannot be made."""

import socket
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc  # type: ignore[import-untyped]

from ..balancing.addresses import Address, split

_SECONDS = 3.0
"""Longest time that is spent on finding out what is wrong."""


@dataclass(frozen=True)
class Tls:
    """What secures the connection; the files are PEM.

    Attributes:
        ca: Certificates of the authorities that the server's is signed by. None: those of the system.
        client_cert: Certificate of this client, with those between it and its authority, where the server asks for one.
        client_key: Its private key.
    """

    ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None

    def __post_init__(self) -> None:
        if (self.client_cert is None) is not (self.client_key is None):
            raise ValueError("a client certificate needs its key and the key its certificate: give both")
        self.context()

    @cached_property
    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials for a gRPC channel."""
        ca = self.ca or ssl.get_default_verify_paths().cafile
        return grpc.ssl_channel_credentials(
            None if ca is None else Path(ca).read_bytes(),
            None if self.client_key is None else self.client_key.read_bytes(),
            None if self.client_cert is None else self.client_cert.read_bytes(),
        )

    def context(self) -> ssl.SSLContext:
        """The same for Python's own sockets.

        Raises:
            ValueError: A file cannot be read, holds no certificate or key, or key and certificate do not fit.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{self.ca}: no PEM file of certificates ({error})") from error
        context.set_alpn_protocols(["h2"])
        if self.client_cert is not None:
            try:
                context.load_cert_chain(self.client_cert, self.client_key)
            except (OSError, ssl.SSLError) as error:
                both = f"{self.client_cert} and {self.client_key}"
                raise ValueError(f"{both}: no PEM files of a certificate and its key ({error})") from error
        return context


def speaks_http(address: Address) -> bool:
    """Whether HTTP/1 answers at an address, as at Triton's HTTP port, which is easily taken for its gRPC port."""
    try:
        with socket.create_connection(split(address.target), _SECONDS) as connection:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(7) == b"HTTP/1."
    except OSError:
        return False


def diagnose(address: Address, tls: Tls | None) -> str | None:
    """What about TLS keeps a client from an address, with the fix; None where it is something else.

    gRPC says no more of it than that the connection failed, so this makes one more with Python's own sockets.
    """
    try:
        with socket.create_connection(split(address.target), _SECONDS) as connection:
            return _diagnose_plain(connection) if tls is None else _diagnose_tls(connection, address, tls)
    except OSError:
        return None  # nothing listens there


def _diagnose_plain(connection: socket.socket) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: it only is to be seen whether TLS is spoken
    try:
        with context.wrap_socket(connection):
            return "it speaks TLS and this client does not; add --tls, with --ca FILE where its authority is your own"
    except (OSError, ssl.SSLError):
        return None


def _diagnose_tls(connection: socket.socket, address: Address, tls: Tls) -> str | None:
    try:
        with tls.context().wrap_socket(connection, server_hostname=address.host) as secured:
            # A server that misses a client certificate ends the connection after the handshake; any other greets.
            try:
                secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
                return None if secured.recv(1) else _refused(tls)
            except ssl.SSLEOFError:
                return _refused(tls)
    except ssl.SSLCertVerificationError as error:
        if "ostname" in error.verify_message or "IP address mismatch" in error.verify_message:
            fix = "connect by a name that is in its certificate"
        else:
            fix = "give the certificate of the authority that signed the server's: --ca FILE"
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}; {fix}"
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "wrong version number" in reason or "record layer" in reason:
            return f"it does not speak TLS ({reason}); leave --tls out, or give the port that does"
        if "alert" in reason:
            return _refused(tls)
        return f"TLS fails: {reason}"
    except TimeoutError:
        return None
    except OSError:  # such as a reset
        return _refused(tls)


def _refused(tls: Tls) -> str:
    if tls.client_cert is None:
        return "it asks for a client certificate; give one: --client-cert FILE --client-key FILE"
    return (
        f"it refuses the client certificate {tls.client_cert}; give one that its authority signed: --client-cert FILE"
    )
