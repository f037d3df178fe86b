"""Checks of arguments, so that a wrong one is an error where it is written, and not later in a thread."""

from __future__ import annotations

import math

from .errors import ConfigurationError
from .text import printable


def is_number(value: object) -> bool:
    """Return whether *value* is a finite number, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_blank(value: object) -> bool:
    """Return whether *value* is a text without content, as a variable of the environment gives that is empty."""
    return isinstance(value, str) and not value.strip()


def optional_text(name: str, value: object, *, is_secret: bool = False) -> str | None:
    """Return *value*, a text; None if it is None or blank, which counts as not given.

    :param name: the argument's name.
    :param is_secret: whether an error must not show the value.
    :raises ConfigurationError: it is something else.
    """
    if value is None or is_blank(value):
        return None
    if not isinstance(value, str):
        raise _bad(name, "" if is_secret else shown(value), "a text, or leave it out")
    return value


def check_number(name: str, value: object, what: str, *, least: float = 0, most: float = math.inf) -> None:
    """Check that *value* is a number.

    :param name: the argument's name.
    :param what: what to give, for the error: ``"a number of seconds, 0 or more"``.
    :param least: the smallest that it may be.
    :raises ConfigurationError: it is no number, or out of range.
    """
    if not is_number(value) or not least <= value <= most:  # type: ignore[operator]
        raise _bad(name, shown(value), what)


def check_whole(name: str, value: object, what: str, *, least: int = 0, most: float = math.inf) -> None:
    """Check *value* as :func:`check_number` does, and that it is an integer."""
    if not isinstance(value, int):
        raise _bad(name, shown(value), what)
    check_number(name, value, what, least=least, most=most)


def shown(value: object) -> str:
    """Return how an error shows *value*."""
    return f" {printable(repr(value))}"


def _bad(name: str, value: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"bad {name}{value}: give {what}")
