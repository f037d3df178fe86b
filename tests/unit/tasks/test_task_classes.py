"""Consumers' tasks derive from the app's own task class, and behave as its other tasks do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from flask import Flask, current_app

from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.errors import BatchFailure, ConfigurationError
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.routes import register, register_dead_letter_task
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue


def make_app(**settings: Any) -> Celery:
    app = Celery("tasks", broker="memory://", set_as_current=False, **settings)
    app.conf.task_default_queue = f"tasks-{id(app)}"
    return app


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on a broker in memory, of this test only."""
    app = make_app()
    yield app
    app.close()


@pytest.fixture
def dead() -> ObservedQueue:
    """The dead-letter queue of the topic."""
    return ObservedQueue("t-dead")


def registered(app: Celery, dead: ObservedQueue, func: Any, batch: int | None = None, **options: Any) -> ConsumerTask:
    letters = DeadLetters(lambda name: dead, "{topic}-dead")
    consumer = Consumer(func, "t", name="f", module="proj.consumers", options=options, batch=batch)
    register_dead_letter_task(app, letters)
    return register(app, consumer, ConsumerOperator(), "t", letters, None)


HOOKS = ["before_start", "on_success", "on_retry", "on_failure", "after_return"]


class Recording(Task):
    """A task class with all hooks, as a team writes one."""

    abstract = True
    max_retries = 1
    calls: list[str] = []  # noqa: RUF012

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("call")
        return super().__call__(*args, **kwargs)


def _hook(name: str) -> Any:
    def hook(self: Recording, *_: Any, **__: Any) -> None:
        self.calls.append(name)

    return hook


for _name in HOOKS:
    setattr(Recording, _name, _hook(_name))


@pytest.fixture
def calls() -> list[str]:
    """The hooks that were called, in order."""
    Recording.calls.clear()
    return Recording.calls


def test_a_flask_app_consumes(dead: ObservedQueue) -> None:
    """The pattern of Flask's documentation gives the function its app's context."""
    # Given
    flask = Flask("shop")

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with flask.app_context():
                return self.run(*args, **kwargs)

    app = make_app(task_cls=FlaskTask)
    task = registered(app, dead, lambda event: current_app.name)
    # When
    result = task.apply((event_text("LG1"),))
    # Then
    assert (result.state, result.result, dead.sent) == ("SUCCESS", "shop", [])
    app.close()


def from_task_cls(func: Any, dead: ObservedQueue, **options: Any) -> ConsumerTask:
    return registered(make_app(task_cls=Recording), dead, func, **options)


def from_app_task(func: Any, dead: ObservedQueue, **options: Any) -> ConsumerTask:
    app = make_app()
    app.Task = Recording
    return registered(app, dead, func, **options)


def from_base(func: Any, dead: ObservedQueue, **options: Any) -> ConsumerTask:
    return registered(make_app(), dead, func, base=Recording, **options)


MAKERS = pytest.mark.parametrize("make", [from_task_cls, from_app_task, from_base])


@MAKERS
@pytest.mark.parametrize("batch", [None, 10])
def test_hooks_run_as_for_any_task(make: Any, batch: int | None, dead: ObservedQueue, calls: list[str]) -> None:
    """Success, and a failure after its retries, around one event or a batch."""
    argument = event_text("LG1") if batch is None else [event_text("LG1")]
    make(lambda event: None, dead, batch=batch).apply((argument,))
    assert calls == ["before_start", "call", "on_success", "after_return"]
    calls.clear()

    def fail(event: Any) -> None:
        raise ValueError("no")

    task = make(fail, dead, batch=batch, autoretry_for=(ValueError,), default_retry_delay=0)
    assert task.apply((argument,)).state == "FAILURE"
    assert calls == ["before_start", "call", "on_retry", "before_start", "call", "on_failure", "after_return"]
    assert len(dead.sent) == 1


@MAKERS
def test_the_task_sees_its_own_request_below_the_apps_class(make: Any, dead: ObservedQueue) -> None:
    """Also if ``__call__`` calls ``super()``."""
    task = make(lambda self, event: self.request.id, dead, bind=True)
    assert task.apply((event_text("LG1"),), task_id="T1").result == "T1"


@pytest.mark.parametrize("batch", [None, 10])
def test_a_bound_function_gets_its_task(app: Celery, dead: ObservedQueue, batch: int | None) -> None:
    """As Celery's ``bind=True``; it can retry, and find out which attempt it is."""
    attempts = []

    def f(self: Any, event: Any) -> str:
        attempts.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return str(self.name)

    task = registered(app, dead, f, bind=True, batch=batch)
    result = task.apply((event_text("LG1") if batch is None else [event_text("LG1")],))
    assert attempts == [0, 1, 2]
    assert result.state == "SUCCESS"
    assert dead.sent == []


def test_a_method_is_bound_too(app: Celery, dead: ObservedQueue) -> None:
    """It gets its instance first, then the task."""

    class Consumers:
        def f(self, task: Any, event: Any) -> str:
            return str(task.name)

    task = registered(app, dead, Consumers().f, bind=True)
    assert task.apply((event_text("LG1"),)).result == "proj.consumers.f"


def test_how_a_function_ends_decides_what_becomes_of_its_event(app: Celery, dead: ObservedQueue) -> None:
    """``Ignore`` drops it, ``Reject`` makes a dead letter at once, whatever ``autoretry_for`` says."""

    def f(event: Any) -> None:
        raise {"drop": Ignore(), "give-up": Reject("bad address", requeue=False)}[event["header"]["id"]]

    task = registered(app, dead, f, autoretry_for=(Exception,), max_retries=5, default_retry_delay=0)
    assert task.apply((event_text("drop"),)).state == "IGNORED"
    assert dead.sent == []
    assert task.apply((event_text("give-up"),)).state == "REJECTED"
    assert [letter.body for letter in dead.sent] == [event_text("give-up")]


def test_annotations_of_the_configuration_apply(dead: ObservedQueue, calls: list[str]) -> None:
    """By name, with attributes, hooks and wrappers of methods."""
    app = make_app()
    failed: list[str] = []

    def on_failure(self: Any, exc: Exception, *_: Any) -> None:
        failed.append(f"{self.name}: {exc}")

    app.conf.task_annotations = {"proj.consumers.f": {"rate_limit": "7/s", "on_failure": on_failure}}

    def fail(event: Any) -> None:
        raise ValueError("no")

    task = registered(app, dead, fail)
    task.apply((event_text("LG1"),))
    assert (task.rate_limit, failed) == ("7/s", ["proj.consumers.f: no"])
    app.close()


def test_expected_exceptions_are_kept_from_the_error_log(
    app: Celery, dead: ObservedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """``throws``: Celery logs them as information; the event is a dead letter all the same."""

    def fail(event: Any) -> None:
        raise KeyError("no")

    caplog.set_level("INFO")
    registered(app, dead, fail, throws=(KeyError,)).apply((event_text("LG1"),))
    assert [record.levelname for record in caplog.records if record.name == "celery.app.trace"] == ["INFO"]
    assert len(dead.sent) == 1


@pytest.mark.parametrize("base", [dict, BatchFailure])
def test_a_base_is_a_task_class(app: Celery, dead: ObservedQueue, base: type) -> None:
    """Anything else is refused when the task is made."""
    with pytest.raises(ConfigurationError, match=r"base=.* of proj\.consumers\.f is not a subclass of celery\.Task"):
        registered(app, dead, print, base=base)
