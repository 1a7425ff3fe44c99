"""What gave the rows of a file, in a file beside it: so that rows can be audited years later."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...calibration import OperatingPoint
from ...client import DetectorClient
from ...evidence import ask_deployment
from ...images.items import Faces, Item
from ...results import STREAM_NAMES
from ...transport.calls import framing_call
from ...transport.flows import once
from ...video import VideoOptions


class CountedImages:
    """Counts the images of a run while they are taken.

    Attributes:
        count: How many there were so far.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items, self.count = items, 0

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self.count += 1
            yield item


class Sidecar:
    """The file beside an output, OUTPUT.run.json; each run writes it anew, at its beginning and at its end."""

    def __init__(self, output: Path | None, about: Mapping[str, Any]) -> None:
        self._path = None if output is None else output.with_name(f"{output.name}.run.json")
        self._about = dict(about)
        self._started = _now()

    def write(self, *, inputs: int | None = None, rows: int | None = None, ended: bool = False) -> None:
        """Writes it; counts where the run is over. Where it `ended` by itself, they must be equal.

        Raises:
            OSError: It cannot be written.
        """
        if self._path is None:
            return
        counts = {"inputs": inputs, "rows": rows, "complete": ended and inputs == rows}
        document = {**self._about, "started": self._started, "finished": _now() if ended else None, **counts}
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        partial.replace(self._path)


def describe_run(
    client: DetectorClient, point: OperatingPoint | None, faces: Faces, videos: VideoOptions
) -> dict[str, Any]:
    """What gives the rows of a run: weights and their state, calibration, threshold, framing, versions.

    Raises:
        DetectorError: The server does not answer.
    """
    deployment = ask_deployment(client)
    return {
        **deployment.to_dict(),
        "framing": client._run(once(framing_call(client._settings))),
        "threshold": None if point is None else {"far": point.far, "probability": point.threshold},
        "faces": {"images": faces, "videos": videos.faces},
        "frames": {"fps": videos.sampling.fps, "number": videos.sampling.frames},
        "streams": list(STREAM_NAMES),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
