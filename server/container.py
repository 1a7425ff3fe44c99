"""`python -m server.container`: becomes tritonserver, in NVIDIA's container. Its command's words are further options.

It starts as the launcher's does (`server.defaults`, `server.access`). What the launcher does beyond that is left to the
container or the orchestrator: addresses, restarts, the probe; and limiting networks to one at a time is for a CPU.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from server import access
from server.defaults import fixed_options

MODELS = "/models"
"""Where the model repository is mounted; the variable MODELS names another place."""


def command(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Give tritonserver's command line.

    Args:
        words: Further options, such as `--model-config-name=tensorrt`.
        environment: HTTP_INFERENCE=open opens inference over HTTP.
    """
    opened = environment.get("HTTP_INFERENCE") == "open"
    closing = access.closing_options(words, access.new_key(), http_inference=opened)
    repository = f"--model-repository={environment.get('MODELS', MODELS)}"
    return ["tritonserver", repository, *fixed_options(), *closing, *words]


def main() -> None:
    """Become tritonserver."""
    if os.environ.get("HTTP_INFERENCE") == "open":
        print(
            "warning: inference over HTTP is open: it has no TLS and no limit of what a caller sends", file=sys.stderr
        )
    line = command(sys.argv[1:], os.environ)
    os.execvp(line[0], line)


if __name__ == "__main__":
    main()
