"""Sends events that must arrive: each call returns when SQS has the events, or raises."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ..arguments import check_number, optional_text
from ..errors import ConfigurationError, RecordError, SendError, SendFailure
from ..events.ids import new_ids
from ..sqs.addresses import queue_name
from ..sqs.messages import DEFAULT_GROUP, OutgoingMessage
from ..sqs.queue_names import checked_topic
from ..telemetry import find
from .attempts import Attempts
from .messages import attributes as message_attributes
from .messages import check_attributes, check_delay, check_function, chosen
from .processors import write
from .record_writer import RecordWriter
from .state import state
from .topics import queue_of

#: What a message's group or deduplication id is: a text, or a function of the payload that returns one.
Choice = str | Callable[[Any], str]


class SentEvent(NamedTuple):
    """An event that SQS has.

    :param event_id: the id in its header; "" if it was sent *raw*.
    :param message_id: SQS's id of the message; "" if the queue is none of SQS's.
    """

    event_id: str
    message_id: str


def send(
    payload: Any,
    *,
    topic: str,
    channel: str | None = None,
    group: Choice | None = None,
    deduplication_id: Choice | None = None,
    delay: int | None = None,
    attributes: Mapping[str, str] | None = None,
    context: Mapping[str, Any] | None = None,
    raw: bool = False,
    timeout: float = 10.0,
) -> SentEvent:
    """Send an event, and return when SQS has it.

    What may work later is tried again until *timeout*: throttling, faults of the service, no answer. On a standard
    queue an event may then be there twice, with one id in its header; on a FIFO queue it is there once, because each
    attempt has the same deduplication id.

    :param payload: a mapping with a ``cls_type``, or a :class:`~balog_celery.Payload`; with *raw* the message's body.
    :param topic: the queue's name or URL. The operator fills in placeholders, as for consumers: that of the current
        Celery app, if :func:`~balog_celery.install` was called for it, or of :func:`~balog_celery.configure`.
    :param channel: the header's channel; default: the name of the module that calls this.
    :param group: of a FIFO queue, the message group; a text, or a function of *payload*. Default: ``"balog"``.
    :param deduplication_id: of a FIFO queue; a text, or a function of *payload*. Default: the event's id; that of
        a *raw* body is a hash of it.
    :param delay: for how many seconds the message is invisible at first; not for a FIFO queue.
    :param attributes: message attributes, texts.
    :param context: added to the configured context of the header.
    :param raw: send *payload*, a text, its bytes, or a document for JSON, as the body, without a record around it.
    :param timeout: how long to try, in seconds; 0: once. A try that has begun may take a few seconds longer.
    :returns: the ids of the event and of its message.
    :raises SendError: SQS does not have the event, or did not say so in time.
    :raises RecordError: *payload* is not valid.
    :raises ConfigurationError: an argument is wrong, or the topic cannot be resolved.
    """
    channel = optional_text("channel", channel) or _caller()
    options = Options(checked_topic(topic), channel, group, deduplication_id, delay, attributes, context, raw, timeout)
    return _send([payload], options)[0]


def send_many(
    payloads: Iterable[Any],
    *,
    topic: str,
    channel: str | None = None,
    group: Choice | None = None,
    deduplication_id: Callable[[Any], str] | None = None,
    delay: int | None = None,
    attributes: Mapping[str, str] | None = None,
    context: Mapping[str, Any] | None = None,
    raw: bool = False,
    timeout: float = 10.0,
) -> list[SentEvent]:
    """Send several events, ten in a call, and return when SQS has all of them.

    Arguments and errors are those of :func:`send`. All payloads are checked before the first is sent. A
    :exc:`~balog_celery.errors.SendError` says which events failed and why, and which were sent.

    :param payloads: the payloads; *group* and *deduplication_id* are called with each.
    :returns: the ids, in the order of *payloads*.
    """
    channel = optional_text("channel", channel) or _caller()
    options = Options(checked_topic(topic), channel, group, deduplication_id, delay, attributes, context, raw, timeout)
    check_function("deduplication_id", deduplication_id)
    if isinstance(payloads, (str, bytes, Mapping)) or not isinstance(payloads, Iterable):
        raise ConfigurationError(f"bad payloads, a {type(payloads).__name__}: give a list of payloads, or call send")
    return _send(list(payloads), options)


def asend(payload: Any, *, topic: str, channel: str | None = None, **options: Any) -> Coroutine[Any, Any, SentEvent]:
    """Send an event like :func:`send`, in a thread, without blocking the event loop."""
    return asyncio.to_thread(partial(send, payload, topic=topic, channel=channel or _caller(), **options))


def asend_many(
    payloads: Iterable[Any], *, topic: str, channel: str | None = None, **options: Any
) -> Coroutine[Any, Any, list[SentEvent]]:
    """Send several events like :func:`send_many`, in a thread, without blocking the event loop."""
    return asyncio.to_thread(partial(send_many, payloads, topic=topic, channel=channel or _caller(), **options))


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of :func:`send`."""

    topic: str
    channel: str
    group: Choice | None
    deduplication_id: Choice | None
    delay: int | None
    attributes: Mapping[str, str] | None
    context: Mapping[str, Any] | None
    raw: bool
    timeout: float

    def __post_init__(self) -> None:
        check_delay(self.delay, queue_name(self.topic))
        check_attributes(self.attributes)
        check_number("timeout", self.timeout, "a number of seconds, 0 or more")


def _send(payloads: list[Any], options: Options) -> list[SentEvent]:
    ids = [""] * len(payloads) if options.raw else new_ids(len(payloads))
    lines = _lines(payloads, ids, options)
    if state.captures:
        for line in () if options.raw else lines:
            state.captures[-1](line)
        return [SentEvent(event_id, "") for event_id in ids]
    queue = queue_of(options.topic)
    check_delay(options.delay, queue.name)
    telemetry, name = find(), queue_name(options.topic)
    messages = [
        OutgoingMessage(
            line,
            message_attributes(options.attributes, telemetry.created(name, options.channel)),
            chosen(options.group, payload) or DEFAULT_GROUP,
            chosen(options.deduplication_id, payload) or event_id,
            options.delay,
        )
        for payload, event_id, line in zip(payloads, ids, lines, strict=True)
    ]
    attempts = Attempts(queue, messages)
    attempts.until(time.monotonic() + options.timeout)
    sent = {index: SentEvent(ids[index], message_id) for index, message_id in attempts.message_ids.items()}
    if attempts.failures:
        failures = [SendFailure(index, ids[index], *why) for index, why in sorted(attempts.failures.items())]
        raise SendError(queue.name, failures, sent)
    return [sent[index] for index in range(len(payloads))]


def _lines(payloads: list[Any], ids: list[str], options: Options) -> list[str]:
    """Return the bodies of the messages.

    :raises RecordError: a payload or the context is not valid.
    """
    if options.raw:
        return [_raw(payload) for payload in payloads]
    writer = RecordWriter(state.build, options.channel, options.context)
    return [writer.write(event_id, payload) for event_id, payload in zip(ids, payloads, strict=True)]


def _raw(payload: Any) -> str:
    if isinstance(payload, (bytes, bytearray)):
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            raise RecordError(f"a raw body is a text, and these bytes are not UTF-8: {error.reason}") from None
    return payload if isinstance(payload, str) else write(payload)


def _caller() -> str:
    """Return the name of the module that calls this function's caller."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))
