"""What the engine counts and measures, by topic."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Sequence

#: The percentiles of lag are those of this many events.
_REMEMBERED_LAGS = 1_000


class TopicStats:
    """The counters of one topic, which any thread may add to.

    The names: ``received``, ``dispatched`` (jobs, also those that wait for their batch), ``deleted``, ``returned``
    (released), ``unwanted`` (events without a consumer), ``empty`` (messages without an event), ``undecodable``,
    ``unreadable_version``, ``faults`` (unexpected errors with a message), ``dead`` (dead letters), ``failed`` (inline),
    ``stale_handles``, ``extended``, ``received_again`` (while in flight here), ``restarted`` (threads).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Add *count* to *name*."""
        with self._lock:
            self._counts[name] += count

    def counts(self) -> dict[str, int]:
        """The counters that are not zero."""
        with self._lock:
            return {name: count for name, count in self._counts.items() if count}


class Stats:
    """The counters of an engine, by topic."""

    def __init__(self) -> None:
        self._topics: dict[str, TopicStats] = {}

    def topic(self, name: str) -> TopicStats:
        """Return the counters of the topic with this name, to add to them."""
        return self._topics.setdefault(name, TopicStats())

    def of(self, topic: str) -> dict[str, int]:
        """The counters of *topic* that are not zero."""
        stats = self._topics.get(topic)
        return {} if stats is None else stats.counts()

    def all(self) -> dict[str, dict[str, int]]:
        """The counters of every topic that are not zero."""
        return {topic: stats.counts() for topic, stats in list(self._topics.items())}


class Lag:
    """How late the events of a topic arrive at the engine: the last one, the latest since its start, and percentiles.

    Any thread may note and read; of two notes at the same moment one may be missing from the largest.
    """

    def __init__(self) -> None:
        # The last lags and the largest by stage, in milliseconds.
        self._lags: dict[str, deque[int]] = {}
        self._largest: dict[str, int] = {}

    def note(self, emitted: int, sent: int, received: int) -> None:
        """Note an event; all times are in milliseconds of Unix time.

        :param emitted: when the event was logged.
        :param sent: when the queue accepted it; 0 if the queue does not record that.
        :param received: when the engine received it.
        """
        for stage, at in (("emitted", emitted), ("sent", sent)) if sent else (("emitted", emitted),):
            lag = max(received - at, 0)  # clocks differ
            if stage not in self._lags:
                self._lags[stage] = deque(maxlen=_REMEMBERED_LAGS)
            self._lags[stage].append(lag)
            if lag >= self._largest.get(stage, 0):
                self._largest[stage] = lag

    def status(self) -> dict[str, dict[str, float]]:
        """Return the lag by stage, ``emitted`` and ``sent``, in seconds; empty before an event.

        ``last`` and ``max``, and of the last 1,000 events the percentiles ``p50``, ``p95`` and ``p99``.
        """
        return {stage: self._summary(stage, lags.copy()) for stage, lags in self._lags.copy().items() if lags}

    def _summary(self, stage: str, lags: deque[int]) -> dict[str, float]:
        ordered = sorted(lags)
        percentiles = {f"p{percent}": _percentile(ordered, percent) / 1000 for percent in (50, 95, 99)}
        return {"last": lags[-1] / 1000, **percentiles, "max": self._largest.get(stage, ordered[-1]) / 1000}


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the least of some numbers, in order, that *percent* of them do not exceed."""
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]
