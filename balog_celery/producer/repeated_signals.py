"""Repeats a signal that a child of multiprocessing has not handled.

Python calls the handler of a signal between two steps of the main thread: when the signal comes right before a wait,
after the wait. The children of a ``multiprocessing.Pool`` get SIGTERM when they go on to wait for a lock that the pool
has taken, and the pool waits for them without an end. A repeated signal interrupts the wait.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import BuiltinFunctionType

from ..forks import run_in_child

#: How long the main thread has for calling the handler, in seconds.
_INTERVAL = 0.005

#: What a signal is written to when it comes, and what that is read from.
_pipe: list[int] = []


def repeat_unhandled(is_unhandled: Callable[[int], bool]) -> None:
    """Repeat signals in this process, unless something else learns of them, such as asyncio.

    Does nothing in another thread than the main one, where Python does not allow it.

    :param is_unhandled: whether the handler of a signal shall be called, and was not.
    """
    # A greenlet's read would stop all greenlets.
    is_patched = not isinstance(_thread.start_new_thread, BuiltinFunctionType)
    if _pipe or is_patched or threading.current_thread() is not threading.main_thread():
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    if (other := signal.set_wakeup_fd(writer, warn_on_full_buffer=False)) != -1:
        signal.set_wakeup_fd(other)
        os.close(reader)
        os.close(writer)
        return
    _pipe.extend((reader, writer))
    with contextlib.suppress(RuntimeError):  # no thread can be started: signals are not repeated
        # Not threading's, which would be waited for.
        _thread.start_new_thread(_repeat, (reader, is_unhandled))


def _repeat(reader: int, is_unhandled: Callable[[int], bool]) -> None:
    while number := os.read(reader, 1):
        time.sleep(_INTERVAL)
        if is_unhandled(number[0]):
            # Its number comes by the pipe again.
            signal.pthread_kill(threading.main_thread().ident or 0, number[0])


def _close() -> None:
    # Signals of a child would be repeated to its parent.
    if _pipe:
        if (current := signal.set_wakeup_fd(-1)) != _pipe[1]:
            signal.set_wakeup_fd(current)
        while _pipe:
            os.close(_pipe.pop())


run_in_child(_close)
