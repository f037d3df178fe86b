"""The display of Celery's task events; integration tests have a real worker."""

from __future__ import annotations

from typing import Any

from celery import Celery

from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.operations.tail import Tail, TaskEvent
from balog_celery.tasks.routes import register
from scripted_sqs.observed import ObservedQueue


def f(event: Any) -> None: ...


NAME = f"{__name__}.f"
EVENT = {"id": "LG1", "cls_type": "metrics"}
RECEIVED = {"name": NAME, "args": "(...)", "kwargs": "{}", "balog_event": EVENT}


def sights(topic: str, *events: dict[str, Any]) -> list[TaskEvent]:
    app = Celery("tail", broker="memory://", set_as_current=False)
    register(app, Consumer(f, "events"), ConsumerOperator(), "events", DeadLetters(ObservedQueue, None), None)
    seen: list[TaskEvent] = []
    tail = Tail(app, topic, seen.append)
    for clock, event in enumerate(events):
        common = {"hostname": "celery@a", "timestamp": 1_412_694_411.5, "local_received": 0.0, "clock": clock, "pid": 1}
        tail._on_event({**common, **event})
    return seen


def test_each_state_is_shown_with_event_and_consumer() -> None:
    """Each state is shown with event and consumer, which only the first task event names."""
    found = sights(
        "http://sqs/1/events",
        {"type": "worker-heartbeat"},
        {"type": "task-received", "uuid": "t1", **RECEIVED},
        {"type": "task-started", "uuid": "t1"},
        {"type": "task-failed", "uuid": "t1", "exception": "ValueError('\x1b')"},
        {"type": "task-succeeded", "uuid": "t1", "runtime": 0.25, "result": "None"},
    )
    assert [(one.state, one.detail) for one in found] == [
        ("received", ""),
        ("started", ""),
        ("failed", r"ValueError('\x1b')"),
        ("succeeded", "0.250 s"),
    ]
    assert {(one.event, one.cls_type, one.consumer, one.task_id, one.worker) for one in found} == {
        ("LG1", "metrics", NAME, "t1", "celery@a")
    }
    assert found[0].time.isoformat() == "2014-10-07T15:06:51.500000+00:00"


def test_a_long_id_is_whole() -> None:
    """The web page finds events by their ids, which may join a source's long name with an id."""
    event = {**EVENT, "id": "s" * 900, "cause": "c" * 900}
    (found,) = sights("events", {"type": "task-received", "uuid": "t1", **RECEIVED, "balog_event": event})
    assert (found.event, found.cause) == ("s" * 900, "c" * 900)


def test_other_tasks_and_topics_are_not_shown() -> None:
    """Tasks of other topics, and those received before the start, are not shown."""
    assert sights("events", {"type": "task-received", "uuid": "t1", **RECEIVED, "name": "other.task"}) == []
    assert sights("others", {"type": "task-received", "uuid": "t1", **RECEIVED}) == []
    assert sights("events", {"type": "task-started", "uuid": "t9"}) == []
