"""What waits in an engine is bounded by its bytes."""

from __future__ import annotations

import itertools
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from celery import Celery

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import Open, Task, Waiting
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.engine.engine import Engine
from balog_celery.sqs.messages import Message, TypedValue
from balog_celery.tasks.routes import register
from engines import hub_of, running
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

MIB = 2**20
CONSUMER = Consumer(print, "topic", name="function")


class WaitingWorker:
    """Takes every task, and reports that it waits for its retry."""

    def __init__(self, channel: Channel) -> None:
        self.waiting = 0
        self._channel = channel
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (messages := self._channel.receive()) is not None:
            for message in messages:
                if isinstance(message, Task):
                    self._channel.send(Waiting(message.number))
                    self.waiting += 1

    def join(self) -> None:
        self._thread.join(60)


@contextmanager
def tracing() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("memory", broker="memory://", set_as_current=False)
    register(app, CONSUMER, ConsumerOperator(), "topic", DeadLetters(lambda name: ObservedQueue(name), None), None)
    yield app
    app.close()


@pytest.mark.parametrize("part", ["body", "attribute", "binary attribute"])
def test_the_content_of_a_message_whose_task_waits_in_the_worker_is_not_kept(app: Celery, part: str) -> None:
    """The worker has it, and a thousand tasks may wait there for hours."""
    ours, theirs = socket.socketpair()
    with closing(Channel(theirs)) as channel:
        dispatcher = HandOffDispatcher(app, Channel(ours), PublishDispatcher(app, 1.0, 10))
        hub = ConsumerHub()
        hub.add_consumer(CONSUMER)
        engine = Engine(hub, ObservedQueue, dispatcher=dispatcher, dead_letter=None)
        channel.send(Open(10, sorted(dispatcher.queues_of([CONSUMER]))))
        worker = WaitingWorker(channel)
        wait_until(lambda: dispatcher.ready(dispatcher.queues_of([CONSUMER]), 1.0), what="the worker's credit")
        # Given
        with tracing():
            # When 50 messages of 1 MB are handed over, and their tasks wait
            for number in range(50):
                text = event_text(str(number), "log", message=("x" if part == "body" else "") * 10**6, severity="info")
                large = "x" * 10**6
                attributes = {"large": large} if part == "attribute" else {}
                typed = {"large": TypedValue("Binary", large.encode())} if part == "binary attribute" else {}
                engine.take("topic", Message(text, "h", str(number), 0.0, attributes=attributes, typed=typed))
            wait_until(lambda: worker.waiting == 50)
            # Then
            assert tracemalloc.get_traced_memory()[0] < 10 * MIB
        dispatcher.close()
        worker.join()


def test_a_fifo_topic_with_large_bodies_pauses_before_a_thousand_messages() -> None:
    """The limit is one of bytes as well."""
    given, numbers = threading.Event(), itertools.count()

    class Large(ObservedQueue):
        def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
            text = event_text("a", "log", message="x" * 3 * MIB, severity="info")  # as from S3
            for _ in range(limit):
                self.put(text, group=f"g{next(numbers)}")
            return super().receive(limit, wait, visibility)

    def block(_event: object) -> None:
        assert given.wait(60)

    queue = Large("topic.fifo")
    engine = Engine(hub_of(block), lambda _: queue, dead_letter=None)
    with running(engine):
        wait_until(lambda: any(topic["doing"] == "paused" for topic in engine.status()["topics"].values()))
        in_flight = engine.status()["topics"]["topic.fifo"]["in_flight"]
        given.set()
    assert in_flight <= 30
