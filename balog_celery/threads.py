"""A thread that can be replaced when it dies, and a flag that a signal handler may set."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from .text import printable

logger = logging.getLogger(__name__)


class SupervisedThread:
    """A daemon thread that :meth:`ensure_alive` replaces after an exception has ended it.

    :param what: the thread as the log names it: "the poller of events".
    :param name: the thread's name.
    :param run: the thread's function; when it returns, the thread has ended for good.
    """

    def __init__(self, what: str, name: str, run: Callable[[], None]) -> None:
        self._what = printable(what)
        self._name = name
        self._target = run
        self._returned = False
        self._replacing = threading.Lock()
        self._thread = self._new()

    def start(self) -> None:
        """Start the thread.

        :raises RuntimeError: the interpreter is shutting down, or the system has no more threads.
        """
        self._thread.start()

    def ensure_alive(self) -> bool:
        """Replace the thread if it has died. Return True if it had."""
        if self._thread.is_alive() or self._returned:
            return False
        with self._replacing:
            if self._thread.is_alive() or self._returned:
                return False
            self._thread = self._new()
            self._thread.start()
        # Last, as a log handler that has such a thread comes here again.
        logger.error("%s died: starting a new one", self._what)
        return True

    def is_alive(self) -> bool:
        """Return True while the thread runs."""
        return self._thread.is_alive()

    def join(self, deadline: float) -> bool:
        """Wait until the thread has ended. Return False if it runs at *deadline*, of ``time.monotonic()``."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _new(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=self._name, daemon=True)

    def _run(self) -> None:
        self._target()
        self._returned = True


class StopFlag:
    """A flag that one thread waits for, and that any code may set, even a signal handler of that thread.

    ``threading.Event.set`` could deadlock in a signal handler, as the interrupted code may hold its lock. Releasing a
    plain lock never blocks.
    """

    def __init__(self) -> None:
        self._set = False
        self._blocked = threading.Lock()
        self._blocked.acquire()

    def set(self) -> None:
        """Set the flag, and wake the waiting thread."""
        self._set = True
        with suppress(RuntimeError):  # it was set before
            self._blocked.release()

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for the flag. Return True if it is set."""
        return self._set or self._blocked.acquire(timeout=timeout) or self._set
