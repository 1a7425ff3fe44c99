"""What a check found, and how to mend it."""

import subprocess
import sys
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        subject: What was looked at, in a word or two.
        level: How bad it is.
        detail: What was found, with the value.
        fix: How to mend it; empty where there is nothing to mend.
    """

    subject: str
    level: Level
    detail: str
    fix: str = ""


def check_import(subject: str, code: str, fix: str) -> Finding:
    # In a process of its own: a broken binary package may crash, and a good one takes memory.
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        reason = (outcome.stderr.strip() or f"exit code {outcome.returncode}").splitlines()[-1]
        return Finding(subject, Level.WRONG, f"cannot be imported: {reason}", fix)
    return Finding(subject, Level.OK, outcome.stdout.strip())
