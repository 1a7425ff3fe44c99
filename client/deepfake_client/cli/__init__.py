"""The command line, and the connection options that other command lines share.

from deepfake_client.cli import Connection, connection_options

@click.command()
@connection_options
def command(connection: Connection) -> None:
    with connection.make_client() as client: ...
"""

from .commands import main
from .connection import Connection, connection_options
from .group import SuggestingGroup

__all__ = ["Connection", "SuggestingGroup", "connection_options", "main"]
