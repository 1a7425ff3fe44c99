"""Constants by their full names, for tests that hold them by value."""

import importlib
from typing import Any


def constant(name: str) -> Any:
    """The value of a module's constant, such as `server.defaults.DRAIN_SECONDS`."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
