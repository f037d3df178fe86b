"""Reads a body of any kind that is known by its shape, what Amazon SNS forwards included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from ...errors import DecodeError
from ..message import Message
from ..records import read_record
from ..serialization import read_json
from ..timestamps import parse_timestamp
from . import aws, cloud_events, entries, others
from .documents import Event, Reading, check_count, readings_of, text_at

#: The message attributes that AWS Lambda gives to an event that it could not process.
_LAMBDA_ATTRIBUTES = ("RequestID", "ErrorCode", "ErrorMessage")

#: An object with these keys is a record of balog.
RECORD_KEYS = frozenset({"schema", "header", "payload"})
_SNS_TYPES = ("Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation")
_KINDS = (*aws.KINDS, *others.KINDS)
#: Events, each with the JSON text that its tasks are given; None where a document is of no known kind.
Found: TypeAlias = Sequence[Reading] | None


def read_message(message: Message) -> Sequence[Reading]:
    """Return the events of *message*, each with the text that its tasks are given: a record of balog as it came.

    :raises DecodeError: it is of no known kind, or not what its kind asks for.
    """
    event = cloud_events.binary_mode(message) if message.attributes else None
    if event is not None:
        return readings_of("cloudevents", cloud_events.events_of(event), message)
    return read_document(read_json(message.body), message)


def read_document(document: Any, message: Message) -> Sequence[Reading]:
    """Return the events of *document*, the body of *message*, whose attributes are none of a CloudEvent's.

    :raises DecodeError: as :func:`read_message`.
    """
    found = recognise(document, message)
    if found is not None:
        return found
    if _lambda_context(message) and isinstance(document, dict):
        return readings_of("lambda", [Event(document, "aws.lambda.DeadLetter", "aws.lambda")], _with_lambda(message))
    raise DecodeError(_advice(document))


def recognise(document: Any, message: Message) -> Found:
    """Return the events in *document*, the body of *message*; None if it is of no known kind."""
    if isinstance(document, list):
        return _of_list(document, message)
    if not isinstance(document, dict):
        return None
    if document.keys() >= RECORD_KEYS:
        return [(read_record(document, as_sent=True), message.body)]
    if cloud_events.is_cloudevent(document):
        return readings_of("cloudevents", cloud_events.events_of(document), message)
    if document.get("Type") in _SNS_TYPES and "TopicArn" in document:
        return unwrap(document, message)
    message = _with_lambda(message)
    if aws.is_test(document):
        return []
    if isinstance(records := document.get("Records"), list) and records:
        return _of_entries(records, message)
    if entries.is_entry(document):
        return _of_entries([document], message)
    for kind in _KINDS:
        if kind.matches(document):
            return readings_of(kind.name, kind.events(document), message)
    return None


def _of_list(documents: list[Any], message: Message) -> Found:
    if documents and all(map(cloud_events.is_cloudevent, documents)):
        return readings_of("cloudevents", cloud_events.events_of(documents), message)
    if documents and all(map(others.is_event_grid, documents)):
        return readings_of("eventgrid", map(others.event_grid_event, documents), message)
    if documents and all(isinstance(document, dict) and entries.is_entry(document) for document in documents):
        return _of_entries(documents, message)
    return None


def _of_entries(records: list[Any], message: Message) -> Found:
    if all(isinstance(entry, dict) and isinstance(entry.get("Sns"), dict) for entry in records):
        readings: list[Reading] = []
        for entry in records:
            readings += unwrap(entry["Sns"], message)
            check_count(readings)
        return readings
    name = entries.kind_of_entries(records)
    return None if name is None else readings_of(name, entries.events_of_entries(records), message)


def unwrap(envelope: dict[str, Any], message: Message) -> Sequence[Reading]:
    """Return the events in an *envelope* of SNS, or the one that it is itself.

    :raises DecodeError: it is none, or what it holds cannot be read.
    """
    kind = sns_type(envelope)
    if kind == "Notification":
        inner = held(envelope, message)
        document = _json_or_none(inner.body)
        if cloud_events.binary_mode(inner) is not None:
            return read_message(inner)
        if (found := recognise(document, inner)) is not None:
            return found
        if (event := aws.text_event(envelope)) is not None:
            return readings_of("sns", [event], inner)
    return readings_of("sns", [_envelope_event(envelope, kind)], message)


def sns_type(envelope: dict[str, Any]) -> str:
    """Return the Type of an *envelope* of SNS.

    :raises DecodeError: it is none of SNS's.
    """
    kind = envelope.get("Type")
    if kind not in _SNS_TYPES:
        raise DecodeError("it is not an SNS notification: its Type is not one of SNS's")
    return str(kind)


def held(envelope: dict[str, Any], message: Message) -> Message:
    """Return the message that an *envelope* of SNS holds.

    :raises DecodeError: it has no Message.
    """
    text_at(envelope, "Message")
    try:
        return message.inside(envelope, parse_timestamp(envelope.get("Timestamp")))
    except ValueError:
        return message.inside(envelope, message.sent)


def opened(message: Message) -> Message:
    """Return what a notification of SNS in *message* holds, with the attributes of both; without one, *message*."""
    document = _json_or_none(message.body)
    if not isinstance(document, dict) or not {"Type", "TopicArn", "Message"} <= document.keys():
        return message
    try:
        inner = held(document, message)
    except DecodeError:
        return message
    return replace(inner, attributes={**message.attributes, **inner.attributes})


def _envelope_event(envelope: dict[str, Any], kind: str) -> Event:
    text_at(envelope, "Message")
    return Event(
        envelope,
        cls_type=f"aws.sns.{kind}",
        id=text_at(envelope, "MessageId"),
        channel=text_at(envelope, "TopicArn"),
        timestamp=text_at(envelope, "Timestamp"),
    )


def _json_or_none(text: str) -> Any:
    try:
        return read_json(text)
    except DecodeError:
        return None


def _lambda_context(message: Message) -> dict[str, Any]:
    """Return what Lambda says about an event that it could not process; {} if it says nothing."""
    if not message.attributes:
        return {}
    failure = {name: message.attributes.get(name) for name in _LAMBDA_ATTRIBUTES}
    return failure if all(isinstance(value, str) for value in failure.values()) else {}


def _with_lambda(message: Message) -> Message:
    failure = _lambda_context(message)
    return replace(message, context={**message.context, "lambda": failure}) if failure else message


def _advice(document: Any) -> str:
    """Return what to do about a *document* of unknown kind."""
    if isinstance(document, dict):
        missing = [name for name in ("schema", "header", "payload") if name not in document]
        if len(missing) < 3:
            found = " and ".join(name for name in ("schema", "header", "payload") if name in document)
            return (
                f"it has {found}, but no {' and no '.join(missing)}, so it is not a record of balog: "
                "name a decoder for its topic in balog_decoders"
            )
    return (
        "it is of no kind that is recognised (balog, CloudEvents, SNS, EventBridge, S3, ...): "
        "name a decoder for its topic in balog_decoders, such as 'json'"
    )
