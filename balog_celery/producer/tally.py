"""Counts the outcomes of a handler's records, and reports losses on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref

from ..forks import run_in_child

#: The least time between two reports of one kind, in seconds.
_REPORT_INTERVAL = 10.0


class Tally:
    """Counts the records of one handler in this process. Each record is counted as accepted and then as one outcome.

    :param name: names the handler in reports.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()  # a signal handler may interrupt its holder
        self._accepted = 0
        self._outcomes = {"sent": 0, "dropped": 0, "refused": 0, "withheld": 0}
        self._reported_at: dict[str, float] = {}
        self._reported_losses = 0
        _tallies.add(self)

    def stats(self) -> dict[str, int]:
        """Return the number of records by outcome, and how many are ``waiting`` for theirs."""
        with self._lock:
            return {**self._outcomes, "waiting": self._accepted - sum(self._outcomes.values())}

    def accept(self) -> None:
        """Count a record whose outcome is still open."""
        with self._lock:
            self._accepted += 1

    def settle(self, **counts: int) -> None:
        """Count outcomes of accepted records: ``settle(sent=9, refused=1)``."""
        with self._lock:
            for outcome, count in counts.items():
                self._outcomes[outcome] += count

    def lose(self, outcome: str, reason: str) -> None:
        """Count the outcome of one record, ``dropped`` or ``refused``, and report it."""
        self.settle(**{outcome: 1})
        self.report(outcome, reason)

    def withhold(self, reason: str) -> None:
        """Count a record that must not be shipped; report the first."""
        with self._lock:
            self._accepted += 1
            self._outcomes["withheld"] += 1
            is_first = self._outcomes["withheld"] == 1
        if is_first:
            self._write(reason)

    def report(self, kind: str, text: str) -> None:
        """Write *text* and the losses so far to standard error, each *kind* at most every ten seconds."""
        now = time.monotonic()
        with self._lock:
            if now - self._reported_at.get(kind, -_REPORT_INTERVAL) < _REPORT_INTERVAL:
                return
            self._reported_at[kind] = now
        self._write(text)

    def report_end(self, unsent: int) -> None:
        """Report *unsent* records, and the losses that no report has mentioned yet."""
        with self._lock:
            losses = self._outcomes["dropped"] + self._outcomes["refused"]
            unreported = losses > self._reported_losses
        if unsent:
            self._write(f"{unsent} records were not sent before the end")
        elif unreported:
            self._write("no more records are sent")

    def report_last(self) -> None:
        """Count what has no outcome as dropped, and report it: the process ends."""
        with self._lock:
            waiting = self.stats()["waiting"]
            self.settle(dropped=waiting)
        self.report_end(waiting)

    def unlock(self) -> None:
        """Forget who holds the lock: a thread that was stopped for good."""
        self._lock = type(self._lock)()

    def _write(self, text: str) -> None:
        with self._lock:
            dropped, refused = self._outcomes["dropped"], self._outcomes["refused"]
            self._reported_losses = dropped + refused
        tell(f"{self._name}: {text} ({dropped} dropped and {refused} refused so far)")


def tell(text: str) -> None:
    """Write *text* to standard error, as a line."""
    # Not sys.stderr, which may lead into logging; nor its buffer, which a signal handler must not enter twice.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        line = f"balog_celery: {text}\n".encode(errors="backslashreplace")
        os.write(sys.__stderr__.fileno(), line)  # type: ignore[union-attr]


_tallies: weakref.WeakSet[Tally] = weakref.WeakSet()
run_in_child(_tallies.clear)  # the parent's: its records are none of the child's


def report_last() -> None:
    """Report, for all handlers, what has no outcome when the process ends."""
    for tally in list(_tallies):
        tally.report_last()


class AfterAll:
    """Reports what threads have logged too late, when the interpreter forgets its modules, and with them this object.

    It has stopped all other threads then. Daemon threads may log until that moment, long after :mod:`logging` has
    closed the handlers.
    """

    def __init__(self) -> None:
        self._tallies = list(_tallies)

    def __del__(self) -> None:
        for tally in self._tallies:
            tally.unlock()
            tally.report_last()
