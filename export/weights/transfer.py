"""Downloading one file over HTTP, going on where an earlier download ended."""

import hashlib
import http.client
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from export.errors import DownloadError, NoNetworkError

_CHUNK = 1024**2
_TIMEOUT = 30
_LENGTH = re.compile(r"[0-9]{1,18}")

Progress = Callable[[int, int], object]
"""Called with the bytes there and the bytes in all."""


@dataclass(frozen=True)
class Location:
    """Where a file can be read now.

    Attributes:
        url: http or https.
        headers: To send, such as a token. They go to this host by this scheme alone, wherever it redirects.
        size: Bytes of the whole file; None where only the server tells.
        content: What names the content, such as its hash; empty where only the server's ETag does.
        advice: What a user can do when the server refuses.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    content: str = ""
    advice: str = "try again later"


def fetch_file(
    locate: Callable[[], Location], target: Path, check: Callable[[Path], object], on_progress: Progress
) -> None:
    """Download a file; it appears under its name only when it is whole and has passed the check.

    Until then it lies beside the target as `.NAME.TAG.partial`, TAG for the content, so that parts of different
    versions are never put together. A connection that breaks is opened again a few times.

    Args:
        locate: Called before each attempt, since addresses may expire.
        target: Where to; it does not exist.
        check: Called with the whole file before it gets its name; when it raises, the file is removed.
        on_progress: See `Progress`.

    Raises:
        NoNetworkError: The server cannot be reached, or the transfer broke off too often.
        DownloadError: It refuses, or the disk is too small.
    """
    partial = _transfer(locate, target, on_progress)
    try:
        check(partial)
    except Exception:
        partial.unlink()
        raise
    partial.replace(target)
    for of_another_version in _partials(target):
        of_another_version.unlink()


def unfinished(target: Path) -> int:
    """Bytes of a file that an earlier download left to go on from."""
    return sum(path.stat().st_size for path in _partials(target))


@retry(
    retry=retry_if_exception_type(NoNetworkError),
    stop=stop_after_attempt(5),
    wait=wait_exponential(max=10),
    reraise=True,
)
def _transfer(locate: Callable[[], Location], target: Path, on_progress: Progress) -> Path:
    """Adds to the partial file what is missing of it."""
    location = locate()
    try:
        return _read(location, target, on_progress)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{_shown(location)} answers HTTP {error.code}: {location.advice}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _broken_off(location, f"{type(error).__name__}: {error}") from error
    except OSError as error:
        raise DownloadError(f"{target.parent}: {target.name} cannot be written: {error}") from error


def _read(location: Location, target: Path, on_progress: Progress) -> Path:
    known = max(_partials(target), key=lambda path: path.stat().st_size, default=None)
    there = known.stat().st_size if known else 0
    with _open(location, there) as answer:
        content = location.content or answer.headers.get("ETag", "")
        tag = hashlib.sha256(content.encode()).hexdigest()[:8]
        partial = target.with_name(f".{target.name}.{tag}.partial")
        if known and answer.status != 200 and (partial != known or not content):
            known.unlink()
            raise _broken_off(location, f"the {there} bytes of an earlier download are of another version")
        if answer.status == 200:
            there = 0
        total = _announced_size(location, answer, there)
        _require_space(target, total - there)
        with partial.open("ab" if there else "wb") as file:
            # Not a byte more than was announced, however long the server goes on.
            while there < total and (chunk := answer.read(min(_CHUNK, total - there))):
                file.write(chunk)
                there += len(chunk)
                on_progress(there, total)
    if there != total:
        raise _broken_off(location, f"the transfer ended after {there} of {total} bytes")
    return partial


def _announced_size(location: Location, answer: http.client.HTTPResponse, there: int) -> int:
    """Bytes of the whole file, on which the address and the answer have to agree.

    Raises:
        DownloadError: They do not, nobody tells, or the answer continues at another place than it was asked to.
    """
    where = _shown(location)
    length = answer.headers.get("Content-Length", "")
    told = there + int(length) if _LENGTH.fullmatch(length) else None
    total = location.size if location.size is not None else told
    if total is None:
        raise DownloadError(f"{where} does not say how large the file is: {location.advice}")
    if told is not None and told != total:
        raise DownloadError(f"{where} sends a file of {told} bytes, announced are {total}: {location.advice}")
    span = answer.headers.get("Content-Range", "")
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT and not span.startswith(f"bytes {there}-"):
        raise DownloadError(
            f"{where} was asked to go on at byte {there} and sends {span or 'no range'}: {location.advice}"
        )
    return total


def _partials(target: Path) -> list[Path]:
    return list(target.parent.glob(f".{target.name}.*.partial"))


def _open(location: Location, there: int) -> http.client.HTTPResponse:
    """Asks for the file, or for what follows the bytes that are there; the server may send all of it nevertheless."""
    if not location.url.startswith(("http://", "https://")):
        raise DownloadError(f"{location.url}: not a URL that begins with https:// or http://")
    headers = dict(location.headers) | ({"Range": f"bytes={there}-"} if there else {})
    try:
        answer: http.client.HTTPResponse = urllib.request.build_opener(_KeepToTheOrigin(location.headers)).open(
            urllib.request.Request(location.url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        error.close()
        if not there or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return _open(location, 0)  # all of it is there already, or more than all
    return answer


class _KeepToTheOrigin(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and takes headers along only to the same host, port and scheme."""

    def __init__(self, private: Mapping[str, str]) -> None:
        self._private = [name.capitalize() for name in private]

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and _origin(newurl) != _origin(req.full_url):
            for name in self._private:
                following.remove_header(name)
        return following


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _require_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise DownloadError(
            f"{target.parent}: {target.name} takes {needed / 1e6:.0f} MB more, {free / 1e6:.0f} MB are free; make room"
        )


def _broken_off(location: Location, reason: str) -> NoNetworkError:
    return NoNetworkError(
        f"{_shown(location)}: {reason}; mend the connection and run the command again, which goes on where it was; "
        f"or {location.advice}"
    )


def _shown(location: Location) -> str:
    """The address without its query, which may hold a signature."""
    return location.url.partition("?")[0]
