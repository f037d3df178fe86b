"""The worker's steps: they run the local stack, and supervise an engine.

The engine is a separate process, started by exec, so it shares nothing with the pool's forks.
"""

from __future__ import annotations

import logging
import socket
import subprocess
from typing import Any

import click
from celery import bootsteps, signals
from celery.worker.control import inspect_command

from ..celery_compat.tasks import route_of
from ..celery_compat.versions import untested
from ..celery_compat.worker import queue_names
from ..dev import local_stack
from ..dispatch.channel import Channel
from ..dispatch.hand_off_worker import BROKER_RETRY_PERIOD, RETRY_PERIOD, HandOff
from ..engine.config import longest_stop
from ..engine.status import is_of, problems
from ..errors import ConfigurationError
from ..sqs.messages import BATCH_SIZE
from ..wiring.configuration import CELERY_DEFAULTS
from ..wiring.start_errors import worker_start_errors
from .child import ChildProcess
from .commands import beside
from .pauses import WorkerPauses

logger = logging.getLogger(__name__)

#: How long the end of the engine's process may take after its stop, in seconds.
_GRACE = 5.0
#: How long an engine may take to stop in a cold shutdown of the worker, in seconds.
_COLD = 3.0
#: How often the engine's status is read, and how long it may stay the same until the engine is killed, in seconds.
_HEARTBEAT_INTERVAL = 2.5
_HUNG_AFTER = 20.0


def no_engine_option() -> click.Option:
    """Return the worker's option ``--no-engine``."""
    return click.Option(
        ["--no-engine"], is_flag=True, help="Execute tasks only: run no balog_celery engine beside this worker."
    )


