"""A result as one page that needs no other file."""

from pathlib import Path

import jinja2

from benchmarks.common.result import Result
from benchmarks.comparison.goals import COMPARISONS
from benchmarks.load.workloads import MAIN
from benchmarks.report.plots import data_url
from benchmarks.report.tables import preset_tables, ratio_table


def write_page(path: Path, result: Result, plots: dict[str, bytes]) -> None:
    """Write the page.

    Args:
        path: Where to.
        result: Of `make bench`.
        plots: File name to picture.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    presets = {
        preset: {
            "tables": preset_tables(result, preset),
            "latency": data_url(plots[f"{preset}-latency.png"]),
            "steps": data_url(plots[f"{preset}-steps.png"]),
        }
        for preset in result.settings["presets"]
    }
    page = templates.get_template("report.html.j2").render(
        result=result, ratios=ratio_table(result.ratios), comparisons=COMPARISONS, presets=presets, images=str(MAIN)
    )
    path.write_text(page, encoding="utf-8")
