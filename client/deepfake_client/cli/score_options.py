"""The options of `deepfake-client score`."""

from collections.abc import Callable
from pathlib import Path

import click

from ..bulk.lists import BOX_COLUMNS
from ..decoding.sampling import DEFAULT_FPS
from .connection import connection_options
from .operating_point import operating_point_option
from .output.destination import check_output

_OPTIONS = (
    click.argument("paths", nargs=-1, metavar="[PATH]..."),
    click.option(
        "--list",
        "-l",
        "lists",
        multiple=True,
        type=click.Path(exists=True, readable=True),
        metavar="FILE",
        help="Score what FILE lists: text with a path a line, or a .csv, .tsv or .parquet with paths in a column."
        " Repeatable.",
    ),
    click.option(
        "--column",
        default="path",
        show_default=True,
        metavar="NAME",
        help="Column of a .csv, .tsv or .parquet list with paths.",
    ),
    click.option(
        "--face-boxes",
        is_flag=True,
        help=f"Take the face from the columns {BOX_COLUMNS[0]} to {BOX_COLUMNS[-1]} of the lists, in pixels, where"
        " filled.",
    ),
    click.option(
        "--follow-links",
        is_flag=True,
        help="Follow links in folders. Without it a link to a file is a row that says so.",
    ),
    connection_options,
    click.option(
        "--output",
        "-o",
        type=click.Path(writable=True, path_type=Path),
        callback=check_output,
        metavar="FILE",
        help="Write a row an image to FILE, which ends in .jsonl, .csv or .parquet (a folder of shards).",
    ),
    click.option(
        "--overwrite", is_flag=True, help="Begin FILE anew, where otherwise the run would go on or be refused."
    ),
    click.option("--retry-failed", is_flag=True, help="Score again what has a row in FILE but could not be scored."),
    click.option(
        "--faces",
        type=click.Choice(["main", "all"]),
        help="Judge images by their main face, or every face that is large enough, and the image by the worst of them."
        "  [default: main for images, all for videos]",
    ),
    click.option(
        "--fps",
        type=click.FloatRange(0, 1000, min_open=True),
        metavar="RATE",
        help=f"Frames of a video to score each second.  [default: {DEFAULT_FPS:g}]",
    ),
    click.option(
        "--frames",
        "frame_count",
        type=click.IntRange(1),
        metavar="N",
        help="Frames of a video to score in all, instead.",
    ),
    click.option(
        "--frame-rows", is_flag=True, help="Write a row for each scored frame, too, before that of its video."
    ),
    click.option(
        "--timelines",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Draw a timeline of each video into DIR, as SVG.",
    ),
    click.option(
        "--evidence",
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        metavar="FILE",
        help="Of one picture: a ZIP with report, maps, votes, what would change the verdict, stability, and a receipt.",
    ),
    click.option(
        "--sha256", "digest", is_flag=True, help="Write the SHA-256 of each image's or video's file into its row."
    ),
    click.option("--unordered", is_flag=True, help="Write rows as they come: no image waits for a slow one before it."),
    click.option(
        "--format",
        "printed",
        type=click.Choice(["table", "jsonl", "csv"]),
        help="What to print where no FILE is given.  [default: a table on a terminal, JSONL elsewhere]",
    ),
    click.option(
        "--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Most images in one request."
    ),
    click.option(
        "--in-flight",
        default=16,
        show_default=True,
        type=click.IntRange(1),
        help="Most requests at the same time at each server; fewer are where it answers slowly or is overloaded.",
    ),
    click.option(
        "--timeout",
        default=600.0,
        show_default=True,
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Deadline of one request, its time in the server's queue included.",
    ),
    click.option(
        "--verdict-only",
        is_flag=True,
        help="Ask for verdicts alone: the same verdicts for less work. Scores become ranges where a stream was not"
        " needed.",
    ),
    click.option("--once", is_flag=True, help="Send images of equal content once; each has its row."),
    click.option(
        "--forecast",
        "is_forecast",
        is_flag=True,
        help="Write no rows, but say what the run would take, from a probe of half a minute.",
    ),
    operating_point_option,
)


def score_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command these options and the argument PATH."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
