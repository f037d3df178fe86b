"""Signatures and annotations of users' code, which may name what exists for type checkers only.

From Python 3.14 on, the names in annotations are looked up when they are read, and one that does not exist is a
``NameError`` unless it is read leniently. Before, such annotations are texts.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

_OF_SIGNATURES: dict[str, Any] = {}
_OF_CLASSES: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    from annotationlib import Format

    _OF_SIGNATURES["annotation_format"] = _OF_CLASSES["format"] = Format.FORWARDREF


def signature_of(func: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of *func*.

    :raises TypeError, ValueError: it has none, as some builtins.
    """
    return inspect.signature(func, **_OF_SIGNATURES)


def declares(cls: type, name: str) -> bool:
    """Return whether *cls* itself annotates *name*, and not only a base of it."""
    return name in inspect.get_annotations(cls, **_OF_CLASSES)


def is_coroutine_function(func: Any) -> bool:
    """Return whether *func*, a function or an object with ``__call__``, is called for a coroutine."""
    return any(map(inspect.iscoroutinefunction, _called(func)))


def why_not(func: Any, *parameters: str, may_await: bool = False, may_yield: bool = False) -> str:
    """Return why *func* cannot be called with what *parameters* stand for; "" if nothing is seen to be wrong.

    :param may_await: whether a coroutine that it returns would be awaited.
    :param may_yield: whether a generator that it returns would be iterated over.
    """
    if not callable(func):
        return "it cannot be called"
    if any(map(inspect.isasyncgenfunction, _called(func))) or (
        not may_yield and any(map(inspect.isgeneratorfunction, _called(func)))
    ):
        return "it is a generator, so calling it would run none of its code: remove its yield"
    if not may_await and is_coroutine_function(func):
        return "it is async, and nothing would await it: make it a plain function"
    try:
        # Of the function itself: a decorator with functools.wraps may pass more, or less.
        signature = inspect.signature(func, follow_wrapped=False, **_OF_SIGNATURES)
        signature.bind(*parameters)
    except ValueError:  # a builtin may have no signature
        return ""
    except TypeError as error:
        return f"it cannot be called with ({', '.join(parameters)}): {error}"
    return ""


def name_of(func: Any) -> str:
    """Return the dotted name of *func*; of an object that has none, and of a partial function, that of its class."""
    named = func if hasattr(func, "__qualname__") else type(func)
    return f"{named.__module__}.{named.__qualname__}"


def _called(func: Any) -> tuple[Any, Any]:
    """Return *func*, and what is called if it is an object with ``__call__``."""
    return func, getattr(func, "__call__", None)  # noqa: B004  # the object's own
