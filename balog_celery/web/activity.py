"""Follows the tasks of all consumers by Celery's task events, and keeps numbers of the last ten minutes in memory."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import datetime
from statistics import quantiles
from typing import NamedTuple

from celery import Celery

from ..operations.tail import Tail, TaskEvent

#: How long the ends of tasks are kept, in seconds, and how many of each consumer.
_KEPT, _MOST_ENDS = 600.0, 5_000
#: How many events are remembered with their causes, and how many steps of the tasks of each.
_MOST_EVENTS, _MOST_STEPS = 20_000, 20
#: The last steps of an attempt.
_ENDS = frozenset({"succeeded", "failed", "retried", "rejected"})


class Tasks(NamedTuple):
    """What the tasks of a consumer did in the last ten minutes, or since the page was started.

    :param rate: attempts that ended, per second.
    :param succeeded: how many succeeded; *failed* and *retried* alike.
    :param runtimes: the median run time of those that succeeded, and the time that 95 % did not exceed, in seconds.
    """

    rate: float
    succeeded: int
    failed: int
    retried: int
    runtimes: tuple[float, float] | None


class SeenEvent(NamedTuple):
    """An event of which a task was received.

    :param cause: the id of the event that caused it; "": it does not say.
    """

    id: str
    cls_type: str
    cause: str


class Step(NamedTuple):
    """What a task of an event did: it was received, started, retried, succeeded, failed, ...

    :param time: when, by the worker's clock, in UTC.
    """

    time: datetime
    state: str
    consumer: str
    worker: str


class Activity:
    """What the tasks of an app's consumers do, from when it is started. Pages read it at any time.

    :param app: the app, with its consumers loaded.
    """

    def __init__(self, app: Celery, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._lock = threading.Lock()
        self._ends: dict[str, deque[tuple[float, str, float | None]]] = {}
        self._events: OrderedDict[str, SeenEvent] = OrderedDict()
        self._steps: dict[str, list[Step]] = {}
        self._tail = Tail(app, None, self.note)

    def start(self) -> None:
        """Begin to follow the tasks."""
        threading.Thread(target=self._tail.run, args=(lambda: None,), name="following tasks", daemon=True).start()

    def stop(self) -> None:
        """End it; do not wait."""
        self._tail.stop()

    def note(self, event: TaskEvent) -> None:
        """Take a step of a task into account."""
        with self._lock:
            if event.state == "received" and event.event:
                self._events[event.event] = SeenEvent(event.event, event.cls_type, event.cause)
                self._events.move_to_end(event.event)
                if len(self._events) > _MOST_EVENTS:
                    oldest, _ = self._events.popitem(last=False)
                    del self._steps[oldest]
            if event.event in self._events:
                # Names are the same in most steps, which then take little memory.
                names = map(sys.intern, (event.state, event.consumer, event.worker))
                steps = self._steps.setdefault(event.event, [])
                steps.append(Step(event.time, *names))
                del steps[:-_MOST_STEPS]
            if event.state in _ENDS:
                ends = self._ends.setdefault(event.consumer, deque(maxlen=_MOST_ENDS))
                ends.append((self._clock(), event.state, event.runtime))

    def of(self, consumer: str) -> Tasks:
        """Return what the tasks of *consumer* did."""
        now = self._clock()
        with self._lock:
            ends = list(self._ends.get(consumer, ()))
        recent = [end for end in ends if end[0] > now - _KEPT]
        # If the oldest ends were dropped, the numbers begin with the oldest that is kept.
        since = recent[0][0] if len(ends) == _MOST_ENDS and recent else max(self._started, now - _KEPT)
        states = [state for _, state, _ in recent]
        return Tasks(
            len(recent) / max(now - since, 1.0),
            states.count("succeeded"),
            states.count("failed") + states.count("rejected"),
            states.count("retried"),
            _median_and_p95([runtime for _, _, runtime in recent if runtime is not None]),
        )

    def event(self, event_id: str) -> SeenEvent | None:
        """Return an event whose task was received; None if it was not, or long ago."""
        with self._lock:
            return self._events.get(event_id)

    def steps(self, event_id: str) -> list[Step]:
        """Return the last steps of an event's tasks, in the order in which they were seen."""
        with self._lock:
            return list(self._steps.get(event_id, ()))

    def effects(self, event_id: str) -> list[SeenEvent]:
        """Return the events that *event_id* caused, the oldest first."""
        with self._lock:
            return [one for one in self._events.values() if one.cause == event_id]


def _median_and_p95(times: Sequence[float]) -> tuple[float, float] | None:
    if len(times) < 2:
        return (times[0], times[0]) if times else None
    parts = quantiles(times, n=20, method="inclusive")
    return parts[9], parts[18]
