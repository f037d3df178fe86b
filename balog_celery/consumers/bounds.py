"""Bounds on the size and depth of a body, looked at before it is parsed."""

from __future__ import annotations

import re

from ..errors import DecodeError

_TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def check_bounds(body: str, max_bytes: int, max_depth: int) -> None:
    """Check that *body* is neither larger nor deeper than allowed.

    :param max_bytes: the largest body, in bytes of UTF-8.
    :param max_depth: how many objects and arrays may be inside one another.
    :raises DecodeError: it is.
    """
    if len(body) > max_bytes or (not body.isascii() and len(body.encode("utf-8", "surrogatepass")) > max_bytes):
        raise DecodeError(f"it is larger than {max_bytes} bytes (balog_max_body_bytes)")
    check_depth(body, max_depth)


def check_depth(body: str, max_depth: int) -> None:
    """Check that *body* is not nested deeper than allowed; arguments and error as :func:`check_bounds`."""
    # It cannot be deeper than it has brackets, and few bodies have more than that.
    if body.count("{") + body.count("[") > max_depth and _depth(body) > max_depth:
        raise DecodeError(f"it is nested deeper than {max_depth} (balog_max_depth)")


def _depth(body: str) -> int:
    depth = deepest = 0
    for char in _TEXTS.sub("", body):
        if char in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "}]":
            depth -= 1
    return deepest
