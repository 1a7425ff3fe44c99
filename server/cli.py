"""The command line of the launcher, the install and the doctor."""

import atexit
import contextlib
import os
import signal
import sys
import tempfile
import types
from pathlib import Path

import click
from rich.console import Console

from server import access
from server.defaults import DRAIN_SECONDS
from server.diagnosis.credentials import Credentials, certificate_options, credential_options, parse_header
from server.diagnosis.doctor import examine, show
from server.diagnosis.engines import REBUILD, check_engines
from server.errors import RefusedError, ServerError
from server.findings import Level
from server.options import ServeByDefault, config_option, listen_options, repository_option
from server.refusals import needs, refuse_exposure, refuse_own_options, refuse_unwatchable
from server.repository import ENSEMBLE, describe_face_detector, describe_framing, describe_weights, read_models
from server.response_cache.overlay import lay_over
from server.standin.install import install
from server.standin.layout import TRITON_VERSION, default_layout
from server.supervision.process import LOG_LEVELS, Options
from server.supervision.supervisor import Supervisor, local_address


@click.group(cls=ServeByDefault, options_metavar="[OPTIONS] [-- TRITONSERVER OPTIONS]", subcommand_metavar="")
def main() -> None:
    """Serve the deepfake detector on NVIDIA's tritonserver, without Docker.

    Starts tritonserver, waits until it has scored a real image, and prints one line with its end-points. From then on
    it restarts the server when a model's process dies or a real inference fails. Ctrl-C or SIGTERM stop it; a second
    one stops it at once.

    \b
    Examples:
      python -m server install                          # once
      python -m server --model-repository model_repository
      python -m server --grpc-port 9001 --http-port 9000 --metrics-port 9002
      python -m server --model-config-name openvino
      python -m server --response-cache 256             # repeated images cost no network
      python -m server -- --log-verbose=1 --buffer-manager-thread-count=2
      python -m server -- --grpc-use-ssl=true --grpc-server-cert=server.pem --grpc-server-key=server.key
      python -m server --ca ca.pem --client-cert me.pem --client-key me.key -- --grpc-use-ssl-mutual=true …
      python -m server -- --grpc-restricted-protocol=inference:token=SECRET
      python -m server doctor                           # what is wrong with this machine?

    Closed unless opened: inference over HTTP, model control, shared memory, traces and log settings. Where gRPC is
    secured, HTTP, which has no TLS, listens on this machine alone. Where gRPC wants certificates, the launcher looks
    after the server with those of --ca, --client-cert and --client-key, or over HTTP. See docs/access.md.

    Exit codes: 0 stopped as asked · 1 the server failed · 2 refused before the start.
    """


