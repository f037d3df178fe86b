"""The mark of a dead letter: the one message attribute that this package adds to a message that it keeps or replays.

It is a JSON object. The message's own attributes stay as they were sent. A sender can forge a mark, so it is believed
only where that does no harm: a topic's message takes its identity from it (:meth:`.message.Message.of`), and nothing
else; :mod:`balog_celery.dead_letters.reader` says when it describes a failure.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from pydantic_core import from_json

#: The name of the attribute.
MARK = "balog-dead-letter"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def read_mark(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the mark in the *attributes* of a message; empty if there is none, or none that can be read."""
    text = attributes.get(MARK)
    if not isinstance(text, str):
        return _NOTHING
    try:
        mark = from_json(text)
    except (ValueError, TypeError):  # TypeError: it has a lone surrogate
        return _NOTHING
    return mark if isinstance(mark, dict) else _NOTHING


def write_mark(mark: Mapping[str, Any]) -> str:
    """Return the value of the attribute for *mark*, without its empty members."""
    return json.dumps({name: value for name, value in mark.items() if value}, separators=(",", ":"))


def identity(message_id: str, sent: int, attributes: Mapping[str, Any]) -> tuple[str, int]:
    """Return the id of a message and the time when it was sent: those of its first time, if it was sent again."""
    if MARK not in attributes:
        return message_id, sent
    mark = read_mark(attributes)
    return text_in(mark, "message_id") or message_id, number_in(mark, "sent") or sent


def texts_in(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts among the message attributes for which a message had no room beside its mark."""
    return {name: value for name, value in _held(attributes).items() if isinstance(value, str)}


def typed_in(attributes: Mapping[str, Any]) -> dict[str, tuple[str, str | bytes]]:
    """Return the attributes of other types than ``String`` among them, each as its type and value."""
    found: dict[str, tuple[str, str | bytes]] = {}
    for name, pair in _held(attributes).items():
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
            with suppress(ValueError):
                found[name] = typed_value(*pair)
    return found


def typed_value(kind: str, value: str) -> tuple[str, str | bytes]:
    """Return *kind*, and the value that *value* is in JSON.

    :raises ValueError: it is of a binary type, and no base64.
    """
    is_binary = kind.partition(".")[0] == "Binary"
    return kind, base64.b64decode(value, validate=True) if is_binary else value


def _held(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    held = read_mark(attributes).get("attributes")
    return held if isinstance(held, dict) else _NOTHING


def text_in(mark: Mapping[str, Any], name: str) -> str:
    """Return the text of that name in *mark*; "" if there is none."""
    value = mark.get(name)
    return value if isinstance(value, str) else ""


def number_in(mark: Mapping[str, Any], name: str) -> int:
    """Return the number of that name in *mark*; 0 if there is none that can be a time in milliseconds."""
    value = mark.get(name)
    return value if type(value) is int and 0 <= value < 10**14 else 0
