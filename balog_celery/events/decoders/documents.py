"""The common work of all decoders: looking into a document, and making records of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, TypeAlias

from ...errors import DecodeError, RecordError
from ..message import Message
from ..records import FacilityRecord, encode, read_record

#: An event, and the JSON text that its tasks are given.
Reading: TypeAlias = tuple[FacilityRecord, str]

#: The most events that one message may hold.
MAX_EVENTS = 1_000
#: From this number on a timestamp counts milliseconds, below it seconds: as seconds it is in the year 5138.
_MILLISECONDS = 1e11
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Event(NamedTuple):
    """An event as its source describes it.

    :param document: the payload.
    :param id: "" where the source gives none that is the event's alone: the message's id stands for it.
    :param timestamp: an ISO 8601 text, a number as :func:`unix_time` reads it, or None: when the message was sent.
    """

    document: Mapping[str, Any]
    cls_type: Any
    channel: Any
    id: Any = ""
    timestamp: Any = None
    schema: Any = "1"


class Kind(NamedTuple):
    """A kind of document.

    :param name: what the header of its events says as ``decoder``.
    :param matches: whether a document is of this kind.
    :param events: the events in such a document.
    """

    name: str
    matches: Callable[[dict[str, Any]], bool]
    events: Callable[[dict[str, Any]], Iterable[Event]]


def records_of(decoder: str, events: Iterable[Event], message: Message) -> Sequence[FacilityRecord]:
    """Return the records of *events*, which *message* holds.

    :param decoder: the kind of their documents.
    :raises DecodeError: one cannot be a record, or there are more than :data:`MAX_EVENTS`.
    """
    found = list(events)
    check_count(found)
    if len(found) == 1:
        return [_record(decoder, found[0], message, None)]
    return [_record(decoder, event, message, position) for position, event in enumerate(found)]


def check_count(events: Sequence[Any]) -> None:
    """Check that *events* are not more than one message may hold.

    :raises DecodeError: there are more than :data:`MAX_EVENTS`.
    """
    if len(events) > MAX_EVENTS:
        raise DecodeError(f"it holds {len(events)} events, more than {MAX_EVENTS}: send them in several messages")


def readings_of(decoder: str, events: Iterable[Event], message: Message) -> Sequence[Reading]:
    """Return the records of *events*, as :func:`records_of`, each with its text.

    :raises DecodeError: as there; or one cannot be written as JSON.
    """
    return with_texts(records_of(decoder, events, message))


def with_texts(records: Iterable[FacilityRecord]) -> Sequence[Reading]:
    """Return *records*, each with its text.

    :raises DecodeError: one cannot be written as JSON.
    """
    try:
        return [(record, encode(record)) for record in records]
    except RecordError as error:
        raise DecodeError(str(error)) from None


def _record(decoder: str, event: Event, message: Message, position: int | None) -> FacilityRecord:
    document = event.document
    payload = {**document, "cls_type": event.cls_type}
    if document.get("cls_type", event.cls_type) != event.cls_type:
        payload["document_cls_type"] = document["cls_type"]
    header = {
        "id": event.id or message.event_id(position),
        "channel": event.channel,
        "timestamp": _time(event.timestamp, message),
        "context": dict(message.context),
        "decoder": decoder,
    }
    return read_record({"schema": event.schema, "header": header, "payload": payload}, as_sent=True)


def _time(timestamp: Any, message: Message) -> Any:
    if timestamp is None:
        return message.sent or datetime.now(timezone.utc)
    if isinstance(timestamp, (int, float)) and not isinstance(timestamp, bool):
        return unix_time(timestamp)
    return timestamp


def unix_time(number: float) -> datetime:
    """Return the time that *number* is, in seconds of Unix time, or in milliseconds from 100,000,000,000 on.

    :raises DecodeError: it is beyond the years 1 to 9999.
    """
    try:
        return _EPOCH + timedelta(seconds=number if abs(number) < _MILLISECONDS else number / 1000)
    except (OverflowError, ValueError):
        raise DecodeError("its timestamp is beyond the years 1 to 9999") from None


def as_object(document: Any, what: str) -> dict[str, Any]:
    """Return *document* if it is an object.

    :raises DecodeError: it is something else than a *what*.
    """
    if not isinstance(document, dict):
        raise DecodeError(f"it is no {what}, but {type(document).__name__}")
    return document


def value_at(document: Any, path: Iterable[str]) -> Any:
    """Return what is at *path*: keys of objects and positions in arrays; None if there is nothing."""
    for key in path:
        if isinstance(document, dict):
            document = document.get(key)
        elif isinstance(document, list) and key.isascii() and key.isdecimal() and len(key) < 10:
            document = document[int(key)] if int(key) < len(document) else None
        else:
            return None
    return document


def text_at(document: Any, path: str) -> str:
    """Return the text at *path*, keys with dots between them.

    :raises DecodeError: there is none, or an empty one.
    """
    value = value_at(document, path.split("."))
    if not isinstance(value, str) or not value:
        raise DecodeError(f"it has no text at {path}")
    return value


def text_or(document: Any, path: str, default: str = "") -> str:
    """Return the text at *path*, or *default* where there is none, or an empty one."""
    value = value_at(document, path.split("."))
    return value if isinstance(value, str) and value else default
