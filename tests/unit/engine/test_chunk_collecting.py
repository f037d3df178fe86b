"""How events of chunks are collected: as many as are there, and as can be called one after the other in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from celery import Celery

from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator
from balog_celery.consumers.delivery import Batch, Delivery, Job, Work
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.chunk_sizes import ChunkSizes
from balog_celery.dispatch.dispatcher import Dispatcher, Readiness
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import Open, Pace
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.engine.batcher import Batcher
from balog_celery.engine.engine import Engine
from balog_celery.events.records import decode
from balog_celery.sqs.messages import Message
from balog_celery.tasks.routes import register
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until


def consumer(**more: Any) -> Consumer:
    return Consumer(print, "topic", **{"chunk": 100, "name": "f", "module": "proj", **more})


async def later(event: Any) -> None: ...


# How many


def test_chunks_grow_while_their_calls_are_short() -> None:
    """One event at first, twice as many after each report, and no more than the consumer asks for."""
    sizes, one = ChunkSizes(), consumer(chunk=5)
    found = [sizes.of(one)]
    for _ in range(4):
        sizes.note(one.task_name, sizes.of(one), 0.001)
        found.append(sizes.of(one))
    assert found == [1, 2, 4, 5, 5]
    assert sizes.of(consumer(name="other")) == 1


def test_a_chunk_has_what_can_be_called_within_its_wait() -> None:
    """A slower function makes chunks smaller at once, a faster one larger with time."""
    sizes, one = ChunkSizes(), consumer(chunk_wait=2.0)
    for _ in range(10):
        sizes.note(one.task_name, 1, 0.01)
    assert sizes.of(one) == 100
    sizes.note(one.task_name, 4, 2.0)
    assert sizes.of(one) == 4
    sizes.note(one.task_name, 4, 0.04)
    assert 4 < sizes.of(one) < 100
    for _ in range(30):
        sizes.note(one.task_name, 4, 0.04)
    assert sizes.of(one) == 100
    sizes.note(one.task_name, 1, 3600.0)
    assert sizes.of(one) == 1


def test_concurrent_calls_do_not_wait_for_one_another() -> None:
    """So chunks of an async function have as many events as it asks for."""
    sizes, one = ChunkSizes(), Consumer(later, "topic", chunk=100, name="f", module="proj")
    sizes.note(one.task_name, 1, 3600.0)
    assert sizes.of(one) == 100


def test_the_engine_learns_from_its_worker() -> None:
    """A consumer whose tasks are published has chunks of any size: its tasks publish what takes too long."""
    # Given
    app = Celery("chunks", broker="memory://", set_as_current=False)
    here, elsewhere = consumer(), consumer(name="g", options={"queue": "elsewhere"})
    for one in (here, elsewhere):
        letters = DeadLetters({"topic-dead": ObservedQueue("topic-dead")}.__getitem__, "{topic}-dead")
        register(app, one, ConsumerOperator(), "topic", letters, None)
    app.conf.task_routes = {"proj.g": {"queue": "elsewhere"}}
    ours, theirs = socket.socketpair()
    dispatcher, worker = HandOffDispatcher(app, Channel(ours), PublishDispatcher(app, 1.0, 10)), Channel(theirs)
    try:
        # When
        worker.send(Open(10, ["celery"]))
        wait_until(lambda: dispatcher.chunk_size(here) == 1, what="the worker's queues")
        for _ in range(3):
            worker.send(Pace("proj.f", 1, 0.001))
        # Then
        wait_until(lambda: dispatcher.chunk_size(here) == 8, what="the reports")
        assert dispatcher.chunk_size(elsewhere) == 100
    finally:
        worker.close()
        dispatcher.close()


# Until when


class Taking:
    """A dispatcher that takes all, and settles it at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def dispatch(self, jobs: Sequence[Work]) -> None:
        for job in jobs:
            assert isinstance(job, Batch)
            self.sizes.append(len(job.jobs))
            job.acknowledge()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None: ...

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return Readiness.READY

    def room(self) -> int:
        return 100

    def chunk_size(self, consumer: Consumer) -> int:
        return consumer.chunk or 1

    def close(self) -> None: ...


