"""What a stop releases comes once more, to the next engine, and what runs is finished."""

from __future__ import annotations

import threading
import time

import pytest

from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.engine.engine import Engine
from balog_celery.errors import QueueError
from balog_celery.sqs.messages import Message, OutgoingMessage
from engines import Queues, Recorder, ScriptedDispatcher, engine_over_http, hub_of, running
from sample_events import event_text
from scripted_sqs.in_process import InProcessQueue
from scripted_sqs.observed import ObservedQueue
from scripted_sqs.script import Fault
from scripted_sqs.server import serving_sqs
from servers import wait_until


class Worker(ScriptedDispatcher):
    """Takes everything, and finishes nothing by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.readiness = Readiness.READY

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        if self.readiness is not Readiness.READY:
            threading.Event().wait(min(timeout, 0.05))
        return self.readiness


class PolledQueue(InProcessQueue):
    """A queue with SQS's semantics that counts its open receives."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.create()
        self.open = 0
        self._lock = threading.Lock()

    def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
        with self._lock:
            self.open += 1
        try:
            return super().receive(limit, wait, visibility)
        finally:
            with self._lock:
                self.open -= 1


def receive_counts(queue: PolledQueue) -> list[int]:
    """How often each message of *queue* was received, without the receive that asks."""
    found: list[Message] = []
    while messages := queue.receive(10, 0, 60):
        found += messages
    return [message.receive_count - 1 for message in found]


@pytest.mark.parametrize("pollers", [1, 4])
def test_what_a_stop_releases_is_not_received_again_by_the_same_engine(pollers: int) -> None:
    """A redrive policy must not move events that never ran."""
    queue = PolledQueue("topic")
    queue.send([OutgoingMessage(event_text(str(number))) for number in range(5)])
    hub = hub_of(lambda events: None, batch=100, batch_wait=3600)
    engine = Engine(hub, lambda _: queue, wait_time=2, pollers=pollers, dead_letter=None)
    # Given events that wait for their batch, and open receives, when the engine stops
    with running(engine):
        wait_until(lambda: engine.stats.of("topic").get("dispatched") == 5 and queue.open == pollers)
    # Then each was received once
    assert receive_counts(queue) == [1] * 5


@pytest.mark.parametrize("pollers", [1, 4])
def test_what_a_closed_worker_gives_back_is_not_received_again_by_its_engine(pollers: int) -> None:
    """A stopping worker tells its engine before that is told to stop."""
    queue, worker = PolledQueue("topic"), Worker()
    queue.send([OutgoingMessage(event_text(str(number))) for number in range(5)])
    engine = Engine(
        hub_of(Recorder().process), lambda _: queue, dispatcher=worker, wait_time=2, pollers=pollers, dead_letter=None
    )
    with running(engine):
        # Given events that have not started, and open receives
        wait_until(lambda: len(worker.taken) == 5 and queue.open == pollers)
        # When their worker gives them back
        worker.readiness = Readiness.WORKER_CLOSED
        for job in worker.taken:
            job.release()
        wait_until(lambda: queue.open == 0)
    # Then each was received once
    assert len(worker.taken) == 5
    assert receive_counts(queue) == [1] * 5


def test_a_release_is_not_delayed_while_it_would_be_dispatched() -> None:
    """A poll that is open then takes it, as it should."""
    queue, worker = PolledQueue("topic"), Worker()
    queue.send([OutgoingMessage(event_text())])
    engine = Engine(hub_of(Recorder().process), lambda _: queue, dispatcher=worker, wait_time=5, dead_letter=None)
    with running(engine):
        wait_until(lambda: len(worker.taken) == 1 and queue.open == 1)
        worker.taken[0].release()
        wait_until(lambda: len(worker.taken) == 2, 4)
        worker.taken[1].acknowledge()


def test_what_waits_for_its_release_stays_invisible() -> None:
    """For as long as a receive is open, which may be longer than the visibility timeout."""
    queue, worker = ObservedQueue(), Worker()
    queue.configure(VisibilityTimeout="2")
    queue.put(event_text())
    closed = threading.Event()

    def receive(_limit: int) -> None:
        if len(queue.calls_of("receive")) > 1:
            assert closed.wait(60)

    queue.on["receive"] = receive
    with running(Engine(hub_of(Recorder().process), Queues(topic=queue).__getitem__, dispatcher=worker)):
        wait_until(lambda: len(worker.taken) == 1)
        worker.readiness = Readiness.WORKER_CLOSED
        worker.taken[0].release()
        queue.wait_for(lambda: len(queue.extended) >= 3)
        assert not queue.released
        closed.set()
        queue.wait_for(lambda: queue.released == ["m1"])


