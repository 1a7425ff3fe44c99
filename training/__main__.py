"""The command line: `python -m training`."""

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from training.errors import TrainingError
from training.recipe import published

EXIT_STATUS = {"SIGTERM": 143, "SIGINT": 130}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100})
def main() -> None:
    """Train the streams of the ensemble.

    Exit status: 0 finished, 1 failed, 2 wrong usage, 130 or 143 stopped and saved.
    """


@main.command("fit", epilog="The same command goes on where it was stopped, with the same result.")
@click.option("--recipe", required=True, metavar="NAME|FILE", help=f"One of {', '.join(published())}, or a TOML file.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Another value, as optimiser.epochs=3.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder with real/ and fake/, or with tar shards; a .csv or .parquet manifest; one .tar.",
)
@click.option("--base", help="DINOv2: a folder, a checkpoint, or a name on the hub (facebook/dinov2-giant).")
@click.option("--clip", help="The fusion stream's CLIP, likewise (openai/clip-vit-large-patch14).")
@click.option(
    "--from",
    "checkpoint",
    type=click.Path(path_type=Path),
    help="A checkpoint to go on from, instead of --base: its base, LoRA and head.",
)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="weights beside the output folder",
    help="Where the finished checkpoint goes, for the export.",
)
@click.option("--format", "file_format", type=click.Choice(["pth", "safetensors"]), default="pth")
@click.option("--workers", type=click.IntRange(min=0), default=2, help="Processes that read images, per GPU.")
@click.option("--allow-duplicates", is_flag=True, help="Go on though an image of one split is in another.")
@click.option("--cpu", is_flag=True, help="Leave a GPU alone.")
@click.option("--notes", default="", help="What the model card begins with.")
def fit_command(output: Path, weights: Path | None, **options: object) -> None:
    """Train one stream and phase, on one device, or on several with `accelerate launch -m training fit …`."""
    from training.run.fit import Options, fit  # slow to import: help and usage errors come at once

    chosen = Options(output=output, weights=weights or output.absolute().parent / "weights", **options)  # type: ignore[arg-type]
    with _errors():
        ended = fit(chosen, Console(stderr=True))
    sys.exit(EXIT_STATUS.get(ended, 0))


@main.command("prepare", epilog="The same command goes on where it was stopped.")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="VIDEOS_OR_IMAGES...")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--label", type=click.Choice(["real", "fake"]), help="Of all; else by the folders real/ and fake/.")
@click.option("--dataset", default="data", help="Name that caps and drop rates go by.")
@click.option("--frames", default=8, type=click.IntRange(min=1), help="Of each video, spread evenly.")
@click.option("--retinaface", type=click.Path(path_type=Path), help="retinaface.h5; without it, OpenCV's cascade.")
@click.option("--keep-faceless", is_flag=True, help="Keep pictures without a face whole, instead of leaving them out.")
@click.option(
    "--shard", default=0, type=click.IntRange(min=0), help="Sources of one tar shard; 0: files and a manifest."
)
def prepare_command(
    inputs: tuple[Path, ...], output: Path, label: str | None, retinaface: Path | None, **settings: Any
) -> None:
    """Cut 256×256 face frames from images and videos, and write a manifest.

    Each source is a group of its own: give a manifest with persons as groups where one person is in several.
    """
    from training.prepare.command import Settings, prepare
    from training.prepare.faces import describe_detector, make_detector
    from training.prepare.sources import find_sources

    with _errors():
        sources = find_sources(inputs, label)
        chosen = Settings(detector=describe_detector(retinaface), label=label or "", **settings)
        frames, without = prepare(sources, output, make_detector(retinaface), chosen, Console(stderr=True))
        click.echo(
            f"{frames} frames of {len(sources)} sources in {output}; {without} gave none (unusable.txt)", err=True
        )


class _errors:  # noqa: N801 - reads as a statement
    """Turns what stops a run into one line and exit status 1."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TrainingError):
            click.secho(f"training stopped: {error}", fg="red", err=True)
            sys.exit(1)


if __name__ == "__main__":
    main()
