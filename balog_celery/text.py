"""Text for logs and terminals: from outside made safe, counts with their nouns, durations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: A host with its port, and a path, of a URL.
_PLACE = re.compile(r"(?:\[[^]@]*]|[^:@/]+)(?::\d*)?/[^@]*")


def printable(value: object, limit: int = 200) -> str:
    """Return *value* as text that cannot forge or break a log line.

    Characters that are not printable, such as line breaks, are escaped. Long text is cut.

    :param value: anything; ``str()`` of it is used.
    :param limit: the longest text to return, in characters.
    """
    text = str(value)
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """Return *text* as :func:`printable` does, uncut, and with its line breaks."""
    return text if text.isprintable() else "\n".join(printable(line, len(line)) for line in text.split("\n"))


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 record``, ``2 records``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration in the largest unit of which it has two."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def plain_topic(topic: str) -> str:
    """Return *topic* without the secrets that a URL may hold (user, password, query, fragment) and its last slashes.

    A queue needs none of them, and a topic is in logs, metrics, tasks and dead letters.
    """
    scheme, separator, rest = topic.partition("://")
    if not separator:
        return topic
    # A query may hold an "@", and a password a "?"; the place of a queue holds neither.
    place = _before_query(rest).rpartition("@")[2]
    if not _PLACE.fullmatch(place):
        place = _before_query(rest.rpartition("@")[2])
    return f"{scheme.lower()}://{place.rstrip('/')}"


def without_secrets(value: Any) -> Any:
    """Return *value* with each text in it, and in its lists and dicts, as :func:`plain_topic` returns it."""
    if isinstance(value, str):
        return plain_topic(value)
    if isinstance(value, Mapping):
        return {without_secrets(key): without_secrets(one) for key, one in value.items()}
    return type(value)(map(without_secrets, value)) if type(value) in (list, tuple) else value


def brief(error: BaseException) -> str:
    """Return the type of *error* and, where it shows no part of a URL, its text.

    Some clients put the whole URL into their errors. What parses one raises a ValueError with the part that is wrong,
    which may be one of the password.
    """
    kind, text = type(error).__name__, str(error)
    return kind if isinstance(error, ValueError) or "://" in text else printable(f"{kind}: {text}", 500)


def _before_query(url: str) -> str:
    return url.partition("?")[0].partition("#")[0]
