"""What a worker answers: objects, each with bytes. Its answers are as little trusted as the bytes that it looks at."""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

PID = struct.Struct("<q")
"""Of a worker, as the template says it."""

LONGEST_JOB = 1 << 12
"""Bytes of a job."""

_HEADER = struct.Struct("<IQ")
_LONGEST_OBJECT = 1 << 16
_LONGEST_DATA = 1 << 28
"""No frame within the limit of pixels is larger as a PNG file."""

Answer = tuple[Mapping[str, Any], bytes]


def send(connection: socket.socket, about: Mapping[str, Any], data: bytes = b"") -> None:
    """Sends an answer; waits while nobody takes it."""
    text = json.dumps(about).encode()
    connection.sendall(_HEADER.pack(len(text), len(data)) + text)
    connection.sendall(data)


def receive(connection: socket.socket) -> Answer | None:
    """The next answer; None where there is none any more.

    Raises:
        TimeoutError: None came in the connection's time.
        ValueError: It is none.
    """
    header = _exactly(connection, _HEADER.size)
    if header is None:
        return None
    length, size = _HEADER.unpack(header)
    if length > _LONGEST_OBJECT or size > _LONGEST_DATA:
        raise ValueError(f"an answer of {length} and {size} bytes")
    text, data = _exactly(connection, length), _exactly(connection, size)
    if text is None or data is None:
        return None
    try:
        about = json.loads(text)
    except RecursionError as error:
        raise ValueError("an answer nested too deeply") from error
    if not isinstance(about, dict):
        raise ValueError("an answer that is no object")
    return about, data


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    received = bytearray(size)
    view = memoryview(received)
    while view:
        try:
            count = connection.recv_into(view)
        except ConnectionError:
            return None
        if not count:
            return None
        view = view[count:]
    return bytes(received)
