"""Whether the order of a FIFO topic can be kept: one rule, for engines and for `balog check`."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigurationError
from ..text import printable

#: Who publishes the tasks of a topic, and so does not know when they have finished.
ENGINE = "an engine that puts tasks on the broker"
WORKER = "a worker that is handed no tasks, as it has no event loop,"


def check_order(task: Any, queue: str, *, publisher: str = "", served: frozenset[str] | None = None) -> None:
    """Check that the end of each run of a FIFO topic's *task* is known, before which its group must not go on.

    :param queue: the task's queue on the broker.
    :param publisher: who publishes the task; "": it is handed over.
    :param served: the queues of the worker that takes it; None: they are not known.
    :raises ConfigurationError: it is not.
    """
    who, way_out = publisher, ""
    if not task.acks_late:
        who, way_out = "a task with acks_late=False", "leave acks_late out; "
    elif not who and served is not None and queue not in served:
        who = f"a worker that does not serve the queue {queue!r}"
    if who:
        raise ConfigurationError(
            f"topic {printable(task.topic)!r} is FIFO, and {who} does not know when {task.name} has finished, so it "
            f"cannot keep the order: {way_out}run a worker with its engine, balog_dispatch = 'hand-off' and Redis or "
            "RabbitMQ as the broker, that serves the queues of all consumers of the topic; or use a standard queue"
        )
