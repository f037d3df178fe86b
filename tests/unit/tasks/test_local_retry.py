"""Which retries may wait in the worker, and the states of such a task."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Retry

from balog_celery.consumers import Consumer
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.local_retry import MAX_COUNTDOWN, MOVES, LocalRetry, LocalSignature, LocalState, Remainder
from balog_celery.tasks.routes import register
from scripted_sqs.observed import ObservedQueue

CONSUMER = Consumer(print, "topic", name="function")
NAME = CONSUMER.task_name


def test_a_local_retry_travels_between_processes() -> None:
    """A LocalRetry is pickled with all that the worker's main process needs."""
    asked = LocalRetry(exc=ValueError("x"), when=3.5, retries=2, failure="why", remainder=Remainder([1], "(shown)"))
    retry = pickle.loads(pickle.dumps(asked))
    assert isinstance(retry, Retry)
    assert (repr(retry.exc), retry.when, retry.retries) == ("ValueError('x')", 3.5, 2)
    assert (retry.failure, retry.remainder) == ("why", Remainder([1], "(shown)"))
    assert str(retry) == "Retry in 3.5s: ValueError('x')"


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the task of one consumer."""
    app = Celery("retries", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"retries-{id(app)}"
    register(app, CONSUMER, ConsumerOperator(), "topic", DeadLetters(lambda name: ObservedQueue(name), None), None)
    yield app
    app.close()


@pytest.fixture
def task(app: Celery) -> ConsumerTask:
    """Return the task."""
    return app.tasks[NAME]  # type: ignore[no-any-return]


def request(**more: Any) -> Any:
    """The context of a task that was handed over a moment ago."""
    return Context({"id": "i", "args": ["text"], "kwargs": {}, "properties": handed_over(), **more})


def handed_over(period: float = 36_000, headers: tuple[str, ...] = ()) -> dict[str, Any]:
    """The message properties of a task that may be retried in its worker for that many seconds from now."""
    return HandOffContext(time.monotonic() + period, headers).to_properties()


def test_a_retry_of_a_task_that_was_handed_over_stays(task: ConsumerTask) -> None:
    """The retry of a handed-over task is local: its signature publishes nothing."""
    signature = task.signature_from_request(request(), countdown=MAX_COUNTDOWN, retries=1)
    assert isinstance(signature, LocalSignature)
    assert signature.apply_async() is None


def test_so_does_one_with_headers_that_it_was_handed_over_with(task: ConsumerTask) -> None:
    """A retry with the headers of the hand-off, such as a trace, is local."""
    context = request(headers={"a": "b"}, properties=handed_over(headers=("a",)))
    assert isinstance(task.signature_from_request(context, countdown=1, retries=1), LocalSignature)
    context.headers["added"] = "by the function"
    assert not isinstance(task.signature_from_request(context, countdown=1, retries=1), LocalSignature)


@pytest.mark.parametrize(
    ("context", "options"),
    [
        ({"properties": {}}, {}),
        ({"properties": None}, {}),
        ({"properties": HandOffContext(0.0).to_properties()}, {}),
        ({"properties": handed_over(-1)}, {}),
        ({}, {"countdown": MAX_COUNTDOWN + 1}),
        ({}, {"countdown": float("nan")}),
        ({}, {"queue": "other"}),
        ({}, {"args": ["other"]}),
        ({}, {"kwargs": {"event": "other"}}),
        ({}, {"eta": "2014-10-07T15:06:51"}),
        ({}, {"time_limit": 5}),
        ({"headers": {"a": "b"}}, {}),
        ({"chain": [1]}, {}),
        ({"callbacks": [1]}, {}),
        ({"errbacks": [1]}, {}),
    ],
)
def test_one_that_came_from_the_broker_or_is_to_differ_does_not(
    task: ConsumerTask, context: dict[str, Any], options: dict[str, Any]
) -> None:
    """The retry of a task from the broker, or one with other options, is published."""
    signature = task.signature_from_request(request(**context), retries=1, **{"countdown": 1, **options})
    assert not isinstance(signature, LocalSignature)


def test_one_that_was_acknowledged_early_does_not_either(app: Celery) -> None:
    """The retry of an early acknowledged task is published, because its message is gone."""
    consumer = Consumer(print, "topic", name="early", options={"acks_late": False})
    letters = DeadLetters(lambda name: ObservedQueue(name), None)
    task = register(app, consumer, ConsumerOperator(), "topic", letters, None)
    assert not isinstance(task.signature_from_request(request(), countdown=1, retries=1), LocalSignature)


def test_every_state_leads_to_the_end_and_the_end_to_none() -> None:
    """Every state leads to ENDED, and ENDED to none, so a task is settled once."""
    assert set(MOVES) == set(LocalState)
    assert all(LocalState.ENDED in MOVES[state] for state in LocalState if state is not LocalState.ENDED)
    assert not MOVES[LocalState.ENDED]


def test_a_task_that_was_retried_once_is_never_new_again() -> None:
    """A retried task cannot become RATE_LIMITED, because only a first attempt may wait without credit."""
    retries = {state for state in LocalState if state.is_retry}
    assert retries == {LocalState.PARKED, LocalState.SCHEDULED, LocalState.RETRYING}
    assert all(MOVES[state] <= retries | {LocalState.ENDED} for state in retries)
