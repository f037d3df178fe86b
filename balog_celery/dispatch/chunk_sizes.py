"""How many events a chunk may have."""

from __future__ import annotations

import threading

from ..consumers.consumer import Consumer

#: How much a chunk that was faster than those before it counts for the mean.
_WEIGHT = 0.25


class ChunkSizes:
    """Learns how long the functions of consumers take, and limits their chunks by that.

    A chunk has one event at first, and twice as many after each report. It has no more than can be called one after the
    other within the consumer's ``chunk_wait``. Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By the names of the consumers' tasks: how large a chunk may be, and how long a call takes, in seconds.
        self._sizes: dict[str, int] = {}
        self._means: dict[str, float] = {}

    def of(self, consumer: Consumer) -> int:
        """Return how many events the next chunk of *consumer* may have."""
        most = consumer.chunk or 1
        if consumer.is_async:  # the calls are concurrent, and none waits for another
            return most
        return self.size(consumer.task_name, most, consumer.chunk_wait)

    def size(self, name: str, most: int, wait: float) -> int:
        """Return the same for the task *name*, whose chunks have *most* events and take *wait* seconds at most."""
        size, mean = self._sizes.get(name, 1), self._means.get(name, 0.0)
        return max(1, min(most, size, int(wait / mean) if mean else 1))

    def note(self, name: str, calls: int, seconds: float) -> None:
        """Note that *calls* of the function of the consumer with that task *name* took *seconds* together."""
        mean = max(seconds, 1e-9) / max(1, calls)
        with self._lock:
            before = self._means.get(name, mean)
            # A slower function holds others up at once; a faster one may be so by chance.
            self._means[name] = max(mean, before + _WEIGHT * (mean - before))
            self._sizes[name] = min(2 * self._sizes.get(name, 1), 2**20)
