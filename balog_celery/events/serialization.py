"""Writes records as JSON, without the models that describe them.

Making pydantic's models is half of what a producer would wait for at import, and a record that needs no model needs
none of that: neither this, nor ``processors.py``, nor ``logger.py`` imports them before they are needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import fields
from datetime import date, time
from typing import Any, get_args

from pydantic_core import ValidationError, core_schema, from_json, to_jsonable_python

from ..errors import DecodeError
from ..text import printable

#: The version of the schema that is written. It is the original's: its consumers read these records.
SCHEMA_VERSION = "0.0.1"

#: The longest schema, id, channel and cls_type, in characters: caches and spans are keyed by them.
MAX_NAME = 1_024

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
    texts, exactly; enums by their values; bytes as the UTF-8 text that they are; models and dataclasses as objects.
    Dates and times are written by their ``isoformat()``. Lone surrogates, which are not Unicode text, are written as
    U+FFFD.

    :raises TypeError: there is no such way for a value.
    :raises ValueError: a float is not finite, bytes are not UTF-8, or the document holds itself.
    """
    text = _encoder.encode(document)
    return mend_surrogates(text) if "\\ud" in text else text


def jsonable(value: object) -> Any:
    """Return *value*, which JSON does not know, as :func:`dumps` writes it; errors as there.

    The fields of a model or a dataclass may again be values that JSON does not know.
    """
    if isinstance(value, (date, time)):
        return value.isoformat()
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    if serializer is not None:
        content = serializer.to_python(value, by_alias=True, warnings=False)
        if type(content) is not type(value):  # not a URL or a secret of pydantic, which are texts
            return content
    elif hasattr(type(value), "__dataclass_fields__"):
        return {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
    return to_jsonable_python(value, inf_nan_mode="constants")


_encoder = json.JSONEncoder(allow_nan=False, default=jsonable)


def mend_surrogates(text: str) -> str:
    """Return *text*, which is JSON, with U+FFFD in the place of each lone surrogate, escaped or not."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _LONE_SURROGATE.sub(lambda match: match[1] or r"\ufffd", text)


def read_json(body: str) -> Any:
    """Read the JSON text of a message; a byte order mark before it is skipped.

    :raises DecodeError: it is not JSON; the reason is one line and holds nothing of the body.
    """
    try:
        try:
            return from_json(body, allow_inf_nan=False)
        except (ValueError, TypeError):  # the latter is for a surrogate that is not escaped
            mended = mend_surrogates(body).removeprefix("\ufeff")
            if mended == body:
                raise
            return from_json(mended, allow_inf_nan=False)
    except Exception as error:
        raise DecodeError(f"it is not JSON: {printable(error)}") from None


class InvalidValue(ValueError):
    """A value is not what a record asks for; the text holds nothing of it."""


#: Kinds of pydantic's errors whose texts are pydantic's own, and hold nothing of the input.
_PLAIN_ERRORS = frozenset(get_args(core_schema.ErrorType)) - {
    "assertion_error",
    "union_tag_invalid",
    "uuid_parsing",
    "value_error",
}


def explain(error: ValidationError, declared: Collection[str] | None = None) -> str:
    """Return in one line what is wrong, and where, with no value of the document.

    :param declared: the names of fields that may be shown; any other key is the document's, and shown as ``*``. None:
        the caller made the document, so all of them.
    """
    first, *more = error.errors(include_url=False, include_input=False)
    place = ".".join(
        str(part) if declared is None or isinstance(part, int) or part in declared else "*" for part in first["loc"]
    )
    cause = first.get("ctx", {}).get("error")
    if first["type"] in _PLAIN_ERRORS:
        reason = first["msg"]
    else:
        reason = str(cause) if isinstance(cause, InvalidValue) else f"it is refused ({first['type']})"
    also = f" (and {len(more)} more)" if more else ""
    return printable(f"{place}: {reason}" if place else reason) + also
