"""Limits of CPU time, for tests that what should be quick is not thousands of times slower."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cpu_within(seconds: float) -> Iterator[None]:
    """Check that the block takes less CPU time than this.

    The garbage collector is off meanwhile: its cost grows with all that other tests have left in the process.
    """
    gc.disable()
    began = time.process_time()
    try:
        yield
        taken = time.process_time() - began
    finally:
        gc.enable()
    assert taken < seconds
