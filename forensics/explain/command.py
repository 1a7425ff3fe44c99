"""`python -m forensics explain`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from deepfake_client import explain
from deepfake_client.cli import Connection, connection_options
from rich.console import Console

from degradation import SWEEPS
from ensemble import status
from ensemble.images import ImageError, Limits, RgbImage, read_image
from forensics.common.errors import ForensicsError
from forensics.common.inspection import Inspection, Inspector
from forensics.common.options import output_option, seed_option
from forensics.common.pixels import encode_png, image_seed, read_pixels
from forensics.common.scoring.server import Server, ask_server
from forensics.explain.figure import draw_panels, draw_views
from forensics.explain.report import (
    REPORT_HTML,
    REPORT_JSON,
    Explained,
    ExplainReport,
    print_explained,
    write_html,
    write_json,
)
from forensics.explain.saliency import Map
from forensics.explain.views import View, attention_maps, view

METHODS = {"attention": "CLS attention of the last block", "score-cam": "Score-CAM"}


@dataclass(frozen=True)
class Degradation:
    """One level of a sweep."""

    sweep: str
    level: float

    @property
    def title(self) -> str:
        sweep = SWEEPS[self.sweep]
        return f"{sweep.title}, {sweep.quantity} {self.level:g}"


@dataclass(frozen=True)
class _Shown:
    """An image as it is sent."""

    path: Path
    title: str
    image: RgbImage
    data: bytes


def _check_degradation(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Degradation | None:
    if value is None:
        return None
    name, _, text = value.partition("=")
    if name not in SWEEPS:
        raise click.BadParameter(f"{value!r} must be NAME=LEVEL, such as jpeg=20; the names are {', '.join(SWEEPS)}")
    levels = SWEEPS[name].levels
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not min(levels) <= level <= max(levels):
        raise click.BadParameter(
            f"{value!r}: {SWEEPS[name].quantity} must be a number from {min(levels):g} to {max(levels):g}"
        )
    return Degradation(name, level)


@click.command("explain")
@click.argument(
    "images",
    nargs=-1,
    required=True,
    metavar="IMAGE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@connection_options
@click.option(
    "--batch-size",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Most images in one request, and most masked ones in one forward of Score-CAM.",
)
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="attention",
    show_default=True,
    help="What the maps are; Score-CAM needs --weights and takes long.",
)
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the checkpoints that the server was exported from, for Score-CAM.",
)
@click.option(
    "--degrade",
    "degradation",
    callback=_check_degradation,
    metavar="NAME=LEVEL",
    help=f"Show clean against degraded: one of {', '.join(SWEEPS)}.",
)
@seed_option
@output_option("explanations", "the pictures and the page")
def command(
    images: tuple[Path, ...],
    connection: Connection,
    batch_size: int,
    method: str,
    weights: Path | None,
    degradation: Degradation | None,
    seed: int,
    output: Path,
) -> None:
    """Show where each stream looked, and how the votes add up to the score.

    By default the maps are the attention of DINOv2's last block, from its CLS token to the patches, which the server
    gives along with the verdict. Score-CAM asks instead which regions, shown alone, raise the fake logit: it runs the
    network once for every channel, here on PyTorch, which takes minutes on small networks and hours on the published
    ones without a GPU. The estimate comes first.

    With --degrade the same image is shown clean and degraded, and measured against each other.

    \b
    Numbers of each map, of its mass (the map divided by its sum) over the stream's patches:
      outside the face  share of the mass outside the face box (of the clean image)
      entropy           in nats; the higher, the more spread out
      moved             share of the mass that has to move to turn the clean map into the degraded one
      top 20 %          intersection over union of the smallest regions that hold 20 % of each mass

    \b
    Written to the output folder:
      NAME.png      a picture for each image
      explain.html  all of them with their numbers, one page that needs no other file
      explain.json  the numbers
      maps/         finished maps of Score-CAM; a stopped run goes on with the others

    \b
    Examples:
      python -m forensics explain photo.jpg
      python -m forensics explain photo.jpg --degrade jpeg=20
      python -m forensics explain photo.jpg --method score-cam --weights weights
    """
    if method == "score-cam" and weights is None:
        raise click.UsageError("--method score-cam needs --weights DIR, the checkpoints that the server runs")
    with connection.make_client() as client, Inspector(connection, batch_size) as inspector:
        server = ask_server(client)
        vote = server.vote
        shown = [each for path in images for each in _read(path, degradation, seed)]
        inspections = inspector.inspect([each.data for each in shown])
    _require_scored(shown, inspections)
    maps = _maps(method, inspections, weights, server, output, batch_size)
    views: list[View] = []
    per_image = 1 if degradation is None else 2
    for index, (each, inspection, saliency) in enumerate(zip(shown, inspections, maps, strict=True)):
        clean = None if index % per_image == 0 else views[-1]
        views.append(view(each.title, each.image, inspection, saliency, clean, server.framing))
    output.mkdir(parents=True, exist_ok=True)
    explained, console = [], Console()
    for path, name, start in zip(images, _names(images), range(0, len(views), per_image), strict=True):
        own = views[start : start + per_image]
        png = draw_views(path.name, METHODS[method], own, vote.weights, server.warning)
        (output / name).write_bytes(png)
        panels = [draw_panels(view, vote.weights) for view in own]
        explained.append(Explained(path, output / name, panels, own))
        print_explained(console, explained[-1], vote.weights)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    report = ExplainReport(created, server, METHODS[method], vote.weights, seed if degradation else None, explained)
    write_json(output / REPORT_JSON, report)
    write_html(output / REPORT_HTML, report)
    if server.warning:
        console.print(f"[yellow]{server.warning}.")
    click.echo(f"report: {output / REPORT_HTML}, {output / REPORT_JSON}", err=True)


def _read(path: Path, degradation: Degradation | None, seed: int) -> list[_Shown]:
    """The image as it is sent: its file; or, reduced where it is large, clean and degraded."""
    data = path.read_bytes()
    try:
        if degradation is None:
            return [_Shown(path, "the image", read_image(data, Limits()), data)]
        image = read_pixels(data)
    except ImageError as error:
        raise ForensicsError(f"{path}: {error.status}: {error}") from error
    degraded = SWEEPS[degradation.sweep].apply(image, degradation.level, image_seed(data, seed))
    pairs = (("clean", image), (degradation.title, degraded))
    return [_Shown(path, title, pixels, encode_png(pixels)) for title, pixels in pairs]


def _require_scored(shown: Sequence[_Shown], inspections: Sequence[Inspection]) -> None:
    for each, inspection in zip(shown, inspections, strict=True):
        if inspection.status != status.OK:
            raise ForensicsError(
                f"{each.path} ({each.title}): {inspection.status}: {explain(inspection.status)}; leave it out"
            )


def _maps(
    method: str,
    inspections: Sequence[Inspection],
    weights: Path | None,
    server: Server,
    output: Path,
    batch_size: int,
) -> list[dict[str, Map]]:
    if method == "attention" or weights is None:
        return [attention_maps(inspection) for inspection in inspections]
    from forensics.explain.maps import checked_checkpoints, score_cam_maps  # torch, which attention does not need

    return score_cam_maps(inspections, checked_checkpoints(weights, server), output / "maps", batch_size)


def _names(images: Sequence[Path]) -> list[str]:
    """A file name for each picture: the image's, numbered where several have the same."""
    names: list[str] = []
    for path in images:
        name, number = f"{path.stem}.png", 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}.png"
        names.append(name)
    return names
