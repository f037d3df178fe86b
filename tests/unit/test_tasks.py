"""The tasks of consumers: ids, options, and what becomes of an event that fails for good."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry

from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.consumers.delivery import GROUP, RECEIVES
from balog_celery.dead_letters import DeadLetters
from balog_celery.errors import ConfigurationError, QueueError
from balog_celery.once import AlreadyDone, Marks
from balog_celery.records import decode
from balog_celery.tasks import (
    BURY,
    STAYS_UNTIL,
    ConsumerTask,
    LocalRetry,
    arguments_shown,
    register,
    register_bury,
    task_id,
)
from fakes import FakeQueue, event_text


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on a broker in memory, of this test only."""
    app = Celery("tasks", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"tasks-{id(app)}"
    yield app
    app.close()


@pytest.fixture
def dead() -> FakeQueue:
    """The dead-letter queue of the topic."""
    return FakeQueue("t-dead")


@pytest.fixture
def letters(dead: FakeQueue) -> DeadLetters:
    """What the tasks of a test put dead letters with."""
    return DeadLetters(lambda name: dead, "{topic}-dead")


def registered(app: Celery, letters: DeadLetters, func: Any, **options: Any) -> ConsumerTask:
    consumer = Consumer(func, "t", name="f", module="proj.consumers", options=options)
    register_bury(app, letters)
    return register(app, consumer, ConsumerOperator(), "t", letters, None)


def failing(error: BaseException) -> Any:
    def fail(event: Any) -> None:
        raise error

    return fail


def test_an_events_task_has_the_same_id_wherever_and_whenever_it_is_made() -> None:
    """A release that changed it would not recognise what an earlier one has begun."""
    assert task_id("LG1", "proj.consumers.f") == "624fcc33-ca1e-5e4b-ad8e-4f04c8393e5b"
    ids = {task_id(event, name) for event in ("LG1", "LG2") for name in ("f", "g")}
    assert len(ids) == 4


def test_arguments_are_shown_as_which_event_it_is() -> None:
    """On one line, whatever is in it."""
    shown = arguments_shown(decode(event_text("evil\n", "log", message="m" * 9000, severity="info")), "t")
    assert shown == r"(<Event evil\n cls_type=log topic=t>,)"


def test_a_task_has_the_consumers_name_and_options(app: Celery, letters: DeadLetters) -> None:
    """And the defaults of the package where those say nothing; each can be overridden."""
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
    """One of the app's own, say."""
    registered(app, letters, lambda event: None)
    other = Consumer(print, "t", name="f", module="proj.consumers")
    with pytest.raises(ConfigurationError, match=r"two tasks named 'proj\.consumers\.f'.*another name="):
        register(app, other, ConsumerOperator(), "t", letters, None)


def test_a_task_calls_the_function_with_the_event(app: Celery, letters: DeadLetters, dead: FakeQueue) -> None:
    """And gives back what it returned."""
    task = registered(app, letters, lambda event: event["header"]["id"])
    assert task(event_text("LG7")) == "LG7"
    assert dead.sent == []


def test_what_fails_for_good_is_a_dead_letter(
    app: Celery, letters: DeadLetters, dead: FakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """With consumer and error; Celery is told of the failure as well."""
    with pytest.raises(ValueError, match="never"):
        registered(app, letters, failing(ValueError("never")))(event_text("LG7"))
    (letter,) = dead.sent
    assert letter.body == event_text("LG7")
    assert letter.attributes["consumer"] == "proj.consumers.f"
    assert letter.attributes["error"] == "ValueError('never')"
    assert "proj.consumers.f failed for good on event LG7: it is in t-dead now (ValueError('never'))" in caplog.messages


def test_without_a_dead_letter_queue_the_whole_event_is_an_error_record(
    app: Celery, letters: DeadLetters, dead: FakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """So that it can be found and sent again."""
    dead.present = False
    event = event_text("LG7", "log", message="m" * 5000, severity="info")
    with pytest.raises(ValueError, match="never"):
        registered(app, letters, failing(ValueError("never")))(event)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith(f"there is no dead-letter queue for it. The event: {event}")


@pytest.mark.parametrize("error", [QueueError("SQS is down"), ConfigurationError("no SQS runs"), OSError("a bug")])
def test_a_dead_letter_that_cannot_be_kept_now_is_kept_later(
    app: Celery, letters: DeadLetters, dead: FakeQueue, error: Exception
) -> None:
    """By a task of its own, on the broker, and with all that is known of it."""

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
    assert message.headers["task"] == BURY
    assert message.headers["eta"] is not None
    # Not those of the app for all of its tasks: they would end it with the event.
    assert message.headers["timelimit"] == [600.0, 600.0]
    del dead.on["send"]
    app.tasks[BURY].push_request(**message.headers)
    app.tasks[BURY](*message.payload[0])
    app.tasks[BURY].pop_request()
    (letter,) = dead.sent
    assert letter.body == event_text("LG7")
    assert letter.attributes["first_received"] == "2014-10-07T15:06:51.641000+00:00"
    assert letter.attributes["receive_count"] == "3"
    assert letter.attributes["group"] == "g"


@pytest.mark.parametrize(
    ("outcome", "buried"), [(Ignore(), 0), (Reject("no", requeue=True), 0), (Reject("no", requeue=False), 1)]
)
def test_celerys_own_outcomes_mean_what_they_say(
    app: Celery, letters: DeadLetters, dead: FakeQueue, outcome: Exception, buried: int
) -> None:
    """Only a reject without a requeue is a failure for good."""
    with pytest.raises(type(outcome)):
        registered(app, letters, failing(outcome))(event_text())
    assert len(dead.sent) == buried


class MemoryMarks(Marks):
    """Marks without a Redis: done, or not."""

    def __init__(self) -> None:
        self.done: set[str] = set()

    @contextmanager
    def attempt(self, key: str, remember: float) -> Iterator[None]:
        if key in self.done:
            raise AlreadyDone
        yield
        self.done.add(key)


@pytest.mark.parametrize("handed_over", [True, False])
@pytest.mark.parametrize("throw", [True, False])
def test_an_event_is_not_done_while_a_retry_of_it_was_asked_for(
    app: Celery, letters: DeadLetters, handed_over: bool, throw: bool
) -> None:
    """However the function returns then: the retry would be skipped."""

    def again(event: Any) -> None:
        if task.request.retries == 0:
            with suppress(Retry):
                task.retry(countdown=1, throw=throw)

    register_bury(app, letters)
    marks = MemoryMarks()
    consumer = Consumer(again, "t", name="f", module="proj.consumers", once=True)
    task = register(app, consumer, ConsumerOperator(), "t", letters, marks)
    properties = {STAYS_UNTIL: time.monotonic() + 3600} if handed_over else {}
    for retries, done in ((0, 0), (1, 1)):
        task.push_request(id="i", args=[event_text()], kwargs={}, retries=retries, properties=properties)
        with suppress(LocalRetry):
            task(event_text())
        task.pop_request()
        assert len(marks.done) == done
