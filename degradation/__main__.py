"""`python -m degradation`: a contact sheet of what the engine makes of images."""

from pathlib import Path

import click
import cv2
import numpy as np

from degradation.engine import Settings, degrade
from degradation.pixels import Bytes, Image, from_bytes, generator, to_bytes

SIDE = 192
"""px; of one picture on the sheet."""

HEADING = 22


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), default=Path("degradation.png"))
@click.option("--strength", "strengths", multiple=True, type=click.FloatRange(0, 1), default=(0.2, 0.6, 1.0))
@click.option("--op-p", default=0.3, type=click.FloatRange(0, 1), help="Probability of each operation.")
@click.option("--seed", default=1024, type=click.IntRange(0))
def main(images: tuple[Path, ...], output: Path, strengths: tuple[float, ...], op_p: float, seed: int) -> None:
    """Draw a row for each of IMAGES: as it is, and degraded by the engine at each strength with the same seed.

    Images are brought to 252×252 pixels first, the size at which training degrades them.
    """
    pictures = [_read(path) for path in images]
    rows = [_row(picture, strengths, op_p, seed + index, pictures) for index, picture in enumerate(pictures)]
    sheet = np.concatenate([_heading(strengths), *rows])
    if not cv2.imwrite(str(output), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise click.ClickException(f"{output} cannot be written; name a .png or .jpg file in a folder that exists")
    click.echo(f"{output}: {len(images)} images at strengths {', '.join(map(str, strengths))}")


def _read(path: Path) -> Image:
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise click.ClickException(f"{path} is not an image that OpenCV reads; leave it out")
    scaled = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), (252, 252), interpolation=cv2.INTER_AREA)
    return from_bytes(np.asarray(scaled, np.uint8))


def _row(picture: Image, strengths: tuple[float, ...], op_p: float, seed: int, thumbnails: list[Image]) -> Bytes:
    settings = [Settings(global_p=1, op_p=op_p, strength=strength) for strength in strengths]
    degraded = [degrade(picture, generator(seed), each, thumbnails)[0] for each in settings]
    shown = [to_bytes(each) for each in (picture, *degraded)]
    return np.concatenate(
        [np.asarray(cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8) for each in shown], axis=1
    )


def _heading(strengths: tuple[float, ...]) -> Bytes:
    bar = np.full((HEADING, SIDE * (1 + len(strengths)), 3), 255, np.uint8)
    for column, text in enumerate(("as it is", *(f"strength {strength:g}" for strength in strengths))):
        origin = (column * SIDE + 6, HEADING - 7)
        cv2.putText(bar, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return bar


if __name__ == "__main__":
    main(prog_name="python -m degradation")
