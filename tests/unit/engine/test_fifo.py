"""FIFO topics in the engine and in tasks: order, blocking retries, and dispatchers that cannot keep the order."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Reject

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.context import GROUP, TIMES
from balog_celery.consumers.delivery import Delivery, Job, Settlement
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import Open, Publish, Task
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.engine.engine import Engine
from balog_celery.errors import ConfigurationError
from balog_celery.events.records import decode
from balog_celery.sqs.messages import Message
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.local_retry import MAX_COUNTDOWN, MAX_GROUP_COUNTDOWN, LocalRetry, LocalSignature
from balog_celery.tasks.routes import register
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

TOPIC = "topic.fifo"
#: What goes with the task of an event of a group.
HEADERS = {TIMES: {}, GROUP: "customer-7"}


def message(name: str, body: str | None = None, group: str = "g") -> Message:
    return Message(event_text(name) if body is None else body, name, f"id-{name}", time.monotonic(), group=group)


class Queues(dict[str, ObservedQueue]):
    """The queues of an engine, by name; there are dead-letter queues."""

    def __missing__(self, name: str) -> ObservedQueue:
        queue = self[name] = ObservedQueue(name)
        return queue


def giving(*messages: Message) -> Queues:
    """The topic's queue holds *messages*."""
    queues = Queues()
    for one in messages:
        queues[TOPIC].put(one.body, name=one.handle, group=one.group)
    return queues


@contextmanager
def running(engine: Engine) -> Iterator[threading.Thread]:
    """Run *engine* in a thread, and stop it in the end."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield thread
    finally:
        engine.stop()
        thread.join(60)
        assert not thread.is_alive()


def hub_of(func: Any, **wanted: Any) -> ConsumerHub:
    hub = ConsumerHub()
    hub.add_consumer(Consumer(func, TOPIC, **wanted))
    return hub


def test_what_needs_no_consumer_takes_its_turn() -> None:
    """Undecodable bodies and unmatched events are handled and deleted in their turn."""
    ran: list[str] = []
    queues = giving(
        message("1"), message("2", "not json"), message("3", event_text("3", "other")), message("4"), message("5")
    )
    queue = queues[TOPIC]

    def process(event: dict[str, Any]) -> None:
        name = event["header"]["id"]
        assert queue.deleted == [str(number) for number in range(1, int(name))]
        ran.append(name)

    with running(Engine(hub_of(process, cls_type="metrics"), queues.__getitem__)):
        queue.wait_for(lambda: queue.deleted == ["1", "2", "3", "4", "5"])
    assert ran == ["1", "4", "5"]


def test_a_dead_letter_keeps_its_group() -> None:
    """A dead letter has its message group as an attribute, and is not taken for a duplicate."""

    def fail(event: dict[str, Any]) -> None:
        raise ValueError("no")

    queues = giving(message("1", group="a"), message("2", "not json", group="b"))
    with running(Engine(hub_of(fail), queues.__getitem__)):
        queues[TOPIC].wait_for(lambda: len(queues[TOPIC].deleted) == 2)
    letters = queues["topic-dead.fifo"].sent
    assert sorted((mark_of(letter)["group"], mark_of(letter)["reason"]) for letter in letters) == [
        ("a", "failed"),
        ("b", "undecodable"),
    ]
    assert len({letter.deduplication_id for letter in letters} - {""}) == 2


def test_without_a_dead_letter_queue_what_cannot_be_decoded_holds_its_group() -> None:
    """Without a dead-letter queue an undecodable message expires, and those behind it in its group are released."""
    queues = giving(message("1", "not json"), message("2"), message("3", group="h"))
    queues["topic-dead.fifo"].drop()
    ran: list[str] = []
    with running(Engine(hub_of(lambda event: ran.append(event["header"]["id"])), queues.__getitem__)):
        queue = queues[TOPIC]
        queue.wait_for(lambda: (queue.released, queue.deleted) == (["2"], ["3"]))
    assert ran == ["3"]


def exit_thread(argument: Any) -> Any:
    """Fail as no decoder or handler should: the engine expects an ``Exception`` of them."""
    raise SystemExit(3)


def test_a_fault_with_an_unmatched_event_expires_its_message_after_the_other_events() -> None:
    """The message of a fault with an unmatched event expires, as it would fail again; its group is released."""
    queues = giving(message("1"), message("2"))
    queue = queues[TOPIC]
    events = [decode(text) for text in (event_text("1"), event_text("2", "other"))]
    engine = Engine(
        hub_of(lambda event: None, cls_type="metrics"),
        queues.__getitem__,
        decoders={TOPIC: lambda body: events},
        default_event_handler=exit_thread,
    )
    with running(engine) as thread:
        queue.wait_for(lambda: queue.released == ["2"])
        assert thread.is_alive()
    assert queue.deleted == []


def test_a_message_with_which_the_engine_fails_expires_and_its_group_is_released() -> None:
    """A message with which the engine fails expires, and later ones of its group are released."""
    queues = giving(message("1"), message("2"))
    with running(Engine(hub_of(lambda event: None), queues.__getitem__, decoders={TOPIC: exit_thread})):
        queues[TOPIC].wait_for(lambda: queues[TOPIC].released == ["2"])
    assert queues[TOPIC].deleted == []


# Dispatchers


@pytest.fixture
def consumer() -> Consumer:
    """A consumer of the topic."""
    return Consumer(print, TOPIC, name="function")


@pytest.fixture
def app(consumer: Consumer) -> Iterator[Celery]:
    """An app with its task, which holds its group."""
    app = Celery("fifo", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"fifo-{id(app)}"
    register(app, consumer, ConsumerOperator(), TOPIC, DeadLetters(ObservedQueue, None), None, "hold")
    yield app
    app.close()


@pytest.fixture
def worker() -> Iterator[tuple[Channel, Channel]]:
    """The engine's end and the worker's."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    with closing(Channel(ours)) as engine, closing(Channel(theirs)) as other:
        yield engine, other


