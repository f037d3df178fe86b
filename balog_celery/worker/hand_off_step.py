"""The consumer step that opens the hand-off while the worker is connected to its broker."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from ..celery_compat.pool import write_jobs_at_once
from ..celery_compat.worker import executes_here, executes_in_its_loop
from ..dispatch.hand_off_worker import HandOff
from ..dispatch.worker_loop import HubLoop, ThreadLoop, WorkerLoop

#: How often the engine is told that the worker's loop runs, and what has changed, in seconds.
_BEAT = 1.0


class HandOffStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Lets the engine hand tasks to this worker for as long as it is connected to its broker."""

    name = "balog-hand-off"
    # The hand-off gives tasks to the consumer's strategies (userguide/extending), which are new at each connection.
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        # The worker's steps are made before the consumer's.
        self._hand_off: HandOff | None = getattr(consumer.controller, "balog_hand_off", None)
        self.enabled = self._hand_off is not None
        self._loop = ThreadLoop()
        #: The timer's entry for the beats.
        self._beat: Any = None

    def start(self, consumer: Any) -> None:
        """Open the hand-off of a worker without an event loop, if its pool takes tasks from any thread."""
        if self._hand_off is None or consumer.hub is not None:
            return
        if executes_here(consumer) and not executes_in_its_loop(consumer):
            self._open(self._hand_off, consumer, self._loop)
        else:
            self._hand_off.decline()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Open the hand-off; Celery calls this when the loop of a newly connected consumer is about to run."""
        if self._hand_off is not None:
            write_jobs_at_once(consumer, hub)
            self._open(self._hand_off, consumer, HubLoop(hub, gathers=not executes_in_its_loop(consumer)))

    def _open(self, hand_off: HandOff, consumer: Any, loop: WorkerLoop) -> None:
        hand_off.open(consumer, loop)
        self._stop_beating()
        # A pool that executes tasks in the loop stops it, which is no sign of a problem.
        beats = not executes_in_its_loop(consumer)

        def beat() -> None:
            # Celery's control commands and its autoscaler change the pool and the queues in many ways.
            hand_off.announce()
            if beats:
                hand_off.beat()
            else:
                hand_off.flush()

        beat()
        self._beat = consumer.timer.call_repeatedly(_BEAT, beat)

    def _stop_beating(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def stop(self, consumer: Any) -> None:
        self._stop_beating()
        if self._hand_off is not None:
            self._hand_off.shut()

    terminate = stop
