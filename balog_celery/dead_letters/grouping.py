"""Recognizes the same error in dead letters, although each occurrence names other values."""

from __future__ import annotations

import re

#: The ``repr`` of an exception: its type, and its arguments.
_REPR = re.compile(r"(?P<type>[A-Za-z_][\w.]*)\((?P<quote>['\"])(?P<text>.*)(?P=quote),?\)")
#: Parts that differ between occurrences: quoted texts, addresses, what follows "=", and words with digits that are no
#: name of a type or function.
_VALUES = re.compile(r"""'[^']*'|"[^"]*"|\S+@\S+|(?<==)[^\s,;]+|\b\w*\d[\w.:-]*\b(?!\()""")


def error_kind(error: str) -> str:
    """Return *error* with "…" in place of values: numbers, ids and quoted texts.

    The text of an exception is not a quoted text: ``ValueError('no user 7')`` becomes ``ValueError: no user …``.
    """
    if found := _REPR.fullmatch(error):
        return f"{found['type']}: {_VALUES.sub('…', found['text'])}"
    return _VALUES.sub("…", error)
