"""Repeats a signal that a worker of a ``multiprocessing.Pool`` has not handled.

Python calls the handler of a signal between two steps of the main thread: when the signal comes right before a wait,
after the wait. A pool ends its workers by SIGTERM when they go on to wait for a lock that the pool has taken, and waits
for them without an end. A repeated signal interrupts their wait.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import BuiltinFunctionType

from ..forks import run_in_child

#: How long the main thread has for calling the handler, in seconds.
_INTERVAL = 0.005

#: What a signal is written to when it comes.
_writers: list[int] = []


def is_pool_worker() -> bool:
    """Return whether this process is a worker of a ``multiprocessing.Pool``, which names them."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and "PoolWorker" in process.current_process().name


def repeat_unhandled(is_unhandled: Callable[[int], bool]) -> None:
    """Repeat signals in this process, unless something else learns of them, such as asyncio.

    Does nothing in another thread than the main one, where Python does not allow it, nor where files cannot be opened.

    :param is_unhandled: whether the handler of a signal shall be called, and was not.
    """
    # A greenlet's read would stop all greenlets.
    is_patched = not isinstance(_thread.start_new_thread, BuiltinFunctionType)
    if _writers or is_patched or threading.current_thread() is not threading.main_thread():
        return
    with contextlib.suppress(OSError):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        if (other := signal.set_wakeup_fd(writer, warn_on_full_buffer=False)) != -1:
            signal.set_wakeup_fd(other)
            os.close(reader)
            os.close(writer)
            return
        _writers.append(writer)
        with contextlib.suppress(RuntimeError):  # no thread can be started: signals are not repeated
            # Not threading's, which would be waited for.
            _thread.start_new_thread(_repeat, (reader, is_unhandled))


def _repeat(reader: int, is_unhandled: Callable[[int], bool]) -> None:
    signal.pthread_sigmask(
        signal.SIG_BLOCK, signal.valid_signals()
    )  # those that the main thread blocks are not to end here
    with contextlib.suppress(OSError):  # the process has closed all of its files
        while number := os.read(reader, 1):
            time.sleep(_INTERVAL)
            if is_unhandled(number[0]):
                # Its number comes by the pipe again.
                signal.pthread_kill(threading.main_thread().ident or 0, number[0])


def _forget() -> None:
    # Signals of a child would be repeated to its parent. The files stay open: another may have their numbers by now.
    if _writers and (current := signal.set_wakeup_fd(-1)) not in _writers:
        signal.set_wakeup_fd(current)
    _writers.clear()


run_in_child(_forget)
