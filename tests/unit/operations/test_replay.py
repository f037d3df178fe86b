"""Where replayed events go, and in which order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from amqp import PreconditionFailed
from celery import Celery

from balog_celery.brokers import connections
from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.errors import BalogError, QueueError
from balog_celery.events.decoders import DECODERS, reader_of
from balog_celery.events.records import decode
from balog_celery.operations.replay import CannotReplay, Destination, Item, RateLimiter, Refused, Replay
from balog_celery.sqs.messages import EntryFailure
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.naming import task_id
from balog_celery.tasks.routes import register
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue


def f(event: Any) -> None: ...


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """An app on a broker in memory, with one consumer."""
    monkeypatch.setattr(connections._local, "key", None, raising=False)
    app = Celery("replay", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"replay-{id(app)}"
    consumer = Consumer(f, "events", "metrics", "<1.0")
    register(app, consumer, ConsumerOperator(), "events", DeadLetters(ObservedQueue, None), None)
    yield app
    app.close()


NAME = f"{__name__}.f"


@pytest.fixture
def queue() -> ObservedQueue:
    """The queue of the topic."""
    return ObservedQueue("events.fifo")


read = reader_of(DECODERS["auto"])


@pytest.fixture
def replay(app: Celery, queue: ObservedQueue) -> Replay:
    """Replays to that app and topic."""
    return Replay(app, ["https://sqs.eu-west-1.amazonaws.com/1/events"], lambda _: queue, lambda _: read)


def item(body: str, consumer: str = "", topic: str = "events") -> Item:
    try:
        return Item(body, decode(body), body, topic, consumer)
    except BalogError:
        return Item(body, None, "", topic, consumer)


def published(app: Celery) -> list[Any]:
    """The messages on the broker."""
    found = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.conf.task_default_queue)
        while queue.qsize():
            found.append(queue.get(timeout=5))
            found[-1].ack()
        queue.close()
    return found


def test_one_consumer_gets_a_task_of_the_id_that_it_always_has(
    app: Celery, replay: Replay, queue: ObservedQueue
) -> None:
    """A replay to one consumer publishes its task with its usual id, and sends nothing to the topic."""
    one = item(event_text("LG1"), NAME)
    destination = replay.destination(one)
    done: list[Item] = []
    replay.deliver([(one, destination)], lambda item, _: done.append(item))
    (message,) = published(app)
    assert message.headers["id"] == task_id("LG1", NAME)
    assert message.headers["task"] == NAME
    assert message.headers["argsrepr"] == "(<Event LG1 cls_type=metrics topic=events>,)"
    assert message.headers["balog_event"] == {"id": "LG1", "cls_type": "metrics"}
    assert message.payload[0] == [one.body]
    assert done == [one]
    assert queue.sent == []
    assert str(destination) == NAME


def test_without_a_consumer_it_is_sent_to_its_topic_as_it_was(
    app: Celery, replay: Replay, queue: ObservedQueue
) -> None:
    """A body without a consumer goes to its topic unchanged, with a new deduplication id on FIFO queues."""
    items = [item(event_text("LG1")), item(" not json ")]
    destinations = [replay.destination(one) for one in items]
    assert [str(one) for one in destinations] == ["topic events", "topic events"]
    done: list[Item] = []
    replay.deliver(zip(items, destinations, strict=True), lambda item, _: done.append(item))
    assert [message.body for message in queue.sent] == [one.body for one in items]
    assert len({message.deduplication_id for message in queue.sent} - {""}) == 2
    assert done == items
    assert published(app) == []


def test_sent_to_a_fifo_topic_it_is_of_its_group_again(replay: Replay, queue: ObservedQueue) -> None:
    """An event of a FIFO topic is sent with its group, else with the default group."""
    items = [replace(item(event_text("LG1")), group="customer-7"), item(event_text("LG2"))]
    replay.deliver([(one, replay.destination(one)) for one in items], lambda *_: None)
    assert [message.group for message in queue.sent] == ["customer-7", "balog"]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (item(event_text(), "proj.gone"), r"there is no consumer proj.gone: it was renamed or removed"),
        (item(event_text(cls_type="log2"), NAME), "does not want it: cls_type log2 is not metrics"),
        (item(event_text(schema="2.0"), NAME), "does not want it: version 2.0 is not <1.0"),
        (item("not json", NAME), "it cannot be read as one event, so"),
        (item(event_text(), "celery.chord"), "there is no consumer celery.chord"),
        (item(event_text(), topic="https://evil.example/1/other"), "no consumer of this app listens to topic"),
    ],
)
def test_what_has_nowhere_to_go_is_told(replay: Replay, one: Item, reason: str) -> None:
    """An item for an unknown topic or consumer is refused with the reason, and nothing is sent."""
    with pytest.raises(CannotReplay, match=reason):
        replay.destination(one)


def test_a_topic_is_not_guessed_from_a_name_that_several_have(app: Celery, queue: ObservedQueue) -> None:
    """A name that several topics share is refused; a URL, or the name of one topic, is accepted."""
    urls = [f"https://sqs.eu-west-1.amazonaws.com/{account}/events" for account in (1, 2)]
    replay = Replay(app, [*urls, "others"], lambda _: queue, lambda _: read)
    for url in urls:
        assert replay.destination(item(event_text(), topic=url)) == Destination(url)
    assert replay.destination(item(event_text(), topic="others")) == Destination("others")
    with pytest.raises(CannotReplay, match="several topics are called events"):
        replay.destination(item(event_text(), topic="events"))
    with pytest.raises(CannotReplay, match="no consumer of this app listens"):
        replay.destination(item(event_text(), topic=urls[0].replace("/1/", "/3/")))
    with pytest.raises(CannotReplay, match="it does not name its topic"):
        replay.destination(item(event_text(), topic=""))
    assert replay.destination(item(event_text(), NAME, "events")).task is not None


def test_what_sqs_did_not_take_is_not_called_delivered(replay: Replay, queue: ObservedQueue) -> None:
    """Events that SQS refuses are not reported as delivered; the others of the batch are."""
    items = [item(event_text(str(number))) for number in range(3)]
    queue.on["send"] = lambda _: [EntryFailure(1, "InternalError", "no", False)]
    done: list[Item] = []
    with pytest.raises(QueueError, match=r"events\.fifo did not take an event: no"):
        replay.deliver(((one, replay.destination(one)) for one in items), lambda item, _: done.append(item))
    assert done == [items[0], items[2]]


def test_what_sqs_never_takes_does_not_keep_the_others(replay: Replay, queue: ObservedQueue) -> None:
    """Events that SQS refuses permanently do not keep the others of their batch from being sent."""
    items = [item(event_text(str(number))) for number in range(12)]
    odd = {items[1].body, items[3].body}

    def send(messages: Any) -> list[EntryFailure] | None:
        found = [index for index, message in enumerate(messages) if message.body in odd]
        if found and messages[found[0]].body == items[1].body:
            raise QueueError("a bad character", "InvalidMessageContents")
        return [EntryFailure(index, "InvalidParameterValue", "a bad group", True) for index in found] or None

    queue.on["send"] = send
    done: list[Item] = []
    with pytest.raises(Refused) as error:
        replay.deliver(((one, replay.destination(one)) for one in items), lambda item, _: done.append(item))
    assert done == [one for one in items if one.body not in odd]
    assert list(error.value.reasons) == [
        "events.fifo did not take an event: a bad character",
        "events.fifo did not take an event: a bad group",
    ]
    assert [message.body for message in queue.sent] == [one.body for one in done]


def test_a_task_that_is_too_large_for_the_broker_does_not_keep_the_others(
    app: Celery, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is too large for the broker does not keep the others from being published."""
    items = [item(event_text(str(number)), NAME) for number in range(3)]
    publish = ConsumerTask.apply_async

    def refusing(self: Any, args: Any, **options: Any) -> Any:
        if '"1"' in args[0]:
            raise PreconditionFailed("PRECONDITION_FAILED - message size 20 is larger than configured max size 16")
        return publish(self, args, **options)

    monkeypatch.setattr(ConsumerTask, "apply_async", refusing)
    done: list[Item] = []
    destination = Destination("events", app.tasks[NAME])
    with pytest.raises(Refused, match=f"its task of {NAME} is larger than the broker takes"):
        replay.deliver([(one, destination) for one in items], lambda item, _: done.append(item))
    assert done == [items[0], items[2]]
    assert len(published(app)) == 2


