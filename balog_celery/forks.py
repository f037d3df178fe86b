"""What a forked child does first: it forgets what is its parent's.

SIGTERM and SIGHUP wait meanwhile. Python forgets a signal that reaches a child before the child handles signals: with a
handler of Python's, a child that is terminated right after the fork, as by ``multiprocessing.Pool``, would live on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

#: The signals that wait.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_callbacks: list[Callable[[], object]] = []
_thread = threading.local()


def run_in_child(callback: Callable[[], object]) -> None:
    """Call *callback* in each forked child, after those that were given before and before any handler of a signal."""
    _callbacks.append(callback)


def _block() -> None:
    _thread.blocked = set(_SIGNALS) - signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _thread.blocked)


def _begin_child() -> None:
    try:
        for callback in _callbacks:
            callback()
    finally:
        _unblock()


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_begin_child)
