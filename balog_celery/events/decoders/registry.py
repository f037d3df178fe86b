"""Decoders by their names, and how a topic's decoder reads a message."""

from __future__ import annotations

import difflib
import json
import logging
import pkgutil
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from ...errors import ConfigurationError, DecodeError
from ...signatures import name_of, signature_of, why_not
from ...text import printable
from ..mark import MARK, read_mark
from ..message import Message, Received
from ..records import FacilityRecord, as_event, check_names, read_record
from ..serialization import read_json
from . import aws, cloud_events, detect, entries
from .documents import Event, Reading, as_object, check_count, records_of, with_texts
from .mapping import JSONMapping, json_object

logger = logging.getLogger(__name__)

#: Takes a body, or a :class:`Message` if its parameter is annotated with that, and returns the events in it.
Decoder: TypeAlias = Callable[[Any], Sequence[FacilityRecord]]
#: Reads the events of a message, or of a body alone, each with the JSON text that its tasks are given.
Reader: TypeAlias = Callable[[str | Received], Sequence[Reading]]


def auto(message: str | Message) -> Sequence[FacilityRecord]:
    """Return the events of a message of any kind that is known by its shape."""
    return [event for event, _ in detect.read_message(Message.of(message))]


def balog(message: str | Message) -> Sequence[FacilityRecord]:
    """Return the balog record in the body."""
    return [read_record(read_json(Message.of(message).body), as_sent=True)]


def cloudevents(message: str | Message) -> Sequence[FacilityRecord]:
    """Return CloudEvents: in JSON one in the structured mode or several in the batch format, or one in binary mode.

    Where ``time``, which is optional, is missing, the timestamp is when the message was sent.
    """
    message = Message.of(message)
    event = cloud_events.binary_mode(message)
    document = read_json(message.body) if event is None else event
    return records_of("cloudevents", cloud_events.events_of(document), message)


def eventbridge(message: str | Message) -> Sequence[FacilityRecord]:
    """Return the event that Amazon EventBridge sent, as it sends it without an input transformer."""
    message = Message.of(message)
    event = as_object(read_json(message.body), "event of EventBridge")
    return records_of("eventbridge", aws.eventbridge_event(event), message)


def s3(message: str | Message) -> Sequence[FacilityRecord]:
    """Return one event for each of the ``Records`` of an Amazon S3 notification; none for an ``s3:TestEvent``.

    The id is derived from bucket, key, versionId, sequencer, eventName, eventTime and request id: what S3 itself sends
    twice has the same id as well. The object's key is URL-encoded, as S3 writes it: ``urllib.parse.unquote_plus``.
    """
    message = Message.of(message)
    notification = as_object(read_json(message.body), "S3 notification")
    if aws.is_test(notification):
        return []
    found = notification.get("Records")
    if not isinstance(found, list):
        raise DecodeError("it is not an S3 notification: it has no Records")
    events: Iterable[Event] = (entries.s3_event(as_object(entry, "S3 notification")) for entry in found)
    return records_of("s3", events, message)


def sns(message: str | Message, inner: Decoder | None = None) -> Sequence[FacilityRecord]:
    """Return the events in the ``Message`` of an Amazon SNS notification.

    A message of no known kind, such as a plain text, is one event with the envelope as its payload; so are the
    ``SubscriptionConfirmation`` and the ``UnsubscribeConfirmation``.

    :param inner: decodes what the envelope holds: ``functools.partial(sns, inner=JSONMapping(...))``. Its message has
        SNS's MessageId, Timestamp and MessageAttributes.
    """
    message = Message.of(message)
    envelope = as_object(read_json(message.body), "SNS notification")
    if inner is not None and detect.sns_type(envelope) == "Notification":
        held = detect.held(envelope, message)
        return inner(held if _takes_message(inner) else held.body)
    return [event for event, _ in detect.unwrap(envelope, message)]


