"""Delays between retries: exponential backoff with full jitter."""

from __future__ import annotations

import random


class Backoff:
    """The delays of one operation that may fail: random between 0 and a bound that doubles up to *cap*.

    :param first: the first bound, in seconds.
    :param cap: the largest bound, in seconds.
    """

    def __init__(self, first: float = 1.0, cap: float = 60.0) -> None:
        self._first = first
        self._cap = cap
        self._failures = 0

    @property
    def failing(self) -> bool:
        """True from the first failure until the next success."""
        return self._failures > 0

    def failed(self) -> float:
        """Record a failure. Return the delay before the next attempt, in seconds."""
        bound = min(self._cap, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return random.uniform(0, bound)

    def succeeded(self) -> None:
        """Record a success: the next delay starts from the first bound."""
        self._failures = 0
