"""`python -m benchmarks.attacks`: what requests that mean harm do to a server, on a server of their own each."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.attacks import endpoints, loads
from benchmarks.attacks.finding import Finding
from benchmarks.attacks.target import Target, serving
from benchmarks.common.machine import ROOT, circumstances
from benchmarks.common.result import Figure, Result, read, write
from benchmarks.common.serving import export

ATTACKS: tuple[Callable[[Target], Finding], ...] = (
    endpoints.shared_memory_registration,
    endpoints.model_control,
    endpoints.nested_json,
    endpoints.bad_datagrams,
    endpoints.forged_permits,
    endpoints.permits_of_the_first_step,
    loads.a_flood_of_batches,
    loads.clients_that_leave,
    loads.a_flood_of_direct_calls,
    loads.direct_bombs,
    loads.one_large_request,
    loads.fill_bytes,
)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--checkout", type=click.Path(path_type=Path, exists=True), default=ROOT, help="Whose server is attacked."
)
@click.option("--repository", type=click.Path(path_type=Path, exists=True), help="Of that version; made unless given.")
@click.option("--version", default="now", help="What the figures of this run are called in the result.")
@click.option("--only", multiple=True, type=click.Choice([each.__name__ for each in ATTACKS]), help="Run these alone.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the result as JSON; figures there are kept.")
def main(checkout: Path, repository: Path | None, version: str, only: tuple[str, ...], output: Path | None) -> None:
    """Attack servers of preset tiny, and say what each attack did.

    --checkout names another checkout with an environment of its own, so that an older version is measured likewise;
    with the same --output both stand in one result.
    """
    begun = circumstances("benchmarks.attacks")
    figures: list[Figure] = []
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True)
    notes = {f"commit, {version}": commit.stdout.strip()}
    table = Table("attack", "what it did", box=None)
    for attack in ATTACKS:
        name = attack.__name__.replace("_", " ")
        if only and attack.__name__ not in only:
            continue
        with serving(checkout, repository or export("tiny")) as target:
            finding = attack(target)
        table.add_row(name, str(finding))
        print(name, finding, sep=": ", file=sys.stderr, flush=True)
        notes[f"{name}, {version}"] = finding.note
        figures += [
            Figure({"attack": name, "version": version}, what, unit, "lower", [value])
            for what, (value, unit) in finding.figures.items()
        ]
    Console(width=160).print(table)
    if output:
        result = Result("attacks", "what requests that mean harm do to a server", begun, {"preset": "tiny"}, figures)
        write(output, _added(read(output), result, notes) if output.exists() else replace(result, details=notes))


def _added(old: Result, new: Result, notes: dict[str, str]) -> Result:
    """The new figures beside those of the old result that were not measured anew."""
    measured = {figure.name for figure in new.figures}
    kept = [figure for figure in old.figures if figure.name not in measured]
    return replace(new, figures=[*kept, *new.figures], details=old.details | notes)


if __name__ == "__main__":
    main()
