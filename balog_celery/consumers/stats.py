"""What the engine counts and measures, by topic."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict


class Stats:
    """Counters that any thread may add to, by (topic, name).

    The names: ``received``, ``dispatched`` (jobs, also those that wait for their batch), ``deleted``, ``returned``
    (given back to SQS), ``unwanted`` (events), ``empty`` (messages without an event), ``undecodable``,
    ``unreadable_version``, ``dead``, ``failed`` (inline), ``stale_handles``, ``extended``, ``restarted`` (threads).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, topic: str, name: str, count: int = 1) -> None:
        """Add *count* to *name* of *topic*."""
        with self._lock:
            self._counts[topic][name] += count

    def of(self, topic: str) -> dict[str, int]:
        """The counters of *topic* that are not zero."""
        with self._lock:
            return dict(self._counts.get(topic, ()))

    def all(self) -> dict[str, dict[str, int]]:
        """The counters of every topic."""
        with self._lock:
            return {topic: dict(counts) for topic, counts in self._counts.items()}


class Lag:
    """How late the events of a topic are when the engine receives them: the last one, and the latest since its start.

    Any thread may note and look; of two that note at the same moment one may be missed.
    """

    def __init__(self) -> None:
        # Milliseconds, the last and the most; None before an event.
        self._emitted: tuple[int, int] | None = None
        self._sent: tuple[int, int] | None = None

    def note(self, emitted: int, sent: int, received: int) -> None:
        """An event was received.

        :param emitted: when it was logged, in milliseconds of Unix time, as the other two.
        :param sent: when the queue got it; 0: the queue does not say.
        """
        self._emitted = _with(self._emitted, received - emitted)
        if sent:
            self._sent = _with(self._sent, received - sent)

    def shown(self) -> dict[str, dict[str, float]]:
        """Seconds from ``emitted`` and from ``sent`` to received: the ``last``, the ``max``; empty before an event."""
        lags = {"emitted": self._emitted, "sent": self._sent}
        return {stage: {"last": lag[0] / 1000, "max": lag[1] / 1000} for stage, lag in lags.items() if lag}


def _with(lag: tuple[int, int] | None, last: int) -> tuple[int, int]:
    last = max(last, 0)  # clocks differ
    return last, last if lag is None or last > lag[1] else lag[1]
