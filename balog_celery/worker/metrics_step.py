"""Serves metrics from the worker's main process: of engine and relay beside it, and of the tasks that it executes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from ..metrics.opening import open_metrics
from ..sqs.addresses import queue_name
from ..tasks.request import EventRequest
from ..wiring.start_errors import worker_start_errors
from .bootsteps import EngineStep

if TYPE_CHECKING:
    from ..metrics.exposition import TaskMetrics
    from ..metrics.server import MetricsServer


class MetricsStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Serves metrics while the worker runs, if ``balog_metrics_port`` names a port."""

    name = "balog-metrics"
    requires = (EngineStep,)

    def __init__(self, worker: Any, **_: Any) -> None:
        self.enabled = worker.app.balog.settings.metrics_port is not None
        self._app = worker.app
        self._server: MetricsServer | None = None
        self._tasks: TaskMetrics | None = None

    def create(self, worker: Any) -> None:
        """Open the port, while an error can still end the worker with its exit code."""
        engine = next((step for step in worker.steps if isinstance(step, EngineStep) and step.enabled), None)

        def statuses() -> list[dict[str, Any]]:
            status = None if engine is None else engine.status(worker)
            return [*([] if status is None else [status]), *_relays(worker)]

        with worker_start_errors():
            self._server, self._tasks = open_metrics(
                worker.app.balog.settings, statuses, runs_engine=engine is not None
            )

    def start(self, worker: Any) -> None:
        """Begin to serve and to count."""
        if self._server is not None:
            EventRequest.observers.append(self._ended)
            self._server.start()

    def stop(self, worker: Any) -> None:
        """Stop both."""
        if self._server is not None:
            EventRequest.observers.remove(self._ended)
            self._server.stop()
            self._server = None

    terminate = stop

    def _ended(self, request: EventRequest, outcome: str, runtime: float | None) -> None:
        task = request.task
        if self._tasks is not None and task.app is self._app:
            trace = str((request.message.headers or {}).get("traceparent") or "").split("-")
            trace_id = trace[1] if len(trace) == 4 else None
            self._tasks.ended(queue_name(task.topic), task.name, outcome, runtime, trace_id)


def _relays(worker: Any) -> list[dict[str, Any]]:
    """Return the status of the outbox relay beside this worker, if there is one."""
    if not worker.app.balog.settings.outbox_relay:
        return []
    return [status for status in worker.app.balog.statuses("relay") if status["worker"] == os.getpid()]