def test_an_engine_that_publishes_refuses_a_fifo_topic_at_start(app: Celery, consumer: Consumer) -> None:
    """An engine that publishes refuses a FIFO topic at start, with advice."""
    queues = Queues()
    hub = ConsumerHub()
    hub.add_consumer(consumer)
    engine = Engine(hub, queues.__getitem__, dispatcher=PublishDispatcher(app, 5, 10))
    with pytest.raises(
        ConfigurationError, match=r"topic 'topic\.fifo' is FIFO, and an engine that puts tasks .*'hand-off'"
    ):
        engine.run()
    assert queues[TOPIC].calls == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Publish(), "handed no tasks"),
        (Open(12, ["other"]), "does not serve the queue"),
    ],
)
def test_a_worker_that_cannot_finish_them_ends_the_engine(
    app: Celery, consumer: Consumer, worker: tuple[Channel, Channel], said: Publish | Open, why: str
) -> None:
    """A worker that cannot keep the order ends the engine when it says so; nothing is received before."""
    queues = Queues()
    hub = ConsumerHub()
    hub.add_consumer(consumer)
    dispatcher = HandOffDispatcher(app, worker[0], PublishDispatcher(app, 5, 10))
    worker[1].send(said)
    with pytest.raises(ConfigurationError, match=why):
        Engine(hub, queues.__getitem__, dispatcher=dispatcher).run()
    assert "receive" not in [name for name, _ in queues[TOPIC].calls]


def test_a_task_that_is_acknowledged_early_is_refused(
    app: Celery, consumer: Consumer, worker: tuple[Channel, Channel]
) -> None:
    """A FIFO consumer with early acknowledgement is refused, whichever way that was set."""
    type(app.tasks[consumer.task_name]).acks_late = False
    dispatcher = HandOffDispatcher(app, worker[0], PublishDispatcher(app, 5, 10))
    with pytest.raises(ConfigurationError, match="acks_late=False"):
        dispatcher.check_order([consumer])


def test_what_comes_when_the_worker_has_just_closed_is_given_back_not_published(
    app: Celery, consumer: Consumer, worker: tuple[Channel, Channel]
) -> None:
    """Jobs that arrive after the worker has closed are released, not published."""
    dispatcher = HandOffDispatcher(app, worker[0], PublishDispatcher(app, 5, 10))
    settled: list[Delivery] = []
    delivery = Delivery(message("1"), 1, settled.extend)
    dispatcher.dispatch([Job(delivery, decode(event_text("1")), event_text("1"), consumer, HEADERS)])
    assert settled == [delivery]
    assert delivery.settlement is Settlement.RELEASE
    with app.connection_for_read() as connection:
        assert connection.default_channel.basic_get(app.conf.task_default_queue) is None


