"""Decoders: what the body of a message says, as events.

A decoder is a function that takes a body and returns its events, none to many; it raises
:class:`~balog_celery.errors.DecodeError` where it cannot, and then the message as a whole is a dead letter. ``auto``
knows a body by its shape; the setting ``balog_decoders`` names another one for a topic. A source's document becomes
the payload as it is, and the facility record says of it:

=========== ======================================= ========================== =================== ============
decoder     ``cls_type``                            id                         channel             schema
=========== ======================================= ========================== =================== ============
balog       the record's own, as all the rest
cloudevents its ``type``                            ``source``, space, ``id``  ``source``          specversion
eventbridge ``aws.events.<source>.<detail-type>``   ``id``                     ``source``          ``version``
s3          ``aws.s3.<eventName>``                  derived, see :func:`s3`    the bucket's name   eventVersion
sns         that of what it holds, else             ``MessageId``              ``TopicArn``        ``1``
            ``aws.sns.Notification``
=========== ======================================= ========================== =================== ============

The payload is the document with the key ``cls_type`` added. A document that has a ``cls_type`` of its own which says
something else keeps it as ``document_cls_type``.

The ids are the same whenever a message comes again, so that its tasks are too. Events of one message that have the same
id and say the same are one event; if they say different things, none of them can be told from the other, and the
message is a dead letter.
"""

from __future__ import annotations

import difflib
import json
import logging
import pkgutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeAlias

from .errors import ConfigurationError, DecodeError, RecordError
from .ids import encode_id
from .records import FacilityRecord, decode, encode, read_json, read_record
from .text import printable

logger = logging.getLogger(__name__)

#: A body's events.
Decoder: TypeAlias = Callable[[str], Sequence[FacilityRecord]]
#: A body's events, each with the JSON text that tasks are given.
Reader: TypeAlias = Callable[[str], Sequence[tuple[FacilityRecord, str]]]

#: The namespace of ids that are derived: name-based UUIDs (RFC 9562, version 5).
_NAMESPACE = uuid.UUID("0f3d6a43-9f0e-5d0c-8a53-0d1f8f1c7c55")
_SNS_TYPES = ("Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation")


def auto(body: str) -> Sequence[FacilityRecord]:
    """Events of any kind that is known by its shape: balog, CloudEvents, SNS, EventBridge, S3."""
    return [event for event, _ in _read_auto(body)]


def balog(body: str) -> Sequence[FacilityRecord]:
    """The record that the body is."""
    return [decode(body)]


def cloudevents(body: str) -> Sequence[FacilityRecord]:
    """CloudEvents in JSON: one in the structured mode, or several in the batch format.

    Where ``time``, which is optional, is missing, the timestamp is that of the reading.
    """
    return _cloudevents(read_json(body))


def eventbridge(body: str) -> Sequence[FacilityRecord]:
    """The event that Amazon EventBridge sent, as it sends it without an input transformer."""
    return _eventbridge(read_json(body))


def s3(body: str) -> Sequence[FacilityRecord]:
    """One event for each of the ``Records`` of an Amazon S3 notification; none for an ``s3:TestEvent``.

    The id is derived from bucket, key, versionId, sequencer, eventName, eventTime and request id: what S3 itself sends
    twice has the same id as well. The object's key is URL-encoded, as S3 writes it: ``urllib.parse.unquote_plus``.
    """
    return _s3(read_json(body))


def sns(body: str, inner: Decoder | None = None) -> Sequence[FacilityRecord]:
    """The events in the ``Message`` of an Amazon SNS notification; its envelope is dropped.

    A message of no known kind, such as a plain text, is one event with the envelope as its payload; so are the
    ``SubscriptionConfirmation`` and the ``UnsubscribeConfirmation``.

    :param inner: decodes the message instead: ``functools.partial(sns, inner=JSONMapping(...))``.
    """
    return _sns(read_json(body), inner)


@dataclass(frozen=True)
class At:
    """What is at a path of a document: ``At("order.lines.0.id")``; None if there is nothing.

    :param path: keys, and positions in arrays, with dots between them.
    """

    path: str

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not all(self.path.split(".")):
            raise ConfigurationError(f"bad path {self.path!r}: give keys with dots between them, such as 'order.id'")

    def __call__(self, document: Any) -> Any:
        for key in self.path.split("."):
            if isinstance(document, dict):
                document = document.get(key)
            elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
                document = document[int(key)]
            else:
                return None
        return document


