"""Readiness: why a dispatcher takes no jobs."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from balog_celery.consumers.consumer import Consumer
from balog_celery.consumers.delivery import Delivery, Job, Settlement
from balog_celery.dispatch.back_pressure import BackPressure
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.dispatcher import DispatchError, InlineDispatcher, Readiness
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import Alive, Closed, Done, Open, Publish, Task
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.engine.batcher import Batcher
from balog_celery.events.records import decode
from balog_celery.sqs.messages import Message
from balog_celery.telemetry import OFF
from sample_events import event_text
from servers import wait_until


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose broker is in memory, with a task queue of its own."""
    app = Celery("readiness", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"tasks-{uuid.uuid4().hex}"
    yield app
    app.close()


def test_an_inline_dispatcher_is_always_ready() -> None:
    """An inline dispatcher is always ready, because it runs in the poller's thread."""
    dispatcher = InlineDispatcher(None, lambda job, error: True, lambda consumer: "", OFF)
    assert dispatcher.ready(frozenset(), 0) is Readiness.READY


# The worker beside the engine


def test_a_worker_whose_event_loop_stands_still_is_given_nothing(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose reports have stopped gets no tasks; one that never sent any is not judged."""
    monkeypatch.setattr("balog_celery.dispatch.hand_off_engine._SILENT_AFTER", 0.3)
    publish = PublishDispatcher(app, 1.0, 10)
    ours, theirs = socket.socketpair()
    dispatcher = HandOffDispatcher(app, Channel(ours), publish)

    def comes(readiness: Readiness) -> None:
        wait_until(lambda: dispatcher.ready(frozenset({"tasks"}), 0.01) is readiness, what=readiness.name)

    with closing(Channel(theirs)) as worker:
        worker.send(Open(2, ["tasks"]))
        comes(Readiness.READY)
        threading.Event().wait(0.5)
        assert dispatcher.ready(frozenset({"tasks"}), 0.01) is Readiness.READY
        worker.send(Alive())
        comes(Readiness.WORKER_SILENT)
        assert not Readiness.WORKER_SILENT.is_back_pressure
        worker.send(Alive())
        comes(Readiness.READY)
    dispatcher.close()


def job(consumer: Consumer) -> Job:
    delivery = Delivery(Message(event_text(), "h", "m", 0.0), 1, lambda _: None)
    return Job(delivery, decode(event_text()), event_text(), consumer, {})


def test_a_worker_that_takes_no_tasks_is_told_from_one_that_is_full(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is closed, or gone, has another reason than a full one."""
    consumer = Consumer(print, "topic", name="f")
    task = SimpleNamespace(fifo="", describe=lambda events: ("i", "", events[0][1]), name="f")
    publish = PublishDispatcher(app, 1.0, 10)
    monkeypatch.setattr(publish, "envelope", lambda _: SimpleNamespace(task=task, queue="tasks"))
    ours, theirs = socket.socketpair()
    dispatcher = HandOffDispatcher(app, Channel(ours), publish)

    def comes(readiness: Readiness) -> None:
        wait_until(lambda: dispatcher.ready(frozenset({"tasks"}), 0.01) is readiness, what=readiness.name)

    with closing(Channel(theirs)) as worker:
        assert dispatcher.ready(frozenset({"tasks"}), 0.01) is Readiness.WORKER_CLOSED
        worker.send(Open(2, ["tasks"]))
        comes(Readiness.READY)
        dispatcher.dispatch([job(consumer), job(consumer)])
        comes(Readiness.WORKER_FULL)
        (first, _) = worker.receive() or []
        assert isinstance(first, Task)
        worker.send(Done(first.number))
        comes(Readiness.READY)
        worker.send(Closed())
        comes(Readiness.WORKER_CLOSED)
        # The broker decides about tasks that are published.
        worker.send(Publish())
        comes(Readiness.READY)
        worker.send(Open(2, ["tasks"]))
    comes(Readiness.WORKER_GONE)
    dispatcher.close()


# The broker


@pytest.fixture
def watch(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackPressure]:
    """Back-pressure that checks often, and lets one task wait."""
    monkeypatch.setattr("balog_celery.dispatch.back_pressure.INTERVAL", 0.02)
    monkeypatch.setattr("balog_celery.dispatch.back_pressure.SERVED_INTERVAL", 0.2)
    watch = BackPressure(app, 1, app.connection_for_write)
    yield watch
    watch.close()


def fill(app: Celery) -> str:
    name: str = app.conf.task_default_queue
    for _ in range(3):
        app.send_task("x")
    return name


def answers(app: Celery, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
    monkeypatch.setattr(app.control, "inspect", lambda **_: SimpleNamespace(active_queues=answer))


def readiness(watch: BackPressure, name: str) -> Readiness:
    return watch.wait_open(frozenset({name}), 0.0)


def test_a_full_queue_is_back_pressure_while_a_worker_serves_it(
    app: Celery, watch: BackPressure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full queue is back-pressure while a worker serves it, however long tasks take."""
    name = fill(app)
    asked: list[bool] = []
    answers(app, monkeypatch, lambda: asked.append(True) or {"worker": [{"name": name}]})
    watch.publishing_to(name)
    wait_until(lambda: len(asked) >= 3)
    assert readiness(watch, name) is Readiness.QUEUE_FULL
    assert readiness(watch, "another") is Readiness.READY


@pytest.mark.parametrize("answer", [None, {"worker": [{"name": "another"}]}])
def test_a_full_queue_that_no_worker_serves_is_a_problem(
    app: Celery, watch: BackPressure, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    """Whether another worker answers or none, but not while tasks are taken from it."""
    name = fill(app)
    answers(app, monkeypatch, lambda: answer)
    watch.publishing_to(name)
    wait_until(lambda: readiness(watch, name) is Readiness.QUEUE_UNSERVED)
    monkeypatch.setattr("balog_celery.dispatch.back_pressure.SERVED_INTERVAL", 3600.0)
    with app.connection_for_read() as connection:
        connection.default_channel.basic_get(name, no_ack=True)
        wait_until(lambda: readiness(watch, name) is Readiness.QUEUE_FULL)
        connection.default_channel.basic_get(name, no_ack=True)
        wait_until(lambda: readiness(watch, name) is Readiness.READY)


def test_a_broker_that_does_not_answer_is_a_problem_until_it_does(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that does not answer is a problem until it answers; then the depths count again."""
    monkeypatch.setattr("balog_celery.dispatch.back_pressure.INTERVAL", 0.02)
    down = [True]

    def connect() -> Any:
        if down[0]:
            raise ConnectionError("down")
        return app.connection_for_write()

    watch = BackPressure(app, 1, connect)
    try:
        watch.publishing_to(app.conf.task_default_queue)
        wait_until(lambda: readiness(watch, "any") is Readiness.BROKER_DOWN)
        down[0] = False
        wait_until(lambda: readiness(watch, "any") is Readiness.READY)
    finally:
        watch.close()


# Batches


class Scripted:
    """A dispatcher with the readiness that the test gives it."""

    def __init__(self) -> None:
        self.readiness = Readiness.READY
        self.inside: Callable[[], None] = lambda: None

    def dispatch(self, jobs: Sequence[Any]) -> None:
        self.inside()
        for one in jobs:
            one.acknowledge()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        """Accept: this dispatcher keeps any order."""

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return self.readiness

    def room(self) -> int:
        return 10

    def close(self) -> None:
        """Do nothing: nothing is open."""


def test_a_batcher_knows_why_it_waits() -> None:
    """A batcher's reason is its dispatcher's, a batch under way, or a failing dispatch."""
    dispatcher = Scripted()
    batches = Batcher("topic", dispatcher)
    said: list[Readiness] = []

    def inside() -> None:
        for readiness in (Readiness.READY, Readiness.WORKER_FULL, Readiness.WORKER_CLOSED):
            dispatcher.readiness = readiness
            said.append(batches.ready(frozenset(), 0.0))

    dispatcher.inside = inside
    consumer = Consumer(print, "topic", batch=1, name="f")
    batches.dispatch([job(consumer)])
    batches.flush()
    assert said == [Readiness.BATCH_WAITING, Readiness.WORKER_FULL, Readiness.WORKER_CLOSED]
    dispatcher.readiness = Readiness.READY
    assert batches.ready(frozenset(), 0.0) is Readiness.READY

    def fail() -> None:
        raise DispatchError("down")

    dispatcher.inside = fail
    batches.start()
    batches.dispatch([job(consumer)])
    wait_until(lambda: batches.ready(frozenset(), 0.0) is Readiness.BATCH_FAILING)
    batches.stop()


def test_a_batch_that_fails_during_a_stop_is_released() -> None:
    """A batch whose dispatch fails during a stop is released."""
    settled: list[Delivery] = []
    dispatcher = Scripted()
    batches = Batcher("topic", dispatcher)
    consumer = Consumer(print, "topic", batch=1, name="f")

    def stop_and_fail() -> None:
        batches.stop()
        raise DispatchError("down")

    dispatcher.inside = stop_and_fail
    deliveries = [Delivery(Message(event_text(), f"h{n}", f"m{n}", 0.0), 1, settled.extend) for n in range(3)]
    batches.dispatch([Job(one, decode(event_text()), event_text(), consumer, {}) for one in deliveries])
    with pytest.raises(DispatchError):
        batches.flush()
    assert {delivery.message.handle for delivery in settled} == {"h0", "h1", "h2"}
    assert all(delivery.settlement is Settlement.RELEASE for delivery in settled)
