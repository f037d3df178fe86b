"""``balog topics``: what is in the queues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from celery import Celery

from ..errors import QueueError, QueueNotFound
from ..queues import SQSQueue
from . import output
from .group import balog, command, json_option


@command(balog)
@json_option
def topics(app: Celery, as_json: bool) -> None:
    """List how much is in the queues.

    For each topic of the consumers: how much waits, is in flight or delayed, for how many seconds the oldest message
    has waited, and how much is dead. The numbers are SQS's own, and approximate; that of the oldest is CloudWatch's,
    a minute or more late, and "?" where that cannot tell (cloudwatch:GetMetricStatistics is needed). Exits with 1 if
    a topic's queue cannot be asked.

    \b
    Example:
        celery -A proj balog topics
    """
    rows = [_row(app, topic) for topic in sorted(app.balog.topics())]
    if as_json:
        output.document(rows)
    else:
        output.table(
            ("TOPIC", "CONSUMERS", "WAITING", "IN FLIGHT", "DELAYED", "OLDEST", "DEAD LETTERS"),
            [
                (
                    row["topic"],
                    str(len(row["consumers"])),
                    *([row["error"], "", "", ""] if "error" in row else map(_shown, (*_numbers(row), row["oldest"]))),
                    ", ".join(map(_dead, row["dead_letters"])),
                )
                for row in rows
            ],
        )
    if any("error" in row for row in rows):
        raise SystemExit(1)


def _row(app: Celery, topic: str) -> dict[str, Any]:
    row: dict[str, Any] = {"topic": topic, "consumers": [one.task_name for one in app.balog.topics()[topic]]}
    redrive = ""
    try:
        queue = app.balog.connect(topic)
        attributes = queue.attributes()
    except QueueError as error:
        row["error"] = str(error)
    else:
        row |= {**_counts(attributes), "oldest": queue.oldest() if isinstance(queue, SQSQueue) else None}
        redrive = redrive_target(attributes)
    names = [app.balog.dead_letters.name(topic), redrive]
    row["dead_letters"] = [_dead_queue(app, name) for name in dict.fromkeys(names) if name]
    return row


def redrive_target(attributes: Mapping[str, str]) -> str:
    """The name of the queue to which SQS itself moves what was received too often; "" if to none."""
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    return str(policy.get("deadLetterTargetArn", "")).rpartition(":")[2]


def _dead_queue(app: Celery, name: str) -> dict[str, Any]:
    try:
        return {"queue": name, **_counts(app.balog.connect(name).attributes())}
    except QueueNotFound:
        return {"queue": name, "error": "missing"}
    except QueueError as error:
        return {"queue": name, "error": str(error)}


def _counts(attributes: Mapping[str, str]) -> dict[str, int | None]:
    """How many messages wait, are in flight, and are delayed; None is what a broker does not tell."""
    number = "ApproximateNumberOfMessages"
    names = {"waiting": number, "in_flight": f"{number}NotVisible", "delayed": f"{number}Delayed"}
    return {key: int(attributes[name]) if name in attributes else None for key, name in names.items()}


def _numbers(row: Mapping[str, Any]) -> list[int | None]:
    return [row["waiting"], row["in_flight"], row["delayed"]]


def _shown(number: int | None) -> str:
    return "?" if number is None else str(number)


def _dead(found: Mapping[str, Any]) -> str:
    return f"{found['error'] if 'error' in found else sum(filter(None, _numbers(found)))} ({found['queue']})"
