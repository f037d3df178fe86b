"""The tasks of consumers: ids, options, and events that fail permanently."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.consumers.context import GROUP, RECEIVES
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.errors import ConfigurationError, QueueError
from balog_celery.events.records import decode
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.dead_letter import DEAD_LETTER_TASK
from balog_celery.tasks.idempotency import AlreadyDone, IdempotencyStore
from balog_celery.tasks.local_retry import LocalRetry
from balog_celery.tasks.naming import argsrepr, task_id
from balog_celery.tasks.routes import register, register_dead_letter_task
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on a broker in memory, of this test only."""
    app = Celery("tasks", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"tasks-{id(app)}"
    yield app
    app.close()


@pytest.fixture
def dead() -> ObservedQueue:
    """The dead-letter queue of the topic."""
    return ObservedQueue("t-dead")


@pytest.fixture
def letters(dead: ObservedQueue) -> DeadLetters:
    """The queue for the dead letters of a test."""
    return DeadLetters(lambda name: dead, "{topic}-dead")


def registered(app: Celery, letters: DeadLetters, func: Any, **options: Any) -> ConsumerTask:
    consumer = Consumer(func, "t", name="f", module="proj.consumers", options=options)
    register_dead_letter_task(app, letters)
    return register(app, consumer, ConsumerOperator(), "t", letters, None)


def failing(error: BaseException) -> Any:
    def fail(event: Any) -> None:
        raise error

    return fail


def test_an_events_task_has_the_same_id_wherever_and_whenever_it_is_made() -> None:
    """A task's id does not depend on place and time, so releases recognise each other's tasks."""
    assert task_id("LG1", "proj.consumers.f") == "624fcc33-ca1e-5e4b-ad8e-4f04c8393e5b"
    ids = {task_id(event, name) for event in ("LG1", "LG2") for name in ("f", "g")}
    assert len(ids) == 4


@given(st.text(), st.text())
def test_a_tasks_id_is_a_name_based_uuid(event_id: str, name: str) -> None:
    """A task's id is that of RFC 9562, version 5, which other programs can compute."""
    namespace = uuid.UUID("5a0c8a5e-52f3-5d0b-9c39-6d6c0f6b4f0a")
    assert task_id(event_id, name) == str(uuid.uuid5(namespace, f"{event_id}:{name}"))


def test_the_argsrepr_names_the_event() -> None:
    """The argsrepr names the event on one line, whatever its content."""
    shown = argsrepr(decode(event_text("evil\n", "log", message="m" * 9000, severity="info")), "t")
    assert shown == r"(<Event evil\n cls_type=log topic=t>,)"


def test_a_task_has_the_consumers_name_and_options(app: Celery, letters: DeadLetters) -> None:
    """A task has the consumer's name and options, and the package's defaults for the others."""
    task = registered(app, letters, lambda event: None, max_retries=7, rate_limit="5/s", queue="other", priority=3)
    assert app.tasks["proj.consumers.f"] is task
    assert (task.max_retries, task.rate_limit) == (7, "5/s")
    assert (task.acks_late, task.reject_on_worker_lost, task.serializer) == (True, True, "json")
    # Celery deprecates these on a task: a router gives them.
    assert (getattr(task, "queue", None), task.priority) == (None, None)
    own = Celery("own", broker="memory://", set_as_current=False)
    task = registered(own, letters, lambda event: None, acks_late=False, reject_on_worker_lost=False)
    assert (task.acks_late, task.reject_on_worker_lost) == (False, False)
    own.close()


def test_two_tasks_cannot_have_one_name(app: Celery, letters: DeadLetters) -> None:
    """A consumer's task cannot have the name of another task, such as one of the app."""
    registered(app, letters, lambda event: None)
    other = Consumer(print, "t", name="f", module="proj.consumers")
    with pytest.raises(ConfigurationError, match=r"two tasks named 'proj\.consumers\.f'.*another name="):
        register(app, other, ConsumerOperator(), "t", letters, None)


def test_a_task_calls_the_function_with_the_event(app: Celery, letters: DeadLetters, dead: ObservedQueue) -> None:
    """A task calls the function with the event and returns its result."""
    task = registered(app, letters, lambda event: event["header"]["id"])
    assert task(event_text("LG7")) == "LG7"
    assert dead.sent == []


def test_what_fails_for_good_is_a_dead_letter(
    app: Celery, letters: DeadLetters, dead: ObservedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed event becomes a dead letter with consumer and error, and a failure for Celery."""
    with pytest.raises(ValueError, match="never"):
        registered(app, letters, failing(ValueError("never")))(event_text("LG7"))
    (letter,) = dead.sent
    assert letter.body == event_text("LG7")
    assert mark_of(letter)["consumer"] == "proj.consumers.f"
    assert mark_of(letter)["error"] == "ValueError('never')"
    said = "proj.consumers.f failed permanently on event LG7, which is now in t-dead (ValueError('never'))"
    assert said in caplog.messages


def test_without_a_dead_letter_queue_the_whole_event_is_an_error_record(
    app: Celery, letters: DeadLetters, dead: ObservedQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a dead-letter queue the whole failed event is logged as an error."""
    dead.drop()
    event = event_text("LG7", "log", message="m" * 5000, severity="info")
    with pytest.raises(ValueError, match="never"):
        registered(app, letters, failing(ValueError("never")))(event)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith(f"there is no dead-letter queue for it. The event: {event}")


@pytest.mark.parametrize("error", [QueueError("SQS is down"), ConfigurationError("no SQS runs"), OSError("a bug")])
def test_a_dead_letter_that_cannot_be_kept_now_is_kept_later(
    app: Celery, letters: DeadLetters, dead: ObservedQueue, error: Exception
) -> None:
    """While SQS does not take a dead letter, a task on the broker makes it later with the message's context."""

    def down(_: Any) -> None:
        raise error

    dead.on["send"] = down
    task = registered(app, letters, failing(ValueError("never")))
    task.push_request(**{RECEIVES: {"first": 1_412_694_411_641, "count": 3}, GROUP: "g"})
    with pytest.raises(ValueError, match="never"):
        task(event_text("LG7"))
    task.pop_request()
    with app.connection_for_read() as connection:
        message = app.amqp.queues[app.conf.task_default_queue](connection.default_channel).get(accept=["json"])
    assert message.headers["task"] == DEAD_LETTER_TASK
    assert message.headers["eta"] is not None
    # Not the time limits of all tasks of the app: they would end this one with the event.
    assert message.headers["timelimit"] == [600.0, 600.0]
    del dead.on["send"]
    app.tasks[DEAD_LETTER_TASK].push_request(**message.headers)
    app.tasks[DEAD_LETTER_TASK](*message.payload[0])
    app.tasks[DEAD_LETTER_TASK].pop_request()
    (letter,) = dead.sent
    assert letter.body == event_text("LG7")
    assert mark_of(letter)["first_received"] == "2014-10-07T15:06:51.641000+00:00"
    assert mark_of(letter)["receive_count"] == 3
    assert mark_of(letter)["group"] == "g"


@pytest.mark.parametrize(
    ("outcome", "buried"), [(Ignore(), 0), (Reject("no", requeue=True), 0), (Reject("no", requeue=False), 1)]
)
def test_celerys_own_outcomes_mean_what_they_say(
    app: Celery, letters: DeadLetters, dead: ObservedQueue, outcome: Exception, buried: int
) -> None:
    """Celery's own outcomes keep their meaning: only a reject without requeue is a permanent failure."""
    with pytest.raises(type(outcome)):
        registered(app, letters, failing(outcome))(event_text())
    assert len(dead.sent) == buried


class MemoryMarks(IdempotencyStore):
    """An idempotency store without a Redis."""

    def __init__(self) -> None:
        self.done: set[str] = set()

    @contextmanager
    def attempt(self, key: str, remember: float, digest: str) -> Iterator[None]:
        if key in self.done:
            raise AlreadyDone
        yield
        self.done.add(key)


@pytest.mark.parametrize("handed_over", [True, False])
@pytest.mark.parametrize("throw", [True, False])
def test_an_event_is_not_done_while_a_retry_of_it_was_asked_for(
    app: Celery, letters: DeadLetters, handed_over: bool, throw: bool
) -> None:
    """An event is not remembered as done if a retry was requested, even if the function caught it."""

    def again(event: Any) -> None:
        if task.request.retries == 0:
            with suppress(Retry):
                task.retry(countdown=1, throw=throw)

    register_dead_letter_task(app, letters)
    marks = MemoryMarks()
    consumer = Consumer(again, "t", name="f", module="proj.consumers", once=True)
    task = register(app, consumer, ConsumerOperator(), "t", letters, marks)
    properties = HandOffContext(time.monotonic() + 3600).to_properties() if handed_over else {}
    for retries, done in ((0, 0), (1, 1)):
        task.push_request(id="i", args=[event_text()], kwargs={}, retries=retries, properties=properties)
        with suppress(LocalRetry):
            task(event_text())
        task.pop_request()
        assert len(marks.done) == done
