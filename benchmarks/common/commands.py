"""The project's own commands, as a user runs them."""

import subprocess
import sys
from collections.abc import Sequence

import click

from benchmarks.common.machine import ROOT


def run_module(module: str, *arguments: str, allowed: Sequence[int] = (0,)) -> None:
    """Runs `python -m module`, whose output is shown.

    Args:
        module: Its name.
        arguments: Of its command line.
        allowed: Exit statuses that are no failure.

    Raises:
        click.ClickException: It ended with another.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False)
    if done.returncode not in allowed:
        raise click.ClickException(f"python -m {module} ended with {done.returncode}; see above")
