"""Events of sources outside AWS: Azure's Event Grid, Cloudflare's R2, Debezium."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..message import join_id
from .documents import Event, Kind, text_at, text_or, value_at

#: Debezium's letters for what happened to a row.
_OPERATIONS = {"c": "create", "u": "update", "d": "delete", "r": "read", "t": "truncate", "m": "message"}


def is_event_grid(document: Any) -> bool:
    """Return whether *document* is an event in the schema of Azure Event Grid."""
    return isinstance(document, dict) and all(
        key in document for key in ("eventType", "eventTime", "subject", "id", "data")
    )


def event_grid_event(document: dict[str, Any]) -> Event:
    """Return the event of Azure Event Grid, whose id is unique in its topic."""
    topic = text_or(document, "topic") or text_at(document, "subject")
    return Event(
        document,
        cls_type=f"azure.eventgrid.{text_at(document, 'eventType')}",
        channel=topic,
        id=join_id(topic, text_at(document, "id")),
        timestamp=text_at(document, "eventTime"),
        schema=text_or(document, "dataVersion", "1"),
    )


def _is_r2(document: dict[str, Any]) -> bool:
    return all(key in document for key in ("account", "action", "bucket", "object", "eventTime"))


def _r2(document: dict[str, Any]) -> Iterable[Event]:
    yield Event(
        document,
        cls_type=f"cloudflare.r2.{text_at(document, 'action')}",
        channel=text_at(document, "bucket"),
        timestamp=text_at(document, "eventTime"),
    )


def _change(document: dict[str, Any]) -> Any:
    """Return the change event in *document*, which may have its schema beside it."""
    return document["payload"] if "schema" in document and "payload" in document else document


def is_debezium(document: dict[str, Any]) -> bool:
    """Return whether *document* is a change event of Debezium, with or without its schema."""
    change = _change(document)
    return (
        isinstance(change, dict)
        and isinstance(change.get("op"), str)
        and isinstance(change.get("source"), dict)
        and ("before" in change or "after" in change or "ts_ms" in change)
    )


def _debezium(document: dict[str, Any]) -> Iterable[Event]:
    change = _change(document)
    operation = text_at(change, "op")
    place = [text_or(change, f"source.{name}") for name in ("name", "db", "schema", "table", "collection")]
    yield Event(
        document,
        cls_type=f"debezium.{_OPERATIONS.get(operation, operation)}",
        channel=".".join(filter(None, place)) or "debezium",
        timestamp=_number(value_at(change, ("ts_ms",))),
        schema=text_or(change, "source.version", "1"),
    )


def _number(value: Any) -> Any:
    """Return *value*, or the number in it: some converters write 64-bit integers as texts."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value) else value


#: Each is recognised by keys that only it has.
KINDS = (
    Kind("debezium", is_debezium, _debezium),
    Kind("eventgrid", is_event_grid, lambda document: [event_grid_event(document)]),
    Kind("r2", _is_r2, _r2),
)