def test_a_broker_that_takes_nothing_stops_it(app: Celery, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the broker fails, published events are reported as delivered and the rest is not tried."""
    items = [item(event_text(str(number)), NAME) for number in range(3)]
    publish = ConsumerTask.apply_async

    def failing(self: Any, args: Any, **options: Any) -> Any:
        if '"1"' in args[0]:
            raise OSError("gone")
        return publish(self, args, **options)

    monkeypatch.setattr(ConsumerTask, "apply_async", failing)
    done: list[Item] = []
    destination = Destination("events", app.tasks[NAME])
    with pytest.raises(BalogError, match="the broker did not take a task"):
        replay.deliver([(one, destination) for one in items], lambda item, _: done.append(item))
    assert done == items[:1]
    assert len(published(app)) == 1


def test_a_pace_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate limit waits between small batches; without one there is no wait."""
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    pace = RateLimiter(2.0)
    assert pace.batch == 2
    pace.passed(2)
    now[0] += 0.25
    pace.passed(2)
    pace.passed(0)
    RateLimiter(None).passed(10)
    assert slept == [1.0, 0.75]
    assert (RateLimiter(None).batch, RateLimiter(0.1).batch, RateLimiter(500).batch) == (10, 1, 10)


def test_a_topic_gets_nothing_that_its_decoder_does_not_read(app: Celery, queue: ObservedQueue) -> None:
    """A record is not sent to a topic whose decoder does not read records."""
    replay = Replay(app, ["events"], lambda _: queue, lambda _: reader_of(DECODERS["s3"]))
    with pytest.raises(CannotReplay, match="the decoder of topic events does not read it as this event"):
        replay.destination(item(event_text()))
    assert replay.destination(item(event_text(), NAME)).task is not None
