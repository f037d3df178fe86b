"""What a forked child does first: it forgets what is its parent's.

SIGTERM and SIGHUP wait meanwhile if they have a handler. Python forgets a signal that reaches a child before the child
handles signals: a child that is terminated right after the fork, as by ``multiprocessing.Pool``, would live on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

#: The signals that wait.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_callbacks: list[Callable[[], object]] = []
_thread = threading.local()


def run_in_child(callback: Callable[[], object]) -> None:
    """Call *callback* in each forked child, after those that were given before and before any handler of a signal."""
    _callbacks.append(callback)


def _block() -> None:
    handled = {number for number in _SIGNALS if callable(signal.getsignal(number))}
    # Noted before it is done: a handler of another signal may raise an exception at any point.
    _thread.blocked = handled - signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.pthread_sigmask(signal.SIG_BLOCK, _thread.blocked)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, getattr(_thread, "blocked", ()))


def _begin_child() -> None:
    with ExitStack() as stack:  # an error does not keep the other callbacks from being called
        stack.callback(_unblock)
        for callback in reversed(_callbacks):
            stack.callback(callback)


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_begin_child)
# Once more, for the case that a handler of another signal has raised an exception at the start of the first call.
os.register_at_fork(after_in_parent=_unblock, after_in_child=_unblock)
