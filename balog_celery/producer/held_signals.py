"""Holds back the signal with which uvicorn ends its process, until the buffers are sent.

uvicorn may import the application, or start its lifespan, when it handles signals itself already. At the end it
restores the handlers from before, most often none, and raises the signal again, in the main thread: the process dies,
and no :mod:`atexit` runs. So the main thread blocks the signal when it comes for the first time. The one that uvicorn
raises then waits, a thread finishes what is unfinished, and lets a signal of its own end the process. It does not wait
for the main thread, which may wait for other threads in vain. Another signal from outside meets a thread that does not
block it.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any

from ..forks import run_in_child

#: How often the thread looks whether uvicorn has restored the handlers, in seconds.
_INTERVAL = 0.02

#: The signals that the main thread blocks.
_held: set[int] = set()


def is_raised_again(handler: Any) -> bool:
    """Return whether *handler* is that of a server of uvicorn, which raises its signals again."""
    owner = type(getattr(handler, "__self__", None))
    return any(cls.__module__ == "uvicorn.server" for cls in owner.__mro__)


class HeldSignal:
    """A handler of a signal: calls *handler*, and holds back the signal that is raised again.

    :param handler: uvicorn's.
    :param finish: called when uvicorn has restored the handlers, before the signal may end the process.
    """

    def __init__(self, handler: Any, finish: Callable[[], None]) -> None:
        self._handler = handler
        self._finish = finish

    def __call__(self, number: int, frame: Any) -> None:
        if number not in _held:
            with contextlib.suppress(RuntimeError):  # no thread can be started: it ends as without this
                # Before the signal is blocked, as a thread begins with the mask of the one that starts it. Not
                # threading's, which takes locks that the interrupted code may hold.
                _thread.start_new_thread(self._end, (number,))
                _held.add(number)
                signal.pthread_sigmask(signal.SIG_BLOCK, {number})
        self._handler(number, frame)

    def _end(self, number: int) -> None:
        while signal.getsignal(number) is self:
            time.sleep(_INTERVAL)
        try:
            self._finish()
        finally:
            signal.raise_signal(number)  # in this thread, which does not block it


def release(report: Callable[[], None]) -> None:
    """Let a signal that was held back end the process; from the main thread.

    :param report: called before.
    """
    for number in _held:
        if signal.getsignal(number) is signal.SIG_DFL:
            report()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def _after_fork() -> None:
    # A child inherits the mask, but neither the thread nor the signal.
    if _held:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _held)
        _held.clear()


run_in_child(_after_fork)
