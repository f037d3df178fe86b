"""The rows of ``balog topics``, as data and as texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery

from ..errors import QueueError, QueueNotFound
from ..sqs.addresses import beside, queue_name
from ..sqs.diagnostics import oldest_message_age
from ..sqs.queues import SQSQueue
from ..sqs.redrive import redrive_of
from ..text import printable

#: The headings of the table.
HEADINGS = ("TOPIC", "CONSUMERS", "WAITING", "IN FLIGHT", "DELAYED", "OLDEST", "DEAD LETTERS", "PAUSED")


def describe_topics(app: Celery) -> list[dict[str, Any]]:
    """Return :func:`describe_topic` of each topic."""
    return [describe_topic(app, topic) for topic in sorted(app.balog.topics())]


def describe_topic(app: Celery, topic: str) -> dict[str, Any]:
    """Return a topic's consumers, counts, age of the oldest message and dead-letter queues, or its error."""
    consumers = [one.task_name for one in app.balog.topics()[topic]]
    row: dict[str, Any] = {"topic": topic, "consumers": consumers, "paused": _paused(app, topic)}
    names = [app.balog.dead_letters.name(topic)]
    unreadable = []
    try:
        queue = app.balog.connect(topic)
        attributes = queue.attributes()
    except QueueError as error:
        row["error"] = str(error)
    else:
        row |= {**_counts(attributes), "oldest": oldest_message_age(queue) if isinstance(queue, SQSQueue) else None}
        try:
            if redrive := redrive_of(attributes):
                names.append(beside(topic, redrive.target))
        except QueueError as error:
            unreadable = [{"queue": "?", "error": str(error)}]
    row["dead_letters"] = [_dead_queue(app, name) for name in dict.fromkeys(names) if name] + unreadable
    return row


def _paused(app: Celery, topic: str) -> list[str]:
    """Return what engines on this machine have paused of *topic*."""
    names = {printable(topic), printable(queue_name(topic))}
    states = [status["topics"].get(name) for status in app.balog.statuses() for name in names]
    return sorted({name for state in states if state for name in state.get("paused", ())})


def _dead_queue(app: Celery, name: str) -> dict[str, Any]:
    try:
        return {"queue": name, **_counts(app.balog.connect(name).attributes())}
    except QueueNotFound:
        return {"queue": name, "error": "missing"}
    except QueueError as error:
        return {"queue": name, "error": str(error)}


def _counts(attributes: Mapping[str, str]) -> dict[str, int | None]:
    """Return the numbers of waiting, in-flight and delayed messages.

    None is a number that the broker does not report.
    """
    number = "ApproximateNumberOfMessages"
    names = {"waiting": number, "in_flight": f"{number}NotVisible", "delayed": f"{number}Delayed"}
    return {key: int(attributes[name]) if name in attributes else None for key, name in names.items()}


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts of a row of the table, one for each of :data:`HEADINGS`."""
    error = "error" in row
    return (
        row["topic"],
        str(len(row["consumers"])),
        *([row["error"], "", "", ""] if error else map(_number_text, (*_numbers(row), row["oldest"]))),
        ", ".join(map(_dead_text, row["dead_letters"])),
        ", ".join(map(printable, row["paused"])),
    )


def _numbers(row: Mapping[str, Any]) -> list[int | None]:
    return [row["waiting"], row["in_flight"], row["delayed"]]


def _number_text(number: int | None) -> str:
    return "?" if number is None else str(number)


def _dead_text(found: Mapping[str, Any]) -> str:
    return f"{found['error'] if 'error' in found else sum(filter(None, _numbers(found)))} ({found['queue']})"