#: A constant, or what is called with the document: an :class:`At`, or a function.
Value: TypeAlias = str | Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class JSONMapping:
    """A decoder of plain JSON objects, one event each.

        JSONMapping(cls_type=At("kind"), id=At("order.id"), timestamp=At("created"), channel="shop")

    Each argument is a text, which is a constant, or is called with the document: an :class:`At`, or a function.

    :param cls_type: the type of payload.
    :param id: the event's id, a text or an integer; not a constant. Where it is missing or null the id is derived from
        the body: the same for the same text, so give it where two messages that say the same are two events.
    :param timestamp: when it was made, as :func:`~balog_celery.records.parse_timestamp` reads it, so a function must
        convert numbers; default: the time of the reading.
    :param channel: the channel.
    :param schema: the schema version, for consumers' conditions.
    :raises ConfigurationError: an argument is neither.
    """

    cls_type: Value
    id: Value | None = None
    timestamp: Value | None = None
    channel: Value = "json"
    schema: Value = "1.0"

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            optional = value is None and name in ("id", "timestamp")
            constant = isinstance(value, str) and value and name != "id"
            if not (optional or constant or callable(value)):
                kinds = "At('path') or a function" + ("" if name == "id" else ", or a text, which is a constant")
                raise ConfigurationError(f"bad {name}={value!r} for a JSONMapping: give {kinds}")

    def __call__(self, body: str) -> Sequence[FacilityRecord]:
        document = _object(read_json(body), "JSON object")
        return [
            _record(
                document,
                cls_type=self._text("cls_type", document),
                id=_as_text(_value(self.id, document)) or _derived_id(body),
                channel=self._text("channel", document),
                timestamp=_value(self.timestamp, document),
                schema=self._text("schema", document),
            )
        ]

    def _text(self, name: str, document: Any) -> Any:
        source = getattr(self, name)
        text = _as_text(_value(source, document))
        if text is None:
            raise DecodeError(f"it has no {name} for its JSONMapping" + (f" at {source.path}" * isinstance(source, At)))
        return text


#: The decoders that a setting can name.
DECODERS: Mapping[str, Decoder] = {
    decoder.__name__: decoder for decoder in (auto, balog, cloudevents, eventbridge, s3, sns)
}


def find_decoder(value: object) -> Decoder:
    """Return the decoder that a setting names.

    :param value: one of :data:`DECODERS` by its name, another one by its dotted name (``"proj.events:decode"``), or a
        decoder itself.
    :raises ConfigurationError: there is none of that name, or it cannot be called.
    """
    found: Any = value
    if isinstance(value, str):
        found = DECODERS.get(value) or _imported(value)
    if not callable(found) or isinstance(found, type):
        raise ConfigurationError(f"{value!r} is no decoder: give a function that takes a body and returns its events")
    return found  # type: ignore[no-any-return]


def decoder_for(names: Iterable[str], decoders: Mapping[str, Decoder]) -> Decoder:
    """Return the first of *decoders* that is for one of *names*, or else ``auto``.

    :param names: what a topic is called, as a consumer has it and as it is resolved.
    """
    return next((decoders[name] for name in names if name in decoders), auto)


def _imported(name: str) -> object:
    if "." not in name and ":" not in name:
        near = difflib.get_close_matches(name, DECODERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(DECODERS)}"
        raise ConfigurationError(f"unknown decoder {name!r}: {hint}, or give the dotted name of a function")
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"the decoder {name!r} cannot be imported: {error}") from error


def reader_of(decoder: Decoder) -> Reader:
    """Return what reads a body with *decoder*, and raises nothing but :class:`DecodeError`.

    Tasks are given a balog record's own text, and of other events the text of the record that they became.
    """
    if decoder is auto:
        return _read_auto
    if decoder is balog:
        return lambda body: [(decode(body), body)]
    return partial(_read_with, decoder)


def _read_auto(body: str) -> list[tuple[FacilityRecord, str]]:
    document = read_json(body)
    if type(document) is dict and "header" in document and "payload" in document:
        return [(read_record(document), body)]
    return _with_texts(_recognised(document))


def _read_with(decoder: Decoder, body: str) -> list[tuple[FacilityRecord, str]]:
    try:
        events = decoder(body)
        for event in events:
            if not isinstance(event, FacilityRecord):
                raise TypeError(f"a decoder returns a sequence of FacilityRecord, not of {type(event).__name__}")
        return _with_texts(events)
    except DecodeError:
        raise
    except Exception as error:  # it is the user's, and may raise anything
        logger.warning("the decoder %s failed", printable(decoder), exc_info=True)
        raise DecodeError(f"its decoder failed: {type(error).__name__}") from error


def _with_texts(events: Sequence[FacilityRecord]) -> list[tuple[FacilityRecord, str]]:
    texts: dict[str, tuple[FacilityRecord, str]] = {}
    for event in events:
        try:
            text = encode(event)
        except RecordError as error:
            raise DecodeError(str(error)) from None
        first, _ = texts.setdefault(event.header.id, (event, text))
        if first is not event and first.payload != event.payload:
            raise DecodeError("two of its events have the same id")
    return list(texts.values())


def _recognised(document: Any) -> Sequence[FacilityRecord]:
    kind = _kind_of(document)
    if kind is not None:
        return kind(document)
    if isinstance(document, dict) and not document.keys().isdisjoint(("schema", "header", "payload")):
        return [read_record(document)]  # whose error says what is missing
    raise DecodeError(
        "it is of no kind that is recognised (balog, CloudEvents, SNS, EventBridge, S3): "
        "name a decoder for its topic in balog_decoders"
    )


