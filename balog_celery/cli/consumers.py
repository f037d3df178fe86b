"""``balog consumers``: the consumers and what they match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery

from ..consumers.consumer import Consumer
from ..operations.task_queues import task_queue
from ..signatures import name_of
from ..wiring.broker import require_broker
from . import output
from .group import balog, command, json_option


@command(balog)
@json_option
def consumers(app: Celery, as_json: bool) -> None:
    """List consumers and what they match.

    Each with the events that it matches, the options of its task, and the broker's queue to which that goes. DISPATCH
    is how an engine beside a worker dispatches the task. A worker of the pool prefork or solo gets all tasks from the
    broker if its transport has no event loop, as those of Redis and RabbitMQ have.

    \b
    Example:
        celery -A proj balog consumers
    """
    if app.balog.dispatch == "hand-off":  # which depends on the broker's transport
        require_broker(app)
    rows = [describe_consumer(app, consumer) for consumer in app.balog.hub]
    if as_json:
        output.document(rows)
        return
    output.table(
        ("TASK", "TOPIC", "CLS_TYPE", "VERSION", "QUEUE", "DISPATCH", "OPTIONS"),
        [
            (
                row["task"],
                row["topic"],
                ",".join(row["cls_types"] or ["*"]),
                row["version"] or "*",
                row["queue"],
                row["dispatch"],
                " ".join(f"{name}={value}" for name, value in row["options"].items()),
            )
            for row in rows
        ],
    )


def describe_consumer(app: Celery, consumer: Consumer) -> dict[str, Any]:
    """Return what a consumer matches, where its tasks go, and their options."""
    task = app.tasks[consumer.task_name]
    queue = task_queue(app, task.name)
    # A worker serves the default queue unless it is told otherwise, and has a loop where the transport works in one.
    served = queue == app.conf.task_default_queue
    # The transport is asked last: to list consumers, its client need not be installed where nothing is handed over.
    handed = app.balog.dispatch == "hand-off" and served and app.connection_for_read().transport.implements.asynchronous
    batch = {} if consumer.batch is None else {"batch": consumer.batch, "batch_wait": consumer.batch_wait}
    batch |= {} if consumer.chunk is None else {"chunk": consumer.chunk, "chunk_wait": consumer.chunk_wait}
    limit = consumer.limit
    concurrency = (
        {} if limit is None else {"concurrency": [limit.limit, "cluster"] if limit.in_cluster else limit.limit}
    )
    options = {**batch, **concurrency, **consumer.options}
    return {
        "task": consumer.task_name,
        "topic": task.topic,
        "cls_types": sorted(consumer.cls_types or ()),
        "version": str(consumer.condition or ""),
        "queue": queue,
        "dispatch": "hand-off" if handed else "publish",
        "once": consumer.once,
        "options": {name: _plain(value) for name, value in options.items() if name != "queue"},
    }


def _plain(value: Any) -> Any:
    """Return *value* as JSON has it: a class or a function as its dotted name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    return name_of(value) if hasattr(value, "__qualname__") else str(value)
