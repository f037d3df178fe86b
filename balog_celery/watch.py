"""Tells how consumers' tasks fare in a worker: to OpenTelemetry, and to the log at DEBUG.

Celery's signals say it, and are listened to only where somebody is interested: a worker without is not slowed down.
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

from .consumers.delivery import TIMES
from .settings import queue_name
from .tasks import ConsumerTask
from .telemetry import OFF, Telemetry

logger = logging.getLogger(__name__)

#: What an event goes through, in order.
STAGES = ("emitted", "sent", "received", "started", "done")


class TaskWatch:
    """Watches the consumers' tasks of one app, in whatever process executes them.

    :param app: the Celery app.
    :param telemetry: gives who is told, besides the log.
    """

    def __init__(self, app: Celery, telemetry: Callable[[], Telemetry]) -> None:
        self._app = app
        self._telemetry = telemetry

    def begin(self) -> None:
        """Watch from now on. Whether somebody is interested is asked at the first task of a process."""
        signals.task_prerun.connect(self._first, weak=False)
        signals.task_failure.connect(self._lost, weak=False)

    def _first(self, **said: Any) -> None:
        signals.task_prerun.disconnect(self._first)
        if self._telemetry() is not OFF or logger.isEnabledFor(logging.DEBUG):
            signals.task_prerun.connect(self._started, weak=False)
            signals.task_postrun.connect(self._ended, weak=False)
            self._started(**said)

    def _started(self, task: Any, **_: Any) -> None:
        if self._is_ours(task):
            # Where handlers find them as well: celery.current_task.request.balog_times
            times = {**(task.request.get(TIMES) or {}), "started": int(time.time() * 1000)}
            setattr(task.request, TIMES, times)
            self._telemetry().started(_topic(task), task.name, times)

    def _ended(self, task: Any, retval: Any, state: str, **_: Any) -> None:
        # A rejected task that does not come again has failed for good; what is retried or ignored is not done.
        failed = state == FAILURE or (state == REJECTED and isinstance(retval, Reject) and not retval.requeue)
        if self._is_ours(task) and (failed or state == SUCCESS):
            times = {**(task.request.get(TIMES) or {}), "done": int(time.time() * 1000)}
            self._telemetry().done(_topic(task), task.name, times, failed=failed)
            # Which event it is: see arguments_shown.
            shown = task.request.get("argsrepr", "")
            logger.debug("%s %s %s: %s", task.name, shown, "failed" if failed else "done", _told(times))

    def _lost(self, sender: Any, exception: Any, **_: Any) -> None:
        """A hard time limit and a lost pool child are told to the worker's main process only."""
        if self._is_ours(sender) and isinstance(exception, (TimeLimitExceeded, WorkerLostError)):
            self._telemetry().done(_topic(sender), sender.name, {}, failed=True)

    def _is_ours(self, task: Any) -> bool:
        return isinstance(task, ConsumerTask) and task.app is self._app


def _topic(task: ConsumerTask) -> str:
    return queue_name(task.topic)


def _told(times: Mapping[str, int]) -> str:
    """The times of an event in words: the first, and how long after that each later stage was."""
    (first, since), *later = [(stage, times[stage]) for stage in STAGES if times.get(stage)]
    begun = datetime.fromtimestamp(since / 1000, timezone.utc).isoformat(timespec="milliseconds")
    return ", ".join([f"{first} {begun}", *[f"{stage} {(at - since) / 1000:+.3f} s" for stage, at in later]])