@main.command()
@repository_option
@config_option
@listen_options
@click.option(
    "--log-level",
    type=click.Choice(list(LOG_LEVELS)),
    default="info",
    show_default=True,
    help="How much of tritonserver's log to show, on standard error.",
)
@click.option(
    "--startup-timeout",
    type=click.FloatRange(min=1),
    default=900.0,
    show_default=True,
    help="Seconds until the first answer; engines and large models load slowly.",
)
@click.option(
    "--drain",
    type=click.IntRange(0, 3600),
    default=DRAIN_SECONDS,
    show_default=True,
    help="Seconds that requests in flight get to finish when the server is stopped.",
)
@click.option(
    "--response-cache",
    "cache_size",
    type=click.IntRange(1, 65536),
    metavar="MIB",
    help="Keep answers in so much memory, for each of the two ensembles: a repeated image then costs no network.",
)
@click.option(
    "--http-inference",
    is_flag=True,
    help="Open inference over HTTP. It is closed because deeply nested JSON ends this release.",
)
@click.option(
    "--expose-known-vulnerabilities",
    "exposed",
    is_flag=True,
    help="Allow a --host that other machines reach, although this release has known security faults.",
)
@certificate_options
@click.argument("extra", nargs=-1, metavar="[-- TRITONSERVER OPTIONS]")
def serve(
    repository: Path,
    config_name: str,
    host: str,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    log_level: str,
    startup_timeout: float,
    drain: int,
    cache_size: int | None,
    http_inference: bool,
    exposed: bool,
    ca: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
    extra: tuple[str, ...],
) -> None:
    """Serve a model repository (the command that is run when none is named)."""
    ports = {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
    layout = default_layout()
    refuse_own_options(extra)
    refuse_exposure(host, exposed)
    credentials = Credentials(ca=ca, client_cert=client_cert, client_key=client_key).channel_credentials()
    refuse_unwatchable(extra, certified=credentials is not None)
    refused = [
        finding for finding in needs(layout, repository, config_name, host, ports) if finding.level is Level.WRONG
    ]
    if refused:
        raise RefusedError("\n".join(f"{finding.detail}\n  → {finding.fix}" for finding in refused))
    models = read_models(repository, config_name)
    batch = next(model.max_batch_size for model in models if model.name == ENSEMBLE)

    options = Options(
        _served(repository, cache_size),
        host,
        ports,
        config_name,
        log_level,
        drain,
        extra,
        http_inference,
        credentials=credentials,
    )
    if http_inference and access.is_on("--allow-http", extra, default=True):
        say(
            f"WARNING: inference over HTTP is open: whoever reaches {host}:{http_port} can end this server by deeply "
            "nested JSON; gRPC has no such fault"
        )

    def announce(seconds: float) -> None:
        weights, _ = describe_weights(repository)
        grpc, http, metrics = (local_address(options.hosts[name], port) for name, port in ports.items())
        names = ", ".join(model.name for model in models)
        over_http = "" if http_inference else " (no inference)"
        addresses = f"gRPC {grpc} · HTTP {http}{over_http} · metrics {metrics}/metrics"
        faces = describe_face_detector(repository) or "none"
        framing = describe_framing(repository) or "unknown"
        served = (
            f"models {names} · configuration {config_name or 'default'} · framing {framing} · face detector {faces}"
        )
        if cache_size is not None:
            served += f" · answers kept in {cache_size} MiB"
        say(f"ready in {seconds:.1f} s · {addresses} · {served} · {weights}")

    supervisor = Supervisor(
        layout,
        options,
        say=say,
        show_log=lambda line: write_line(sys.stderr.fileno(), line),
        on_ready=announce,
        startup_seconds=startup_timeout,
        max_batch_size=batch,
    )

    def end(number: int, frame: types.FrameType | None) -> None:
        if supervisor.stop.is_set():
            supervisor.force.set()
        supervisor.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    supervisor.run()


def _served(repository: Path, cache_size: int | None) -> Path:
    """The repository that tritonserver reads: the given one, or one with the cache before it, removed at the end."""
    if cache_size is None:
        return repository
    folder = tempfile.TemporaryDirectory(prefix="deepfake_detector_")
    atexit.register(folder.cleanup)
    lay_over(repository, Path(folder.name), cache_size)
    return Path(folder.name)


@main.command("install")
def install_command() -> None:
    """Fetch tritonserver and perf_analyzer from PyPI into .triton/ (about 70 MB, once)."""
    layout = default_layout()
    if install(layout, say):
        say(f"tritonserver {TRITON_VERSION} is in {layout.root}; perf_analyzer is {layout.perf_analyzer}")
    else:
        say(f"nothing to do: tritonserver {TRITON_VERSION} is in {layout.root}")


@main.command()
@repository_option
@config_option
@listen_options
@click.option(
    "--url",
    metavar="HOST:PORT",
    envvar="DEEPFAKE_CLIENT_URL",
    show_envvar=True,
    help="Also try the running server with this gRPC end-point.",
)
@credential_options
@click.option("--engines", is_flag=True, help="Look at the TensorRT engines alone: in NVIDIA's container.")
def doctor(
    repository: Path,
    config_name: str,
    host: str,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    url: str | None,
    engines: bool,
    tls: bool,
    ca: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
    header: tuple[str, ...],
) -> None:
    """Say what is wrong with this machine, and how to mend it. Exit code 1 when something is wrong."""
    ports = {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
    layout = default_layout()
    lines = header or tuple(filter(None, os.environ.get("DEEPFAKE_CLIENT_HEADER", "").splitlines()))
    credentials = Credentials(tls, ca, client_cert, client_key, dict(map(parse_header, lines)))
    findings = list(
        check_engines(repository)
        if engines
        else examine(layout, repository, config_name, host, ports, url, credentials)
    )
    if engines and not findings:
        raise RefusedError(f"{repository} has no engines (model.plan): {REBUILD}")
    show(findings, Console())
    sys.exit(any(finding.level is Level.WRONG for finding in findings))


def say(line: str) -> None:
    """Print an event of the launcher itself."""
    write_line(sys.stdout.fileno(), f"server: {line}")


def write_line(descriptor: int, line: str) -> None:
    """Write a line past all buffers. One that cannot be written is lost: a full disk must not end a healthy server."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}\n".encode())


def run() -> None:
    """Run the command line; errors that are the user's to mend become one message and an exit code."""
    try:
        main(prog_name="python -m server")
    except ServerError as error:
        print(f"server: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os._exit(1)  # whoever read our output is gone: nothing can be said any more
