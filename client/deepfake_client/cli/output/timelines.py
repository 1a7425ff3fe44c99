"""Timelines of videos as files."""

import hashlib
import os
import re
from pathlib import Path

from ...video import VideoVerdict, draw_timeline


def save_timeline(folder: Path, verdict: VideoVerdict) -> Path:
    """Draws a video's timeline into a folder, by its name and a digest of its path, so that no two meet; the file."""
    path = verdict.path or "video"
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    name = re.sub(r"[^\w.-]+", "_", Path(path).name)[:80]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{digest}.svg"
    file.write_text(draw_timeline(verdict), encoding="utf-8", errors="backslashreplace")
    return file
