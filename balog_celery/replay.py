"""Has events processed again: by one consumer, as a task of its own, or by all that their topic has."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery

from .consumers.explain import why_not
from .decoders import Reader
from .errors import BalogError, DecodeError, QueueError
from .queues import DEFAULT_GROUP, Connect, OutgoingMessage, send_batches
from .records import FacilityRecord
from .settings import queue_name
from .tasks import ConsumerTask
from .text import printable


@dataclass(frozen=True)
class Item:
    """Something to be replayed.

    :param body: what the message's body was.
    :param event: the event in it; None where it cannot be decoded, or is not one event.
    :param text: the event's record: what its task is given.
    :param topic: the topic to which it belongs: a name or URL.
    :param consumer: the name of the consumer's task that alone is to have it; "": whoever wants it.
    :param origin: where the caller found it.
    :param group: the group in which a FIFO topic keeps it; "": that of all that has none.
    """

    body: str
    event: FacilityRecord | None
    text: str
    topic: str
    consumer: str = ""
    origin: Any = None
    group: str = ""


class CannotReplay(BalogError):
    """An item has nowhere to go; the reason is one line."""


@dataclass(frozen=True)
class Destination:
    """Where an item goes: to the task of one consumer, or to a topic again."""

    topic: str
    task: ConsumerTask | None = None

    def __str__(self) -> str:
        return self.task.name if self.task is not None else f"topic {printable(queue_name(self.topic))}"


#: Told of each item that is safe where it goes.
Delivered = Callable[[Item, Destination], object]


class Pace:
    """Lets through so many a second.

    :param rate: how many a second; None: as many as come.
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._next = time.monotonic()

    @property
    def batch(self) -> int:
        """How many to take at once: at least one, and about a second's worth."""
        return 10 if self.rate is None else max(1, min(10, int(self.rate)))

    def passed(self, count: int) -> None:
        """So many went through: wait until the next may."""
        if self.rate is not None and count:
            self._next = max(self._next, time.monotonic() - 1.0) + count / self.rate
            time.sleep(max(0.0, self._next - time.monotonic()))


class Replay:
    """Replays items for an app whose consumers are loaded.

    A consumer's task goes to the Celery broker, with the id that it has whenever the event comes: no other consumer
    sees the event. What goes to a topic is sent there again, as it was.

    :param app: the Celery app.
    :param topics: the topics that consumers listen to; nothing is sent elsewhere.
    :param connect: gives the queue of a topic.
    :param reader: gives what reads the bodies of a topic.
    """

    def __init__(self, app: Celery, topics: Collection[str], connect: Connect, reader: Callable[[str], Reader]) -> None:
        self._app = app
        self._topics: Mapping[str, str] = {queue_name(topic): topic for topic in topics}
        self._connect = connect
        self._reader = reader

    def destination(self, item: Item) -> Destination:
        """Where *item* goes.

        :raises CannotReplay: nowhere.
        """
        if item.consumer:
            return self._consumer(item)
        topic = self._topics.get(queue_name(item.topic))
        if topic is None:
            raise CannotReplay(f"no consumer of this app listens to topic {printable(item.topic)}")
        if item.event is not None and not self._reads(topic, item.body):
            raise CannotReplay(f"the decoder of topic {printable(topic)} does not read records: say one --consumer")
        return Destination(topic)

    def _reads(self, topic: str, body: str) -> bool:
        """Whether the engine could read *body* there; an event that came in another form is a record now."""
        try:
            return bool(self._reader(topic)(body))
        except DecodeError:
            return False

    def _consumer(self, item: Item) -> Destination:
        name = printable(item.consumer)
        task = self._app.tasks.get(item.consumer)
        if not isinstance(task, ConsumerTask):
            raise CannotReplay(f"there is no consumer {name} (any more)")
        if item.event is None:
            raise CannotReplay(f"it cannot be read as one event, so {name} alone cannot have it")
        if reasons := why_not(task.consumer, item.event):
            raise CannotReplay(f"{name} does not want it: {'; '.join(reason.text for reason in reasons)}")
        return Destination(task.topic, task)

    def deliver(self, items: Iterable[tuple[Item, Destination]], delivered: Delivered) -> None:
        """Deliver *items*, telling *delivered* of each that is safe where it goes.

        :raises BalogError: one could not be delivered; those after it were not tried.
        """
        to_topics: dict[Destination, list[Item]] = {}
        for item, destination in items:
            if destination.task is None:
                to_topics.setdefault(destination, []).append(item)
            else:
                self._publish(destination.task, item)
                delivered(item, destination)
        for topic, sent in to_topics.items():
            self._send(topic, sent, delivered)

    def _publish(self, task: ConsumerTask, item: Item) -> None:
        assert item.event is not None  # see destination()
        try:
            task.apply_async((task.argument_of([item.text]),), task_id=task.id_of([item.event]))
        except Exception as error:
            raise BalogError(f"the broker did not take a task of {task.name}: {printable(repr(error), 500)}") from error

    def _send(self, destination: Destination, items: Sequence[Item], delivered: Delivered) -> None:
        queue = self._connect(destination.topic)
        waiting = iter(items)
        # With an id of its own, or a FIFO queue would drop what it has seen in the last five minutes.
        messages = (
            OutgoingMessage(item.body, group=item.group or DEFAULT_GROUP, deduplication_id=uuid.uuid4().hex)
            for item in items
        )
        for batch in send_batches(messages):
            failed = {failure.index: failure for failure in queue.send(batch)}
            for index in range(len(batch)):
                item = next(waiting)
                if index not in failed:
                    delivered(item, destination)
            if failed:
                failure = min(failed.values(), key=lambda one: one.index)
                raise QueueError(f"{queue.name} did not take an event: {printable(failure.message)}", failure.code)
