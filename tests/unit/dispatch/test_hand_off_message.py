"""What a handed-over task's message tells: the same as if a broker had carried the task."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.task import Context
from kombu import Exchange, Queue

from balog_celery.dispatch.hand_off_message import HandOffMessage, MessageBuilder
from balog_celery.dispatch.protocol import Task as GivenTask

DIRECT = Queue("mail", Exchange("mail"), routing_key="mail")
TOPICAL = Queue("letters", Exchange("post", type="topic"), routing_key="post.letters")
#: Headers of an engine.
GIVEN = {"balog_event": {"id": "e", "cls_type": "c"}, "traceparent": "00-1-2-01"}


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with queues, on kombu's broker in memory."""
    app = Celery("post", broker="memory://", set_as_current=False)
    app.conf.task_queues = [Queue("celery", Exchange("celery"), routing_key="celery"), DIRECT, TOPICAL]
    yield app
    app.close()


class Letter(Task):
    """The base of a consumer's task, of which the builder asks this."""

    fifo = ""


def print_letter(text: str) -> None:
    """Be the code of a task."""


def handed_over(app: Celery, task: Any, builder: MessageBuilder | None = None) -> HandOffMessage:
    """Return the message of *task* as a worker makes it."""
    nothing: Any = SimpleNamespace()
    given = GivenTask(1, "an id", task.name, "(<Event>,)", "the text", GIVEN)
    return (builder or MessageBuilder(nothing, 60)).build(app, nothing, given, may_wait=True)


@pytest.mark.parametrize(
    "route", [{}, {"queue": "mail"}, {"queue": "letters"}, {"queue": "mail", "priority": 7}], ids=str
)
def test_a_retry_goes_where_the_task_would_have_come_from(app: Celery, route: dict[str, Any]) -> None:
    """The exchange, the routing key and the priority are those of a task that was published."""
    # Given
    task = app.task(name="post.task", base=Letter)(print_letter)
    app.conf.task_routes = {task.name: route} if route else {}
    # When
    message = handed_over(app, task)
    task.apply_async(("the text",))
    with app.connection_for_read() as connection:
        published = connection.default_channel.basic_get(route.get("queue", "celery"), no_ack=True)
    # Then
    expected = published.delivery_info
    assert message.delivery_info["exchange"] == expected["exchange"]
    assert message.delivery_info["routing_key"] == expected["routing_key"]
    assert message.properties["priority"] == message.delivery_info["priority"] == route.get("priority")


def test_time_limits_that_are_changed_while_the_worker_runs_count(app: Celery) -> None:
    """``celery control time_limit`` is for the next task, also if one came before."""
    # Given
    task = app.task(name="post.task", base=Letter, time_limit=20)(print_letter)
    nothing: Any = SimpleNamespace()
    builder = MessageBuilder(nothing, 60)
    assert handed_over(app, task, builder).headers["timelimit"] == [20, None]
    # When
    task.time_limit, task.soft_time_limit = 60, 30
    # Then
    assert handed_over(app, task, builder).headers["timelimit"] == [60, 30]


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_worker_reads_the_headers_with_either_protocol(app: Celery, protocol: int) -> None:
    """They are those of protocol 2, in which Celery's requests are."""
    app.conf.task_protocol = protocol
    task = app.task(name="post.task", base=Letter)(print_letter)
    headers = handed_over(app, task).headers
    assert (headers["task"], headers["id"], headers["retries"]) == ("post.task", "an id", 0)


def test_a_task_sees_the_headers_of_its_message(app: Celery) -> None:
    """They are those that Celery finds in a message that a broker has carried, without its own."""
    # Given
    task = app.task(name="post.task", base=Letter)(print_letter)
    headers = handed_over(app, task).headers
    # When
    context = Context(headers)
    found = Context({name: value for name, value in headers.items() if name != "headers"})
    # Then
    assert context.headers == found.headers == GIVEN
