"""Buffered task events of a worker with hand-off: in order, and none lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.events import EventDispatcher
from kombu.asynchronous.timer import Timer

from balog_celery.worker.task_events import LINGER, TOGETHER, TaskEventsStep


class Consumer:
    """The parts of a worker's consumer that the step needs, with Celery's own event dispatcher."""

    def __init__(self) -> None:
        self.app = Celery("events", broker="memory://", set_as_current=False)
        self.connection = self.app.connection_for_write()
        self.controller = SimpleNamespace(balog_hand_off=object())
        self.hub = SimpleNamespace(call_soon=lambda callback, *args: callback(*args))
        self.timer = Timer()
        #: How often Celery would have flushed in the next turn of its loop.
        self.turns = 0
        #: The numbers of the tasks whose events were in each message.
        self.sent: list[list[int]] = []
        self.broker_is_lost = False
        self.event_dispatcher: EventDispatcher | None = None
        self.connect()

    def connect(self) -> None:
        """Make a new dispatcher, as Celery does at each connection."""
        self.event_dispatcher = self.app.events.Dispatcher(
            self.connection, buffer_group=["task"], on_send_buffered=self.on_send_event_buffered
        )
        self.event_dispatcher.producer.publish = self._publish

    def _publish(self, events: Any, **_: Any) -> None:
        if self.broker_is_lost:
            raise ConnectionError("lost")
        self.sent.append([int(event["uuid"]) for event in events])

    def on_send_event_buffered(self) -> None:
        self.turns += 1

    def happen(self, *numbers: int) -> None:
        assert self.event_dispatcher is not None
        for number in numbers:
            self.event_dispatcher.send("task-started", uuid=str(number))

    def due(self) -> list[Callable[[], None]]:
        """Take the due entry from the timer and run it."""
        entries = [entry for _, _, entry in self.timer.queue]
        self.timer.clear()
        return entries


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    one = Consumer()
    yield one
    one.connection.close()
    one.app.close()


@pytest.fixture
def step(consumer: Consumer) -> TaskEventsStep:
    made = TaskEventsStep(consumer)
    assert made.enabled
    made.start(consumer)
    return made


def test_events_wait_for_others_for_a_moment(
    consumer: Consumer, step: TaskEventsStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events of a moment are flushed together by one timer entry, and later events by another."""
    waits: list[float] = []
    call_after = consumer.timer.call_after
    monkeypatch.setattr(
        consumer.timer, "call_after", lambda secs, *args: (waits.append(secs), call_after(secs, *args))[1]
    )
    consumer.happen(1, 2, 3)
    assert consumer.sent == []
    (send,) = consumer.due()
    send()
    assert consumer.sent == [[1, 2, 3]]
    consumer.happen(4)
    (send,) = consumer.due()
    send()
    assert consumer.sent == [[1, 2, 3], [4]]
    assert waits == [LINGER, LINGER]
    assert consumer.turns == 0


def test_many_events_go_at_once(consumer: Consumer, step: TaskEventsStep) -> None:
    """A full buffer is sent at once, and the rest later."""
    first, second, rest = range(TOGETHER), range(TOGETHER, 2 * TOGETHER), range(2 * TOGETHER, 2 * TOGETHER + 2)
    consumer.happen(*first, *second, *rest)
    assert consumer.sent == [[*first], [*second]]
    (send,) = consumer.due()
    send()
    assert consumer.sent[2:] == [[*rest]]


def test_what_waits_at_a_stop_is_sent(consumer: Consumer, step: TaskEventsStep) -> None:
    """A stop sends the buffered events, and Celery sends later ones itself."""
    consumer.happen(1)
    step.stop(consumer)
    assert consumer.sent == [[1]]
    consumer.happen(2)
    assert consumer.turns == 1


def test_what_waits_when_the_broker_is_lost_is_sent_by_the_next_connection(
    consumer: Consumer, step: TaskEventsStep
) -> None:
    """Events that wait when the broker is lost are sent by the next connection."""
    consumer.happen(1, 2)
    consumer.broker_is_lost = True
    step.stop(consumer)
    lost = consumer.event_dispatcher
    assert consumer.sent == []
    consumer.timer.clear()
    consumer.broker_is_lost = False
    consumer.connect()
    # As celery.worker.consumer.events.Events does.
    assert consumer.event_dispatcher is not None
    consumer.event_dispatcher.extend_buffer(lost)
    consumer.event_dispatcher.flush()
    assert consumer.sent == [[1, 2]]
    step.start(consumer)
    consumer.happen(3)
    (send,) = consumer.due()
    send()
    assert consumer.sent == [[1, 2], [3]]


def test_a_worker_without_events_or_without_a_loop_is_left_alone(consumer: Consumer, step: TaskEventsStep) -> None:
    """A worker without task events or without an event loop is not changed."""
    consumer.event_dispatcher = None
    step.start(consumer)
    step.stop(consumer)
    consumer.event_dispatcher = plain = consumer.app.events.Dispatcher(consumer.connection)
    step.start(consumer)
    step.stop(consumer)
    assert plain.on_send_buffered is None


def test_a_worker_that_is_handed_no_tasks_is_as_celery_made_it(consumer: Consumer) -> None:
    """In a worker that is handed no tasks the step is disabled."""
    consumer.controller = SimpleNamespace(balog_hand_off=None)
    assert not TaskEventsStep(consumer).enabled
    consumer.controller = SimpleNamespace()
    assert not TaskEventsStep(consumer).enabled
