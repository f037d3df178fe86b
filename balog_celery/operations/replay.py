"""Replays events: as the task of one consumer, or by sending them to their topic again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from celery import Celery

from ..brokers.connections import is_too_large
from ..consumers.explain import why_not
from ..dead_letters.original import Attributes
from ..errors import BalogError, DecodeError, QueueError
from ..events.decoders import Reader
from ..events.records import FacilityRecord
from ..sqs.addresses import queue_name, topics_named
from ..sqs.messages import DEFAULT_GROUP, EntryFailure, Message, OutgoingMessage, send_batches
from ..sqs.protocols import Connect, Queue
from ..sqs.translation import is_bad_message
from ..tasks.consumer import ConsumerTask
from ..text import printable


@dataclass(frozen=True)
class Item:
    """An event to replay.

    :param body: the body of its message.
    :param event: the event; None if the body cannot be decoded, or does not hold exactly one event.
    :param text: the event's record: the argument of its task.
    :param topic: its topic: a name or URL.
    :param consumer: the name of the only consumer's task that gets it; "": all consumers that want it.
    :param origin: the message in which the caller found it.
    :param group: its message group in a FIFO topic; "": the default group.
    :param attributes: the message attributes with which it is sent to its topic.
    :param chosen: whether a user has named the consumer; otherwise the dead letter does.
    """

    body: str
    event: FacilityRecord | None
    text: str
    topic: str
    consumer: str = ""
    origin: Any = None
    group: str = ""
    attributes: Attributes = field(default_factory=dict)
    chosen: bool = False


class CannotReplay(BalogError):
    """An item cannot be replayed; the reason is one line."""


class Refused(BalogError):
    """The broker or the topic refused some items permanently. The others of the same delivery were sent.

    :param reasons: one line for each refused item.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = reasons
        super().__init__("; ".join(reasons))


@dataclass(frozen=True)
class Destination:
    """Where an item is sent: to the task of one consumer, or to its topic."""

    topic: str
    task: ConsumerTask | None = None

    def __str__(self) -> str:
        return self.task.name if self.task is not None else f"topic {printable(queue_name(self.topic))}"


#: Called with each item that was sent.
Delivered = Callable[[Item, Destination], object]


class RateLimiter:
    """Limits how many events are sent a second.

    :param rate: events a second; None: no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._next = time.monotonic()

    @property
    def batch(self) -> int:
        """How many events to send at a time: about a second's worth, from 1 to 10."""
        return 10 if self.rate is None else max(1, min(10, int(self.rate)))

    def passed(self, count: int) -> None:
        """Record that *count* events were sent, and wait until the next may be sent."""
        if self.rate is not None and count:
            self._next = max(self._next, time.monotonic() - 1.0) + count / self.rate
            time.sleep(max(0.0, self._next - time.monotonic()))


