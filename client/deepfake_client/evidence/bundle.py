"""Evidence for one picture: everything that is known of a verdict, in one file."""

import base64
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..client import DetectorClient
from ..contract.streams import STREAMS
from ..errors import DetectorError
from ..images.items import Faces
from ..results import Verdict
from .changes import Change, VoteRule, rule_of, what_would_change
from .inspection import Seen, inspect
from .pictures import attention_png, degraded_copies, pixels_png
from .receipt import Deployment, ask_deployment, make_receipt

TITLES: Mapping[str, str] = {stream.name: stream.title for stream in STREAMS}
"""Names of the streams for people."""


@dataclass(frozen=True)
class Copy:
    """A degraded copy of the picture, and what is said of it."""

    name: str
    data: bytes
    verdict: Verdict


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of a verdict.

    Attributes:
        data: The picture's file.
        verdict: On it.
        deployment: What gave it.
        rule: How the votes add up.
        changes: What would change the verdict.
        maps: Where each stream looked, as PNG files by its name; without those that the server does not give.
        inputs: What each stream saw, as PNG files by its name.
        copies: Degraded copies with their verdicts; None where they were not asked for.
        note: Why there are no maps, where there are none.
    """

    data: bytes
    verdict: Verdict
    deployment: Deployment
    rule: VoteRule
    changes: Sequence[Change]
    maps: Mapping[str, bytes]
    inputs: Mapping[str, bytes]
    copies: Sequence[Copy] | None
    note: str | None = None

    @property
    def receipt(self) -> dict[str, Any]:
        """See `make_receipt`."""
        return make_receipt(self.data, self.verdict, self.deployment)

    @property
    def agreeing(self) -> int:
        """Degraded copies with the same verdict."""
        return sum(copy.verdict.verdict == self.verdict.verdict for copy in self.copies or ())


def collect(
    client: DetectorClient,
    data: bytes,
    verdict: Verdict,
    *,
    with_maps: bool = True,
    with_copies: bool = True,
    deployment: Deployment | None = None,
) -> Evidence:
    """Collects the evidence for a verdict.

    Args:
        client: Who gave it.
        data: The picture's file.
        verdict: On it; only with the status "ok" there is more than the verdict itself.
        with_maps: Whether to ask where the streams looked.
        with_copies: Whether to score degraded copies.
        deployment: What gave it; asked for where left out.

    Raises:
        DetectorError: The server does not answer.
        ImportError: Pillow is not installed.
    """
    deployment = deployment or ask_deployment(client)
    rule = rule_of(deployment.calibration)
    seen: Mapping[str, Seen] = {}
    note = None
    if verdict.ok and with_maps:
        try:
            seen = _inspect(client, data, verdict)
        except DetectorError as error:  # a gateway may let clients to the ensemble alone
            note = f"no attention maps: {error}"
    copies = None
    if with_copies:
        made = degraded_copies(data) if verdict.ok else {}
        faces: Faces = "main" if verdict.faces is None else "all"
        scored = [client.score(each, faces=faces) for each in made.values()]
        copies = [Copy(name, each, said) for (name, each), said in zip(made.items(), scored, strict=True)]
    maps = {name: png for name, each in seen.items() if (png := attention_png(each)) is not None}
    return Evidence(
        data=data,
        verdict=verdict,
        deployment=deployment,
        rule=rule,
        changes=what_would_change(verdict, rule),
        maps=maps,
        inputs={name: pixels_png(each.pixels) for name, each in seen.items()},
        copies=copies,
        note=note,
    )


def _inspect(client: DetectorClient, data: bytes, verdict: Verdict) -> Mapping[str, Seen]:
    """What the streams saw of the picture, or of its worst face, where each was judged."""
    if verdict.faces:
        for face in client._find_faces(data):
            if face.face.box == verdict.face.box:
                return inspect(client._settings, face.frame, face.box)
    return inspect(client._settings, data, verdict.face.box)


def report_html(evidence: Evidence) -> str:
    """A page about the evidence that needs no other file.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("reports need Jinja2: pip install 'deepfake-client[evidence]'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["data_url"] = data_url
    return environment.get_template("report.html.j2").render(evidence=evidence, titles=TITLES, receipt=evidence.receipt)


def bundle(evidence: Evidence) -> bytes:
    """The evidence as a ZIP file: row, receipt, report, maps; never the picture itself."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("report.html", report_html(evidence))
        archive.writestr("receipt.json", _json(evidence.receipt))
        archive.writestr("row.json", _json(evidence.verdict.to_dict()))
        archive.writestr("changes.json", _json([asdict(change) for change in evidence.changes]))
        if evidence.copies is not None:
            archive.writestr(
                "stability.json", _json([{**copy.verdict.to_dict(), "path": copy.name} for copy in evidence.copies])
            )
        for name, png in evidence.maps.items():
            archive.writestr(f"maps/{name}.png", png)
        for name, png in evidence.inputs.items():
            archive.writestr(f"inputs/{name}.png", png)
    return file.getvalue()


def data_url(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
