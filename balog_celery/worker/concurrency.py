"""Limits how many tasks of a consumer run at once: the others wait in the worker, outside of its pool.

A request waits before Celery gives it to the pool, so it uses no place there, whichever way its message came. It has a
place from then until Celery has forgotten it: however a task ends, it is then neither reserved nor active.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..celery_compat.worker import change_prefetch, is_known
from ..consumers.concurrency import Concurrency
from ..dispatch.local_tasks import MAX_LIMITED


class Places(Protocol):
    """Gives places to the tasks of a consumer whose limit is for all workers; see ``cluster_places.py``."""

    #: The places that were granted and are not taken, each with its consumer.
    granted: deque[tuple[str, str]]

    def want(self, name: str, limit: int) -> None:
        """Ask for a place for a task of the consumer *name*, until one was granted."""

    def give_back(self, name: str, place: str) -> None:
        """Give a place back."""


class Limit:
    """The running and the waiting tasks of one consumer.

    :param name: its task's name.
    :param concurrency: its limit.
    """

    def __init__(self, name: str, concurrency: Concurrency) -> None:
        self.name = name
        self.concurrency = concurrency
        self.waiting: deque[Any] = deque()
        #: The requests that have a place, by that. Weak: one that Celery loses has none.
        self._running: dict[str, weakref.ref[Any]] = {}
        #: Whether a thread is starting requests.
        self.is_starting = False

    def add(self, place: str, request: Any) -> None:
        """Note that *request* is about to run."""
        self._running[place] = weakref.ref(request)

    def vacate(self) -> list[str]:
        """Return the places of requests that have ended, which are free now."""
        free = [place for place, one in self._running.items() if (request := one()) is None or not is_known(request)]
        for place in free:
            del self._running[place]
        return free

    @property
    def running(self) -> int:
        """How many requests have a place."""
        return len(self._running)


class ConcurrencyLimits:
    """Stands between Celery's consumer and its pool. Threads may share it: in some pools tasks end in their own.

    :param limits: the limit of each consumer that has one, by its task's name.
    :param start: gives a request to the pool.
    :param consumer: Celery's consumer, whose prefetch limit grows by the tasks that wait here.
    :param places: gives places, if a limit is for all workers.
    """

    def __init__(
        self,
        limits: Mapping[str, Concurrency],
        start: Callable[[Any], None],
        consumer: Any,
        places: Places | None = None,
    ) -> None:
        self._limits = {name: Limit(name, concurrency) for name, concurrency in limits.items()}
        self._start = start
        self._consumer = consumer
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        #: The requests, by id, for which the prefetch limit grew.
        self._beyond: set[str] = set()
        self._places = places

    def take(self, request: Any) -> None:
        """Give *request* to the pool when its consumer's limit allows. Celery calls this in place of *start*."""
        limit = self._limits.get(request.name)
        if limit is None:
            self._start(request)
            return
        request.waits_for_place(True)
        with self._lock:
            limit.waiting.append(request)
        self.advance(limit)
        with self._lock:
            if request in limit.waiting and not request.is_handed_over and len(self._beyond) < MAX_LIMITED:
                self._beyond.add(request.id)
                change_prefetch(self._consumer, 1)

    def ended(self, request: Any, *_: Any) -> None:
        """Start the next task of the consumer of *request*, which has ended."""
        if (limit := self._limits.get(request.name)) is not None:
            self.advance(limit)

    def check(self) -> None:
        """Start what may run: not every end of a task is reported, and places are granted in another thread."""
        while self._places is not None and self._places.granted:
            self._use(self._places, *self._places.granted.popleft())
        for limit in self._limits.values():
            self.advance(limit)

    def advance(self, limit: Limit) -> None:
        """Start waiting tasks of a consumer while its limit allows."""
        if limit.concurrency.in_cluster:
            self._ask(limit)
            return
        while True:
            with self._lock:
                limit.vacate()
                # A pool that executes tasks in this thread comes back here at their ends.
                request = None if limit.is_starting or limit.running >= limit.concurrency.limit else self._next(limit)
                if request is None:
                    return
                limit.is_starting = True
                self._begin(limit, str(next(self._numbers)), request)
            try:
                self._start(request)
            finally:
                limit.is_starting = False

    def _use(self, places: Places, name: str, place: str) -> None:
        """Start the next task of the consumer *name* with *place*, or give that back if none waits."""
        limit = self._limits[name]
        with self._lock:
            request = self._next(limit)
            if request is not None:
                self._begin(limit, place, request)
        if request is None:
            places.give_back(name, place)
        else:
            self._start(request)

    def _ask(self, limit: Limit) -> None:
        """Give back the places of tasks that have ended, and ask for one if tasks wait."""
        if self._places is None:
            return
        with self._lock:
            free, is_wanted = limit.vacate(), bool(limit.waiting)
        for place in free:
            self._places.give_back(limit.name, place)
        if is_wanted:
            self._places.want(limit.name, limit.concurrency.limit)

    def _next(self, limit: Limit) -> Any:
        """Return the first waiting request that Celery still knows, and drop those before it; None: there is none."""
        while limit.waiting:
            request = limit.waiting.popleft()
            if request.id in self._beyond:
                self._beyond.remove(request.id)
                change_prefetch(self._consumer, -1)
            if is_known(request):  # else its connection was lost
                return request
        return None

    def _begin(self, limit: Limit, place: str, request: Any) -> None:
        limit.add(place, request)
        request.waits_for_place(False)

    def clear(self) -> None:
        """Forget the tasks that wait: their messages go back with the connection, or to the engine."""
        with self._lock:
            self._beyond.clear()
            for limit in self._limits.values():
                limit.waiting.clear()

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the limit of each consumer, and how many of its tasks run and wait here."""
        with self._lock:
            return {
                one.name: {
                    "limit": one.concurrency.limit,
                    "of": "cluster" if one.concurrency.in_cluster else "worker",
                    "running": one.running,
                    "waiting": len(one.waiting),
                }
                for one in self._limits.values()
            }