class LocalStep(bootsteps.Step):  # type: ignore[misc]
    """Starts the local broker and SQS before anything connects to them. They end with their last user."""

    name = "balog-local"

    def include_if(self, worker: Any) -> bool:
        return bool(worker.app.balog.local)

    def create(self, worker: Any) -> None:
        integration = worker.app.balog
        with worker_start_errors():
            stack = local_stack.hold(integration.state_dir)
        # The broker keeps unacknowledged tasks under the worker's name, and restores them when it is gone.
        worker.app.conf.broker_transport_options = {
            **worker.app.conf.broker_transport_options,
            **local_stack.consumer_options(integration.state_dir),
        }
        # Printed, not logged, to be seen at any log level, above the banner.
        print(f"Development only: a local broker runs at {stack.broker_url}", flush=True)
        print(
            f"Development only: a local SQS runs at {stack.endpoint_url}; its queues are gone when it stops", flush=True
        )


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the engine when the pool runs, restarts it when it ends, and stops it first."""

    name = "balog-engine"
    requires = ("celery.worker.components:Timer", LocalStep)

    def __init__(self, worker: Any, no_engine: bool = False, **_: Any) -> None:
        for warning in untested():
            logger.warning("%s", warning)
        settings = worker.app.balog.settings
        wanted = settings.engine and not no_engine
        self.enabled = wanted and len(worker.app.balog.hub) > 0
        if wanted and not self.enabled:
            logger.warning(
                "there are no consumers in balog_packages = %r, so this worker runs no engine: name the packages "
                "in which functions have @consumer_config",
                list(settings.packages),
            )
        with worker_start_errors():
            _check_pool(worker)
        if self.enabled:
            with worker_start_errors():
                worker.app.balog.check_engine()
                self._command = beside(worker, "engine")
                self._pauses = worker.balog_pauses = WorkerPauses(worker.app, worker.hostname)
        self._stop_timeout = longest_stop(settings.drain) + _GRACE
        period = RETRY_PERIOD if settings.event_broker_url is None else BROKER_RETRY_PERIOD
        hands_off = worker.app.balog.dispatch == "hand-off"
        self._hand_off = HandOff(period, _reserve(worker)) if hands_off else None
        worker.balog_hand_off = self._hand_off
        self._engine = ChildProcess("the engine", self._spawn)
        self._heartbeat = Heartbeat()

    def info(self, worker: Any) -> dict[str, Any]:
        """Return what `celery inspect stats` and Flower show of this step."""
        return {"balog": self.status(worker)}

    def status(self, worker: Any) -> dict[str, Any] | None:
        """Return the status of the engine beside this worker; None without one, while it starts, or cannot write it."""
        try:
            statuses = worker.app.balog.statuses()
        except ConfigurationError:  # the engine logs that it cannot use the folder
            return None
        return next((status for status in statuses if is_of(status, self._engine.pid)), None)

    def start(self, worker: Any) -> None:
        # Wait in this signal, which is sent when the pool has been drained. stop() may come before that, and waiting
        # there would keep the pool's tasks from reporting their ends to the engine.
        signals.worker_shutdown.connect(self._wait, sender=worker, weak=False)
        self._engine.start(worker)
        worker.timer.call_repeatedly(_HEARTBEAT_INTERVAL, self._kill_if_hung, (worker,))

    def close(self, worker: Any) -> None:
        """Stop receiving messages; Celery calls this first in a warm and in a cold shutdown."""
        self._engine.stop()
        if self._hand_off is not None:
            self._hand_off.end()

    def stop(self, worker: Any) -> None:
        self.close(worker)

    def terminate(self, worker: Any) -> None:
        self.close(worker)
        self._end(_COLD)

    def _wait(self, **_: Any) -> None:
        self._end(self._stop_timeout)
        self._pauses.forget()

    def _end(self, timeout: float) -> None:
        self._engine.end(timeout, "SQS redelivers its messages", self._flush)

    def _flush(self) -> None:
        """Send what the event loop, which has stopped, would send."""
        if self._hand_off is not None:
            self._hand_off.flush()

    def _spawn(self, reasons: int) -> subprocess.Popen[bytes]:
        self._pauses.save()
        options = ["--reason-fd", str(reasons)]
        if self._pauses.path is not None:
            options += ["--pauses", str(self._pauses.path)]
        if self._hand_off is None:
            return self._command.start(*options, fds=[reasons])
        ours, theirs = socket.socketpair()
        with theirs:
            options += ["--hand-off-fd", str(theirs.fileno())]
            process = self._command.start(*options, fds=[theirs.fileno(), reasons])
        self._hand_off.use(Channel(ours))
        return process

    def _kill_if_hung(self, worker: Any) -> None:
        """Kill an engine that has stopped writing its status: another one starts."""
        if not self._engine.is_running:
            return
        status = self.status(worker)
        if self._heartbeat.stands_still(None if status is None else (status["pid"], status["written"])):
            logger.error(
                "the engine (pid %d) hangs: it has not written its status for %.0f s, and is killed",
                self._engine.pid,
                _HUNG_AFTER,
            )
            self._engine.kill()


class Heartbeat:
    """Notices that the engine's status stays the same.

    It counts checks, not time: neither process runs while the machine is suspended.
    """

    def __init__(self) -> None:
        self._last: Any = None
        self._checks = 0

    def stands_still(self, status: Any) -> bool:
        """Return whether *status* has been the same for :data:`_HUNG_AFTER` seconds.

        :param status: what changes with each write; None without a status: the engine starts, stops or cannot write.
        """
        self._checks = self._checks + 1 if status is not None and status == self._last else 0
        self._last = status
        return self._checks * _HEARTBEAT_INTERVAL >= _HUNG_AFTER


@inspect_command()  # type: ignore[untyped-decorator]
def balog(state: Any, **_: Any) -> dict[str, Any]:
    """Show the status and the problems of the balog_celery engine beside the worker."""
    worker = state.consumer.controller
    step = next((step for step in worker.steps if isinstance(step, EngineStep)), None)
    if step is None:
        return {"engine": None, "problems": []}
    status = step.status(worker)
    limits = getattr(worker, "balog_concurrency", None)
    return {
        "engine": status,
        "problems": ["it does not run"] if status is None else problems(status),
        "paused": worker.balog_pauses.names if hasattr(worker, "balog_pauses") else [],
        "concurrency": {} if limits is None else limits.status(),
    }


def _check_pool(worker: Any) -> None:
    """Check that the worker's pool can execute the consumers whose queues it serves.

    :raises ConfigurationError: greenlets share a thread, in which only one event loop can run at a time.
    """
    app = worker.app
    tasks = [app.tasks[consumer.task_name] for consumer in app.balog.hub]
    asynchronous = [task for task in tasks if task.needs_loop]
    if not asynchronous or not worker.pool_cls.is_green:
        return
    served = queue_names(worker)
    if names := [task.name for task in asynchronous if route_of(app, task)["queue"].name in served]:
        raise ConfigurationError(
            f"a pool of greenlets cannot run {', '.join(names)}, which are async or called by async code: use -P "
            "prefork or -P threads, a queue= that this worker does not serve, or plain functions"
        )


def _reserve(worker: Any) -> int | None:
    """Return how many tasks keep the pool busy between receives; None if the app limits its prefetching itself."""
    if worker.app.balog.limits_prefetch or worker.prefetch_multiplier != CELERY_DEFAULTS["worker_prefetch_multiplier"]:
        return None
    return BATCH_SIZE * int(worker.app.balog.pollers)
