"""How often a worker that is handed tasks sends their events to who watches: Flower, ``celery events``, ``tail``."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery import bootsteps
from celery.events import EventDispatcher

#: How long an event may wait for others, in seconds. With 24 of them Celery sends them at once.
LINGER = 0.1


class TaskEventsStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Gathers the events of tasks that are handed over for a moment, as Celery does for a turn of its loop.

    A turn is seldom more than one task long, and sending its events takes longer than all else that the worker's main
    process does for that task; to be handed over it needs nothing else of the broker. Celery writes the time into an
    event when it happens. Only task events are gathered, and they keep their order.
    """

    name = "balog-task-events"
    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        # Workers that take all their tasks from the broker are as Celery made them.
        self.enabled = getattr(consumer.controller, "balog_hand_off", None) is not None
        self._waiting = False

    def start(self, consumer: Any) -> None:
        self._waiting = False
        # Made anew at each connection; None where events are off. That these two attributes are there, as the
        # arguments of its constructor are called, is not documented.
        dispatcher: EventDispatcher | None = consumer.event_dispatcher
        if dispatcher is not None and dispatcher.on_send_buffered is not None:
            dispatcher.on_send_buffered = partial(self._send_soon, consumer, dispatcher)

    def stop(self, consumer: Any) -> None:
        dispatcher: EventDispatcher | None = consumer.event_dispatcher
        if dispatcher is not None and dispatcher.on_send_buffered is not None:
            dispatcher.on_send_buffered = consumer.on_send_event_buffered
            # If the broker is lost they are kept, and sent when there is one again.
            dispatcher.flush()

    terminate = stop

    def _send_soon(self, consumer: Any, dispatcher: EventDispatcher) -> None:
        """An event waits; called in whichever thread it happened."""
        if not self._waiting:
            self._waiting = True
            consumer.hub.call_soon(consumer.timer.call_after, LINGER, self._send, (dispatcher,))

    def _send(self, dispatcher: EventDispatcher) -> None:
        self._waiting = False
        dispatcher.flush()
