"""What keeps a client from a server: told by one more connection, with the fix, at sockets that speak TLS or not."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from deepfake_client.balancing.addresses import Address
from deepfake_client.transport import calls, tls
from deepfake_client.transport.settings import Settings
from deepfake_client.transport.tls import Tls, diagnose, speaks_http

from tests.fakes.certificates import Authority, Pair


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.sign("localhost")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is."""
    assert tls._SECONDS == 3.0
    monkeypatch.setattr(tls, "_SECONDS", 60.0)


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port, where each connection is talked to."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def secured(pair: Pair, authority: Authority | None = None) -> Callable[[socket.socket], None]:
    """Speaks TLS, and greets; asks for certificates where an authority for them is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["h2"])
    if authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.certificate)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as spoken:
            if spoken.selected_alpn_protocol() != "h2":  # as a gRPC server
                return
            spoken.sendall(b"\0\0\0\4\0\0\0\0\0")
            spoken.recv(1000)

    return talk


def plain(answer: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(answer)

    return talk


def at(port: int, name: str = "localhost") -> Address:
    return Address(f"127.0.0.1:{port}", f"{name}:{port}")


def test_a_client_that_fits_finds_nothing_wrong(authority: Authority, pair: Pair) -> None:
    own = authority.sign("client")
    with listening(secured(pair)) as port:
        assert diagnose(at(port), Tls(ca=authority.certificate)) is None
    with listening(secured(pair, authority)) as port:
        assert diagnose(at(port), Tls(authority.certificate, own.certificate, own.key)) is None


def test_a_certificate_that_is_not_accepted_is_told_with_what_to_give(
    authority: Authority, stranger: Authority, pair: Pair, tmp_path: Path
) -> None:
    with listening(secured(pair)) as port:
        for unknown in (Tls(ca=stranger.certificate), Tls()):
            told = diagnose(at(port), unknown) or ""
            assert told.startswith("its certificate is not accepted: ")
            assert told.endswith("; give the certificate of the authority that signed the server's: --ca FILE")
        for name in ("other.example", "127.0.0.1"):
            told = diagnose(at(port, name), Tls(ca=authority.certificate)) or ""
            assert name in told
            assert told.endswith("; connect by a name that is in its certificate")
    expired = Authority(tmp_path, "expired")
    with listening(secured(expired.sign("localhost", valid=False))) as port:
        assert "certificate has expired" in (diagnose(at(port), Tls(ca=expired.certificate)) or "")


def test_a_client_certificate_that_is_missing_or_refused_is_told(
    authority: Authority, stranger: Authority, pair: Pair
) -> None:
    other = stranger.sign("client")
    with listening(secured(pair, authority)) as port:
        missing = diagnose(at(port), Tls(ca=authority.certificate))
        assert missing == "it asks for a client certificate; give one: --client-cert FILE --client-key FILE"
        refused = diagnose(at(port), Tls(authority.certificate, other.certificate, other.key))
        assert refused == (
            f"it refuses the client certificate {other.certificate}; give one that its authority signed: "
            "--client-cert FILE"
        )


class Ended:
    """A connection that the server ends after the handshake, as the client comes to know it."""

    def __init__(self, at_send: Exception | None = None, at_read: Exception | bytes = b"") -> None:
        self.at_send, self.at_read = at_send, at_read

    def __enter__(self) -> "Ended":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def sendall(self, _: bytes) -> None:
        if self.at_send:
            raise self.at_send

    def recv(self, _: int) -> bytes:
        if isinstance(self.at_read, Exception):
            raise self.at_read
        return self.at_read


ALERT = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required")
ALERT.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"


@pytest.mark.parametrize(
    "ended",
    [
        Ended(),
        Ended(at_read=ALERT),
        Ended(at_send=ssl.SSLEOFError(8, "EOF occurred in violation of protocol")),
        Ended(at_send=BrokenPipeError()),
        Ended(at_read=ConnectionResetError()),
    ],
    ids=["end", "alert", "end while it is sent", "pipe", "reset"],
)
def test_a_connection_that_is_ended_after_the_handshake_wants_a_certificate_however_that_is_noticed(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, ended: Ended
) -> None:
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", lambda *_, **__: ended)
    with listening(plain(b"")) as port:
        told = diagnose(at(port), Tls(ca=authority.certificate)) or ""
    assert told.startswith("it asks for a client certificate")


def test_who_speaks_tls_alone_is_told_on_both_sides(authority: Authority, pair: Pair) -> None:
    with listening(secured(pair)) as port:
        assert (diagnose(at(port), None) or "").startswith("it speaks TLS and this client does not; add --tls, with")
    with listening(plain(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        told = diagnose(at(port), Tls(ca=authority.certificate)) or ""
        assert told.startswith("it does not speak TLS (")
        assert told.endswith("); leave --tls out, or give the port that does")
        assert diagnose(at(port), None) is None


@pytest.mark.parametrize("secure", [True, False])
def test_who_is_silent_or_not_there_is_diagnosed_as_nothing_and_soon(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, secure: bool
) -> None:
    client = Tls(ca=authority.certificate) if secure else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = at(listener.getsockname()[1])
    assert diagnose(gone, client) is None
    assert not speaks_http(gone)
    monkeypatch.setattr(tls, "_SECONDS", 0.05)
    over = threading.Event()
    with listening(lambda _: over.wait(60) and None) as port:
        assert diagnose(at(port), client) is None
        over.set()


def test_an_http_port_is_told_from_others() -> None:
    with listening(plain(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert speaks_http(at(port))
    for answer in (b"", b"\0\0\0\4\0\0\0\0\0", b"SSH-2.0"):
        with listening(plain(answer)) as port:
            assert not speaks_http(at(port))


@pytest.mark.parametrize(
    ("fault", "http", "secure", "told"),
    [
        ("it is odd", True, False, "no connection to the server at h:1: it is odd"),
        (None, True, False, "h:1 is an HTTP port; give the server's gRPC port"),
        (None, True, True, None),
        (None, False, False, None),
    ],
)
def test_absence_is_explained_where_waiting_mends_nothing(
    monkeypatch: pytest.MonkeyPatch, fault: str | None, http: bool, secure: bool, told: str | None
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(calls, "diagnose", lambda *given: asked.append(given) or fault)
    monkeypatch.setattr(calls, "speaks_http", lambda _: http)
    settings = Settings(("h:1",), "net", 30.0, 3, 4, 8, tls=Tls() if secure else None)
    address = Address("h:1", "h:1")
    error = calls.explain_absence(address, settings)
    assert asked == [(address, settings.tls)]
    assert (error is None) is (told is None)
    assert told is None or told in str(error)


def test_credentials_hold_each_file_for_what_it_is(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, tmp_path: Path
) -> None:
    given: list[tuple[bytes | None, ...]] = []
    monkeypatch.setattr("grpc.ssl_channel_credentials", lambda *pem: given.append(pem))
    own = authority.sign("client")
    _ = Tls(authority.certificate, own.certificate, own.key).credentials
    ca, certificate, key = (path.read_bytes() for path in (authority.certificate, own.certificate, own.key))
    assert given == [(ca, key, certificate)]  # gRPC takes the key first
    (system := tmp_path / "system.pem").write_bytes(b"of the system")
    for there in (str(system), None):
        paths = ssl.DefaultVerifyPaths(there, None, "", "", "", "")
        monkeypatch.setattr(ssl, "get_default_verify_paths", lambda paths=paths: paths)
        _ = Tls().credentials
    assert given[1:] == [(b"of the system", None, None), (None, None, None)]
