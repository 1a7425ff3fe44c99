"""Verdicts as a table on a terminal. Each row is printed as it comes."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...bulk.output.text_rows import Sink
from ...contract.contract import FACE_NONE, FACE_TOO_SMALL
from ...results import STREAM_NAMES, Verdict
from ...status import explain
from ...text import printable

_COLOURS = {"fake": "red", "real": "green", "uncertain": "yellow"}


def table(console: Console) -> Sink:
    """One line an image on a terminal, below headings."""
    fixed = {"verdict": 9, "score": 5, "global": 6, "local": 6, "semantic": 8, "face": 14}
    width = max(console.width - sum(fixed.values()) - 2 * len(fixed), 16)
    show_header = True

    def write(verdict: Verdict) -> None:
        nonlocal show_header
        grid = Table(box=None, show_header=show_header, pad_edge=False, padding=(0, 2, 0, 0))
        grid.add_column("image", width=width, no_wrap=True)
        for name, size in fixed.items():
            grid.add_column(name, width=size, no_wrap=True)
        path = printable(verdict.path or "")
        if verdict.ok:
            streams = (_short(verdict.streams[name].probability) for name in STREAM_NAMES)
            decision = Text(verdict.verdict or "", style=_COLOURS.get(verdict.verdict or "", ""))
            shown = path if len(path) <= width else "…" + path[1 - width :]
            grid.add_row(Text(shown), decision, f"{verdict.score}", *streams, Text(_face(verdict)))
            console.print(grid)
        else:
            if show_header:
                console.print(grid)
            console.print(Text.assemble(path, "  ", (_reason(verdict), "yellow")))
        show_header = False

    return write


def _reason(verdict: Verdict) -> str:
    reason = printable(verdict.error) if verdict.error else explain(verdict.status)
    return reason if reason == verdict.status else f"{verdict.status}: {reason}"


def _face(verdict: Verdict) -> str:
    source = verdict.face.source or ""
    return {FACE_NONE: "no face", FACE_TOO_SMALL: "face too small"}.get(source, source)


def _short(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.3f}"
