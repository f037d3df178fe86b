"""Sends the buffered records before the process ends, in each of these ways.

===============================  =======================================================================
the process ends by              and :func:`finish` is called by
===============================  =======================================================================
its last line, ``sys.exit``      :mod:`atexit`
SIGTERM or SIGHUP, unhandled     a handler of both, which then lets the signal end the process
SIGTERM, raised by uvicorn       a thread, which then lets the signal end the process (``held_signals``)
multiprocessing, billiard        ``Finalize``: their children end by ``os._exit``, without :mod:`atexit`
Celery's prefork pool            the signal ``worker_process_shutdown``: its children end by ``os._exit``
===============================  =======================================================================

No code runs at a SIGKILL or at another ``os._exit``: call :func:`flush` before.
"""

from __future__ import annotations

import _thread
import atexit
import signal
import sys
import time
from typing import Any, Protocol

from ..arguments import check_number
from ..forks import run_in_child
from . import tally
from .held_signals import HeldSignal, is_raised_again, release
from .repeated_signals import is_pool_worker, repeat_unhandled


class Unfinished(Protocol):
    """What must be finished before the process ends."""

    flush_timeout: float

    def hurry(self) -> None: ...

    def flush(self, timeout: float) -> bool: ...

    def finish(self, timeout: float) -> None: ...

    def abandon(self) -> None: ...


#: What ends a process that does not handle it: a stop, and a terminal that is closed.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
#: After all other finalizers of multiprocessing, which may log.
_LAST = -100

_unfinished: dict[int, Unfinished] = {}
#: The signals that :func:`_on_signal` handles, or did before another handler replaced it, which may restore it.
_caught: set[int] = set()
#: When the end began, by ``time.monotonic()``; 0: it has not.
_began = 0.0
_is_at_exit = False
_is_prepared = False
_after_all: tally.AfterAll | None = None


def add(sender: Unfinished) -> None:
    """Finish *sender* at the end of the process."""
    _unfinished[id(sender)] = sender
    _prepare()


def remove(sender: Unfinished) -> None:
    """Forget *sender*, which has nothing left to send."""
    _unfinished.pop(id(sender), None)


def flush(timeout: float | None = None) -> bool:
    """Send what the handlers of this process hold, and wait for it.

    For the moments after which no code of the process may run: the end of a Lambda invocation, ``os._exit``.

    :param timeout: how long to wait, in seconds; default: each handler's *flush_timeout*.
    :returns: whether all records are settled: sent, or refused.
    :raises ConfigurationError: *timeout* is no time.
    """
    if timeout is not None:
        check_number("timeout", timeout, "a number of seconds, 0 or more")
    began = time.monotonic()
    senders = list(_unfinished.values())
    for sender in senders:
        sender.hurry()
    settled = True
    for sender in senders:
        until = began + (sender.flush_timeout if timeout is None else timeout)
        settled = sender.flush(max(0.0, until - time.monotonic())) and settled
    return settled


def finish(*_: Any, **__: Any) -> None:
    """Finish all senders: each has its own timeout, counted from the first call in the process."""
    global _began
    _began = _began or time.monotonic()
    for _pass in range(2):  # the second time those that were opened meanwhile: sending may make others log
        senders = list(_unfinished.values())
        for sender in senders:
            sender.hurry()
        for sender in senders:
            sender.finish(remaining(sender.flush_timeout))


def has_begun() -> bool:
    """Return whether the process is ending, so that :func:`finish` may not be called again."""
    return bool(_began)


def closes_handlers() -> bool:
    """Return whether :mod:`logging` closes its handlers after :func:`finish`, or has closed them."""
    return _is_at_exit


def _finish_at_exit() -> None:
    global _is_at_exit, _after_all
    _is_at_exit = True
    finish()
    release(tally.report_last)
    _after_all = tally.AfterAll()


