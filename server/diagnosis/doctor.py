"""Look at everything a server needs on this machine, and say how to mend what is wrong."""

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from server.diagnosis import checks
from server.diagnosis.credentials import Credentials
from server.diagnosis.engines import check_engines
from server.findings import Finding, Level
from server.standin import checks as standin
from server.standin.layout import Layout
from server.supervision.probe import Kind, Prober

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.WRONG: "bold red"}
PROBE_SECONDS = 60.0


def examine(
    layout: Layout,
    repository: Path,
    config_name: str,
    host: str,
    ports: dict[str, int],
    url: str | None,
    credentials: Credentials,
) -> Iterator[Finding]:
    """Every check, one after the other.

    Args:
        layout: Where tritonserver should be.
        repository: The model repository to serve.
        config_name: Of the models' named configurations; empty for their default ones.
        host: The address to listen on.
        ports: Port by name. A taken port is only a warning here: the server may be running.
        url: HOST:PORT of a running server's gRPC end-point to try; then the ports are not looked at.
        credentials: How to get into that server.
    """
    yield standin.check_platform()
    yield standin.check_python()
    yield standin.check_libpython(layout)
    yield standin.check_numpy()
    yield standin.check_onnxruntime()
    yield standin.check_openvino()
    yield standin.check_opencv()
    yield standin.check_layout(layout)
    yield checks.check_shared_memory()
    yield standin.check_gpu()
    yield from checks.check_repository(repository, config_name, standin.SERVED_BACKENDS)
    yield from check_engines(repository)
    if url is not None:
        yield check_server(url, credentials)
        return
    for finding in checks.check_ports(host, ports):
        if finding.level is Level.WRONG:
            yield Finding(finding.subject, Level.WARNING, finding.detail, finding.fix)
        else:
            yield finding


def check_server(url: str, credentials: Credentials) -> Finding:
    """A running server answers a real inference."""
    prober = Prober(url, credentials.headers, credentials.channel_credentials())
    try:
        probe = prober.start(PROBE_SECONDS)
        while (outcome := probe.outcome()) is None:
            time.sleep(0.02)
    finally:
        prober.close()
    if outcome.kind is Kind.ANSWERED:
        return Finding("server", Level.OK, f"{url} answered a real inference in {outcome.seconds * 1000:.0f} ms")
    if outcome.kind is Kind.BUSY:
        fix = "wait until it has less to do, or restart it"
        return Finding("server", Level.WARNING, f"{url} is busy or stuck: {outcome.detail}", fix)
    fix = "start one with `python -m server`" if outcome.kind is Kind.UNREACHABLE else "restart it and read its log"
    return Finding("server", Level.WRONG, f"{url}: {outcome.detail}", fix)


def show(findings: list[Finding], console: Console) -> None:
    """Print the findings as a table, and a last line that sums them up."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "check", "found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = _STYLES[finding.level]
        fix = f"\n→ {finding.fix}" if finding.fix else ""
        table.add_row(f"[{style}]{finding.level.value}[/]", finding.subject, _plain(finding.detail + fix))
    console.print(table)
    count = {level: sum(finding.level is level for finding in findings) for level in Level}
    if count[Level.WRONG]:
        console.print(
            f"{count[Level.WRONG]} wrong, {count[Level.WARNING]} to look at; each arrow (→) is the way to mend it"
        )
    else:
        console.print(f"ready to serve; {count[Level.WARNING]} to look at" if count[Level.WARNING] else "all is well")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
