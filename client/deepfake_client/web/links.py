"""Uploads by link: files of hosts that the operator named, and of no others.

A link makes this program ask on a visitor's behalf, from where it stands in its network. So it asks nobody unless
--links-from says whom: an origin, that is scheme, host and port. It connects to an address that it has looked at, it
follows no redirect, sends no credentials, and reads no more bytes and no longer than its limits say.
"""

import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, unquote, urlsplit

from .problems import ProblemError

_PORTS = {"http": 80, "https": 443}
_SECONDS = 30.0
_STEP_SECONDS = 10.0
_PIECE = 1 << 16
_LONGEST = 2048


@dataclass(frozen=True)
class Origin:
    """Whose links are followed.

    Attributes:
        scheme: http or https.
        host: In lower case.
        port: Of the host.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """The origin of an address.

        Raises:
            ValueError: It is no address of http or https, or bears credentials.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("it must begin with https:// or http:// and name a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it must not bear a user name or a password")
        return cls(parts.scheme, parts.hostname.lower().rstrip("."), parts.port or _PORTS[parts.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port != _PORTS[self.scheme] else "")


@dataclass(frozen=True)
class Links:
    """Which links are followed, and how far.

    Attributes:
        allowed: Whose.
        max_bytes: Of the files of one request.
    """

    allowed: tuple[Origin, ...] = ()
    max_bytes: int = 0

    def fetch(self, links: Sequence[str]) -> list[tuple[str, io.BytesIO]]:
        """The files at the links of one request; errors as `fetch`."""
        files: list[tuple[str, io.BytesIO]] = []
        for link in links:
            there = sum(file.getbuffer().nbytes for _, file in files)
            files.append(fetch(link, self.allowed, self.max_bytes - there))
        return files


def fetch(link: str, allowed: Sequence[Origin], max_bytes: int) -> tuple[str, io.BytesIO]:
    """The name and the bytes of the file at a link.

    Args:
        link: As a visitor gave it.
        allowed: Whose links are followed.
        max_bytes: Of the file.

    Raises:
        ProblemError: It is not followed, or not answered with a file within the limits.
    """
    try:
        if len(link) > _LONGEST or any(not "!" <= each <= "~" for each in link):
            raise ValueError(f"it must have at most {_LONGEST} characters, and those outside ASCII as %XX")
        origin, parts = Origin.of(link), urlsplit(link)
    except ValueError as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the link is not understood: {error}") from error
    if origin not in allowed:
        followed = ", ".join(map(str, allowed)) or "of nobody"
        raise ProblemError(
            HTTPStatus.FORBIDDEN, f"links to {origin} are not followed here; those are that begin with: {followed}"
        )
    try:
        return _name(parts), io.BytesIO(_read(origin, parts, max_bytes))
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise ProblemError(HTTPStatus.BAD_GATEWAY, f"{origin} does not give the file: {reason}") from error


def _read(origin: Origin, parts: SplitResult, max_bytes: int) -> bytes:
    deadline = time.monotonic() + _SECONDS
    connection = _connection(origin)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept-Encoding": "identity"})
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK:
            raise OSError(
                "it sends elsewhere, which is not followed; give the link that it sends to"
                if 300 <= answer.status < 400
                else f"it answers {answer.status} {answer.reason[:100]}"
            )
        data = bytearray()
        while piece := answer.read1(_PIECE):
            data += piece
            if len(data) > max_bytes:
                raise OSError(f"the file is over the limit of {max_bytes >> 20} MiB")
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took over {_SECONDS:.0f} s")
        if answer.length:
            raise OSError(f"it ended {answer.length} bytes too early")
        return bytes(data)
    finally:
        connection.close()


def _connection(origin: Origin) -> http.client.HTTPConnection:
    """A connection to an address that was looked at before, whatever the name stands for a moment later."""
    address = _address(origin)
    plain = socket.create_connection((address, origin.port), _STEP_SECONDS)
    connection = http.client.HTTPConnection(origin.host, origin.port)
    connection.sock = plain
    if origin.scheme == "https":
        try:
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=origin.host)
        except OSError:
            plain.close()
            raise
        connection.default_port = _PORTS["https"]
    return connection


def _address(origin: Origin) -> str:
    """An address of the host; a private one only where the operator wrote it instead of a name."""
    found = [str(each[4][0]) for each in socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)]
    for address in found:
        if address == origin.host or ipaddress.ip_address(address.partition("%")[0]).is_global:
            return address
    raise OSError("its name stands for a private address; --links-from can name the address itself")


def _name(parts: SplitResult) -> str:
    return unquote(parts.path.rpartition("/")[2], errors="replace") or "link"