#: The decoders that a setting can name.
DECODERS: Mapping[str, Decoder] = {
    "auto": auto,
    "balog": balog,
    "cloudevents": cloudevents,
    "eventbridge": eventbridge,
    "json": json_object,
    "s3": s3,
    "sns": sns,
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
    wrong = "it is a class" if isinstance(found, type) else why_not(found, "body", may_yield=True)
    if wrong:
        raise ConfigurationError(
            f"{value!r} is not a decoder: {wrong}: give a function that takes a body and returns events"
        )
    if isinstance(found, partial) and found.func is sns and "inner" in found.keywords:
        find_decoder(found.keywords["inner"])
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


def reader_of(decoder: Decoder, topic: str = "") -> Reader:
    """Return what reads messages of *topic* with *decoder*, and raises nothing but :class:`DecodeError`.

    Tasks are given a balog record's own text, and of other events the text of the record that they became.

    :param topic: the name of the queue.
    """
    if decoder is auto:
        return partial(_read_auto, topic)
    if decoder is balog:
        return _read_balog
    return partial(_read_with, decoder, _takes_message(decoder), topic)


def _read_auto(topic: str, source: str | Received) -> Sequence[Reading]:
    if not isinstance(source, str) and source.attributes:
        return _distinct(detect.read_message(Message.of(source, topic)))
    body = source if isinstance(source, str) else source.body
    document = read_json(body)
    # Most are records of balog, and need no view of their message.
    if isinstance(document, dict) and document.keys() >= detect.RECORD_KEYS:
        return [(read_record(document, as_sent=True), body)]
    return _distinct(detect.read_document(document, Message.of(source, topic)))


def _read_balog(source: str | Received) -> Sequence[Reading]:
    body = source if isinstance(source, str) else source.body
    return [(read_record(read_json(body), as_sent=True), body)]


def _read_with(decoder: Decoder, takes_message: bool, topic: str, source: str | Received) -> Sequence[Reading]:
    if not isinstance(source, str) and MARK in source.attributes and read_mark(source.attributes).get("record"):
        raise DecodeError("it is the record of one event out of a message of many: replay it with `balog dead replay`")
    message = Message.of(source, topic)
    try:
        events = [*decoder(message if takes_message else message.body)]  # read twice, and it may be a generator
        for event in events:
            if not isinstance(event, FacilityRecord):
                raise TypeError(f"a decoder returns a sequence of FacilityRecord, not of {type(event).__name__}")
            check_names(event)
        return _distinct(with_texts(events))
    except DecodeError:
        raise
    except Exception as error:  # a user's decoder may raise anything
        # Neither the error's text, nor the lines of its traceback: they hold what the event holds.
        name = printable(name_of(decoder))
        logger.warning("the decoder %s failed: %s%s", name, type(error).__name__, _place_of(error))
        raise DecodeError(f"its decoder {name} failed: {type(error).__name__}") from error


def _place_of(error: Exception) -> str:
    """Return where *error* was raised, for a log."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" in {printable(frames[-1].filename)}, line {frames[-1].lineno}" if frames else ""


def _exactly(event: FacilityRecord) -> str:
    """Return the payload as a text in which 1, 1.0 and true differ, and the order of keys does not count."""
    return json.dumps(as_event(event)["payload"], sort_keys=True, default=str)


def _takes_message(decoder: Decoder) -> bool:
    """Return whether the first parameter of *decoder* is annotated with :class:`Message`, alone or in a union."""
    if isinstance(decoder, JSONMapping):
        return True
    try:
        annotation = next(iter(signature_of(decoder).parameters.values())).annotation
    except (StopIteration, TypeError, ValueError):  # a builtin has no signature
        return False
    if isinstance(annotation, str):  # of a module with ``from __future__ import annotations``
        return any(part.strip(" '\"").rpartition(".")[2] == "Message" for part in annotation.split("|"))
    return annotation is Message or Message in getattr(annotation, "__args__", ())


def _distinct(readings: Sequence[Reading]) -> Sequence[Reading]:
    """Return *readings* without repeated events.

    :raises DecodeError: two have the same id and are not the same, or there are too many.
    """
    if len(readings) < 2:
        return readings
    check_count(readings)
    found: dict[str, Reading] = {}
    for reading in readings:
        event = reading[0]
        first, _ = found.setdefault(event.header.id, reading)
        if first is not event and _exactly(first) != _exactly(event):
            raise DecodeError("two of its events have the same id")
    return list(found.values())
