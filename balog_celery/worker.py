"""What a Celery worker does for its consumers: runs the embedded stack, and supervises an engine.

The engine is a process of its own, exec'd, so that nothing is shared with the pool's forks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from typing import Any

import click
from celery import Celery, bootsteps, signals

# celery.worker.state.should_stop is how Celery's own signal handlers ask for a warm stop; it is not documented. Raising
# WorkerShutdown, which is, does not leave a timer's callback.
from celery.worker import state
from celery.worker.control import inspect_command

from . import local
from .backoff import Backoff
from .consumers.status import problems
from .errors import ConfigurationError
from .hand_off import STAY, STAY_FROM_BROKER, HandOff
from .link import Link

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
    requires = ("celery.worker.components:Timer", LocalStep)

    def __init__(self, worker: Any, no_engine: bool = False, **_: Any) -> None:
        settings = worker.app.balog.settings
        wanted = settings.engine and not no_engine
        self.enabled = wanted and len(worker.app.balog.hub) > 0
        if wanted and not self.enabled:
            logger.warning(
                "there are no consumers in balog_packages = %r, so this worker runs no engine: name the packages "
                "in which functions have @consumer_config",
                list(settings.packages),
            )
        self._drain = settings.drain
        stay = STAY if settings.event_broker_url is None else STAY_FROM_BROKER
        self._hand_off = HandOff(stay, worker.app.balog.pollers) if worker.app.balog.dispatch == "hand-off" else None
        worker.balog_hand_off = self._hand_off
        self._backoff = Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._ran_well = False
        self._stopping = False

    def info(self, worker: Any) -> dict[str, Any]:
        """Part of what `celery inspect stats` and Flower's page of the worker show."""
        return {"balog": self.status(worker)}

    def status(self, worker: Any) -> dict[str, Any] | None:
        """What the engine beside this worker says of itself; None without one, or while it starts."""
        pid = self._process.pid if self._process is not None else None
        return next((status for status in worker.app.balog.statuses() if status["pid"] == pid), None)

    def start(self, worker: Any) -> None:
        # Sent when the pool has been drained. A step's own stop may come before that, and to wait there would keep the
        # pool's tasks from telling the engine that they have finished.
        signals.worker_shutdown.connect(self._wait, sender=worker, weak=False)
        self._command = _engine_command(worker)
        self._spawn()
        worker.timer.call_repeatedly(1.0, self._supervise)

    def close(self, worker: Any) -> None:
        """The first thing in a stop of either kind: no more messages are taken."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._hand_off is not None:
            self._hand_off.end()

    def stop(self, worker: Any) -> None:
        self.close(worker)

    def terminate(self, worker: Any) -> None:
        self.close(worker)
        self._end(_HURRY)

    def _wait(self, **_: Any) -> None:
        self._end(self._drain + _GRACE)

    def _end(self, patience: float) -> None:
        if self._process is None:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self._hand_off is not None:
                self._hand_off.flush()  # what it waits for: no loop does it any more
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
                return
        logger.warning("the engine did not stop within %.0f s: it is killed; what it had comes again", patience)
        self._process.kill()
        self._process.wait()

    def _spawn(self) -> None:
        self._started = time.monotonic()
        if self._hand_off is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            return
        ours, theirs = socket.socketpair()
        with theirs:
            command = [*self._command, "--hand-off-fd", str(theirs.fileno())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._hand_off.use(Link(ours))

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


@inspect_command()  # type: ignore[untyped-decorator]
def balog(state: Any, **_: Any) -> dict[str, Any]:
    """How the balog_celery engine beside the worker is, and what is wrong with it."""
    worker = state.consumer.controller
    step = next((step for step in worker.steps if isinstance(step, EngineStep)), None)
    if step is None:
        return {"engine": None, "problems": []}
    status = step.status(worker)
    return {"engine": status, "problems": ["it does not run"] if status is None else problems(status)}


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
    main = sys.modules.get("__main__")
    for name, module in list(sys.modules.items()):
        # The script itself cannot be imported (multiprocessing knows it as __mp_main__ as well), and what Celery's own
        # modules hold is this process's current app.
        if module is main or name.partition(".")[0] == "celery":
            continue
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app:
                return f"{name}:{attribute}"
    raise ConfigurationError(
        f"the engine's process cannot find {app!r}: keep the app in a module that can be imported, "
        "or start the worker with `celery -A module worker`, or run engines by themselves and set balog_engine = False"
    )
