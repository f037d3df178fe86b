"""``balog consumers``: who wants what."""

from __future__ import annotations

from typing import Any

from celery import Celery

from ..consumers.consumer import Consumer
from . import output
from .group import balog, command, json_option


@command(balog)
@json_option
def consumers(app: Celery, as_json: bool) -> None:
    """List who wants what.

    Every consumer, with what it wants, the options of its task, and the broker's queue where that goes. DISPATCH is how
    it gets there from an engine beside a worker: a worker without an event loop of its own (a pool of threads, gevent,
    eventlet or solo) is sent all of them by the broker.

    \b
    Example:
        celery -A proj balog consumers
    """
    rows = [_described(app, consumer) for consumer in app.balog.hub]
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


def _described(app: Celery, consumer: Consumer) -> dict[str, Any]:
    task = app.tasks[consumer.task_name]
    route = app.amqp.router.route({"queue": None}, task.name, (), {}, task)
    # A worker serves the default queue unless it is told otherwise, and has a loop where the transport works in one.
    served = route["queue"].name == app.conf.task_default_queue
    # The transport is asked last: to list consumers, its client need not be installed where nothing is handed over.
    handed = app.balog.dispatch == "hand-off" and served and app.connection_for_read().transport.implements.asynchronous
    batch = {} if consumer.batch is None else {"batch": consumer.batch, "batch_wait": consumer.batch_wait}
    options = {**batch, **consumer.options}
    return {
        "task": consumer.task_name,
        "topic": task.topic,
        "cls_types": sorted(consumer.cls_types or ()),
        "version": str(consumer.condition or ""),
        "queue": route["queue"].name,
        "dispatch": "hand-off" if handed else "publish",
        "once": consumer.once,
        "options": {name: repr(value) for name, value in options.items() if name != "queue"},
    }
