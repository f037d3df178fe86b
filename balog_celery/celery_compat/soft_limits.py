"""Undocumented parts of billiard for soft time limits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from billiard.pool import SIG_SOFT_TIMEOUT, soft_timeout_sighandler


@contextmanager
def calling_at_soft_limit(callback: Callable[[], None]) -> Iterator[None]:
    """While the block runs, have a soft time limit of this pool's child call *callback*.

    billiard's handler raises wherever the interpreter is, and an event loop that is interrupted there loses callbacks.
    Elsewhere than in a child's main thread nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if SIG_SOFT_TIMEOUT is None or not is_main or signal.getsignal(SIG_SOFT_TIMEOUT) is not soft_timeout_sighandler:
        yield
        return
    signal.signal(SIG_SOFT_TIMEOUT, lambda *_: callback())
    try:
        yield
    finally:
        signal.signal(SIG_SOFT_TIMEOUT, soft_timeout_sighandler)
