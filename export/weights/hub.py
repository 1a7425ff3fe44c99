"""The published checkpoints on the Hugging Face hub: what they are, and where each can be read.

The library's settings hold: HF_ENDPOINT (a mirror), HF_TOKEN and the proxy variables. It is asked for what it knows;
the bytes are fetched by `export.weights.transfer`, since its release 1 throws away a file that was interrupted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from urllib.parse import urlsplit

from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from export.errors import DownloadError, NoNetworkError
from export.weights.transfer import Location

REPOSITORY = "lpmkhoa/hcmusaqua-ntire26-weights"
"""Where the authors publish the checkpoints."""

_HAND = f"download the files by hand from https://huggingface.co/{REPOSITORY} into the folder"


@dataclass(frozen=True)
class PublishedFile:
    """A file as the hub describes it.

    Attributes:
        name: Its name.
        size: Bytes.
        sha256: Hash, hexadecimal; empty where the hub does not tell.
        revision: The commit that it belongs to.
    """

    name: str
    size: int
    sha256: str
    revision: str

    @property
    def source(self) -> str:
        """Where it is published."""
        return f"{ENDPOINT}/{REPOSITORY}"


def look_up(names: Sequence[str], revision: str) -> dict[str, PublishedFile]:
    """Ask the hub for the sizes and hashes of files.

    Args:
        names: Of files of `REPOSITORY`.
        revision: A branch, tag or commit.

    Raises:
        NoNetworkError: The hub cannot be reached.
        DownloadError: It refuses, or has no such repository, revision or file.
    """
    with _explained(revision):
        info = HfApi(endpoint=ENDPOINT).model_info(REPOSITORY, revision=revision, files_metadata=True, timeout=30)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    missing = [name for name in names if name not in siblings]
    if missing:
        raise DownloadError(
            f"{ENDPOINT}/{REPOSITORY} has no {', '.join(missing)} at revision {revision}; it has "
            f"{', '.join(sorted(siblings)) or 'no file'}: choose another --revision"
        )
    files = {}
    for name in names:
        size, lfs = siblings[name].size, siblings[name].lfs
        if size is None:
            raise DownloadError(f"{ENDPOINT}/{REPOSITORY} does not say how large {name} is: {_HAND}")
        files[name] = PublishedFile(name, size, lfs.sha256 if lfs else "", str(info.sha))
    return files


def locate(file: PublishedFile) -> Location:
    """Ask the hub where a file can be read now; the token goes to the hub alone, by the same scheme.

    Raises:
        NoNetworkError: The hub cannot be reached.
        DownloadError: It refuses.
    """
    url = hf_hub_url(REPOSITORY, file.name, revision=file.revision, endpoint=ENDPOINT)
    with _explained(file.revision):
        found = HfApi(endpoint=ENDPOINT).get_hf_file_metadata(url=url).location
    asked, there = urlsplit(url), urlsplit(found)
    token = get_token() if (there.scheme, there.netloc) == (asked.scheme, asked.netloc) else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Location(found, headers, file.size, file.sha256, f"set HF_ENDPOINT to a mirror, or {_HAND}")


def _transport_errors() -> tuple[type[Exception], ...]:
    """Of the libraries that carry huggingface_hub's requests: its release 0 uses requests, 1 uses httpx."""
    found: list[type[Exception]] = []
    for library, name in (("requests", "RequestException"), ("httpx", "TransportError")):
        with suppress(ImportError):
            found.append(getattr(import_module(library), name))
    return tuple(found)


_UNREACHABLE: tuple[type[Exception], ...] = (OSError, *_transport_errors())


@contextmanager
def _explained(revision: str) -> Iterator[None]:
    """Turns the library's errors into ours, each with what to do."""
    at = f"{ENDPOINT}/{REPOSITORY}"
    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{at} asks for its terms to be accepted: do so in a browser, then set HF_TOKEN to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"{at} has no revision {revision}: choose another --revision") from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise DownloadError(
            f"{at} or its file is not there, or not open to this token: "
            "set HF_TOKEN, or HF_ENDPOINT to a mirror that has it"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        hint = "set HF_TOKEN to a valid token" if status in (401, 403) else "try again later, or set HF_ENDPOINT"
        raise DownloadError(f"{at} answers HTTP {status}: {hint}, or {_HAND}") from error
    except _UNREACHABLE as error:
        reason = _innermost(error)
        raise NoNetworkError(
            f"{at} cannot be reached ({type(reason).__name__}: {reason}): mend the connection (proxies by HTTPS_PROXY) "
            f"and run the command again, which goes on where it was; or set HF_ENDPOINT to a mirror; or {_HAND}"
        ) from error


def _innermost(error: BaseException) -> BaseException:
    """What the libraries' errors about errors began with."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error
