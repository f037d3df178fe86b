"""What a Celery worker does for its consumers: runs the embedded stack, and supervises an engine.

The engine is a process of its own, exec'd, so that nothing is shared with the pool's forks. This file and
``dispatch.py`` are the only places for Celery calls that are not documented; each says why.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from typing import Any

import click
from celery import Celery, bootsteps

# celery.worker.state.should_stop is how Celery's own signal handlers ask for a warm stop; it is not documented. Raising
# WorkerShutdown, which is, does not leave a timer's callback.
from celery.worker import state

from . import local
from .backoff import Backoff
from .errors import ConfigurationError

logger = logging.getLogger(__name__)

#: The engine's exit code when it cannot start because of what is configured (EX_CONFIG of sysexits.h).
EX_CONFIG = 78
#: A child that lived for so long counts as one that had started well, in seconds.
_WELL = 60.0
#: How much longer than its drain limit an engine may take to stop, in seconds.
_GRACE = 10.0
#: How long an engine may take to stop when the worker is in a hurry, in seconds.
_HURRY = 3.0


def no_engine_option() -> click.Option:
    """The worker's option ``--no-engine``."""
    return click.Option(
        ["--no-engine"], is_flag=True, help="Execute tasks only: run no balog_celery engine beside this worker."
    )


class LocalStep(bootsteps.Step):  # type: ignore[misc]
    """Starts the embedded broker and SQS before anything connects to them; they end with their last user."""

    name = "balog-local"

    def include_if(self, worker: Any) -> bool:
        return bool(worker.app.balog.local)

    def create(self, worker: Any) -> None:
        integration = worker.app.balog
        stack = local.hold(integration.state_dir)
        # Tasks that this worker leaves unacknowledged are kept under its name, and come back when it is gone.
        worker.app.conf.broker_transport_options = {
            **worker.app.conf.broker_transport_options,
            **local.consumer_options(integration.state_dir),
        }
        # Printed, not logged: it must be seen at any log level, and the banner follows.
        print(f"Development only: a private broker runs at {stack.broker_url}", flush=True)
        print(
            f"Development only: a local SQS runs at {stack.endpoint_url}; its queues are gone when it stops", flush=True
        )


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the engine when the pool runs, watches it, and stops it first."""

    name = "balog-engine"
    # After the pool's first fork; stopped before the pool is drained.
    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer", LocalStep)

    def __init__(self, worker: Any, no_engine: bool = False, **_: Any) -> None:
        settings = worker.app.balog.settings
        self.enabled = settings.engine and not no_engine and len(worker.app.balog.hub) > 0
        self._drain = settings.drain
        self._backoff = Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._ran_well = False
        self._stopping = False

    def info(self, worker: Any) -> dict[str, Any]:
        """Part of what `celery inspect stats` and Flower's page of the worker show."""
        statuses = worker.app.balog.statuses()
        pid = self._process.pid if self._process is not None else None
        return {"balog": next((status for status in statuses if status["pid"] == pid), None)}

    def start(self, worker: Any) -> None:
        self._command = _engine_command(worker)
        self._spawn()
        worker.timer.call_repeatedly(1.0, self._supervise)

    def close(self, worker: Any) -> None:
        """The first thing in a stop of either kind: no more messages are taken."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, worker: Any) -> None:
        self._end(worker, self._drain + _GRACE)

    def terminate(self, worker: Any) -> None:
        self._end(worker, _HURRY)

    def _end(self, worker: Any, patience: float) -> None:
        self.close(worker)
        if self._process is None:
            return
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            logger.warning("the engine did not stop within %.0f s: it is killed; what it had comes again", patience)
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)

    def _supervise(self) -> None:
        if self._stopping or self._process is None:
            return
        code = self._process.poll()
        now = time.monotonic()
        if code is None:
            if now - self._started > _WELL:
                self._ran_well = True
                self._backoff.succeeded()
        elif code == EX_CONFIG and not self._ran_well:
            # It has said why. A worker that looks healthy and does nothing would be worse than none.
            self._stopping = True
            state.should_stop = 1
        elif self._start_at == 0.0:
            delay = self._backoff.failed()
            self._start_at = now + delay
            logger.error("the engine ended with exit code %s: a new one starts in %.1f s", code, delay)
        elif now >= self._start_at:
            self._start_at = 0.0
            self._spawn()


def _engine_command(worker: Any) -> list[str]:
    command = [sys.executable, "-m", "celery", "-A", app_path(worker.app), "balog", "engine"]
    command += ["--loglevel", logging.getLevelName(worker.loglevel or logging.WARNING)]
    if worker.logfile:
        command += ["--logfile", worker.logfile]
    return [*command, "--worker-pid", str(os.getpid())]


def app_path(app: Celery) -> str:
    """What ``celery -A`` must be given to find *app*, in another process.

    :raises ConfigurationError: it is in no module that can be imported by name.
    """
    context = click.get_current_context(silent=True)
    given = context.find_root().params.get("app") if context is not None else None
    if isinstance(given, str):
        return given
    for name, module in list(sys.modules.items()):
        if name != "__main__":
            for attribute, value in list(vars(module).items()):
                if value is app:
                    return f"{name}:{attribute}"
    raise ConfigurationError(
        f"the engine's process cannot find {app!r}: keep the app in a module that can be imported, "
        "or start the worker with `celery -A module worker`, or run engines by themselves and set balog_engine = False"
    )
