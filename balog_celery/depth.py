"""Watches how many tasks wait on the broker, so that the backlog stays in SQS."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu.entity import Queue as BrokerQueue

from .text import printable

logger = logging.getLogger(__name__)

#: How often the depth of the task queues is asked for, in seconds.
INTERVAL = 1.0
#: How often it is looked whether a worker serves each task queue in which tasks wait, in seconds.
SERVED_INTERVAL = 60.0


class DepthWatch:
    """Asks the broker once a second how many tasks wait in the queues that are published to.

    While one holds more than *high_water* it is full, and while the broker does not answer all are. A broker that
    cannot be asked (a transport that does not count) is taken to have room.

    :param app: the Celery app.
    :param high_water: how many tasks may wait in a queue.
    :param connect: makes a new connection to the broker.
    """

    def __init__(self, app: Celery, high_water: int, connect: Callable[[], Any]) -> None:
        self._app = app
        self._high_water = high_water
        self._connect = connect
        self._queues: frozenset[str] = frozenset()
        self._full: frozenset[str] = frozenset()
        self._failing = False
        self._active = False
        self._unserved: set[str] = set()
        self._look_for_workers_at = time.monotonic() + SERVED_INTERVAL / 4
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="depth-watch", daemon=True)
        self._starting = threading.Lock()
        self._looking: threading.Thread | None = None

    def wait_open(self, queues: frozenset[str], timeout: float) -> bool:
        """Wait up to *timeout* seconds until all of *queues* have room; whether they have."""
        if not self._is_open(queues):
            self._stop.wait(timeout)
        return self._is_open(queues)

    def _is_open(self, queues: frozenset[str]) -> bool:
        return not self._failing and not self._full & queues

    def publishing_to(self, queue: str) -> None:
        """Tasks were published to *queue*: watch it."""
        self._active = True
        if queue not in self._queues:
            with self._starting:  # several polling threads may be the first
                self._queues |= {queue}
                if self._thread.ident is None:
                    self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            # Nothing was published since the last look, and nothing waited then: nothing waits now.
            if not self._active and not self._full and not self._failing:
                continue
            self._active = False
            try:
                with self._connect() as connection:
                    while self._watch(connection) and not self._stop.wait(INTERVAL):
                        pass
            except Exception as error:
                if not self._failing:
                    logger.error("the broker does not answer, so nothing is received: %s", printable(repr(error), 500))
                self._failing = True

    def _watch(self, connection: Any) -> bool:
        """Look once; return whether to go on with this connection."""
        depths = {name: _depth(connection, name) for name in self._queues}
        if self._failing:
            logger.info("the broker answers again")
            self._failing = False
        full = frozenset(name for name, depth in depths.items() if depth > self._high_water)
        for name in sorted(full - self._full):
            logger.warning(
                "%d tasks wait in %s, more than balog_high_water (%d): nothing is received for it until they are fewer",
                depths[name],
                printable(name),
                self._high_water,
            )
        for name in sorted(self._full - full):
            logger.info("fewer than %d tasks wait in %s: receiving again", self._high_water, printable(name))
        self._full = full
        waiting = {name for name, depth in depths.items() if depth}
        if waiting and time.monotonic() >= self._look_for_workers_at:
            self._look_for_workers_at = time.monotonic() + SERVED_INTERVAL
            self._look_for_workers(waiting)
        idle = not waiting and not self._active
        self._active = False
        return not idle

    def _look_for_workers(self, waiting: set[str]) -> None:
        """Report what no worker serves; in a thread of its own, as it asks over a connection that may hang."""
        if self._looking is None or not self._looking.is_alive():
            self._looking = threading.Thread(
                target=self._report_unserved, args=(waiting,), name="unserved-queues", daemon=True
            )
            self._looking.start()

    def _report_unserved(self, waiting: set[str]) -> None:
        try:
            answers = self._app.control.inspect(timeout=2.0).active_queues()
        except Exception:
            return  # the watch itself says that the broker does not answer
        if answers is None and not self._unserved:
            # Nobody at all answered: a transport without remote control, or no worker.
            logger.warning("tasks wait in %s, and no worker answers", ", ".join(map(printable, sorted(waiting))))
        served = {queue["name"] for queues in (answers or {}).values() for queue in queues}
        for name in sorted(waiting - served - self._unserved) if answers else ():
            logger.warning("tasks wait in %s, which no worker serves: start one with -Q %s", name, printable(name))
        self._unserved = waiting - served


def _depth(connection: Any, name: str) -> int:
    channel = connection.channel()
    try:
        declared: Any = BrokerQueue(name, channel=channel).queue_declare(passive=True)  # type: ignore[no-untyped-call]
        return int(declared.message_count)
    except connection.channel_errors:
        return 0  # Redis has no empty lists, and AMQP may not have the queue yet
    except AttributeError:
        return 0  # a transport that does not count
    finally:
        channel.close()
