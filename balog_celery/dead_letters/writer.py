"""Sends events that failed permanently to the dead-letter queue of their topic.

A dead letter is the message as it came: body and attributes are untouched. The failure is described in one attribute
more, the :mod:`mark <balog_celery.events.mark>`: ``reason``, ``topic``, ``consumer``, ``error``, ``first_received``
(ISO 8601), ``receive_count``, ``message_id`` and ``sent`` (in the topic), ``group``, and the id of the ``event``. Where
the message held many events and was large, the body is the record of the one event, and the mark says ``record``.
"""

from __future__ import annotations

import enum
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from ..errors import QueueError, QueueNotFound
from ..signals import event_dead
from ..sqs.addresses import dead_letter_topic, queue_name
from ..sqs.messages import Message, OutgoingMessage
from ..sqs.protocols import Connect, Queue
from ..sqs.translation import is_bad_message
from ..text import printable
from .original import Attributes, OriginalMessage, marked

logger = logging.getLogger(__name__)

#: Why there is a dead letter.
REASONS = frozenset({"undecodable", "failed", "default_event_handler", "fault"})
#: The parts of the mark that a replay needs.
_ESSENTIAL = ("reason", "topic", "consumer", "event", "record", "message_id")
_UNKNOWN = OriginalMessage()


class Outcome(enum.Enum):
    """The result of sending a dead letter. Only :attr:`KEPT` is true."""

    KEPT = "SQS has it"
    NO_QUEUE = "there is no dead-letter queue for it"
    REFUSED = "the dead-letter queue refused it"
    NOT_NOW = "the dead-letter queue cannot be reached"

    def __bool__(self) -> bool:
        return self is Outcome.KEPT