def test_an_engine_without_a_worker_ends_while_sqs_does_not_answer() -> None:
    """Within the drain limit and the time for the last calls, however long the visibility timeout is."""
    # Given a task of a worker that has ended, and an SQS that takes nothing back
    queue, worker = ObservedQueue(), Worker()
    queue.configure(VisibilityTimeout="3600")
    queue.put(event_text())

    def fail(_: object) -> None:
        raise QueueError("down", "EndpointConnectionError")

    queue.on["release"] = fail
    engine = Engine(hub_of(Recorder().process), Queues(topic=queue).__getitem__, dispatcher=worker, drain=0.1)
    with running(engine):
        queue.wait_for(lambda: len(worker.taken) == 1)
        worker.readiness = Readiness.WORKER_GONE
        worker.taken[0].release()
        # When it stops, it ends
        engine.stop()
    # Then the message comes again by itself
    assert not queue.released
    assert not queue.deleted


def test_a_task_that_its_stopping_worker_finishes_is_not_given_back() -> None:
    """However long it takes: given back after the drain limit, it would run twice in every deployment."""
    queue, worker = ObservedQueue(), Worker()
    queue.configure(VisibilityTimeout="2")
    queue.put(event_text())
    engine = Engine(hub_of(Recorder().process), Queues(topic=queue).__getitem__, dispatcher=worker, drain=0.1)
    with running(engine):
        queue.wait_for(lambda: len(worker.taken) == 1)
        worker.readiness = Readiness.WORKER_CLOSED
        engine.stop()
        queue.wait_for(lambda: len(queue.extended) >= 3)
        assert not queue.released
        worker.taken[0].acknowledge()
    assert queue.deleted == ["m1"]
    assert not queue.released


def test_a_task_whose_worker_goes_on_is_given_back_after_the_drain_limit() -> None:
    """Only the engine stops: the next one must not wait for an hour."""
    queue, worker = ObservedQueue(), Worker()
    queue.put(event_text())
    engine = Engine(hub_of(Recorder().process), Queues(topic=queue).__getitem__, dispatcher=worker, drain=0.1)
    with running(engine):
        queue.wait_for(lambda: len(worker.taken) == 1)
        engine.stop()
        queue.wait_for(lambda: queue.released == ["m1"])


@pytest.mark.parametrize("topic", ["topic", "topic.fifo"])
def test_a_stop_with_waiting_messages_ends_the_long_poll(topic: str) -> None:
    """An engine of which no task runs stops within seconds, and gives back what waits when SQS has ended the poll."""
    worker = Worker()
    with serving_sqs() as sqs:
        with engine_over_http(sqs, topic, worker, wait_time=20, drain=1, visibility_timeout=600) as queue:
            # Given an event that has not started, another one behind it in its group, and an open poll
            queue.send([OutgoingMessage(event_text(name), group="a") for name in ("first", "second")])
            wait_until(lambda: worker.taken and len(sqs.script.calls_of("ReceiveMessage")) > 1)
            # When the engine stops
            before = time.monotonic()
        assert time.monotonic() - before < 12
        changes = sqs.script.calls_of("ChangeMessageVisibilityBatch")
        hidden = {entry["ReceiptHandle"]: entry["VisibilityTimeout"] for call in changes for entry in call["Entries"]}
        # Then both are given back once, for when that poll cannot take them any more
        assert len(hidden) == 2
        assert all(10 <= seconds <= 22 for seconds in hidden.values())
        sqs.advance(22)
        assert {message.receive_count for message in queue.receive(10, 0, 600)} == {2}


def test_a_stop_blocks_no_group_whose_message_was_on_its_way() -> None:
    """A poll that a stop has ended may have taken messages, which would be invisible for their visibility timeout."""
    with serving_sqs() as sqs:
        # Given a poll that has taken an event, but has not answered
        sqs.script.add(Fault("ReceiveMessage", hang=True, carried_out=True))
        with engine_over_http(sqs, "topic.fifo", Worker(), wait_time=1, visibility_timeout=600) as queue:
            queue.send([OutgoingMessage(event_text(), group="a")])
            in_flight = "ApproximateNumberOfMessagesNotVisible"
            wait_until(lambda: queue.attributes()[in_flight] == "1")
            # When the engine stops
        # Then the event is visible as soon as that poll would have ended
        sqs.advance(3)
        (message,) = queue.receive(10, 0, 600)
        assert message.receive_count == 2
