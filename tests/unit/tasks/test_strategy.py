"""The strategy of event tasks: a worker's task events name the event."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state

from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.consumers.context import EventContext
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.hand_off_message import HandOffMessage
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.routes import register
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

#: Nothing is reported to an engine.
NO_CHANNEL: Any = None

#: How a task gets to the default queue.
CELERY_QUEUE = {"exchange": "", "routing_key": "celery", "priority": None}


class Dispatcher:
    """Notes the task events that it is asked to send."""

    enabled = True

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, type: str, **fields: Any) -> None:
        self.sent.append({"type": type, **fields})


class Worker:
    """A worker's consumer with one event task, which executes nothing."""

    def __init__(self, app: Celery, events: Dispatcher | None) -> None:
        letters = DeadLetters(lambda name: ObservedQueue(name), None)
        self.task: ConsumerTask = register(app, Consumer(print, "t", name="f"), ConsumerOperator(), "t", letters, None)
        self.app = app
        self.events = events
        self.given: list[Any] = []
        self.consumer = SimpleNamespace(
            app=app,
            hostname="w1@contract",
            connection_errors=(),
            event_dispatcher=events,
            timer=SimpleNamespace(call_at=None),
            pool=SimpleNamespace(apply_async=None),
            controller=SimpleNamespace(state=state),
            disable_rate_limits=True,
            task_buckets={self.task.name: None},
            apply_eta_task=None,
            _limit_task=None,
            _limit_post_eta=None,
            on_task_request=self.given.append,
        )

    def receive(self, headers: dict[str, Any]) -> None:
        common = self.app.amqp.create_task_message("i", self.task.name, (), {}, argsrepr="(<Event>,)").headers
        owner: Any = SimpleNamespace()
        message = HandOffMessage(
            owner, NO_CHANNEL, 1, {**common, **headers}, event_text(), CELERY_QUEUE, HandOffContext()
        )
        handle = self.task.start_strategy(self.app, self.consumer)
        handle(message, None, message.ack, message.reject, [])
        state.reserved_requests.difference_update(self.given)


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("strategy", broker="memory://", set_as_current=False)
    yield app
    app.close()


def test_a_received_task_names_its_event(app: Celery) -> None:
    """`task-received` names the event in addition to Celery's fields, and later events are sent unchanged."""
    # Given
    worker = Worker(app, Dispatcher())
    # When
    worker.receive(EventContext("LG1", "metrics").to_headers())
    # Then
    assert worker.events is not None
    (received,) = worker.events.sent
    assert (received["type"], received["uuid"], received["args"]) == ("task-received", "i", "(<Event>,)")
    assert received["balog_event"] == {"id": "LG1", "cls_type": "metrics"}
    # And when
    worker.given[0].send_event("task-started")
    # Then
    assert worker.events.sent[1] == {"type": "task-started", "uuid": "i"}


def test_a_task_of_an_earlier_release_is_received_as_well(app: Celery) -> None:
    """A task of an earlier release, whose message does not name the event, is received."""
    worker = Worker(app, Dispatcher())
    worker.receive({})
    assert worker.events is not None
    (received,) = worker.events.sent
    assert "balog_event" not in received
    assert len(worker.given) == 1


def test_a_worker_without_events_executes_tasks_as_well(app: Celery) -> None:
    """A worker without an event dispatcher executes tasks."""
    worker = Worker(app, None)
    worker.receive(EventContext("LG1", "metrics").to_headers())
    assert len(worker.given) == 1


def test_the_consumer_keeps_its_event_dispatcher(app: Celery) -> None:
    """The worker's consumer keeps its own event dispatcher for other tasks."""
    worker = Worker(app, Dispatcher())
    worker.receive({})
    assert worker.consumer.event_dispatcher is worker.events


def test_a_published_task_carries_the_name_of_its_event(app: Celery) -> None:
    """A task that is published by hand, by a replay or as a retry names its event."""
    # Given
    task = Worker(app, None).task
    app.conf.task_default_queue = f"strategy-{id(app)}"
    # When
    task.apply_async((event_text("LG1"),), headers={"mine": "1"})
    # Then
    with app.connection_for_read() as connection:
        message = app.amqp.queues[app.conf.task_default_queue](connection.default_channel).get(accept=["json"])
    assert message.headers["balog_event"] == {"id": "LG1", "cls_type": "metrics"}
    assert message.headers["mine"] == "1"
    assert message.headers["argsrepr"] == "(<Event LG1 cls_type=metrics topic=t>,)"