def test_the_worker_is_told_the_group(app: Celery, consumer: Consumer, worker: tuple[Channel, Channel]) -> None:
    """The worker gets the message group, for a dead letter."""
    dispatcher = HandOffDispatcher(app, worker[0], PublishDispatcher(app, 5, 10))
    worker[1].send(Open(12, [app.conf.task_default_queue]))
    wait_until(lambda: dispatcher.ready(frozenset(), 1), what="the worker's word")
    dispatcher.check_order([consumer])
    delivery = Delivery(message("1", group="customer-7"), 1, lambda delivery: None)
    dispatcher.dispatch([Job(delivery, decode(event_text("1")), event_text("1"), consumer, HEADERS)])
    (task,) = worker[1].receive() or []
    assert isinstance(task, Task)
    assert task.headers[GROUP] == "customer-7"


# Retries


@pytest.fixture
def task(app: Celery, consumer: Consumer) -> ConsumerTask:
    """The task of the consumer."""
    return app.tasks[consumer.task_name]  # type: ignore[no-any-return]


def request(stay: float = 36_000, **more: Any) -> Context:
    """Return the context of a task that was handed over a moment ago."""
    properties = HandOffContext(time.monotonic() + stay, tuple(HEADERS)).to_properties()
    return Context({"id": "i", "args": ["text"], "kwargs": {}, "properties": properties, "headers": HEADERS, **more})


def test_a_retry_stays_for_longer_than_one_that_holds_nobody(task: ConsumerTask) -> None:
    """A retry that blocks a group may wait longer in the worker than another, as it cannot be published."""
    assert isinstance(task.signature_from_request(request(), countdown=MAX_COUNTDOWN + 1, retries=1), LocalSignature)


@pytest.mark.parametrize(
    "options", [{"countdown": MAX_GROUP_COUNTDOWN + 1}, {"queue": "other"}, {"args": ["x"]}, {"priority": 1}]
)
def test_a_retry_that_could_never_stay_is_a_failure(task: ConsumerTask, options: dict[str, Any]) -> None:
    """A retry that can never be local is a failure with a dead letter that says why."""
    with pytest.raises(ConfigurationError, match="with a countdown of up to 21600 s only"):
        task.signature_from_request(request(), retries=1, **{"countdown": 1, **options})


def test_a_retry_that_cannot_stay_any_more_comes_again(task: ConsumerTask) -> None:
    """A retry without time left to be local makes the event come again, and is not published."""
    with pytest.raises(Reject) as rejected:
        task.signature_from_request(request(stay=5), countdown=10, retries=1)
    assert rejected.value.requeue


def test_a_retry_at_a_time_is_one_after_so_many_seconds(task: ConsumerTask) -> None:
    """A retry with an eta is local if its delay in seconds allows that."""
    task.push_request(id="i", args=["text"], kwargs={}, called_directly=False, properties=request().properties)
    try:
        with pytest.raises(LocalRetry) as retry:
            task.retry(eta=datetime.now(timezone.utc) + timedelta(seconds=100))
    finally:
        task.pop_request()
    assert 0 < float(retry.value.when) <= 100


def test_a_failure_that_lets_its_group_go_on_is_retried_by_the_broker(
    task: ConsumerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``continue`` a failure is retried by the broker with its group.

    A delayed dead letter stays in the worker.
    """
    monkeypatch.setattr(type(task), "fifo", "continue")
    signature = task.signature_from_request(request(), countdown=1, retries=1)
    assert not isinstance(signature, LocalSignature)
    assert signature.options["headers"] == {**HEADERS, "ignore_result": False}
    assert task.can_wait_locally(request(), 1)


def test_a_task_that_somebody_published_is_celerys(task: ConsumerTask) -> None:
    """A task that a user published is retried as usual, because it holds no message group."""
    published = Context({"id": "i", "args": ["text"], "kwargs": {}, "properties": {}})
    assert not isinstance(task.signature_from_request(published, countdown=1, retries=1), LocalSignature)
