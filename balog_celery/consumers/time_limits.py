"""Time limits of consumers, against how long an event is kept for a task that runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from celery import Celery

from ..brokers.kombu_compat import driver_of
from ..sqs.messages import MAX_VISIBILITY
from ..text import printable
from .consumer import Consumer

#: How long Celery's Redis transport waits for a task to be acknowledged, unless it is told otherwise, in seconds.
_REDIS_VISIBILITY = 3600


def time_limit_warnings(app: Celery, consumers: Iterable[Consumer], dispatch: str) -> Iterator[str]:
    """Report consumers that may run longer than their event is held for them, so that it would run twice; a line each.

    :param dispatch: ``"hand-off"`` or ``"publish"``.
    """
    connection = app.connection_for_write()
    redis = None
    if driver_of(connection) == "redis":
        redis = float((connection.transport_options or {}).get("visibility_timeout") or _REDIS_VISIBILITY)
    for consumer in consumers:
        name = printable(consumer.task_name)
        limit = _limit(app, consumer)
        if dispatch == "hand-off" and limit > MAX_VISIBILITY:
            yield (
                f"{name} may run for {limit:g} s, longer than SQS keeps a message for it ({MAX_VISIBILITY} s): "
                "the event would be processed again meanwhile; give it a lower time_limit"
            )
        elif redis is not None and limit > redis:
            yield (
                f"{name} may run for {limit:g} s, longer than the Redis broker waits before it gives the task "
                f"out again ({redis:g} s): set broker_transport_options = {{'visibility_timeout': ...}} to more"
            )


def _limit(app: Celery, consumer: Consumer) -> float:
    """Return how long its task may run, in seconds; 0 if there is no limit."""
    task, conf = app.tasks[consumer.task_name], app.conf
    hard = task.time_limit or conf.task_time_limit
    return float(hard or task.soft_time_limit or conf.task_soft_time_limit or 0)
