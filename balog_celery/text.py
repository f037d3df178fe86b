"""Text from outside, made fit for one log line."""

from __future__ import annotations


def printable(value: object, limit: int = 200) -> str:
    """Return *value* as text that cannot forge or break a log line.

    Control characters, line breaks and characters that are not printable are written as escapes, and the text is cut.

    :param value: anything; ``str()`` of it is used.
    :param limit: the longest text to return, in characters.
    """
    text = str(value)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
