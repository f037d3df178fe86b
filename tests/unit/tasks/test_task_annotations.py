"""``task_annotations`` of consumers' tasks: they change what they change of any other task."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import Celery

from balog_celery import install
from balog_celery.consumers import Consumer
from balog_celery.errors import ConfigurationError
from sample_events import event_text

NAME = "proj.events.f"


class Annotation:
    """As Celery documents it."""

    def annotate(self, task: Any) -> dict[str, Any] | None:
        return {"queue": "by-class"} if task.name == NAME else None


class Calls(list[str]):
    def fail(self, event: dict[str, Any]) -> None:
        self.append(event["header"]["id"])
        raise OSError("no")


def app_with(annotations: Any, func: Any = print, **options: Any) -> Celery:
    app = Celery("annotated", broker="memory://", set_as_current=False)
    app.conf.update(task_annotations=annotations, task_default_priority=3)
    install(app, region="eu-west-1", dead_letter=None)
    app.balog.hub.add_consumer(Consumer(func, "t", name="f", module="proj.events", options=options))
    app.balog.load()
    return app


@pytest.mark.parametrize(
    ("annotations", "options", "queue", "priority"),
    [
        ({}, {}, "celery", None),
        ({}, {"priority": 9}, "celery", 9),
        ({NAME: {"queue": "own", "priority": 7}}, {}, "own", 7),
        ({"*": {"queue": "own"}}, {"queue": "other", "priority": 9}, "own", 9),
        ([{"*": {"trail": False}}, Annotation()], {}, "by-class", None),
    ],
)
def test_an_annotation_routes_the_task(
    annotations: Any, options: dict[str, Any], queue: str, priority: int | None
) -> None:
    """As one of any other attribute it wins over the consumer's option."""
    route = app_with(annotations, **options).amqp.router.route({}, NAME)
    assert (getattr(route.get("queue"), "name", "celery"), route.get("priority")) == (queue, priority)


def test_an_annotation_retries() -> None:
    """``autoretry_for`` works as it does for any function that ``app.task`` decorates."""
    calls = Calls()
    annotation = {"autoretry_for": (OSError,), "max_retries": 2, "default_retry_delay": 0}
    app_with({NAME: annotation}, calls.fail).tasks[NAME].apply((event_text("LG1"),))
    assert calls == ["LG1"] * 3


@pytest.mark.parametrize(("option", "value"), [("time_limit", "x"), ("max_retries", True), ("acks_late", "perhaps")])
def test_a_wrong_annotation_is_told_at_start(option: str, value: Any) -> None:
    """It would end the engine, or fail each event."""
    told = f"bad value {value!r} for Celery task option '{option}' of {NAME}, by task_annotations"
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        app_with({"*": {option: value}})
