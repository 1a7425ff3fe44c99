"""Which of tritonserver's protocols are open, and what a caller must send. Pure functions of the options.

Model control, shared memory of other processes, traces and log settings are of no use to those who score images, and
harm in the hands of others. They are closed by a random key, and so is inference over HTTP: 400,000 opening brackets as
a body end release 24.10.
"""

import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from itertools import pairwise

from server.errors import RefusedError

ADMINISTRATION = ("shared-memory", "model-repository", "trace", "logging")
INFERENCE = "inference"
STATISTICS = "statistics"
_OPTIONS = {"grpc": "--grpc-restricted-protocol", "http": "--http-restricted-api"}
_OTHER_DOORS = tuple(
    f"--{name}"
    for name in (
        "allow-sagemaker",
        "sagemaker-port",
        "sagemaker-safe-port-range",
        "sagemaker-thread-count",
        "allow-vertex-ai",
        "vertex-ai-port",
        "vertex-ai-thread-count",
        "vertex-ai-default-model",
    )
)
VERTEX_VARIABLE = "AIP_MODE"
"""Where the environment says PREDICTION in it, tritonserver opens the end-point for Vertex AI by itself."""

_OPTIONS_THAT_OTHERS_GO_ON = ("--grpc-use-ssl", "--rate-limit")  # they are no beginnings: each is an option itself
_KEY_NAME = "deepfake-detector-key"
_GRPC_HEADER = "triton-grpc-protocol-"  # what tritonserver puts before a key's name, over gRPC


def new_key() -> str:
    """A key that nobody can guess."""
    return secrets.token_hex(32)


def is_given(option: str, word: str) -> bool:
    """Whether a word gives an option of tritonserver, which takes the beginning of a name for the whole name."""
    name = word.partition("=")[0]
    return name == option or (
        len(name) > len("--") and option.startswith(name) and name not in _OPTIONS_THAT_OTHERS_GO_ON
    )


def values_of(option: str, words: Sequence[str]) -> list[str]:
    """The values of a tritonserver option, written as `--option=value` or as two words."""
    return [
        word.partition("=")[2] if "=" in word else following
        for word, following in pairwise([*words, ""])
        if is_given(option, word)
    ]


def is_on(option: str, words: Sequence[str], *, default: bool) -> bool:
    """Whether a switch is on; tritonserver goes by the last one given, and takes one without a value as true."""
    values = values_of(option, words)
    return values[-1].lower() not in ("false", "0", "off") if values else default


def refuse_other_doors(words: Sequence[str]) -> None:
    """Refuse end-points that no key closes.

    Raises:
        RefusedError: With the way out.
    """
    for word in words:
        if any(is_given(option, word) for option in _OTHER_DOORS):
            raise RefusedError(
                f"{word}: tritonserver's end-points for SageMaker and Vertex AI listen on every address and take "
                "inference over HTTP without a key; leave it out, and use gRPC"
            )


def is_secured(words: Sequence[str]) -> bool:
    """Whether these options make gRPC ask its clients for certificates or tokens, or encrypt it."""
    return uses_tls(words) or INFERENCE in restrictions("grpc", words)


def uses_tls(words: Sequence[str]) -> bool:
    """Whether gRPC is encrypted."""
    mutual = is_on("--grpc-use-ssl-mutual", words, default=False)
    return mutual or is_on("--grpc-use-ssl", words, default=False)


def restrictions(transport: str, words: Sequence[str]) -> dict[str, tuple[str, str]]:
    """What the user has restricted.

    Args:
        transport: `grpc` or `http`.
        words: The user's options for tritonserver.

    Returns:
        By protocol, such as `inference`: the key's name and its value.
    """
    found: dict[str, tuple[str, str]] = {}
    for value in values_of(_OPTIONS[transport], words):
        protocols, _, pair = value.partition(":")
        name, _, key = pair.partition("=")
        found |= dict.fromkeys(protocols.split(","), (name, key))
    return found


def closing_options(words: Sequence[str], key: str, *, http_inference: bool) -> list[str]:
    """The options of tritonserver that close what is not needed and what the user has not restricted already.

    Args:
        words: The user's options for tritonserver.
        key: What opens the rest; known to the launcher alone.
        http_inference: Whether inference over HTTP stays open.
    """
    options = []
    for transport, option in _OPTIONS.items():
        closed = [*ADMINISTRATION]
        if transport == "http" and not http_inference:
            closed.append(INFERENCE)
        there = restrictions(transport, words)
        if left := [protocol for protocol in closed if protocol not in there]:
            options.append(f"{option}={','.join(left)}:{_KEY_NAME}={key}")
    return options


def headers(transport: str, words: Sequence[str]) -> Mapping[str, str]:
    """What the launcher's own requests must bear for inference and statistics.

    Args:
        transport: `grpc` or `http`.
        words: All options of tritonserver, those of `closing_options` too.
    """
    there = restrictions(transport, words)
    prefix = _GRPC_HEADER if transport == "grpc" else ""
    pairs = (there[protocol] for protocol in (STATISTICS, INFERENCE) if protocol in there)
    return {f"{prefix}{name}".lower() if prefix else name: key for name, key in pairs}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
