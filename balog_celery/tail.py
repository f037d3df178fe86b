"""Shows what workers do with the events of a topic, as they do it: out of Celery's own task events.

It is the one way to look that takes nothing from anybody: SQS has no peek, and a receive would take a message from the
workers, if only for a moment, and count as a receive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple

from celery import Celery
from celery.events import EventReceiver

from .backoff import Backoff
from .brokers import bounded_connection
from .settings import queue_name
from .tasks import ConsumerTask, read_shown
from .text import printable

logger = logging.getLogger(__name__)


class Sight(NamedTuple):
    """One thing that happened to an event: a consumer's task was received, started, retried, succeeded, failed, ...

    :param time: when, by the worker's clock, in UTC.
    :param state: what: the last word of Celery's event (``task-received`` is ``received``).
    :param event: the event's id.
    :param consumer: the name of the consumer's task.
    :param worker: which worker said so.
    :param detail: the exception, where there is one; how long it ran, where it succeeded.
    """

    time: datetime
    state: str
    event: str
    cls_type: str
    consumer: str
    task_id: str
    worker: str
    detail: str


class _Receiver(EventReceiver):  # type: ignore[misc]
    """Celery's, which says when it receives: after its first look, as kombu's Redis subscribes with that."""

    ready: Callable[[], None]
    _looks = 0

    def on_iteration(self) -> None:
        super().on_iteration()
        if self._looks == 1:
            self.ready()
        self._looks += 1


class Tail:
    """Watches the tasks of a topic's consumers.

    Tasks that were received before it watched are not shown, for what later events say does not name them.

    :param app: the Celery app; its consumers are loaded.
    :param topic: the topic: a name or a URL.
    :param show: called with each sight.
    """

    def __init__(self, app: Celery, topic: str, show: Callable[[Sight], None]) -> None:
        self._app = app
        self._consumers = {
            name
            for name, task in app.tasks.items()
            if isinstance(task, ConsumerTask) and queue_name(task.topic) == queue_name(topic)
        }
        self._show = show
        self._state = app.events.State()
        self._stopped = False
        self._receiver: Any = None

    def run(self, ready: Callable[[], None]) -> None:
        """Watch until :meth:`stop`, over any trouble with the broker.

        :param ready: called when it watches, again after each trouble.
        """
        backoff = Backoff()

        def watching() -> None:
            backoff.succeeded()
            ready()

        while not self._stopped:
            try:
                with bounded_connection(self._app, 10.0) as connection:
                    self._receiver = _Receiver(connection, handlers={"*": self._on_event}, app=self._app)
                    self._receiver.ready = watching
                    self._receiver.capture(wakeup=False)
            except Exception as error:
                logger.warning("the broker does not answer, trying again: %s", printable(repr(error), 500))
                time.sleep(backoff.failed())

    def stop(self) -> None:
        """Show no more, and end :meth:`run` within a second."""
        self._stopped = True
        if self._receiver is not None:
            self._receiver.should_stop = True

    def _on_event(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if not kind.startswith("task-") or kind == "task-sent":
            return
        self._state.event(event)
        task = self._state.tasks.get(event["uuid"])
        if task is None or task.name not in self._consumers:
            return
        if self._stopped:
            return
        event_id, cls_type, _ = read_shown(task.args or "")
        detail = event.get("exception") or (f"{event['runtime']:.3f} s" if "runtime" in event else "")
        self._show(
            Sight(
                datetime.fromtimestamp(event["timestamp"], timezone.utc),
                kind.removeprefix("task-"),
                event_id,
                cls_type,
                task.name,
                event["uuid"],
                printable(event.get("hostname", "")),
                printable(detail, 500),
            )
        )
