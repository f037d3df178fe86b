"""What the engine counts, by topic."""

from __future__ import annotations

import threading
from collections import Counter


class Stats:
    """Counters that any thread may add to, by (topic, name).

    The names: ``received``, ``dispatched`` (jobs), ``deleted``, ``returned`` (given back to SQS), ``unwanted``
    (events), ``empty`` (messages without an event), ``undecodable``, ``unreadable_version``, ``dead``, ``failed``
    (inline), ``stale_handles``, ``extended``, ``restarted`` (threads).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}

    def add(self, topic: str, name: str, count: int = 1) -> None:
        """Add *count* to *name* of *topic*."""
        with self._lock:
            self._counts.setdefault(topic, Counter())[name] += count

    def of(self, topic: str) -> dict[str, int]:
        """The counters of *topic* that are not zero."""
        with self._lock:
            return dict(self._counts.get(topic, ()))

    def all(self) -> dict[str, dict[str, int]]:
        """The counters of every topic."""
        with self._lock:
            return {topic: dict(counts) for topic, counts in self._counts.items()}
