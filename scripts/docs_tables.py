"""Tables of the documentation that are made from the code: `<!-- table: NAME -->` in a page becomes the table."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "client")]


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def statuses() -> str:
    """What each status means and what mends it, as the client says it."""
    from deepfake_client import STATUS_HINTS

    return _table(("status", "meaning, and what to do"), [(f"`{name}`", hint) for name, hint in STATUS_HINTS.items()])


def configuration() -> str:
    """Every parameter of the Python steps: the comment above it in config.pbtxt is its documentation."""
    parameter = r'parameters \{ key: "(\w+)" value \{ string_value: "(.*)" \} \}'
    rows = []
    for path in sorted((ROOT / "model_repository").glob("*/config.pbtxt")):
        comment: list[str] = []
        previous = ""
        for line in path.read_text().splitlines():
            if line.startswith("#"):  # one comment may stand above several parameters
                comment = [*comment, line[1:].strip()] if previous.startswith("#") else [line[1:].strip()]
            elif found := re.fullmatch(parameter, line):
                value = f"`{found[2]}`" if found[2] else "empty"
                rows.append((f"`{path.parent.name}`", f"`{found[1]}`", value, " ".join(comment)))
            previous = line
    return _table(("model", "parameter", "value as delivered", "what it says"), rows)


def metrics() -> str:
    """What the dashboard draws, and from which metrics of tritonserver."""
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/deepfake-detector.json").read_text())
    rows = []
    for panel in dashboard["panels"]:
        drawn = " ".join(target["expr"] for target in panel["targets"])
        names = sorted(set(re.findall(r"nv_\w+|deepfake_detector_cache_\w+", drawn)))
        rows.append((panel["title"], ", ".join(f"`{name}`" for name in names)))
    return _table(("panel", "metrics"), rows)


TABLES: dict[str, Callable[[], str]] = {"statuses": statuses, "configuration": configuration, "metrics": metrics}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by MkDocs for each page."""
    return re.sub(r"<!-- table: (\w+) -->", lambda found: TABLES[found[1]](), markdown)
