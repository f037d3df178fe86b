"""Runs a relay of the outbox beside a worker, in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

from celery import bootsteps

from ..wiring.start_errors import worker_start_errors
from .bootsteps import app_path
from .child import ChildProcess

#: How long a relay may take to stop: one call to SQS, in seconds.
_PATIENCE = 30.0


class OutboxStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts a relay with the worker, starts another when it ends, and stops it with the worker."""

    name = "balog-outbox"
    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **_: Any) -> None:
        self.enabled = worker.app.balog.settings.outbox_relay
        if self.enabled:
            with worker_start_errors():
                worker.app.balog.outbox()
        self._relay = ChildProcess("the outbox relay", lambda reasons: _spawn(worker, reasons))

    def start(self, worker: Any) -> None:
        """Start the relay."""
        self._relay.start(worker)

    def stop(self, worker: Any) -> None:
        """Stop the relay after the call to SQS that is under way."""
        self._relay.stop()
        self._relay.end(_PATIENCE, "its rows are sent later")


def _spawn(worker: Any, reasons: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", app_path(worker.app), "balog", "outbox"]
    command += ["--loglevel", logging.getLevelName(worker.loglevel or logging.WARNING)]
    if worker.logfile:
        command += ["--logfile", worker.logfile, "--hostname", worker.hostname]
    command += ["--worker-pid", str(os.getpid()), "--reason-fd", str(reasons)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[reasons])
