"""Back-pressure: stops receiving while too many tasks wait on the broker, so that the backlog stays in SQS."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from amqp import NotFound
from celery import Celery
from kombu.entity import Queue as BrokerQueue

from ..text import printable
from ..threads import SupervisedThread
from .dispatcher import Readiness

logger = logging.getLogger(__name__)

#: The interval between checks of the depth of the task queues, in seconds.
INTERVAL = 1.0
#: The interval between checks for task queues that no worker serves, in seconds.
SERVED_INTERVAL = 60.0


class TaskQueue(str):
    """The name of a task queue, with how many tasks may wait in it until one topic has to stop.

    :param name: the queue's name.
    :param high_water: that number; None: the one of all topics.
    """

    high_water: int | None

    def __new__(cls, name: str, high_water: int | None) -> TaskQueue:
        self = super().__new__(cls, name)
        self.high_water = high_water
        return self


class BackPressure:
    """Asks the broker once a second how many tasks wait in the queues that the engine publishes to.

    A queue with more than *high_water* tasks is full; while the broker does not answer, all queues are. A transport
    that cannot count tasks always has room. A queue that is gone is logged.

    :param app: the Celery app.
    :param high_water: how many tasks may wait in a queue, unless a :class:`TaskQueue` has another number.
    :param connect: makes a new connection to the broker.
    """

    def __init__(self, app: Celery, high_water: int, connect: Callable[[], Any]) -> None:
        self._high_water = high_water
        self._connect = connect
        self._unserved = UnservedQueues(app)
        self._queues: frozenset[str] = frozenset()
        #: The depth of each queue at the last check; None: it is gone.
        self._depths: Mapping[str, int | None] = {}
        #: When a worker was last seen to take a task from each queue, by ``time.monotonic()``.
        self._moved_at: dict[str, float] = {}
        self._failing = False
        #: Whether tasks were published since the last check.
        self._active = False
        self._stop = threading.Event()
        self._thread = SupervisedThread("the check of the task queues", "back-pressure", self._run)
        self._started = False
        self._starting = threading.Lock()

    def wait_open(self, queues: frozenset[str], timeout: float) -> Readiness:
        """Wait up to *timeout* seconds until all of *queues* have room; return whether they have."""
        if self._started:
            self._thread.ensure_alive()
        if not self._readiness(queues):
            self._stop.wait(timeout)
        return self._readiness(queues)

    def _readiness(self, queues: frozenset[str]) -> Readiness:
        if self._failing:
            return Readiness.BROKER_DOWN
        depths = self._depths
        full = {name for name in queues if (depths.get(name) or 0) > self._limit(name)}
        if not full:
            return Readiness.READY
        # Busy workers may not answer, so a queue from which tasks are taken counts as served.
        still = {name for name in full if time.monotonic() - self._moved_at.get(name, 0.0) > SERVED_INTERVAL}
        return Readiness.QUEUE_UNSERVED if still & self._unserved.names else Readiness.QUEUE_FULL

    def publishing_to(self, queue: str) -> None:
        """Check *queue* from now on: tasks were published to it."""
        self._active = True
        if queue not in self._queues:
            with self._starting:  # several polling threads may come first
                self._queues |= {queue}
                if not self._started:
                    self._started = True
                    self._thread.start()

    def close(self) -> None:
        """Stop checking."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            # Nothing waited at the last check, and nothing was published since.
            if not self._active and not self._full(self._depths) and not self._failing:
                continue
            self._active = False
            try:
                with self._connect() as connection:
                    while self._check(connection) and not self._stop.wait(INTERVAL):
                        pass
            except Exception as error:
                if not self._failing:
                    logger.error("the broker does not answer, so nothing is received: %s", printable(repr(error), 500))
                self._failing = True

    def _check(self, connection: Any) -> bool:
        """Check all queues once; return whether to go on with this connection."""
        depths = {name: _depth(connection, name) for name in self._queues}
        if self._failing:
            logger.info("the broker answers again")
            self._failing = False
        self._log_changes(depths)
        now = time.monotonic()
        before, self._depths = self._depths, depths
        self._moved_at.update({name: now for name, depth in depths.items() if (depth or 0) < (before.get(name) or 0)})
        waiting = {name for name, depth in depths.items() if depth}
        self._unserved.check(waiting)
        idle = not waiting and not self._active
        self._active = False
        return not idle

    def _full(self, depths: Mapping[str, int | None]) -> frozenset[str]:
        return frozenset(name for name, depth in depths.items() if (depth or 0) > self._high_water)

    def _limit(self, queue: str) -> int:
        own = queue.high_water if isinstance(queue, TaskQueue) else None
        return self._high_water if own is None else own

    def _log_changes(self, depths: Mapping[str, int | None]) -> None:
        """Log the queues that are gone, full, or have room again since the last check."""
        for name in sorted(_gone(depths) - _gone(self._depths)):
            logger.warning(
                "the task queue %s and its tasks are gone from the broker: the engine declares the queue again when it "
                "publishes the next task",
                printable(name),
            )
        full, before = self._full(depths), self._full(self._depths)
        for name in sorted(full - before):
            logger.warning(
                "%d tasks wait in %s, more than balog_high_water (%d): receiving nothing for it until some have run",
                depths[name],
                printable(name),
                self._high_water,
            )
        for name in sorted(before - full):
            logger.info("fewer than %d tasks wait in %s: receiving again", self._high_water, printable(name))


class UnservedQueues:
    """Finds the queues in which tasks wait and that no worker serves.

    :param app: the Celery app.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        #: The names of the queues that no worker served at the last check.
        self.names: frozenset[str] = frozenset()
        self._check_at = time.monotonic() + SERVED_INTERVAL / 4
        self._thread: threading.Thread | None = None

    def check(self, waiting: Iterable[str]) -> None:
        """Ask the workers about the queues *waiting*, if it is time to.

        They are asked in a thread of its own: its connection may hang, and one question at a time is enough.
        """
        names = frozenset(waiting)
        if not names or time.monotonic() < self._check_at or (self._thread is not None and self._thread.is_alive()):
            return
        self._check_at = time.monotonic() + SERVED_INTERVAL
        self._thread = threading.Thread(target=self._ask, args=(names,), name="unserved-queues", daemon=True)
        self._thread.start()

    def _ask(self, waiting: frozenset[str]) -> None:
        try:
            answers = self._app.control.inspect(timeout=2.0).active_queues()
        except Exception:
            return  # the next check of the depths finds that the broker does not answer
        if answers is None and not self.names:
            # There is no worker, or the transport has no remote control.
            logger.warning("tasks wait in %s, and no worker answers", ", ".join(map(printable, sorted(waiting))))
        served = {queue["name"] for queues in (answers or {}).values() for queue in queues}
        for name in sorted(waiting - served - self.names) if answers else ():
            logger.warning("tasks wait in %s, which no worker serves: start one with -Q %s", name, printable(name))
        self.names = waiting - served


def _gone(depths: Mapping[str, int | None]) -> set[str]:
    return {name for name, depth in depths.items() if depth is None}


def _depth(connection: Any, name: str) -> int | None:
    """Return how many tasks wait in the queue of that name; None: there is no such queue."""
    channel = connection.channel()
    try:
        declared: Any = BrokerQueue(name, channel=channel).queue_declare(passive=True)  # type: ignore[no-untyped-call]
        return int(declared.message_count)
    except NotFound:
        return None
    except connection.channel_errors:
        return 0  # Redis has no empty lists, so kombu does not find an empty queue
    except AttributeError:
        return 0  # a transport that does not count
    finally:
        channel.close()
