"""Shows what workers do with the events of a topic, from Celery's own task events.

It receives no messages. SQS has no peek: a receive would hide a message from the workers, and count as a receive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple

from celery import Celery
from celery.events import EventReceiver
from kombu.utils.functional import LRUCache

from ..backoff import Backoff
from ..brokers.connections import bounded_connection
from ..consumers.context import EventContext
from ..events.serialization import MAX_NAME
from ..sqs.addresses import queue_name
from ..tasks.consumer import ConsumerTask
from ..text import printable

logger = logging.getLogger(__name__)

#: The events of this many tasks are remembered.
_REMEMBERED = 10_000


class TaskEvent(NamedTuple):
    """A step of a consumer's task: received, started, retried, succeeded, failed, ...

    :param time: when, by the worker's clock, in UTC.
    :param state: the step: the last word of Celery's event (``task-received`` is ``received``).
    :param event: the event's id, whole: the web page finds events by it.
    :param consumer: the name of the consumer's task.
    :param worker: the worker that sent it.
    :param detail: the exception, or the run time of a task that succeeded.
    :param runtime: that run time, in seconds; None: it did not succeed.
    :param cause: the id of the event that caused this one; "": it does not say.
    """

    time: datetime
    state: str
    event: str
    cls_type: str
    consumer: str
    task_id: str
    worker: str
    detail: str
    runtime: float | None = None
    cause: str = ""


class _Receiver(EventReceiver):  # type: ignore[misc]
    """Celery's receiver, which reports that it has subscribed: kombu's Redis does so in its first iteration."""

    ready: Callable[[], None]
    _looks = 0

    def on_iteration(self) -> None:
        super().on_iteration()
        if self._looks == 1:
            self.ready()
        self._looks += 1


class Tail:
    """Follows the tasks of consumers.

    Tasks that were received before it started are not shown, because later events do not name their consumer.

    :param app: the Celery app; its consumers are loaded.
    :param topic: only of consumers of this topic, a name or a URL; None: of all.
    :param show: called with each step.
    """

    def __init__(self, app: Celery, topic: str | None, show: Callable[[TaskEvent], None]) -> None:
        self._app = app
        self._consumers = {
            name
            for name, task in app.tasks.items()
            if isinstance(task, ConsumerTask) and (topic is None or queue_name(task.topic) == queue_name(topic))
        }
        self._show = show
        #: Consumer and context by task id: only ``task-received`` names them.
        self._received: Any = LRUCache(limit=_REMEMBERED)  # type: ignore[no-untyped-call]
        self._stopped = False
        self._receiver: Any = None

    def run(self, ready: Callable[[], None]) -> None:
        """Follow tasks until :meth:`stop`. Reconnect when the broker fails.

        :param ready: called when it has connected, and after each reconnect.
        """
        backoff = Backoff()

        def connected() -> None:
            backoff.succeeded()
            ready()

        while not self._stopped:
            try:
                with bounded_connection(self._app, 10.0) as connection:
                    self._receiver = _Receiver(connection, handlers={"*": self._on_event}, app=self._app)
                    self._receiver.ready = connected
                    self._receiver.capture(wakeup=False)
            except Exception as error:
                logger.warning("the broker does not answer, trying again: %s", printable(repr(error), 500))
                time.sleep(backoff.failed())

    def stop(self) -> None:
        """Stop showing tasks, and end :meth:`run` within a second."""
        self._stopped = True
        if self._receiver is not None:
            self._receiver.should_stop = True

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if not kind.startswith("task-") or kind == "task-sent":
            return
        if kind == "task-received" and event["name"] in self._consumers:
            self._received[event["uuid"]] = event["name"], EventContext.from_headers(event)
        if self._stopped or event["uuid"] not in self._received:
            return
        consumer, context = self._received[event["uuid"]]
        runtime = event.get("runtime")
        detail = event.get("exception") or ("" if runtime is None else f"{runtime:.3f} s")
        self._show(
            TaskEvent(
                datetime.fromtimestamp(event["timestamp"], timezone.utc),
                kind.removeprefix("task-"),
                printable(context.event_id, MAX_NAME),
                printable(context.cls_type, 100),
                consumer,
                event["uuid"],
                printable(event.get("hostname", "")),
                printable(detail, 500),
                runtime,
                printable(context.cause, MAX_NAME),
            )
        )
