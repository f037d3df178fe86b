"""FIFO topics in the engine and in their tasks: fates in order, retries that hold, and dispatchers that cannot."""

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
from balog_celery.consumers.delivery import GROUP, TIMES, Delivery, Job
from balog_celery.consumers.engine import Engine
from balog_celery.consumers.listener import Listener
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters import DeadLetters
from balog_celery.dispatch import HandOffDispatcher, PublishDispatcher
from balog_celery.errors import ConfigurationError
from balog_celery.link import Link
from balog_celery.queues import Message
from balog_celery.records import decode
from balog_celery.tasks import (
    HEADERS_GIVEN,
    MAX_HOLD,
    MAX_STAY,
    STAYS_UNTIL,
    ConsumerTask,
    LocalRetry,
    LocalSignature,
    register,
)
from fakes import FakeQueue, event_text
from servers import wait_until

TOPIC = "topic.fifo"
#: What goes with the task of an event of a group.
HEADERS = {TIMES: {}, GROUP: "customer-7"}


def message(name: str, body: str | None = None, group: str = "g") -> Message:
    return Message(event_text(name) if body is None else body, name, f"id-{name}", time.monotonic(), group=group)


class Queues(dict[str, FakeQueue]):
    """The queues of an engine, by name; there are dead-letter queues."""

    def __missing__(self, name: str) -> FakeQueue:
        queue = self[name] = FakeQueue(name)
        return queue


def giving(*messages: Message) -> Queues:
    """The topic's queue gives *messages* in one receive, and then nothing."""
    queues = Queues()
    queue = queues[TOPIC]
    batches = iter([list(messages)])

    def receive(limit: int) -> list[Message] | None:
        return next(batches, None)

    queue.on["receive"] = receive
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
    """A body that cannot be decoded and an event that nobody wants come after what is before them, and are deleted."""
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
    """Among what is known of it; no two are duplicates, for the dead-letter queue is FIFO as well."""

    def fail(event: dict[str, Any]) -> None:
        raise ValueError("no")

    queues = giving(message("1", group="a"), message("2", "not json", group="b"))
    with running(Engine(hub_of(fail), queues.__getitem__)):
        queues[TOPIC].wait_for(lambda: len(queues[TOPIC].deleted) == 2)
    letters = queues["topic-dead.fifo"].sent
    assert sorted((letter.attributes["group"], letter.attributes["reason"]) for letter in letters) == [
        ("a", "failed"),
        ("b", "undecodable"),
    ]
    assert len({letter.deduplication_id for letter in letters} - {""}) == 2


def test_without_a_dead_letter_queue_what_cannot_be_decoded_holds_its_group() -> None:
    """Until SQS moves it, or it expires: it is left to its lease, and what is behind it goes back."""
    queues = giving(message("1", "not json"), message("2"), message("3", group="h"))
    queues["topic-dead.fifo"].present = False
    ran: list[str] = []
    with running(Engine(hub_of(lambda event: ran.append(event["header"]["id"])), queues.__getitem__)):
        queue = queues[TOPIC]
        queue.wait_for(lambda: (queue.returned, queue.deleted) == (["2"], ["3"]))
    assert ran == ["3"]


def test_a_fault_among_wanted_events_gives_the_message_back_once_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease is kept for as long as a consumer has another event of it, and its group waits."""
    queues = giving(message("1"), message("2"))
    queue = queues[TOPIC]
    events = [(decode(text), text) for text in (event_text("1"), event_text("2", "other"))]
    # A fault of ours cannot be had on demand.
    monkeypatch.setattr(Listener, "_read", lambda *_: events)
    monkeypatch.setattr(Listener, "_unwanted", lambda *_: 1 / 0)
    with running(Engine(hub_of(lambda event: None, cls_type="metrics"), queues.__getitem__)) as thread:
        queue.wait_for(lambda: queue.returned == ["1", "2"])
        assert thread.is_alive()
    assert queue.deleted == []


def test_a_message_with_which_we_cannot_cope_is_left_to_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in this package is no reason for overtaking."""
    queues = giving(message("1"), message("2"))
    monkeypatch.setattr(Listener, "_route", lambda *_: 1 / 0)
    with running(Engine(hub_of(lambda event: None), queues.__getitem__)):
        queues[TOPIC].wait_for(lambda: queues[TOPIC].returned == ["2"])
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
    register(app, consumer, ConsumerOperator(), TOPIC, DeadLetters(FakeQueue, None), None, "hold")
    yield app
    app.close()


