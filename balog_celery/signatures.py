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
