"""Sends the task events of a worker that is handed tasks in groups, for Flower, ``celery events`` and ``tail``."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery import bootsteps
from celery.events import EventDispatcher

from ..celery_compat.worker import redirect_buffered_events, restore_buffered_events

#: How long an event may wait for others, in seconds.
LINGER = 0.1
#: How many are sent at once. Celery sends 24, and each publish waits for Redis to answer.
TOGETHER = 240


class TaskEventsStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Buffers task events for a moment; Celery buffers them for a turn of the event loop.

    With hand-off a turn is seldom longer than one task, and sending its events would cost the worker's main process
    more than the task itself. Events keep their order, and Celery has written their times into them.
    """

    name = "balog-task-events"
    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        # A worker that takes all its tasks from the broker keeps Celery's behaviour.
        self.enabled = getattr(consumer.controller, "balog_hand_off", None) is not None
        self._waiting = False

    def start(self, consumer: Any) -> None:
        self._waiting = False
        redirect_buffered_events(consumer, partial(self._send_soon, consumer), TOGETHER)

    def stop(self, consumer: Any) -> None:
        restore_buffered_events(consumer)

    terminate = stop

    def _send_soon(self, consumer: Any, dispatcher: EventDispatcher) -> None:
        """Schedule a flush; any thread may call this."""
        if not self._waiting:
            self._waiting = True
            consumer.hub.call_soon(consumer.timer.call_after, LINGER, self._send, (dispatcher,))

    def _send(self, dispatcher: EventDispatcher) -> None:
        self._waiting = False
        dispatcher.flush()
