"""A process beside a worker: started again when it ends, and stopped with the worker."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

from ..backoff import Backoff
from ..celery_compat.worker import stop_warmly
from ..wiring.start_errors import EX_CONFIG, LONGEST_REASON

logger = logging.getLogger(__name__)

#: A process that has run for this long has started well, in seconds.
_WELL = 60.0


class ChildProcess:
    """A process that :meth:`supervise` starts again, with back-off, when it ends.

    It is exec'd, so it shares nothing with the pool's forks.

    :param what: the process as the log names it, such as "the engine".
    :param spawn: starts it, with a pipe into which it writes why it cannot start: its file descriptor, to be passed on.
    """

    def __init__(self, what: str, spawn: Callable[[int], subprocess.Popen[bytes]]) -> None:
        self._what = what
        self._spawn = spawn
        self._backoff = Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        #: When the next one starts; None while one runs.
        self._start_at: float | None = None
        self._ran_well = False
        self._stopping = False
        #: The end of the pipe from which the latest process's reason is read.
        self._reasons: int | None = None

    @property
    def pid(self) -> int | None:
        """The id of the latest process; None before the first."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it runs, and has not been asked to stop."""
        return self._process is not None and not self._stopping and self._process.poll() is None

    def start(self, worker: Any) -> None:
        """Start the process, and look after it in the worker's timer."""
        self._start()
        worker.timer.call_repeatedly(1.0, self.supervise)

    def stop(self) -> None:
        """Ask the process to stop, and start no other; do not wait."""
        self._stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process, so that another one starts."""
        if self._process is not None:
            self._process.kill()

    def end(self, timeout: float, consequence: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until the process has ended, and kill it after *timeout* seconds.

        :param consequence: what follows when it is killed, for the log.
        :param meanwhile: called again and again.
        """
        if self._process is None:
            return
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            meanwhile()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
                return
        logger.warning("%s did not stop within %.0f s and is killed: %s", self._what, timeout, consequence)
        self._process.kill()
        self._process.wait()

    def supervise(self) -> None:
        """Start another process if this one has ended; stop the worker if it could not start."""
        if self._stopping or self._process is None:
            return
        code = self._process.poll()
        now = time.monotonic()
        if code is None:
            if now - self._started > _WELL:
                self._ran_well = True
                self._backoff.succeeded()
        elif code == EX_CONFIG and not self._ran_well:
            # A worker that looks healthy and does nothing would be worse than none. The reason is the log's last line.
            reason = self._reason() or "it says why above"
            logger.critical("this worker stops, as %s cannot start: %s", self._what, reason)
            self._stopping = True
            stop_warmly(EX_CONFIG)
        elif self._start_at is None:
            delay = self._backoff.failed()
            self._start_at = now + delay
            reason = f" ({reason})" if (reason := self._reason()) else ""
            logger.error("%s ended with exit code %s%s: a new one starts in %.1f s", self._what, code, reason, delay)
        elif now >= self._start_at:
            self._start()

    def _start(self) -> None:
        self._start_at = None
        self._started = time.monotonic()
        if self._reasons is not None:
            os.close(self._reasons)
        self._reasons, write = os.pipe()
        try:
            self._process = self._spawn(write)
        finally:
            os.close(write)

    def _reason(self) -> str:
        """Return what the process, which has ended, has written of why it cannot start."""
        assert self._reasons is not None
        os.set_blocking(self._reasons, False)
        with contextlib.suppress(BlockingIOError):  # a process of its own still has the other end
            return os.read(self._reasons, LONGEST_REASON).decode(errors="replace")
        return ""
