"""SIGTERM stops an engine that runs, and ends the children of its process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..forks import run_in_child
from ..producer.process_end import UNHANDLED

#: The handlers from before, by those of engines that run.
_before: dict[Any, Any] = {}


@contextmanager
def stopping_on_sigterm(stop: Callable[[], object]) -> Iterator[None]:
    """Call *stop* at SIGTERM, unless the process has a handler of its own.

    :param stop: makes the block end; a signal handler calls it.
    """

    def on_term(*_: object) -> None:
        stop()

    before = signal.getsignal(signal.SIGTERM)
    is_default = threading.current_thread() is threading.main_thread() and before in UNHANDLED
    if is_default:
        _before[on_term] = before
        signal.signal(signal.SIGTERM, on_term)
    try:
        yield
    finally:
        if is_default:
            signal.signal(signal.SIGTERM, before)
            _before.pop(on_term, None)


def _restore() -> None:
    # A child, of a consumer's process pool for one, does not run the engine: multiprocessing ends it by SIGTERM.
    current = signal.getsignal(signal.SIGTERM)
    for handler, before in _before.items():
        if handler is current:
            signal.signal(signal.SIGTERM, before)
    _before.clear()


run_in_child(_restore)
