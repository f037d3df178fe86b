"""Limits of a message: of its body, checked before it is decoded, and of the tries to process it."""

from __future__ import annotations

import math

from ..errors import DecodeError

#: A message with which the engine itself failed this many times becomes a dead letter.
MAX_TRIES = 3
#: All bytes but those that affect the depth of a document.
_OTHERS = bytes(set(range(256)) - set(b'"[]{}'))


def check_limits(body: str, max_depth: int, max_bytes: float = math.inf) -> None:
    """Check that *body* is neither deeper nor larger than allowed.

    :param max_depth: how many objects and arrays may be inside one another.
    :param max_bytes: the largest body, in bytes of UTF-8.
    :raises DecodeError: it is.
    """
    if len(body) > max_bytes or (not body.isascii() and len(body.encode("utf-8", "surrogatepass")) > max_bytes):
        raise DecodeError(f"it is larger than {max_bytes} bytes (balog_max_body_bytes)")
    # It cannot be deeper than it has brackets, and few bodies have more than that.
    if body.count("{") + body.count("[") > max_depth and _is_deeper(body, max_depth):
        raise DecodeError(f"it is nested deeper than {max_depth} (balog_max_depth)")


def _is_deeper(body: str, max_depth: int) -> bool:
    """Return whether *body* is deeper than allowed.

    Each step goes over it once: a regular expression would start again at each quote of a text that is never closed.
    Only the loop is not in C, and so lets other threads run.
    """
    data = body.encode("utf-8", "surrogatepass")
    # Without escapes, every second piece between quotes is a text.
    data = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _OTHERS)
    depth = 0
    for bracket in b"".join(data.split(b'"')[::2]):
        if bracket in b"[{":
            depth += 1
            if depth > max_depth:
                return True
        else:
            depth -= 1
    return False
