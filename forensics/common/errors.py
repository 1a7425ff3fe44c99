"""What can go wrong in a study, beyond what the client raises."""


class ForensicsError(Exception):
    """Data or files with which a study cannot be made; the message says what, where and what to do."""
