"""What makes a start pointless or unsafe, each refusal with its way out."""

from collections.abc import Iterator
from pathlib import Path

from server import access
from server.diagnosis import checks
from server.errors import RefusedError
from server.findings import Finding
from server.standin import checks as standin
from server.standin.layout import TRITON_VERSION, Layout

OWN_OPTIONS = {  # tritonserver's options that this command sets itself → what to use instead
    "--model-repository": "--model-repository before the `--`",
    "--model-store": "--model-repository before the `--`",
    **{f"--{name}-port": f"--{name}-port before the `--`" for name in ("grpc", "http", "metrics")},
    **{f"--{name}-address": "--host before the `--`" for name in ("grpc", "http", "metrics")},
    "--exit-timeout-secs": "--drain before the `--`",
    "--model-config-name": "--model-config-name before the `--`",
    "--backend-directory": "nothing: it follows from the install",
    "--rate-limit": "nothing: it is execution_count, which limits only what configurations ask for",
    "--model-control-mode": "a restart: supervision relies on a fixed set of models",
}


def needs(layout: Layout, repository: Path, config_name: str, host: str, ports: dict[str, int]) -> Iterator[Finding]:
    """Every check before a start."""
    yield from checks.check_ports(host, ports)
    yield from checks.check_repository(repository, config_name, standin.SERVED_BACKENDS)
    yield from standin.needs(layout)
    yield checks.check_shared_memory()


def refuse_own_options(extra: tuple[str, ...]) -> None:
    """Refuse further options for tritonserver that this command sets itself, or that open what no key closes.

    Raises:
        RefusedError: With what to use instead.
    """
    for word in extra:
        for option, instead in OWN_OPTIONS.items():
            if access.is_given(option, word):
                raise RefusedError(f"{word}: this launcher sets {option} itself; use {instead}")
    access.refuse_other_doors(extra)


def refuse_exposure(host: str, exposed: bool) -> None:
    """Refuse an address that other machines reach, unless the user has confirmed it.

    Raises:
        RefusedError: With the ways out.
    """
    if not exposed and not access.is_loopback(host):
        raise RefusedError(
            f"--host {host} lets other machines reach tritonserver {TRITON_VERSION}, which has known security faults "
            "that later releases have mended\n"
            "  → serve other machines from NVIDIA's container (`make serve-gpu`), or put a proxy in front of loopback "
            "(deploy/nginx); or confirm by --expose-known-vulnerabilities"
        )


def refuse_unwatchable(extra: tuple[str, ...], *, certified: bool = False) -> None:
    """Refuse options that leave the launcher no way to see whether the server answers.

    Args:
        extra: The user's options for tritonserver.
        certified: Whether the launcher has certificates of its own for gRPC.

    Raises:
        RefusedError: With what to change.
    """
    without_http = not access.is_on("--allow-http", extra, default=True)
    without_grpc = (access.uses_tls(extra) and not certified) or not access.is_on("--allow-grpc", extra, default=True)
    if without_http and without_grpc:
        raise RefusedError(
            "--allow-http=false leaves the supervision no way in where gRPC is off or wants certificates\n"
            "  → leave HTTP on: it then listens on this machine alone, and its inference is closed by a key; or give "
            "the launcher certificates for gRPC by --ca, --client-cert and --client-key"
        )
