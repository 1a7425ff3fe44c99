"""The command line: `python -m export.download`."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from export.errors import ExportError, NoNetworkError
from export.weights.checkpoints import FACE_DETECTOR_FILE
from export.weights.download import CHECKPOINTS, FACE_DETECTOR_URL, download
from export.weights.published import is_known
from networks import WeightsError
from networks.weights.manifest import read_manifest

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


@click.command(
    "download",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""Examples:

    \b
    python -m export.download --weights weights
    HF_ENDPOINT=https://hub.example python -m export.download --weights weights    # a mirror

    HF_TOKEN, HF_ENDPOINT and the proxy variables are honoured. Run the command again to go on after an interruption,
    or to verify what is there.

    Exit status: 0 all there and as recorded, 1 failed, 2 wrong usage, 3 no network, 130 interrupted.""",
)
@click.option(
    "--weights",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help=f"Folder for {', '.join(CHECKPOINTS)}; made where it is not there.",
)
@click.option(
    "--revision",
    help="Branch, tag or commit of the published checkpoints.  [default: the manifest's, else main]",
)
@click.option(
    "--face-detector/--no-face-detector",
    default=True,
    show_default=True,
    help=f"Also fetch {FACE_DETECTOR_FILE} (119 MB), the paper's face detector.",
)
@click.option("--face-detector-url", default=FACE_DETECTOR_URL, help="A mirror of that file.")
def main(weights: Path, revision: str | None, face_detector: bool, face_detector_url: str) -> None:
    """Fetch the published weights, and verify them ever after.

    The three checkpoints come from the Hugging Face hub, the face detector from its package's releases. The detector
    has to have the SHA-256 that was known when this command was written. The checkpoints' were not known: what the
    hub says of them is trusted on first use.

    Sizes, SHA-256 and the hub's commit are recorded in manifest.json of the folder when a file is first seen; from
    then on this command and `python -m export` refuse a file that is not what was recorded. Files that were put there
    by hand are compared with what is known, and checkpoints with what the hub says of them.
    """
    console = Console()
    try:
        download(console, weights, revision, face_detector_url if face_detector else None)
    except (ExportError, WeightsError) as error:
        Console(stderr=True).print(f"[bold red]download failed:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(3 if isinstance(error, NoNetworkError) else 1)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; run the same command again to go on")
        sys.exit(INTERRUPTED)
    for name, entry in read_manifest(weights).items():
        console.print(
            f"{name}  {entry.size / 1e6:,.0f} MB  sha256 {entry.sha256[:12]}…  {entry.source}  "
            + ("known digest" if is_known(name, entry.sha256) else "trusted on first use"),
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"All there, and as recorded in {weights / 'manifest.json'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main(prog_name="python -m export.download")
