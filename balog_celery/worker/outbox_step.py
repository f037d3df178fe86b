"""Runs a relay of the outbox beside a worker, in a process of its own."""

from __future__ import annotations

import subprocess
from typing import Any

from celery import bootsteps

from ..wiring.start_errors import worker_start_errors
from .child import ChildProcess
from .commands import beside

#: How long a relay may take to stop: one call to SQS, in seconds.
_TIMEOUT = 30.0


class OutboxStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts a relay with the worker, starts another when it ends, and stops it with the worker."""

    name = "balog-outbox"
    requires = ("celery.worker.components:Timer",)

    def __init__(self, worker: Any, **_: Any) -> None:
        self.enabled = worker.app.balog.settings.outbox_relay
        if self.enabled:
            with worker_start_errors():
                worker.app.balog.outbox()
                self._command = beside(worker, "outbox")
        self._relay = ChildProcess("the outbox relay", self._spawn)

    def start(self, worker: Any) -> None:
        """Start the relay."""
        self._relay.start(worker)

    def stop(self, worker: Any) -> None:
        """Stop the relay after the call to SQS that is under way."""
        self._relay.stop()
        self._relay.end(_TIMEOUT, "its rows are sent later")

    def _spawn(self, reasons: int) -> subprocess.Popen[bytes]:
        return self._command.start("--reason-fd", str(reasons), fds=[reasons])
