"""Tasks that their broker can never take. The broker in memory takes any task, so a double refuses some."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from amqp import AccessRefused, PreconditionFailed
from botocore.exceptions import ClientError
from celery import Celery, Task
from celery.exceptions import MaxRetriesExceededError

from balog_celery.brokers.connections import is_too_large
from balog_celery.consumers import Consumer
from balog_celery.consumers.delivery import Batch, Delivery, Job, Settlement, Work
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.dispatcher import DispatchError
from balog_celery.dispatch.publish import PublishDispatcher, Publisher
from balog_celery.errors import QueueError
from balog_celery.events.records import decode
from balog_celery.sqs.messages import Message
from balog_celery.tasks.routes import register
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue

TOO_LARGE = PreconditionFailed("message size 17000000 is larger than configured max size 16777216", (60, 40))


def sqs_error(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "SendMessage")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TOO_LARGE, True),
        (PreconditionFailed("inequivalent arg 'durable' for queue 'celery' in vhost '/'", (50, 10)), False),
        (AccessRefused("write access to exchange refused", (60, 40)), False),
        (sqs_error("InvalidParameterValue", "Reason: Message must be shorter than 1048576 bytes."), True),
        (sqs_error("InvalidParameterValue", "Value 5000 for parameter DelaySeconds is invalid."), False),
        (sqs_error("BatchRequestTooLong", "Batch requests cannot be longer than 1048576 bytes."), True),
        (sqs_error("AWS.SimpleQueueService.BatchRequestTooLong", ""), True),
        (sqs_error("QueueDoesNotExist", ""), False),
        (ConnectionResetError("gone"), False),
        (TimeoutError(), False),
    ],
    ids=str,
)
def test_only_what_says_so_is_too_large(error: Exception, expected: bool) -> None:
    """Any other error may be over soon, and must not make a dead letter."""
    assert is_too_large(error) is expected


class Broker:
    """Takes the place of the broker: it refuses tasks that are too large, and has outages on demand.

    A task is a list of its events' ids here. Those of one receive are published together.
    """

    def __init__(self) -> None:
        self.taken: list[list[list[str]]] = []
        self.is_down: Callable[[list[list[str]]], bool] = lambda _tasks: False

    def publish(self, _publisher: Publisher, messages: Any) -> None:
        arguments = [message.body[0][0] for _envelope, message in messages]
        tasks = [
            [decode(text).header.id for text in (argument if isinstance(argument, list) else [argument])]
            for argument in arguments
        ]
        if self.is_down(tasks):
            raise ConnectionResetError("gone")
        if any("large" in task for task in tasks):
            raise TOO_LARGE
        self.taken.append(tasks)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    one = Broker()
    monkeypatch.setattr(Publisher, "publish", lambda publisher, messages: one.publish(publisher, messages))
    return one


class Site:
    """A dispatcher, its one consumer, and how its jobs were settled."""

    def __init__(self, app: Celery, dead: ObservedQueue, **config: Any) -> None:
        self.consumer = Consumer(lambda event: None, "topic", name="proj.f", **config)
        register(app, self.consumer, ConsumerOperator(), "topic", DeadLetters(lambda name: dead, "{topic}-dead"), None)
        self.dispatcher = PublishDispatcher(app, 5.0, 1000)
        self.settled: list[tuple[str, bool]] = []

    def job(self, event_id: str) -> Job:
        text = event_text(event_id)
        message = Message(text, event_id, event_id, time.monotonic(), receive_count=3)
        delivery = Delivery(message, 1, self._settle)
        return Job(delivery, decode(text), text, self.consumer, {})

    def _settle(self, deliveries: Sequence[Delivery]) -> None:
        for done in deliveries:
            assert done.settlement is not Settlement.RELEASE
            self.settled.append((done.message.handle, bool(done.settlement)))

    def dispatch(self, *jobs: Work) -> None:
        self.dispatcher.dispatch(jobs)


@pytest.fixture
def dead() -> ObservedQueue:
    return ObservedQueue("topic-dead")


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("proj", broker="memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def site(app: Celery, dead: ObservedQueue) -> Iterator[Site]:
    one = Site(app, dead)
    yield one
    one.dispatcher.close()


def test_what_is_too_large_is_a_dead_letter_and_the_others_are_published(
    site: Site, broker: Broker, dead: ObservedQueue
) -> None:
    """A too large task becomes a dead letter.

    The others are published one by one, as the broker does not say which it is.
    """
    site.dispatch(site.job("a"), site.job("large"), site.job("b"))
    assert broker.taken == [[["a"]], [["b"]]]
    assert sorted(site.settled) == [("a", False), ("b", False), ("large", False)]
    (letter,) = dead.sent
    assert letter.body == event_text("large")
    assert mark_of(letter)["consumer"] == site.consumer.task_name
    assert mark_of(letter)["receive_count"] == 3
    assert mark_of(letter)["error"].startswith("its task is too large for the broker: ")


def test_one_alone_is_a_dead_letter_too(site: Site, broker: Broker, dead: ObservedQueue) -> None:
    """Without being tried twice. Later tasks are published together again."""
    site.dispatch(site.job("large"))
    site.dispatch(site.job("a"), site.job("b"))
    assert broker.taken == [[["a"], ["b"]]]
    assert len(dead.sent) == 1


@pytest.mark.parametrize("route", [{"priority": 3}, {"routing_key": "key"}])
def test_a_task_whose_route_names_no_queue_goes_to_the_default_queue(
    app: Celery, dead: ObservedQueue, route: dict[str, Any]
) -> None:
    """A task whose route names no queue goes to the default queue, as in Celery."""
    # Given
    app.conf.task_default_queue = f"publish-{id(app)}"
    app.conf.task_routes = {"*": route}
    site = Site(app, dead)
    # When
    try:
        assert site.dispatcher.queues_of([site.consumer]) == {app.conf.task_default_queue}
        site.dispatch(site.job("a"))
    finally:
        site.dispatcher.close()
    # Then
    assert site.settled == [("a", False)]
    with app.connection_for_read() as connection:
        message = app.amqp.queues[app.conf.task_default_queue](connection.default_channel).get(accept=["json"])
    assert decode(message.payload[0][0]).header.id == "a"


def test_an_outage_meanwhile_settles_nothing(site: Site, broker: Broker, dead: ObservedQueue) -> None:
    """The tasks that were published are published again, with the same ids."""
    jobs = [site.job("a"), site.job("large"), site.job("b")]
    for is_down in (lambda tasks: len(tasks) == 1, lambda tasks: tasks == [["b"]]):
        broker.is_down = is_down
        with pytest.raises(DispatchError, match="gone"):
            site.dispatch(*jobs)
    assert (site.settled, dead.sent) == ([], [])
    broker.is_down = lambda _tasks: False
    site.dispatch(*jobs)
    assert sorted(site.settled) == [("a", False), ("b", False), ("large", False)]
    assert len(dead.sent) == 1


def test_a_batch_that_is_too_large_is_a_dead_letter_for_each_event(
    app: Celery, broker: Broker, dead: ObservedQueue
) -> None:
    """A too large batch makes a dead letter of each of its events."""
    site = Site(app, dead, batch=3)
    try:
        site.dispatch(Batch((site.job("a"), site.job("large"), site.job("b"))), Batch((site.job("c"),)))
    finally:
        site.dispatcher.close()
    assert broker.taken == [[["c"]]]
    assert [decode(letter.body).header.id for letter in dead.sent] == ["a", "large", "b"]
    assert sorted(site.settled) == [("a", False), ("b", False), ("c", False), ("large", False)]


def test_where_no_dead_letter_can_be_made_now_the_message_comes_again(
    site: Site, broker: Broker, dead: ObservedQueue
) -> None:
    """SQS still has it. It does not come at once, which would be a busy loop."""

    def down(_: Any) -> None:
        raise QueueError("down")

    dead.on["send"] = down
    site.dispatch(site.job("a"), site.job("large"))
    assert sorted(site.settled) == [("a", False), ("large", True)]


def test_where_there_is_no_dead_letter_queue_the_event_is_logged(
    site: Site, broker: Broker, dead: ObservedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Like every event that fails permanently without one."""
    dead.drop()
    site.dispatch(site.job("large"))
    assert site.settled == [("large", False)]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert event_text("large") in record.getMessage()


def test_a_retry_that_is_too_large_is_a_dead_letter(
    app: Celery, dead: ObservedQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry that is too large for the broker becomes a dead letter with the function's error."""

    def fail(event: Any) -> None:
        raise ValueError("no")

    def refuse(*_: Any, **__: Any) -> None:
        raise TOO_LARGE

    options = {"autoretry_for": (ValueError,), "max_retries": 3}
    consumer = Consumer(fail, "topic", name="proj.failing", options=options)
    register(app, consumer, ConsumerOperator(), "topic", DeadLetters(lambda name: dead, "{topic}-dead"), None)
    task = app.tasks[consumer.task_name]
    monkeypatch.setattr(Task, "apply_async", refuse)
    text = event_text("e")
    task.push_request(id="i", args=(text,), kwargs={}, called_directly=False)
    try:
        with pytest.raises(MaxRetriesExceededError, match="too large"):
            task(text)
    finally:
        task.pop_request()
    (letter,) = dead.sent
    assert letter.body == text
    assert "ValueError('no')" in mark_of(letter)["error"]
    assert "too large for the broker" in mark_of(letter)["error"]
