"""From the addresses that a user gives to the servers behind them."""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

_FORM = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]+)")


@dataclass(frozen=True)
class Address:
    """One server.

    Attributes:
        target: HOST:PORT to connect to.
        url: HOST:PORT as the user gave it, whose name a certificate must bear.
    """

    target: str
    url: str

    @property
    def host(self) -> str:
        """The host that the user named, without the brackets of an IPv6 address."""
        return split(self.url)[0]

    def __str__(self) -> str:
        return self.url if self.target == self.url else f"{self.target} ({self.host})"


def check_url(url: str) -> None:
    """Raises ValueError where an address is not HOST:PORT."""
    if not _FORM.fullmatch(url):
        raise ValueError(f"{url!r} is not HOST:PORT; give a Triton server's gRPC port, such as localhost:8001")
    try:
        split(url)[0].encode("idna")
    except UnicodeError as error:
        raise ValueError(f"{url!r} names no host: {error}") from error


def split(url: str) -> tuple[str, int]:
    """Host, without brackets, and port of a checked address."""
    match = _FORM.fullmatch(url)
    assert match is not None
    return match["host"].strip("[]"), int(match["port"])


def is_name(url: str) -> bool:
    """Whether an address names its host, so that it may stand for others in a while."""
    try:
        ipaddress.ip_address(split(url)[0])
    except ValueError:
        return True
    return False


def resolve(urls: Iterable[str]) -> list[Address]:
    """The servers behind some addresses, each once.

    A name with several addresses of one kind (IPv4, or else IPv6) stands for a server at each. Any other is one server
    and left to gRPC as it is: a name with one IPv4 and one IPv6 address, such as localhost, is one machine, and one
    that is not known now may be later.
    """
    servers = [address for url in urls for address in _resolve(url)]
    return list({address.target: address for address in servers}.values())


def _resolve(url: str) -> list[Address]:
    host, port = split(url)
    if not is_name(url):
        return [Address(url, url)]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return [Address(url, url)]
    for family, form in ((socket.AF_INET, "{}:{}"), (socket.AF_INET6, "[{}]:{}")):
        numbers = dict.fromkeys(str(sockaddr[0]) for kind, _, _, _, sockaddr in found if kind == family)
        if len(numbers) > 1:
            return [Address(form.format(number, port), url) for number in numbers]
    return [Address(url, url)]
