"""The command line, and what other command lines share of it: connection options, the progress bar.

from deepfake_client.cli import Connection, connection_options

@click.command()
@connection_options
def command(connection: Connection) -> None:
    with connection.make_client() as client: ...
"""

from .commands import main
from .connection import Connection, connection_options
from .output.progress import new_bar

__all__ = ["Connection", "connection_options", "main", "new_bar"]
