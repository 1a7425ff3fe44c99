"""What is raised for an image that cannot be scored."""


class ImageError(ValueError):
    """An image that cannot be scored.

    Attributes:
        status: The `STATUS` code that tells the caller why.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status
