"""`python -m server.container`: becomes tritonserver, in NVIDIA's container. Its command's words are further options.

It starts as the launcher's does (`server.defaults`, `server.access`). What the launcher does beyond that is left to the
container or the orchestrator: addresses, restarts, the probe; and limiting networks to one at a time is for a CPU.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from server import access
from server.defaults import fixed_options
from server.errors import RefusedError
from server.response_cache.overlay import lay_over

MODELS = "/models"
"""Where the model repository is mounted; the variable MODELS names another place."""

CACHE = "RESPONSE_CACHE"
"""The variable with the memory in MiB for the kept answers of each ensemble; empty where none are kept."""


def command(words: Sequence[str], environment: Mapping[str, str], repository: Path) -> list[str]:
    """Give tritonserver's command line.

    Args:
        words: Further options, such as `--model-config-name=tensorrt`.
        environment: HTTP_INFERENCE=open opens inference over HTTP.
        repository: What it reads.
    """
    opened = environment.get("HTTP_INFERENCE") == "open"
    closing = access.closing_options(words, access.new_key(), http_inference=opened)
    return ["tritonserver", f"--model-repository={repository}", *fixed_options(), *closing, *words]


def cache_size(words: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """Give the memory for kept answers in MiB, 1 at least; None where none are kept.

    Raises:
        RefusedError: RESPONSE_CACHE is no such number; or models may change while answers of before are kept.
    """
    given = environment.get(CACHE, "")
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise RefusedError(f"{CACHE} is {given!r}; it must be a number of MiB, 1 at least, or empty to keep no answers")
    if {*access.values_of("--model-control-mode", words)} - {"none"}:
        raise RefusedError(
            f"{CACHE} is set, and --model-control-mode would change models under the answers that are kept; "
            "leave one of them out"
        )
    return int(given)


def main() -> None:
    """Become tritonserver."""
    words, environment = sys.argv[1:], os.environ
    if environment.get("HTTP_INFERENCE") == "open":
        print(
            "warning: inference over HTTP is open: it has no TLS and no limit of what a caller sends", file=sys.stderr
        )
    repository = Path(environment.get("MODELS", MODELS))
    try:
        access.refuse_other_doors(words)
        if (size := cache_size(words, environment)) is not None:
            folder = Path(tempfile.mkdtemp(prefix="deepfake_detector_"))  # it ends with the container
            lay_over(repository, folder, size)
            repository = folder
    except (RefusedError, OSError) as error:
        sys.exit(f"error: {error}")
    environment.pop(access.VERTEX_VARIABLE, None)
    line = command(words, environment, repository)
    os.execvp(line[0], line)


if __name__ == "__main__":
    main()