class Replay:
    """Replays items for an app whose consumers are loaded.

    The task of one consumer goes to the Celery broker, with the id that it always has for this event; other consumers
    do not get the event. An event that goes to its topic is sent there unchanged.

    :param app: the Celery app.
    :param topics: the topics of its consumers; nothing is sent elsewhere.
    :param connect: returns the queue of a topic.
    :param reader: returns the reader of a topic's bodies.
    """

    def __init__(self, app: Celery, topics: Collection[str], connect: Connect, reader: Callable[[str], Reader]) -> None:
        self._app = app
        self._topics = topics
        self._connect = connect
        self._reader = reader

    def destination(self, item: Item) -> Destination:
        """Return where to send *item*.

        :raises CannotReplay: it cannot be replayed.
        """
        if item.consumer:
            return self._consumer(item)
        if not item.topic:
            raise CannotReplay("it does not name its topic: give it to one consumer (balog replay QUEUE --consumer)")
        topics = topics_named(item.topic, self._topics)
        if not topics:
            raise CannotReplay(f"no consumer of this app listens to topic {printable(item.topic)}")
        if len(topics) > 1:
            raise CannotReplay(
                f"several topics are called {printable(item.topic)} ({printable(', '.join(topics))}): "
                "give it to one consumer (balog replay QUEUE --consumer)"
            )
        (topic,) = topics
        if item.event is not None and not self._reads(topic, item):
            raise CannotReplay(
                f"the decoder of topic {printable(topic)} does not read it as this event: name one --consumer"
            )
        return Destination(topic)

    def _reads(self, topic: str, item: Item) -> bool:
        """Return whether the engine reads the event of *item* in that topic."""
        assert item.event is not None  # see destination()
        texts = {name: value for name, value in item.attributes.items() if isinstance(value, str)}
        try:
            readings = self._reader(topic)(Message(item.body, "", "", 0.0, attributes=texts))
        except DecodeError:
            return False
        # The id of a message that has never been sent is not known yet.
        return bool(readings) and (not texts or any(event.header.id == item.event.header.id for event, _ in readings))

    def _consumer(self, item: Item) -> Destination:
        name = printable(item.consumer)
        task = self._app.tasks.get(item.consumer)
        if not isinstance(task, ConsumerTask):
            raise CannotReplay(f"there is no consumer {name}: it was renamed or removed")
        if not item.chosen and item.topic and not topics_named(item.topic, [task.topic]):
            raise CannotReplay(f"{name} is no consumer of topic {printable(item.topic)}")
        if item.event is None:
            raise CannotReplay(f"it cannot be read as one event, so {name} alone cannot get it")
        if reasons := why_not(task.consumer, item.event):
            raise CannotReplay(f"{name} does not want it: {'; '.join(reason.text for reason in reasons)}")
        return Destination(task.topic, task)

    def deliver(self, items: Iterable[tuple[Item, Destination]], delivered: Delivered) -> None:
        """Send *items*, and call *delivered* with each that was sent.

        :raises Refused: some were refused permanently; all others were sent.
        :raises BalogError: one could not be sent; those after it were not tried.
        """
        to_topics: dict[Destination, list[Item]] = {}
        refused: list[str] = []
        for item, destination in items:
            if destination.task is None:
                to_topics.setdefault(destination, []).append(item)
            elif reason := self._publish(destination.task, item):
                refused.append(reason)
            else:
                delivered(item, destination)
        for topic, sent in to_topics.items():
            refused += self._send(topic, sent, delivered)
        if refused:
            raise Refused(refused)

    def _publish(self, task: ConsumerTask, item: Item) -> str:
        """Publish the task of an item. Return why the broker refuses it permanently, or "" if it took it."""
        assert item.event is not None  # see destination()
        task_id, _, argument = task.describe([(item.event, item.text)])
        try:
            task.apply_async((argument,), task_id=task_id)
        except Exception as error:
            if is_too_large(error):
                return f"its task of {task.name} is larger than the broker takes"
            raise BalogError(f"the broker did not take a task of {task.name}: {printable(repr(error), 500)}") from error
        return ""

    def _send(self, destination: Destination, items: Sequence[Item], delivered: Delivered) -> list[str]:
        """Send items to a topic. Return the reasons of those that it refuses permanently."""
        queue = self._connect(destination.topic)
        waiting = iter(items)
        # With a new deduplication id: a FIFO queue drops a body that it has seen in the last five minutes.
        messages = (
            OutgoingMessage(
                item.body, item.attributes, group=item.group or DEFAULT_GROUP, deduplication_id=uuid.uuid4().hex
            )
            for item in items
        )
        refused: list[str] = []
        for batch in send_batches(messages):
            failed = {failure.index: failure for failure in _sent(queue, batch)}
            for index in range(len(batch)):
                item = next(waiting)
                if index not in failed:
                    delivered(item, destination)
            for _, failure in sorted(failed.items()):
                problem = f"{queue.name} did not take an event: {printable(failure.message)}"
                if not failure.sender_fault:
                    raise QueueError(problem, failure.code)
                refused.append(problem)
        return refused


def _sent(queue: Queue, batch: Sequence[OutgoingMessage]) -> list[EntryFailure]:
    """Send *batch*, and return the failures. If the queue refuses all of it because of one, send each by itself.

    :raises QueueError: the queue cannot be reached.
    """
    try:
        return queue.send(batch)
    except QueueError as error:
        if not is_bad_message(error):
            raise
        if len(batch) == 1:
            return [EntryFailure(0, error.code, str(error), True)]
    return [replace(failure, index=index) for index, message in enumerate(batch) for failure in _sent(queue, [message])]
