"""Text from elsewhere, such as names of files and words of servers, made safe to show."""


def printable(text: str, *, keep: str = "") -> str:
    """The text with escapes for what must not reach a terminal: control and formatting characters, broken UTF-8.

    Args:
        text: Any text.
        keep: Characters that stay as they are, such as the newlines of a message of our own.
    """
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )
