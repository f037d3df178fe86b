"""Dead letters: events that ended in failure, kept with the reason, ready to be replayed.

A dead letter's body is the body of the message, unchanged, or the record of an event that came in another form. What
is known of the failure is in message attributes: ``reason``, ``topic``, ``consumer``, ``error``, ``first_received``
(ISO 8601), ``receive_count``, and of a FIFO topic's event its ``group``.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone

from .errors import QueueError, QueueNotFound
from .queues import MAX_MESSAGE_BYTES, Connect, Message, OutgoingMessage, Queue, is_bad_message
from .settings import dead_letter_name, queue_name
from .text import printable

logger = logging.getLogger(__name__)

#: How long a missing dead-letter queue counts as missing before it is looked for again, in seconds.
_LOOK_AGAIN = 60.0


class Outcome(enum.Enum):
    """What became of a dead letter. Only :attr:`KEPT` is true."""

    KEPT = "SQS has it"
    NO_QUEUE = "there is no dead-letter queue for it"
    REFUSED = "the dead-letter queue refused it"
    NOT_NOW = "the dead-letter queue cannot be reached"

    def __bool__(self) -> bool:
        return self is Outcome.KEPT


class DeadLetters:
    """Puts dead letters into the dead-letter queue of a topic, where there is one. Threads may share it.

    :param connect: gives the queue of a name.
    :param template: the name of a topic's dead-letter queue, ``{topic}`` standing for the topic's name; None: there
        is none.
    :param kept: called with topic, consumer and reason of each event that was put into one.
    """

    def __init__(
        self, connect: Connect, template: str | None, kept: Callable[[str, str, str], None] | None = None
    ) -> None:
        self._connect = connect
        self._template = template
        self._kept = kept
        self._lock = threading.Lock()
        self._queues: dict[str, Queue] = {}
        self._missing: dict[str, float] = {}

    def name(self, topic: str) -> str | None:
        """What the dead-letter queue of *topic* (a queue's name or URL) is called, whether or not it exists."""
        return dead_letter_name(self._template, queue_name(topic))

    def exists(self, topic: str) -> bool:
        """Whether there is a dead-letter queue for *topic*.

        :raises QueueError: SQS could not be asked, or refused.
        """
        return self._queue(topic) is not None

    def put(
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
    ) -> Outcome:
        """Keep *body* as a dead letter of *topic*.

        Where the outcome is not true, its cause is logged, and the event must be kept in another way: later again if it
        is ``NOT_NOW``.

        :param reason: one of ``undecodable``, ``failed``, ``default_event_handler``.
        :param consumer: the name of the task that failed.
        :param error: the exception in one line.
        :param first_received: milliseconds of Unix time; 0: not known.
        :param receive_count: how often SQS delivered the message; 0: not known.
        :param group: the group in which a FIFO topic kept the event; "": none.
        """
        attributes = {
            "reason": reason,
            "topic": printable(topic),
            "consumer": printable(consumer),
            "error": printable(error, 1000),
            "first_received": _iso(first_received),
            "receive_count": str(receive_count or ""),
            "group": printable(group),
        }
        # On a FIFO queue: letters of several consumers for one event have one body, and each must be kept; they need no
        # order, and in a group each would hide those behind it from whoever looks.
        alone = uuid.uuid4().hex
        known = {name: value for name, value in attributes.items() if value}
        letter = OutgoingMessage(body, known, group=alone, deduplication_id=alone)
        if letter.size() > MAX_MESSAGE_BYTES >= OutgoingMessage(body).size():
            # A body of the largest size leaves no room for attributes; it is worth more than they are. A larger one
            # travels by S3, if at all.
            letter = OutgoingMessage(body, group=alone, deduplication_id=alone)
        try:
            queue = self._queue(topic)
            if queue is None:
                return Outcome.NO_QUEUE
            failures = queue.send([letter])
        except QueueError as problem:
            if isinstance(problem, QueueNotFound):
                self._forget(topic)
            logger.warning("the dead-letter queue of %s did not take an event: %s", printable(topic), problem)
            return Outcome.REFUSED if is_bad_message(problem) else Outcome.NOT_NOW
        for failure in failures:
            logger.warning(
                "the dead-letter queue of %s did not take an event: %s (%s)",
                printable(topic),
                failure.code,
                printable(failure.message),
            )
        if not failures:
            if self._kept is not None:
                self._kept(queue_name(topic), consumer, reason)
            return Outcome.KEPT
        return Outcome.REFUSED if failures[0].sender_fault else Outcome.NOT_NOW

    def bury(
        self, message: Message, body: str, topic: str, reason: str, *, consumer: str = "", error: str = ""
    ) -> Outcome:
        """As :meth:`put`, of what was in *message*."""
        return self.put(
            body,
            topic,
            reason,
            consumer=consumer,
            error=error,
            first_received=message.first_received,
            receive_count=message.receive_count,
            group=message.group,
        )

    def _queue(self, topic: str) -> Queue | None:
        name = self.name(topic)
        if name is None:
            return None
        with self._lock:
            if name in self._queues:
                return self._queues[name]
            if time.monotonic() < self._missing.get(name, 0.0):
                return None
        queue = self._connect(name)
        found = queue.exists()
        with self._lock:
            if found:
                return self._queues.setdefault(name, queue)
            self._missing[name] = time.monotonic() + _LOOK_AGAIN
            return None

    def _forget(self, topic: str) -> None:
        with self._lock:
            self._queues.pop(self.name(topic) or "", None)


def _iso(milliseconds: int) -> str:
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat()