@contextmanager
def running(wanted: Consumer, queue: ObservedQueue, dispatcher: Dispatcher | None = None) -> Iterator[None]:
    """Run an engine on *queue*."""
    hub = ConsumerHub()
    hub.add_consumer(wanted)
    queues = {"topic": queue, "topic-dead": ObservedQueue("topic-dead")}
    engine = Engine(hub, queues.__getitem__, dispatcher=dispatcher, linger=0.0)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield
    finally:
        engine.stop()
        thread.join(60)
        assert not thread.is_alive()


def test_a_chunk_has_the_events_of_several_receives_if_they_are_there() -> None:
    """And is full when it has as many as its consumer asks for."""
    dispatcher, queue = Taking(), ObservedQueue("topic", [event_text(f"e{number}") for number in range(45)])
    with running(consumer(chunk=20), queue, dispatcher):
        queue.wait_for(lambda: len(queue.deleted) == 45)
    assert sum(dispatcher.sizes) == 45
    assert max(dispatcher.sizes) == 20


def jobs(wanted: Consumer, count: int) -> list[Job]:
    message = Message(event_text(), "handle", "id", 0.0)
    event = decode(event_text())
    return [Job(Delivery(message, 1, lambda _: None), event, message.body, wanted, {}) for _ in range(count)]


def test_a_chunk_waits_only_while_receives_are_full() -> None:
    """A receive that is not full, or that brings nothing, completes it; a clock that stands still never does."""
    # Given
    dispatcher, one, batch = Taking(), consumer(), Consumer(print, "topic", batch=100, name="g", module="proj")
    batches = Batcher("topic", dispatcher, clock=lambda: 0.0)
    batches.start()
    try:
        # When, then
        batches.dispatch(jobs(batch, 1))
        batches.dispatch(jobs(one, 10))
        assert (dispatcher.sizes, batches.has_chunks) == ([], True)
        batches.dispatch_chunks()
        assert (dispatcher.sizes, batches.has_chunks) == ([10], False)
        batches.dispatch(jobs(one, 10))
        batches.dispatch(jobs(one, 3))
        assert dispatcher.sizes == [10, 13]
    finally:
        batches.stop()
        batches.join(time.monotonic() + 60)


def test_a_receive_is_no_long_poll_while_a_chunk_waits() -> None:
    """After one that was full, the next one says at once whether more is there."""

    class Noting(ObservedQueue):
        waits: ClassVar[list[float]] = []

        def receive(self, limit: int, wait: float, visibility: int) -> list[Any]:
            self.waits.append(wait)
            return super().receive(limit, wait, visibility)

    dispatcher, queue = Taking(), Noting("topic")

    def is_short_poll_seen() -> bool:
        # On a busy machine the chunk may have been dispatched before the next receive, so there are several.
        before = len(queue.deleted)
        queue.put(*[event_text(f"e{before + number}") for number in range(10)])
        queue.wait_for(lambda: len(queue.deleted) == before + 10)
        return 0 in queue.waits

    with running(consumer(), queue, dispatcher):
        wait_until(is_short_poll_seen, what="a short poll")
    assert any(queue.waits)


def test_a_script_calls_the_function_of_a_chunk_for_each_event() -> None:
    """In the thread that receives; the events wait for nothing."""
    called: list[str] = []
    queue = ObservedQueue("topic", [event_text(f"e{number}") for number in range(12)])

    def take(event: dict[str, Any]) -> None:
        called.append(event["header"]["id"])

    with running(Consumer(take, "topic", chunk=100), queue):
        queue.wait_for(lambda: len(queue.deleted) == 12)
    assert called == [f"e{number}" for number in range(12)]
