"""Asks workers and the result backend on behalf of a user who waits for the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, Queue
from typing import TypeVar

from ..errors import BalogError

_T = TypeVar("_T")

#: How long an answer may take, in seconds, and how many users may ask at a time.
_DEADLINE = 15.0
_asking = threading.BoundedSemaphore(4)


def ask(question: Callable[[], _T]) -> _T:
    """Return what *question* returns.

    :param question: calls the broker or the result backend.
    :raises BalogError: they do not answer in time, the call failed, or too many users ask.
    """
    if not _asking.acquire(blocking=False):
        raise BalogError("the workers are being asked by other users: try again")
    answer: Queue[_T | Exception] = Queue(1)

    def answered() -> None:
        try:
            answer.put(question())
        except Exception as error:  # of the broker's or the backend's client
            answer.put(error)
        finally:
            _asking.release()

    # A daemon: clients may try to reach a broker without an end, which must keep neither a page nor the program.
    threading.Thread(target=answered, name="web-question", daemon=True).start()
    try:
        found = answer.get(timeout=_DEADLINE)
    except Empty:
        raise BalogError(f"the workers cannot be asked: no answer in {_DEADLINE:.0f} s") from None
    if isinstance(found, Exception):
        raise BalogError(f"the workers cannot be asked: {type(found).__name__}") from found
    return found
