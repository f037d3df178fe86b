"""Where replayed events go, and in which order things happen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from balog_celery import brokers
from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.dead_letters import DeadLetters
from balog_celery.decoders import DECODERS, reader_of
from balog_celery.errors import BalogError, QueueError
from balog_celery.queues import EntryFailure
from balog_celery.records import decode
from balog_celery.replay import CannotReplay, Destination, Item, Pace, Replay
from balog_celery.tasks import ConsumerTask, read_shown, register, task_id
from fakes import FakeQueue, event_text


def f(event: Any) -> None: ...


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """An app on a broker in memory, with one consumer."""
    monkeypatch.setattr(brokers._local, "key", None, raising=False)
    app = Celery("replay", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"replay-{id(app)}"
    consumer = Consumer(f, "events", "metrics", "<1.0")
    register(app, consumer, ConsumerOperator(), "events", DeadLetters(FakeQueue, None), None)
    yield app
    app.close()


NAME = f"{__name__}.f"


@pytest.fixture
def queue() -> FakeQueue:
    """The topic."""
    return FakeQueue("events")


read = reader_of(DECODERS["auto"])


@pytest.fixture
def replay(app: Celery, queue: FakeQueue) -> Replay:
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


def test_one_consumer_gets_a_task_of_the_id_that_it_always_has(app: Celery, replay: Replay, queue: FakeQueue) -> None:
    """And nothing is sent to the topic, so no other consumer sees the event."""
    one = item(event_text("LG1"), NAME)
    destination = replay.destination(one)
    done: list[Item] = []
    replay.deliver([(one, destination)], lambda item, _: done.append(item))
    (message,) = published(app)
    assert message.headers["id"] == task_id("LG1", NAME)
    assert message.headers["task"] == NAME
    assert read_shown(message.headers["argsrepr"]) == ("LG1", "metrics", "events")
    assert message.payload[0] == [one.body]
    assert done == [one]
    assert queue.sent == []
    assert str(destination) == NAME


def test_without_a_consumer_it_is_sent_to_its_topic_as_it_was(app: Celery, replay: Replay, queue: FakeQueue) -> None:
    """Also what cannot be decoded; a FIFO queue must not take it for what it has seen before."""
    items = [item(event_text("LG1")), item(" not json ")]
    destinations = [replay.destination(one) for one in items]
    assert [str(one) for one in destinations] == ["topic events", "topic events"]
    done: list[Item] = []
    replay.deliver(zip(items, destinations, strict=True), lambda item, _: done.append(item))
    assert [message.body for message in queue.sent] == [one.body for one in items]
    assert len({message.deduplication_id for message in queue.sent} - {""}) == 2
    assert done == items
    assert published(app) == []


def test_sent_to_a_fifo_topic_it_is_of_its_group_again(replay: Replay, queue: FakeQueue) -> None:
    """Behind what is in it by now; without a group, in that of all that have none."""
    items = [replace(item(event_text("LG1")), group="customer-7"), item(event_text("LG2"))]
    replay.deliver([(one, replay.destination(one)) for one in items], lambda *_: None)
    assert [message.group for message in queue.sent] == ["customer-7", "balog"]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (item(event_text(), "proj.gone"), r"there is no consumer proj.gone \(any more\)"),
        (item(event_text(cls_type="log2"), NAME), "does not want it: cls_type log2 is not metrics"),
        (item(event_text(schema="2.0"), NAME), "does not want it: version 2.0 is not <1.0"),
        (item("not json", NAME), "it cannot be read as one event, so"),
        (item(event_text(), "celery.chord"), "there is no consumer celery.chord"),
        (item(event_text(), topic="https://evil.example/1/other"), "no consumer of this app listens to topic"),
    ],
)
def test_what_has_nowhere_to_go_is_told(replay: Replay, one: Item, reason: str) -> None:
    """A dead letter may name anything; nothing is sent where no consumer listens."""
    with pytest.raises(CannotReplay, match=reason):
        replay.destination(one)


def test_what_sqs_did_not_take_is_not_called_delivered(replay: Replay, queue: FakeQueue) -> None:
    """What it took of the same batch is."""
    items = [item(event_text(str(number))) for number in range(3)]
    queue.on["send"] = lambda _: [EntryFailure(1, "InternalError", "no", False)]
    done: list[Item] = []
    with pytest.raises(QueueError, match="events did not take an event: no"):
        replay.deliver(((one, replay.destination(one)) for one in items), lambda item, _: done.append(item))
    assert done == [items[0], items[2]]


def test_a_broker_that_takes_nothing_stops_it(app: Celery, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published before is delivered, the rest is not tried."""
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
    """So many a second, in small batches; without one there is no waiting."""
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    pace = Pace(2.0)
    assert pace.batch == 2
    pace.passed(2)
    now[0] += 0.25
    pace.passed(2)
    pace.passed(0)
    Pace(None).passed(10)
    assert slept == [1.0, 0.75]
    assert (Pace(None).batch, Pace(0.1).batch, Pace(500).batch) == (10, 1, 10)


def test_a_topic_gets_nothing_that_its_decoder_does_not_read(app: Celery, queue: FakeQueue) -> None:
    """A decoder of one's own may not know records, which a dead letter is."""
    replay = Replay(app, ["events"], lambda _: queue, lambda _: reader_of(DECODERS["s3"]))
    with pytest.raises(CannotReplay, match="the decoder of topic events does not read records"):
        replay.destination(item(event_text()))
    assert replay.destination(item(event_text(), NAME)).task is not None
