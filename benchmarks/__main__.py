"""`python -m benchmarks`: what serving costs and gives; `compare`: what changed since."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from benchmarks.common.result import ResultError, read, write
from benchmarks.comparison.measure import PLAN, QUICK, measure
from benchmarks.report.changes import IncomparableError, change_table, check_comparable
from benchmarks.report.changes import compare as compare_results
from benchmarks.report.page import write_page
from benchmarks.report.plots import write_plots
from benchmarks.report.tables import print_tables, serving_tables

RESULT_JSON = "result.json"
RESULT_HTML = "report.html"


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
    subcommand_metavar="[compare OLD NEW]",
)
@click.option(
    "--preset",
    "presets",
    type=click.Choice(["tiny", "small", "giant"]),
    multiple=True,
    default=("tiny", "small"),
    help="Size of the networks; may be given several times. giant, the published size, takes hours on a CPU.",
)
@click.option("--quick", is_flag=True, help="A minute or two for each preset: to see that it works, not to compare.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"How often all is measured.  [default: {PLAN.rounds}]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    help="Of each measurement, about: longer is steadier. The ways that are compared with each other take "
    f"eight times as long.  [default: {PLAN.seconds:g}]",
)
@click.option("--model-config-name", help="Serve and measure each model's configs/NAME.pbtxt where it has one.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/benchmarks/latest"),
    help="Folder for the result.",
)
@click.pass_context
def main(
    context: click.Context,
    presets: tuple[str, ...],
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    model_config_name: str | None,
    output: Path,
) -> None:
    """Measure the ensemble on the real server, beside other ways to do the same work on the same cores.

    perf_analyzer sends single images and batches, closed loop (1 to 32 in flight) and open loop (shares of the
    capacity), as JPEG and PNG, with the face supplied, found and absent. In turn with it: our client at the same
    load, the same functions in one process, the authors' way (PyTorch eager, batches of 16, stage after stage), and
    the bare networks. Seeded weights are exported once to build/benchmarks; the servers use free ports of loopback.

    \b
    Written to the output folder:
      result.json   all figures, round by round, with machine, versions and commit
      report.html   tables and plots, one page that needs no other file
      *.png         the plots

    \b
    Examples:
      python -m benchmarks --preset tiny --quick
      python -m benchmarks --seconds 10 --output before
      python -m benchmarks compare before/result.json build/benchmarks/latest/result.json
    """
    if context.invoked_subcommand:
        return
    plan = QUICK if quick else PLAN
    if rounds is not None:
        plan = replace(plan, rounds=rounds)
    if seconds is not None:
        plan = replace(plan, seconds=seconds, comparison_seconds=8 * seconds)
    result = measure(presets, plan, model_config_name, Console(stderr=True))
    write(output / RESULT_JSON, result)
    write_page(output / RESULT_HTML, result, write_plots(output, result))
    console = Console()
    print_tables(console, serving_tables(result))
    for line in result.circumstances.warnings:
        console.print(f"[yellow]{line}", highlight=False)
    click.echo(f"report: {output / RESULT_HTML}, {output / RESULT_JSON}", err=True)


@main.command()
@click.argument("old", type=click.Path(path_type=Path, exists=True))
@click.argument("new", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--least",
    type=click.FloatRange(min=0),
    default=0.05,
    help="Smaller changes of a median are taken for noise, as a share: one run does not know another hour's.",
)
@click.option("--all", "everything", is_flag=True, help="Print the figures that did not change, too.")
@click.option("--different-machines", is_flag=True, help="Compare results of different machines all the same.")
def compare(old: Path, new: Path, least: float, everything: bool, different_machines: bool) -> None:
    """Say what changed beyond noise between two results: files, or folders that hold a result.json.

    A figure changed where its rounds are further apart than chance makes likely (t-test, at least four rounds on each
    side; 5 % for all figures together, by Holm's method), and its median by --least or more. The throughputs of
    ensemble and client beside the other ways are corrected apart from the many loads, so that a tenth is seen in
    them. Intervals are the bootstrap's, 95 %.

    Exit codes: 0 nothing got worse · 1 something did · 2 the results cannot be compared.
    """
    console = Console()
    try:
        before, after = (read(path / RESULT_JSON if path.is_dir() else path) for path in (old, new))
        differences = check_comparable(before, after, other_machine=different_machines)
    except (ResultError, IncomparableError, OSError) as error:
        raise click.UsageError(str(error)) from error
    for line in differences:
        console.print(f"[yellow]{line}", highlight=False)
    changes, alone = compare_results(before, after, least)
    table = change_table(changes, everything=everything)
    print_tables(console, [table] if table.rows else [])
    for name in alone if everything else []:
        console.print(f"only in one of them: {name}", highlight=False)
    if alone and not everything:
        console.print(f"{len(alone)} figures are only in one of them: --all names them", highlight=False)
    counts = Counter(each.verdict for each in changes)
    words = [f"{counts['better']} better", f"{counts['worse']} worse", f"{counts['same']} within noise"]
    if counts["unknown"]:
        words.append(f"{counts['unknown']} with too few rounds to tell (four on each side are needed)")
    console.print(f"{len(changes)} figures: {', '.join(words)}", highlight=False)
    raise SystemExit(1 if counts["worse"] else 0)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
