"""The tasks of consumers, and the causes of events, as the page keeps them."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from celery import Celery

from balog_celery.dead_letters.reader import DeadLetter
from balog_celery.events.decoders import DECODERS, reader_of
from balog_celery.events.mark import MARK, write_mark
from balog_celery.operations.tail import TaskEvent
from balog_celery.sqs.messages import Message
from balog_celery.web.activity import Activity, SeenEvent
from balog_celery.web.dead_letters import Scan
from balog_celery.web.history import history_of
from balog_celery.web.lineage import lineage_of
from sample_events import event_text


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def activity(clock: Clock) -> Activity:
    """What is seen of an app's tasks; no broker is asked."""
    return Activity(Celery("activity", broker="memory://", set_as_current=False), clock)


def step(
    state: str, event: str = "e", consumer: str = "shop.book", runtime: float | None = None, cause: str = ""
) -> TaskEvent:
    now = datetime.now(timezone.utc)
    return TaskEvent(now, state, event, "order", consumer, f"task-{event}", "w1", "", runtime, cause)


def test_ends_of_tasks_are_counted_for_each_consumer(activity: Activity, clock: Clock) -> None:
    """Succeeded, failed and retried attempts, their rate and run times; other steps do not count."""
    clock.now += 100
    for hundredths in range(1, 101):
        activity.note(step("received"))
        activity.note(step("started"))
        activity.note(step("succeeded", runtime=hundredths / 100))
    for state in ("failed", "retried", "retried"):
        activity.note(step(state))
    activity.note(step("failed", consumer="shop.ship"))
    tasks = activity.of("shop.book")
    assert (tasks.succeeded, tasks.failed, tasks.retried) == (100, 1, 2)
    assert tasks.rate == pytest.approx(1.03)
    assert tasks.runtimes == pytest.approx((0.505, 0.9505))
    assert activity.of("shop.ship").failed == 1
    assert activity.of("shop.ship").runtimes is None
    assert activity.of("unknown") == (0.0, 0, 0, 0, None)


def test_only_the_last_ten_minutes_count(activity: Activity, clock: Clock) -> None:
    """Ends that are older do not count, and the rate is that of ten minutes."""
    activity.note(step("failed"))
    clock.now += 601
    for _ in range(60):
        activity.note(step("succeeded", runtime=1.0))
    assert activity.of("shop.book")[:3] == (0.1, 60, 0)


def test_memory_is_bounded(activity: Activity, clock: Clock) -> None:
    """A busy consumer's rate counts from the oldest end that is kept; old events are forgotten."""
    for number in range(6000):
        clock.now += 0.01
        activity.note(step("received", f"e{number}"))
        activity.note(step("succeeded", runtime=0.1))
    tasks = activity.of("shop.book")
    assert tasks.succeeded == 5000
    assert tasks.rate == pytest.approx(100, rel=0.01)
    for number in range(20_000):
        activity.note(step("received", f"f{number}"))
    assert activity.event("e5999") is None
    assert activity.event("f0") == SeenEvent("f0", "order", "")


def test_the_steps_of_an_events_tasks_are_kept(activity: Activity) -> None:
    """The last twenty, of all its consumers, and none of a task that was not seen from its receive on."""
    for consumer in ("shop.book", "shop.ship"):
        for state in ("received", "started", "failed"):
            activity.note(step(state, consumer=consumer))
    activity.note(step("succeeded", "unseen"))
    assert [(one.consumer, one.state, one.worker) for one in activity.steps("e")][2:4] == [
        ("shop.book", "failed", "w1"),
        ("shop.ship", "received", "w1"),
    ]
    for _ in range(30):
        activity.note(step("retried"))
    assert len(activity.steps("e")) == 20
    assert activity.steps("unseen") == []


def test_the_history_of_a_dead_letter_is_in_order_of_time(activity: Activity) -> None:
    """From the log call to the dead letter, with the steps of its consumer's task, and of no other."""
    mark = {"reason": "failed", "topic": "shop", "consumer": "shop.book"}
    mark |= {"first_received": "2026-01-01T12:00:01+00:00", "receive_count": "2"}
    message = Message(event_text("e"), "h", "m-e", 0.0, attributes={MARK: write_mark(mark)}, sent=1_767_268_805_000)
    dead = DeadLetter.read(message, reader_of(DECODERS["balog"]), "shop")
    for consumer in ("shop.book", "shop.ship"):
        failed = step("failed", consumer=consumer)._replace(time=datetime(2026, 1, 1, 12, 0, 3, tzinfo=timezone.utc))
        activity.note(step("received", consumer=consumer)._replace(time=failed.time))
        activity.note(failed)
    assert [entry.text for entry in history_of(dead, activity.steps("e"), [])] == [
        "Emitted",
        "First received, received 2 times",
        "Task received by w1",
        "Task failed by w1",
        "Became a dead letter",
    ]


def letter(event_id: str, cause: str) -> DeadLetter:
    """A dead letter of an event that names its cause."""
    event = json.loads(event_text(event_id, "invoice"))
    event["header"]["context"]["causation_id"] = cause
    return DeadLetter.read(Message(json.dumps(event), "h", f"m-{event_id}", 0.0), reader_of(DECODERS["balog"]))


def test_causes_and_effects_are_found_in_tasks_and_dead_letters(activity: Activity) -> None:
    """The chain of causes begins with the first; a cause that was not seen ends it; effects are of both sources."""
    activity.note(step("received", "b", cause="a"))
    activity.note(step("received", "c", cause="b"))
    scan = Scan([letter("d", "c"), letter("e", "d")], True)
    found = lineage_of("d", activity, scan)
    assert found.causes == [SeenEvent("a", "", ""), SeenEvent("b", "order", "a"), SeenEvent("c", "order", "b")]
    assert found.effects == [SeenEvent("e", "invoice", "d")]
    assert lineage_of("c", activity, scan).effects == [SeenEvent("d", "invoice", "c")]
    assert lineage_of("c", activity, None).effects == []
    assert lineage_of("unknown", activity, scan) == ([], [], True)


def test_a_ring_of_causes_ends(activity: Activity) -> None:
    """Producers may send any cause, also an event itself."""
    activity.note(step("received", "a", cause="b"))
    activity.note(step("received", "b", cause="a"))
    activity.note(step("received", "self", cause="self"))
    assert [one.id for one in lineage_of("a", activity, None).causes] == ["b"]
    assert lineage_of("self", activity, None).causes == []


def test_many_effects_are_cut(activity: Activity) -> None:
    """At most 100 are shown, and it is said that there are more."""
    for number in range(101):
        activity.note(step("received", f"e{number}", cause="a"))
    found = lineage_of("a", activity, None)
    assert (len(found.effects), found.is_complete) == (100, False)
