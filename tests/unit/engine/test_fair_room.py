"""Room in the worker is shared between topics, and bounded in number and in bytes."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery

from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.dispatcher import MANY_JOBS, Readiness
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import Done, Open, Task
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.dispatch.room import Room
from balog_celery.engine.engine import Engine
from balog_celery.events.decoders import cloudevents
from balog_celery.events.decoders.documents import MAX_EVENTS
from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.tasks.routes import register
from engines import ScriptedDispatcher, running
from sample_events import event_text
from scripted_sqs.in_process import InProcessQueue
from scripted_sqs.store import SqsStore
from servers import wait_until

#: How many tasks the worker takes.
CREDIT = 20


def batch_of(name: str, count: int = MAX_EVENTS, data: str = "") -> str:
    event = {"specversion": "1.0", "type": "flood", "source": name, "data": data}
    return json.dumps([{**event, "id": str(number)} for number in range(count)])


class Worker:
    """The worker beside an engine: it finishes the oldest of its tasks when the test asks it to."""

    def __init__(self, app: Celery, *topics: str) -> None:
        self.hub = ConsumerHub()
        consumers = [Consumer(print, topic, name=topic) for topic in topics]
        for consumer in consumers:
            self.hub.add_consumer(consumer)
            letters = DeadLetters(InProcessQueue, None)
            register(app, consumer, ConsumerOperator(), consumer.topic, letters, None)
        ours, theirs = socket.socketpair()
        self._channel = Channel(theirs)
        self.dispatcher = HandOffDispatcher(app, Channel(ours), PublishDispatcher(app, 1.0, 10))
        self._queues = self.dispatcher.queues_of(consumers)
        self.tasks: list[Task] = []

    def open(self, credit: int = CREDIT) -> None:
        self._channel.send(Open(credit, sorted(self._queues)))

    def receive(self, timeout: float) -> bool:
        """Take the tasks that have come; wait for the first."""
        if not select.select([self._channel], [], [], timeout)[0]:
            return False
        found = self._channel.receive() or []
        self.tasks += [message for message in found if isinstance(message, Task)]
        return True

    def fill(self) -> None:
        """Take tasks until no more come."""
        assert self.receive(30)
        while self.receive(0.3):
            pass

    def finish_one(self) -> None:
        self._channel.send(Done(self.tasks.pop(0).number))

    def finish_until(self, name: str, most: int) -> int:
        """Finish task after task until one of *name* is there; return how many, at most *most*."""
        for finished in range(most):
            self.receive(0.01)
            while not self.tasks:
                assert self.receive(30)
            if any(task.name == Consumer(print, name, name=name).task_name for task in self.tasks):
                return finished
            self.finish_one()
        return most

    def close(self) -> None:
        self._channel.close()
        self.dispatcher.close()


@contextmanager
def beside(worker: Worker, queues: dict[str, InProcessQueue]) -> Iterator[Engine]:
    """Run an engine beside *worker*."""
    with running(
        Engine(worker.hub, queues.__getitem__, dispatcher=worker.dispatcher, wait_time=0, dead_letter=None)
    ) as engine:
        try:
            yield engine
        finally:
            worker.close()


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with a task queue of its own."""
    app = Celery("fair", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"fair-{id(app)}"
    yield app
    app.close()


def queues_of(store: SqsStore, *names: str) -> dict[str, InProcessQueue]:
    queues = {name: InProcessQueue(name, store) for name in names}
    for queue in queues.values():
        queue.create()
    return queues


@pytest.mark.parametrize("flood", ["flood", "flood.fifo"])
def test_a_flood_leaves_room_to_other_topics(app: Celery, flood: str) -> None:
    """Given a topic with thousands of events, when one of another topic comes, then it is among the next few."""
    worker = Worker(app, flood, "quiet")
    queues = queues_of(SqsStore(), flood, "quiet")
    for number in range(10):
        if flood == "flood":
            queues[flood].send([OutgoingMessage(batch_of(str(number)))])
        else:  # a message of one event in each of many groups
            groups = range(10 * number, 10 * number + 10)
            queues[flood].send(
                [OutgoingMessage(batch_of(str(n), 1), group=str(n), deduplication_id=str(n)) for n in groups]
            )
    with beside(worker, queues) as engine:
        worker.open()
        wait_until(lambda: engine.status()["topics"].get("quiet", {}).get("doing") == "paused", what="the other topic")
        worker.fill()
        queues["quiet"].send([OutgoingMessage(event_text())])
        assert worker.finish_until("quiet", 10 * CREDIT) <= 3 * CREDIT


def test_room_is_bounded_in_bytes(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given credit for many tasks, when their events are large, then the worker has few at a time."""
    monkeypatch.setattr("balog_celery.dispatch.hand_off_engine.MAX_BYTES", 500_000)
    worker = Worker(app, "flood")
    queues = queues_of(SqsStore(), "flood")
    for number in range(4):
        queues["flood"].send([OutgoingMessage(batch_of(str(number), 5, "x" * 100_000))])
    with beside(worker, queues):
        worker.open(1000)
        finished = 0
        while finished < 20:
            worker.fill()
            # Room for 500 kB is used up by the event that exceeds it.
            assert 1 <= len(worker.tasks) <= 5
            finished += len(worker.tasks)
            for _ in range(len(worker.tasks)):
                worker.finish_one()
        wait_until(lambda: not int(queues["flood"].attributes()["ApproximateNumberOfMessagesNotVisible"]))


def test_a_stop_does_not_wait_for_the_rest_of_a_flood(app: Celery) -> None:
    """Given a message of which a part is dispatched, when the engine stops, then the message is visible again."""
    worker = Worker(app, "flood")
    queues = queues_of(SqsStore(), "flood")
    queues["flood"].send([OutgoingMessage(batch_of("a"))])
    with beside(worker, queues) as engine:
        worker.open()
        worker.fill()
        engine.stop()
        wait_until(lambda: queues["flood"].attributes()["ApproximateNumberOfMessages"] == "1")
        assert len(worker.tasks) == CREDIT


class Parts(ScriptedDispatcher):
    """A dispatcher that takes seven jobs at a time, and is full for a while after each part."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[int] = []
        self.decoded: list[int] = []
        self.full = 0

    def dispatch(self, jobs: Any) -> None:
        assert not self.full
        self.parts.append(len(jobs))
        self.decoded.append(Decoded.messages)
        self.full = 3
        for job in jobs:
            job.acknowledge()

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        self.full = max(0, self.full - 1)
        return Readiness.WORKER_FULL if self.full else Readiness.READY

    def room(self) -> int:
        return 7


class Decoded:
    """Counts the messages that were decoded."""

    messages = 0

    def __call__(self, message: str) -> Any:
        Decoded.messages += 1
        return cloudevents(message)


def test_many_events_are_dispatched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is as large as the dispatcher takes, and waits for it; further messages are decoded later."""
    monkeypatch.setattr(Decoded, "messages", 0)
    hub, dispatcher = ConsumerHub(), Parts()
    hub.add_consumer(Consumer(print, "flood", name="flood"))
    queues = queues_of(SqsStore(), "flood")
    queues["flood"].send([OutgoingMessage(batch_of(str(number), MANY_JOBS)) for number in range(3)])
    with running(
        Engine(
            hub,
            queues.__getitem__,
            dispatcher=dispatcher,
            wait_time=0,
            dead_letter=None,
            decoders={"flood": Decoded()},
        )
    ):
        wait_until(lambda: sum(dispatcher.parts) == 3 * MANY_JOBS)
    assert dispatcher.parts == 3 * [*[7] * (MANY_JOBS // 7), MANY_JOBS % 7]
    assert dispatcher.decoded == sorted(15 * [1, 2, 3])


def test_room_goes_to_the_thread_that_began_to_wait_first() -> None:
    """Given two threads that wait again and again, when there is room, then the first has it, and the second later."""
    changed = threading.Condition()
    room, free, order = Room(changed), [0], []

    def wait(name: str) -> None:
        with changed:
            while not room.wait_for(lambda: free[0], 0.02):
                pass
            free[0] = 0
            order.append(name)

    def make_room(waiting: int) -> bool:
        with changed:
            if len(room.waiting) == waiting:
                free[0] = 1
                changed.notify_all()
            return bool(free[0])

    threads = [threading.Thread(target=wait, args=(name,)) for name in ("first", "second", "third")]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_until(lambda number=number: len(room.waiting) == number, what="a thread that waits")  # type: ignore[misc]
    for number in range(3):
        wait_until(lambda number=number: make_room(3 - number), what="all threads to wait")  # type: ignore[misc]
        wait_until(lambda number=number: len(order) > number, what="a turn")  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "third"]