def _kind_of(document: Any) -> Callable[[Any], Sequence[FacilityRecord]] | None:
    """Who reads a document of this shape, if it is known; most of them are told by the keys that only they have."""
    if isinstance(document, list):
        return _cloudevents if document and all(map(_is_cloudevent, document)) else None
    if not isinstance(document, dict):
        return None
    if "header" in document and "payload" in document:
        return lambda record: [read_record(record)]
    if _is_cloudevent(document):
        return _cloudevents
    if document.get("Type") in _SNS_TYPES and "TopicArn" in document:
        return _sns
    if "detail-type" in document and "detail" in document:
        return _eventbridge
    entries = document.get("Records")
    if document.get("Event") == "s3:TestEvent" or (
        isinstance(entries, list) and entries and all(isinstance(entry, dict) and "s3" in entry for entry in entries)
    ):
        return _s3
    return None


def _is_cloudevent(document: Any) -> bool:
    return isinstance(document, dict) and "specversion" in document and "type" in document


def _cloudevents(document: Any) -> Sequence[FacilityRecord]:
    return [_cloudevent(_object(one, "CloudEvent")) for one in (document if isinstance(document, list) else [document])]


def _cloudevent(event: dict[str, Any]) -> FacilityRecord:
    source = _text_at(event, "source")
    return _record(
        event,
        cls_type=_text_at(event, "type"),
        # Together they are unique (CloudEvents 1.0, "id"); a URI has no space.
        id=f"{source} {_text_at(event, 'id')}",
        channel=source,
        timestamp=event.get("time"),
        schema=_text_at(event, "specversion"),
    )


def _eventbridge(document: Any) -> Sequence[FacilityRecord]:
    event = _object(document, "event of EventBridge")
    source = _text_at(event, "source")
    return [
        _record(
            event,
            cls_type=f"aws.events.{source}.{_text_at(event, 'detail-type')}",
            id=_text_at(event, "id"),
            channel=source,
            timestamp=_text_at(event, "time"),
            schema=event.get("version", "0"),
        )
    ]


def _s3(document: Any) -> Sequence[FacilityRecord]:
    notification = _object(document, "S3 notification")
    if notification.get("Event") == "s3:TestEvent":
        return []
    entries = notification.get("Records")
    if not isinstance(entries, list):
        raise DecodeError("it is no S3 notification: it has no Records")
    return [_s3_event(_object(entry, "S3 notification")) for entry in entries]


def _s3_event(entry: dict[str, Any]) -> FacilityRecord:
    bucket, name, time = (_text_at(entry, path) for path in ("s3.bucket.name", "eventName", "eventTime"))
    optional = ("s3.object.key", "s3.object.versionId", "s3.object.sequencer", "responseElements.x-amz-request-id")
    more = [value if isinstance(value := At(path)(entry), str) else None for path in optional]
    return _record(
        entry,
        cls_type=f"aws.s3.{name.removeprefix('s3:')}",
        id=_derived_id(bucket, name, time, *more),
        channel=bucket,
        timestamp=time,
        schema=_text_at(entry, "eventVersion"),
    )


def _sns(document: Any, inner: Decoder | None = None) -> Sequence[FacilityRecord]:
    envelope = _object(document, "SNS notification")
    kind = envelope.get("Type")
    if kind not in _SNS_TYPES:
        raise DecodeError("it is no SNS notification: its Type is none of SNS")
    message = _text_at(envelope, "Message")
    if kind == "Notification":
        if inner is not None:
            return inner(message)
        held = _json_or_none(message)
        if (decode_held := _kind_of(held)) is not None:
            return decode_held(held)
    return [
        _record(
            envelope,
            cls_type=f"aws.sns.{kind}",
            id=_text_at(envelope, "MessageId"),
            channel=_text_at(envelope, "TopicArn"),
            timestamp=_text_at(envelope, "Timestamp"),
            schema="1",
        )
    ]


def _json_or_none(text: str) -> Any:
    try:
        return read_json(text)
    except DecodeError:
        return None


def _record(
    document: Mapping[str, Any], *, cls_type: str, id: str, channel: str, timestamp: Any, schema: Any
) -> FacilityRecord:
    payload = {**document, "cls_type": cls_type}
    if document.get("cls_type", cls_type) != cls_type:
        payload["document_cls_type"] = document["cls_type"]
    if timestamp is None:
        timestamp = datetime.now(timezone.utc)
    header = {"id": id, "channel": channel, "timestamp": timestamp, "context": {}}
    return read_record({"schema": schema, "header": header, "payload": payload})


def _derived_id(*parts: str | None) -> str:
    return encode_id(uuid.uuid5(_NAMESPACE, json.dumps(parts)))


def _object(document: Any, what: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise DecodeError(f"it is no {what}, but {type(document).__name__}")
    return document


def _text_at(document: dict[str, Any], path: str) -> str:
    value = At(path)(document)
    if not isinstance(value, str) or not value:
        raise DecodeError(f"it has no text at {path}")
    return value


def _value(source: Value | None, document: Any) -> Any:
    return source(document) if callable(source) else source


def _as_text(value: Any) -> Any:
    """Numbers as texts, for ids, types and versions are often written so; others as they are."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
