"""The headers of other brokers' messages, which may hold any JSON, as message attributes, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..sqs.messages import NO_TYPED, TypedValue

#: The headers in which a broker counts deliveries and names the queues that a message has left: they are not kept.
_OF_BROKER = ("x-death", "x-delivery-count")
#: How the headers of a CloudEvent in binary mode begin.
_CLOUD_EVENTS = ("cloudEvents:", "cloudEvents_", "ce-", "ce_")
#: The type of an attribute whose value is JSON of a kind that SQS does not know.
_JSON = "String.JSON"


def read_headers(headers: Mapping[str, Any], content_type: Any) -> tuple[dict[str, str], Mapping[str, TypedValue]]:
    """Return *headers* as message attributes: those that are texts, numbers included, and those of other types.

    :param content_type: the message's, which is an attribute of a CloudEvent in binary mode.
    """
    texts = {name: value for name, value in headers.items() if isinstance(value, str)}
    if isinstance(content_type, str) and any(name.startswith(_CLOUD_EVENTS) for name in texts):
        texts.setdefault("content-type", content_type)
    if texts.keys() >= headers.keys():
        return texts, NO_TYPED
    typed: dict[str, TypedValue] = {}
    for name, value in headers.items():
        if name not in texts and name not in _OF_BROKER:
            with suppress(ValueError, RecursionError):
                typed[name] = _typed(value)
    numbers = {name: one.value for name, one in typed.items() if isinstance(one.value, str)}
    return {**texts, **numbers}, typed


def write_headers(attributes: Mapping[str, str | TypedValue]) -> dict[str, Any]:
    """Return the headers that :func:`read_headers` reads as *attributes*."""
    return {name: value if isinstance(value, str) else _value(value) for name, value in attributes.items()}


def _typed(value: Any) -> TypedValue:
    if isinstance(value, bytes):
        return TypedValue("Binary", value)
    text = json.dumps(value, default=str)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return TypedValue("Number", text)
    return TypedValue("String.Array" if isinstance(value, list) else _JSON, text)


def _value(typed: TypedValue) -> Any:
    if typed.type in ("Number", "String.Array", _JSON) and isinstance(typed.value, str):
        with suppress(ValueError, RecursionError):
            return json.loads(typed.value)
    return typed.value