@pytest.fixture
def worker() -> Iterator[tuple[Link, Link]]:
    """The engine's end and the worker's."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    with closing(Link(ours)) as engine, closing(Link(theirs)) as other:
        yield engine, other


def test_an_engine_that_publishes_refuses_a_fifo_topic_at_start(app: Celery, consumer: Consumer) -> None:
    """Before anything was received, and with what to do."""
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
        (["publish"], "handed no tasks"),
        (["open", 12, ["other"]], "does not serve the queue"),
    ],
)
def test_a_worker_that_cannot_finish_them_ends_the_engine(
    app: Celery, consumer: Consumer, worker: tuple[Link, Link], said: list[Any], why: str
) -> None:
    """As soon as it says so; until then nothing is received."""
    queues = Queues()
    hub = ConsumerHub()
    hub.add_consumer(consumer)
    dispatcher = HandOffDispatcher(app, worker[0], PublishDispatcher(app, 5, 10))
    worker[1].send(said)
    with pytest.raises(ConfigurationError, match=why):
        Engine(hub, queues.__getitem__, dispatcher=dispatcher).run()
    assert "receive" not in [name for name, _ in queues[TOPIC].calls]


def test_a_task_that_is_acknowledged_early_is_refused(
    app: Celery, consumer: Consumer, worker: tuple[Link, Link]
) -> None:
    """Whoever set it so."""
    type(app.tasks[consumer.task_name]).acks_late = False
    dispatcher = HandOffDispatcher(app, worker[0], PublishDispatcher(app, 5, 10))
    with pytest.raises(ConfigurationError, match="acks_late=False"):
        dispatcher.check_order([consumer])


def test_what_comes_when_the_worker_has_just_closed_is_given_back_not_published(
    app: Celery, consumer: Consumer, worker: tuple[Link, Link]
) -> None:
    """On the broker it would overtake, or be overtaken."""
    dispatcher = HandOffDispatcher(app, worker[0], PublishDispatcher(app, 5, 10))
    settled: list[Delivery] = []
    delivery = Delivery(message("1"), 1, settled.extend)
    dispatcher.dispatch([Job(delivery, decode(event_text("1")), event_text("1"), consumer, HEADERS)])
    assert settled == [delivery]
    assert delivery.refused
    with app.connection_for_read() as connection:
        assert connection.default_channel.basic_get(app.conf.task_default_queue) is None


def test_the_worker_is_told_the_group(app: Celery, consumer: Consumer, worker: tuple[Link, Link]) -> None:
    """For the dead letter."""
    dispatcher = HandOffDispatcher(app, worker[0], PublishDispatcher(app, 5, 10))
    worker[1].send(["open", 12, [app.conf.task_default_queue]])
    wait_until(lambda: dispatcher.ready(frozenset(), 1), what="the worker's word")
    dispatcher.check_order([consumer])
    delivery = Delivery(message("1", group="customer-7"), 1, lambda delivery: None)
    dispatcher.dispatch([Job(delivery, decode(event_text("1")), event_text("1"), consumer, HEADERS)])
    ((kind, *_, headers),) = worker[1].receive() or []
    assert (kind, headers[GROUP]) == ("task", "customer-7")


# Retries


@pytest.fixture
def task(app: Celery, consumer: Consumer) -> ConsumerTask:
    """The task of the consumer."""
    return app.tasks[consumer.task_name]  # type: ignore[no-any-return]


def request(stay: float = 36_000, **more: Any) -> Context:
    """What a task knows of its execution, after it was handed over a moment ago."""
    properties = {STAYS_UNTIL: time.monotonic() + stay, HEADERS_GIVEN: list(HEADERS)}
    return Context({"id": "i", "args": ["text"], "kwargs": {}, "properties": properties, "headers": HEADERS, **more})


def test_a_retry_stays_for_longer_than_one_that_holds_nobody(task: ConsumerTask) -> None:
    """There is nowhere else to keep it."""
    assert isinstance(task.signature_from_request(request(), countdown=MAX_STAY + 1, retries=1), LocalSignature)


@pytest.mark.parametrize("options", [{"countdown": MAX_HOLD + 1}, {"queue": "other"}, {"args": ["x"]}, {"priority": 1}])
def test_a_retry_that_could_never_stay_is_a_failure(task: ConsumerTask, options: dict[str, Any]) -> None:
    """A dead letter that says why, instead of one event for ever."""
    with pytest.raises(ConfigurationError, match="nothing but a countdown of up to 21600 s"):
        task.signature_from_request(request(), retries=1, **{"countdown": 1, **options})


def test_a_retry_that_cannot_stay_any_more_comes_again(task: ConsumerTask) -> None:
    """It is not published: the group is held by the message."""
    with pytest.raises(Reject) as rejected:
        task.signature_from_request(request(stay=5), countdown=10, retries=1)
    assert rejected.value.requeue


def test_a_retry_at_a_time_is_one_after_so_many_seconds(task: ConsumerTask) -> None:
    """So it can stay."""
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
    """With the group, for its dead letter. A dead letter that cannot be made yet stays."""
    monkeypatch.setattr(type(task), "fifo", "continue")
    signature = task.signature_from_request(request(), countdown=1, retries=1)
    assert not isinstance(signature, LocalSignature)
    assert signature.options["headers"] == HEADERS
    assert task.may_stay(request(), 1)


def test_a_task_that_somebody_published_is_celerys(task: ConsumerTask) -> None:
    """It holds nobody."""
    published = Context({"id": "i", "args": ["text"], "kwargs": {}, "properties": {}})
    assert not isinstance(task.signature_from_request(published, countdown=1, retries=1), LocalSignature)
