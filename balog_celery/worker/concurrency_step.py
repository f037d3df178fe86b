"""The consumer step that limits how many tasks of a consumer run at once."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from celery import bootsteps, signals

from ..tasks.request import EventRequest
from .cluster_places import ClusterPlaces, PlaceStore
from .concurrency import ConcurrencyLimits

#: How often to look for tasks that have ended without a report, in seconds.
_INTERVAL = 1.0


class ConcurrencyStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Holds back the tasks of consumers with ``concurrency``, by their own limits; costs nothing without any."""

    name = "balog-concurrency"
    # The strategies of tasks, which that step makes at each connection, take on_task_request as it is then.
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        app = consumer.app
        limits = {one.task_name: one.limit for one in app.balog.hub if one.limit is not None}
        self.enabled = bool(limits)
        self._entry: Any = None
        self._bell = Bell(self._check)
        self._limits: ConcurrencyLimits | None = None
        self._places: ClusterPlaces | None = None
        if not limits:
            return
        if any(limit.in_cluster for limit in limits.values()):
            self._places = ClusterPlaces(PlaceStore(app.balog.redis("concurrency=(..., 'cluster')")), self._bell.ring)
        self._limits = ConcurrencyLimits(limits, consumer.on_task_request, consumer, self._places)
        consumer.on_task_request = self._limits.take
        consumer.controller.balog_concurrency = self._limits

    def start(self, consumer: Any) -> None:
        """Begin with the tasks of a new connection."""
        if self._places is not None and not self._places.started:
            # Not before: the pool has forked by now.
            self._places.start()
            # A worker that stops has its places until its pool has finished.
            signals.worker_shutdown.connect(self._give_back, sender=consumer.controller, weak=False)
        if self._limits is not None:
            EventRequest.observers.append(self._limits.ended)
            self._entry = consumer.timer.call_repeatedly(_INTERVAL, self._check)
            if consumer.hub is None:
                self._bell.use(lambda: consumer.timer.call_after(0.0, self._check))
            self._check()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Listen for places in the event loop; Celery calls this when that is about to run."""
        if self._limits is not None:
            self._bell.listen(hub)

    def stop(self, consumer: Any) -> None:
        """Forget the tasks that wait: their messages are delivered again."""
        if self._limits is not None and self._entry is not None:
            self._entry.cancel()
            self._entry = None
            EventRequest.observers.remove(self._limits.ended)
            self._limits.clear()

    terminate = stop

    def _give_back(self, **_: Any) -> None:
        if self._places is not None:
            self._places.stop()

    def _check(self) -> None:
        if self._limits is not None and self._entry is not None:
            self._limits.check()


class Bell:
    """Has a function called where the worker's tasks are started; any thread may ask for it.

    :param call: the function.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._ask: Callable[[], None] = lambda: None
        self._ears: tuple[socket.socket, socket.socket] | None = None

    def use(self, ask: Callable[[], None]) -> None:
        """Ask for calls by *ask* from now on."""
        self._ask = ask

    def listen(self, hub: Any) -> None:
        """Call from the event loop *hub*, which sleeps until something can be read."""
        if self._ears is None:
            self._ears = socket.socketpair()
            for ear in self._ears:
                ear.setblocking(False)
        ours, theirs = self._ears

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                ours.recv(4096)
            self._call()

        def ask() -> None:
            with contextlib.suppress(BlockingIOError):  # it has not been read yet
                theirs.send(b"\0")

        hub.add_reader(ours.fileno(), read)
        self._ask = ask

    def ring(self) -> None:
        """Ask for a call."""
        self._ask()
