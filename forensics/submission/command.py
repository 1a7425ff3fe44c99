"""`python -m forensics submission`."""

import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from deepfake_client.cli import Connection

from forensics.common.dataset import find_images
from forensics.common.errors import ForensicsError
from forensics.common.options import output_option, server_options
from forensics.common.scoring.scores import reason
from forensics.common.scoring.server import ask_server, score_images

SUBMISSION = "submission.txt"
ORDER = "order.txt"
ARCHIVE = "submission.zip"


@click.command("submission")
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@server_options
@output_option("submission", "the entry, and for the scores by which a stopped run goes on")
def command(images: Path, connection: Connection, batch_size: int, in_flight: int, output: Path) -> None:
    """Score a folder in the form of the NTIRE 2026 challenge.

    IMAGES is a folder of images, at any depth. An entry has a score for every image: where one cannot be scored, that
    is said and nothing is written.

    \b
    Written to the output folder:
      submission.txt  one score a line, with one decimal, in the order of the sorted file names
      submission.zip  that file, to be handed in
      order.txt       the file names in that order
      scores.jsonl    a row an image

    \b
    Example:
      python -m forensics submission publictest_data_final/
    """
    paths = sorted_by_name(find_images(images))
    with connection.make_client(batch_size=batch_size, max_in_flight=in_flight) as client:
        rows = score_images(client, ask_server(client), paths, output)
    write_entry(output, paths, rows)
    click.echo(
        f"{len(paths)} scores: {output / ARCHIVE}, {output / SUBMISSION}; their order: {output / ORDER}", err=True
    )


def sorted_by_name(paths: list[Path]) -> list[Path]:
    """By the file's name alone, as the authors sort.

    Raises:
        ForensicsError: Two files have the same name, so that their order says nothing.
    """
    ordered = sorted(paths, key=lambda path: path.name)
    for first, second in pairwise(ordered):
        if first.name == second.name:
            raise ForensicsError(f"{first} and {second} have the same name; a challenge tells images by their names")
    return ordered


def write_entry(folder: Path, paths: list[Path], rows: list[dict[str, Any]]) -> None:
    """Writes an entry.

    Args:
        folder: Where to; it exists.
        paths: The images, in the order of the lines.
        rows: The row of each, as `deepfake_client.Verdict.to_dict` gives it.

    Raises:
        ForensicsError: An image has no score. Nothing is written then.
    """
    failed = [row for row in rows if row["status"] != "ok"]
    if failed:
        first = failed[0]
        raise ForensicsError(
            f"{len(failed)} of {len(rows)} images have no score, and an entry needs all: {first['path']}: "
            f"{first['status']}: {reason(first)}"
        )
    lines = "".join(f"{row['score']:.1f}\n" for row in rows)
    (folder / SUBMISSION).write_text(lines, encoding="ascii")
    (folder / ORDER).write_text("".join(f"{path.name}\n" for path in paths), encoding="utf-8", errors="surrogateescape")
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / SUBMISSION, SUBMISSION)
