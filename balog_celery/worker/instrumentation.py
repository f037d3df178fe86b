"""Reports the starts and ends of consumers' tasks to OpenTelemetry, and to the log at DEBUG.

It connects to Celery's signals only if one of them is on, so other workers are not slowed down.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from celery import Celery, signals
from celery.exceptions import Reject, TimeLimitExceeded, WorkerLostError
from celery.states import FAILURE, REJECTED, SUCCESS
from celery.utils.dispatch import Signal

from ..celery_compat.tasks import connect, disconnect
from ..consumers.context import TIMES, EventContext
from ..sqs.addresses import queue_name
from ..tasks.chunk import ChunkTask
from ..tasks.consumer import ConsumerTask
from ..telemetry import OFF, Telemetry

logger = logging.getLogger(__name__)

#: The stages of an event, in order.
STAGES = ("emitted", "sent", "received", "started", "done")


class TaskInstrumentation:
    """Reports the consumers' tasks of one app, in each process that executes them.

    :param app: the Celery app.
    :param telemetry: returns the telemetry of the process.
    """

    def __init__(self, app: Celery, telemetry: Callable[[], Telemetry]) -> None:
        self._app = app
        self._telemetry = telemetry

    def begin(self) -> None:
        """Report from now on. A process finds at its first task whether anything is to be reported."""
        self._connect(signals.task_prerun, self._first)
        self._connect(signals.task_failure, self._lost)

    def _first(self, **signal: Any) -> None:
        disconnect(signals.task_prerun, self._uid(self._first))
        if self._telemetry() is not OFF or logger.isEnabledFor(logging.DEBUG):
            self._connect(signals.task_prerun, self._started)
            self._connect(signals.task_postrun, self._ended)
            for task in self._app.tasks.values():
                if isinstance(task, ChunkTask):
                    task.telemetry = self._telemetry()
            self._started(**signal)

    def _connect(self, signal: Signal, receiver: Callable[..., None]) -> None:
        connect(signal, receiver, self._uid(receiver))

    def _uid(self, receiver: Callable[..., None]) -> tuple[int, str]:
        return id(self), receiver.__name__

    def _started(self, task: Any, **_: Any) -> None:
        if self._is_consumer(task):
            times = _times(task, "started")
            # The documented place for consumers and operators: celery.current_task.request.balog_times
            setattr(task.request, TIMES, times)
            if not isinstance(task, ChunkTask):  # it reports each event
                self._telemetry().started(_topic(task), task.name, times)

    def _ended(self, task: Any, retval: Any, state: str, **_: Any) -> None:
        # A task that is rejected without a requeue has failed permanently; one that is retried or ignored is not done.
        failed = state == FAILURE or (state == REJECTED and isinstance(retval, Reject) and not retval.requeue)
        if self._is_consumer(task) and (failed or state == SUCCESS):
            times = _times(task, "done")
            if not isinstance(task, ChunkTask):
                self._telemetry().done(_topic(task), task.name, times, failed=failed)
            argsrepr = task.request.get("argsrepr", "")
            logger.debug("%s %s %s: %s", task.name, argsrepr, "failed" if failed else "done", _timeline(times))

    def _lost(self, sender: Any, exception: Any, **_: Any) -> None:
        """Count a hard time limit or a lost pool child, which only the worker's main process sees."""
        if self._is_consumer(sender) and isinstance(exception, (TimeLimitExceeded, WorkerLostError)):
            self._telemetry().done(_topic(sender), sender.name, {}, failed=True)

    def _is_consumer(self, task: Any) -> bool:
        return isinstance(task, ConsumerTask) and task.app is self._app


def _topic(task: ConsumerTask) -> str:
    return queue_name(task.topic)


def _times(task: ConsumerTask, stage: str) -> dict[str, int]:
    """Return the times of the task's event, with *stage* now."""
    return {**EventContext.from_headers(task.request).times, stage: int(time.time() * 1000)}


def _timeline(times: Mapping[str, int]) -> str:
    """Return *times* for the log: the first one, and each later stage by its distance from the first."""
    (first, since), *later = [(stage, times[stage]) for stage in STAGES if times.get(stage)]
    begun = datetime.fromtimestamp(since / 1000, timezone.utc).isoformat(timespec="milliseconds")
    return ", ".join([f"{first} {begun}", *[f"{stage} {(at - since) / 1000:+.3f} s" for stage, at in later]])
