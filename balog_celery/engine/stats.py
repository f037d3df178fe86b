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
        # The last lags and the largest, by stage, in milliseconds.
        self._emitted: deque[int] = deque(maxlen=_REMEMBERED_LAGS)
        self._sent: deque[int] = deque(maxlen=_REMEMBERED_LAGS)
        self._emitted_most = self._sent_most = 0

    def note(self, emitted: int, sent: int, received: int) -> None:
        """Note an event; all times are in milliseconds of Unix time.

        :param emitted: when the event was logged.
        :param sent: when the queue accepted it; 0 if the queue does not record that.
        :param received: when the engine received it.
        """
        # Without a loop, as this runs for every event.
        lag = received - emitted
        self._emitted.append(lag)
        if lag > self._emitted_most:
            self._emitted_most = lag
        if sent:
            lag = received - sent
            self._sent.append(lag)
            if lag > self._sent_most:
                self._sent_most = lag

    def status(self) -> dict[str, dict[str, float]]:
        """Return the lag by stage, ``emitted`` and ``sent``, in seconds; empty before an event.

        ``last`` and ``max``, and of the last 1,000 events the percentiles ``p50``, ``p95`` and ``p99``.
        """
        stages = {"emitted": (self._emitted, self._emitted_most), "sent": (self._sent, self._sent_most)}
        return {stage: _summary(lags.copy(), most) for stage, (lags, most) in stages.items() if lags}


def _summary(lags: deque[int], most: int) -> dict[str, float]:
    ordered = sorted(lags)
    figures = {"last": lags[-1], **{f"p{percent}": _percentile(ordered, percent) for percent in (50, 95, 99)}}
    # Clocks differ, so that an event may seem to arrive before it was logged.
    return {name: max(lag, 0) / 1000 for name, lag in {**figures, "max": most}.items()}


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the least of some numbers, in order, that *percent* of them do not exceed."""
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]