class DeadLetters:
    """Sends dead letters to the dead-letter queue of their topic, if there is one. Threads may share it.

    :param connect: returns the queue of a name or URL.
    :param template: the name of a topic's dead-letter queue, in which ``{topic}`` stands for the topic's name; None:
        there are no dead-letter queues. Or a function that returns the template of a topic.
    :param on_kept: called with topic, consumer and reason of each dead letter that SQS has.
    """

    def __init__(
        self,
        connect: Connect,
        template: str | Callable[[str], str | None] | None,
        on_kept: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._connect = connect
        self._template_of = template if callable(template) else lambda _topic: template
        self._on_kept = on_kept
        self._lock = threading.Lock()
        self._queues: dict[str, Queue] = {}
        #: Those that have existed, by name. One that is gone, as while it is replaced, is an outage.
        self._found: set[str] = set()

    def name(self, topic: str) -> str | None:
        """Return the dead-letter queue of *topic*, whether or not it exists: a name, or a URL for a URL."""
        return dead_letter_topic(self._template_of(topic), topic)

    def exists(self, topic: str) -> bool:
        """Return whether there is a dead-letter queue for *topic*.

        :raises QueueError: SQS could not be asked, or refused.
        """
        return self._queue(topic) is not None

    def send(
        self,
        body: str,
        topic: str,
        reason: str,
        *,
        consumer: str = "",
        error: str = "",
        first_received: int = 0,
        receive_count: int = 0,
        group: str = "",
        event_id: str = "",
        original: OriginalMessage = _UNKNOWN,
    ) -> Outcome:
        """Send a message, or one event of it, to the dead-letter queue of *topic*.

        If the outcome is not true, its cause is logged, and the caller must keep the event: it must try again later if
        the outcome is ``NOT_NOW``.

        :param body: the text of the event, or the body of a message that holds none.
        :param reason: one of :data:`REASONS`.
        :param consumer: the name of the task that failed.
        :param error: the exception in one line.
        :param first_received: milliseconds of Unix time; 0: not known.
        :param receive_count: how often SQS delivered the message; 0: not known.
        :param group: the event's message group on a FIFO topic; "": none.
        :param event_id: the event's id; "": it is about the message.
        :param original: the message that held the event.
        """
        mark = {
            "reason": reason,
            "topic": printable(topic),
            "consumer": printable(consumer),
            "error": printable(error, 1000),
            "first_received": _iso(first_received),
            "receive_count": receive_count,
            "group": group,
            "event": event_id,
            "record": original.is_record,
            "message_id": original.message_id,
            "sent": original.sent,
        }
        outcome = self._send_first(topic, body if original.body is None else original.body, original.attributes, mark)
        if outcome:
            if self._on_kept is not None:
                self._on_kept(queue_name(topic), consumer, reason)
            if event_dead.receivers:
                event_dead.send(queue_name(topic), body=body, reason=reason, consumer=consumer, error=error)
        return outcome

    def send_received(
        self,
        message: Message,
        body: str,
        topic: str,
        reason: str,
        *,
        consumer: str = "",
        error: str = "",
        event_id: str = "",
        original: OriginalMessage | None = None,
    ) -> Outcome:
        """Send *body*, which came in *message*, to the dead-letter queue of *topic*.

        The other arguments and the outcome are those of :meth:`send`.

        :param original: default: as the only event of the message.
        """
        return self.send(
            body,
            topic,
            reason,
            consumer=consumer,
            error=error,
            first_received=message.first_received,
            receive_count=message.receive_count,
            group=message.group,
            event_id=event_id,
            original=OriginalMessage.of(message, body, 1) if original is None else original,
        )

    def _send_first(self, topic: str, body: str, attributes: Attributes, mark: Mapping[str, Any]) -> Outcome:
        """Send the largest form of a dead letter that the dead-letter queue takes."""
        outcome = Outcome.REFUSED
        try:
            queue = self._queue(topic)
            if queue is None:
                return Outcome.NO_QUEUE
            for message in _candidates(body, attributes, mark, queue.max_message_bytes):
                outcome = self._send_one(queue, topic, message)
                if outcome is not Outcome.REFUSED:
                    break
        except QueueError as error:
            _log_failure(topic, str(error))
            return Outcome.NOT_NOW
        return outcome

    def _send_one(self, queue: Queue, topic: str, message: OutgoingMessage) -> Outcome:
        try:
            failures = queue.send([message])
        except QueueError as error:
            if isinstance(error, QueueNotFound):
                self._forget(topic)
            _log_failure(topic, str(error))
            is_refused = is_bad_message(error)
        else:
            if not failures:
                return Outcome.KEPT
            _log_failure(topic, f"{failures[0].code} ({printable(failures[0].message)})")
            is_refused = failures[0].sender_fault
        return Outcome.REFUSED if is_refused else Outcome.NOT_NOW

    def _queue(self, topic: str) -> Queue | None:
        name = self.name(topic)
        if name is None:
            return None
        with self._lock:
            if name in self._queues:
                return self._queues[name]
        # Ask each time while it is missing: its event is about to be deleted.
        queue = self._connect(name)
        exists = queue.exists()
        with self._lock:
            if exists:
                self._found.add(name)
                return self._queues.setdefault(name, queue)
            if name in self._found:
                raise QueueNotFound(f"{printable(name)} is gone: create it again")
            return None

    def _forget(self, topic: str) -> None:
        with self._lock:
            self._queues.pop(self.name(topic) or "", None)


def _candidates(body: str, attributes: Attributes, mark: Mapping[str, Any], limit: int) -> list[OutgoingMessage]:
    """Return the messages that can hold a dead letter, each with less beside the body than the one before.

    A body near the size limit leaves little room, and is worth more than its attributes.

    :param limit: the largest message that the queue takes, in bytes.
    """
    essential = {name: mark[name] for name in _ESSENTIAL}
    # On a FIFO queue, the dead letters of several consumers for one event have the same body, and each must be kept.
    # They need no order, and in a common group each would hide those behind it from a scan.
    unique = uuid.uuid4().hex
    candidates = [
        OutgoingMessage(body, some, group=unique, deduplication_id=unique)
        for some in (marked(attributes, mark), marked(attributes, essential), marked({}, essential), {})
    ]
    # A body that is too large by itself travels by S3, if at all.
    return [message for message in candidates if message.size() <= limit] or candidates[:1]


def _log_failure(topic: str, cause: str) -> None:
    logger.warning("the dead-letter queue of %s did not take an event: %s", printable(topic), cause)


def _iso(milliseconds: int) -> str:
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat()
