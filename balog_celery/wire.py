"""How records are written, apart from the models that describe them.

Making pydantic's models is half of what a producer would wait for at import, and a record that needs no model needs
none of that: neither this, nor ``processors.py``, nor ``logger.py`` imports them before they are needed.
"""

from __future__ import annotations

import json
import re
from datetime import date, time
from typing import Any

from pydantic_core import ValidationError, to_jsonable_python

from .text import printable

#: The version of the schema that is written. It is the original's: its consumers read these records.
SCHEMA_VERSION = "0.0.1"

#: The severities of a log payload, as they are written.
SEVERITIES = frozenset({"debug", "info", "warning", "error", "critical"})
_SEVERITY_NAMES = {"warn": "warning", "fatal": "critical"}

# In JSON text: an escaped backslash or a whole surrogate pair (kept), or a lone surrogate.
_LONE_SURROGATE = re.compile(r"(\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\u[dD][89a-fA-F]..")


def canonical_severity(value: str) -> str:
    """Return one of :data:`SEVERITIES` for its name in any case, ``warn`` and ``fatal`` too; other text as it is."""
    name = value.lower()
    name = _SEVERITY_NAMES.get(name, name)
    return name if name in SEVERITIES else value


def dumps(document: object) -> str:
    """Write *document* as JSON text in ASCII, as SQS refuses some characters beyond it, spaced as the original's was.

    What JSON does not know is written as pydantic writes it: sets and generators as lists; UUIDs, paths and decimals as
    texts, exactly; enums by their values; bytes as the UTF-8 text that they are. Dates and times are written by their
    ``isoformat()``. Lone surrogates, which are not Unicode text, are written as U+FFFD.

    :raises TypeError: there is no such way for a value.
    :raises ValueError: a float is not finite, bytes are not UTF-8, or the document holds itself.
    """
    text = _encoder.encode(document)
    return mend_surrogates(text) if "\\ud" in text else text


def _jsonable(value: object) -> Any:
    if isinstance(value, (date, time)):
        return value.isoformat()
    return to_jsonable_python(value, inf_nan_mode="constants")


_encoder = json.JSONEncoder(allow_nan=False, default=_jsonable)


def mend_surrogates(text: str) -> str:
    """Return *text*, which is JSON, with U+FFFD in the place of each lone surrogate, escaped or not."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _LONE_SURROGATE.sub(lambda match: match[1] or r"\ufffd", text)


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong, and where, without the values."""
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(map(str, first["loc"]))
    also = f" (and {len(more)} more)" if more else ""
    reason = first["msg"].removeprefix("Value error, ")
    return printable(f"{place}: {reason}" if place else reason) + also
