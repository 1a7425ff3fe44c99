"""`python -m server`; see `cli` for the commands."""

import sys

try:
    from server.cli import run
except ModuleNotFoundError as error:
    sys.exit(f"server: {error.name} is not installed in {sys.prefix}; run `make setup`, or `pip install -e .`")

if __name__ == "__main__":
    run()