def _finish_for_good() -> None:
    """Finish all senders, and report what other threads have logged meanwhile."""
    finish()
    tally.report_last()


def remaining(timeout: float) -> float:
    """Return how much of *timeout* seconds is left since the process began to end."""
    return max(0.0, _began + timeout - time.monotonic())


def catch_signals() -> list[str]:
    """Call :func:`finish` at SIGTERM and SIGHUP, if nothing handles the signal and this is the main thread.

    Return the names of those at which it would have to be called, if this is another thread.

    Another handler stays: it ends the process in its own way, most often by ``sys.exit``. One that is installed later
    replaces this one; ``uvicorn.run`` restores it, and sends the signal again. ``nohup`` ignores SIGHUP: so does this.
    """
    lost = []
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        try:
            if handler is signal.SIG_DFL:
                signal.signal(number, _on_signal)
                _caught.add(number)
                if is_pool_worker():
                    repeat_unhandled(_is_unhandled)
            elif is_raised_again(handler) and number not in _caught:
                signal.signal(number, HeldSignal(handler, _finish_for_good))
        except ValueError:
            lost.append(signal.Signals(number).name)
    return lost


def _on_signal(number: int, _frame: Any) -> None:
    try:
        finish()
    except Exception:  # gevent and eventlet have interrupted their hub, which cannot wait
        if _thread.start_new_thread.__module__.startswith("gevent."):
            _thread.start_new_thread(_end_by, (number,))  # which starts a greenlet
            return
        for sender in list(_unfinished.values()):  # eventlet's hub would sleep on
            sender.abandon()
    _let_end(number)


def _end_by(number: int) -> None:
    try:
        finish()
    finally:
        _let_end(number)


def _let_end(number: int) -> None:
    try:
        tally.report_last()
    finally:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


#: The handlers of SIGTERM with which it ends the process: what wants to do something else may replace them.
UNHANDLED = (signal.SIG_DFL, _on_signal)


def _prepare() -> None:
    """Have :func:`finish` called at every end of this process at which code can run."""
    global _is_prepared
    lost = catch_signals()
    if _is_prepared:
        return
    _is_prepared = True
    # SIGHUP alone: a server such as gunicorn handles the signal that ends its workers.
    if "SIGTERM" in lost:
        tally.tell(
            f"{' and '.join(lost)} would end this process without sending what its SQSHandlers hold, and without a "
            "report: create one of them in its main thread"
        )
    # Only of imported modules: a process that has not imported them is not one of their children.
    for name in ("multiprocessing.util", "billiard.util"):
        util = sys.modules.get(name)
        if util is not None and hasattr(util, "Finalize"):  # no other thread has just begun to import it
            _finalize(util)
            # A child forgets all finalizers when it starts, after what it has imported for its start.
            util.register_after_fork(util, _finalize)
    shutdown = getattr(sys.modules.get("celery.signals"), "worker_process_shutdown", None)
    if shutdown is not None:
        shutdown.connect(finish, weak=False)


def _finalize(util: Any) -> None:
    util.Finalize(None, finish, exitpriority=_LAST)


def _begin_process(_util: Any) -> None:
    if is_pool_worker():
        repeat_unhandled(_is_unhandled)


def _is_unhandled(number: int) -> bool:
    return not _began and signal.getsignal(number) is _on_signal


def _after_fork() -> None:
    # The threads and their buffers are the parent's.
    global _began, _is_at_exit, _is_prepared
    _began = 0.0
    _is_at_exit = False
    _is_prepared = False
    _unfinished.clear()
    _caught.intersection_update({number for number in _SIGNALS if signal.getsignal(number) is _on_signal})
    if _caught and "multiprocessing.pool" in sys.modules:
        util = sys.modules["multiprocessing.util"]
        util.register_after_fork(util, _begin_process)


run_in_child(_after_fork)
# Runs before logging's own callback, which closes the handlers: that one was registered first.
atexit.register(_finish_at_exit)
