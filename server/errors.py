"""What can go wrong, as an exception tree.

- ServerError: anything this package reports to its user; carries the exit code.
  - InstallError: tritonserver could not be fetched or laid out.
  - RefusedError: the start was refused before a server was launched (exit code 2).
    - RepositoryError: the model repository cannot be served as it is.
  - StartError: the server's first start failed, or never answered a real inference.
  - GaveUpError: the server kept failing after restarts.
"""


class ServerError(Exception):
    """A failure that ends the command; its text says what, the value and the fix."""

    exit_code = 1


class InstallError(ServerError):
    """tritonserver could not be fetched or laid out."""


class RefusedError(ServerError):
    """The start was refused before a server was launched."""

    exit_code = 2


class RepositoryError(RefusedError):
    """The model repository cannot be served as it is.

    Attributes:
        fix: How to mend it.
    """

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__(text)
        self.fix = fix


class StartError(ServerError):
    """The first start failed, or the server never answered a real inference."""


class GaveUpError(ServerError):
    """The server kept failing after several restarts in a row."""
