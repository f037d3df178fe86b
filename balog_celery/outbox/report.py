"""The status of a relay, for ``balog health`` and metrics: what waits in the outbox, and what fails."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any

from ..engine.status import INTERVAL, StatusFile
from ..telemetry import Telemetry
from .relay import Relay
from .store import Backlog, Store

logger = logging.getLogger(__name__)

#: How often the rows are counted, in seconds.
_COUNT_INTERVAL = 10.0
#: How much longer than the last count took to wait for the next one, so that a large table is not counted all the time.
_REST = 20.0
#: How many topics a status has.
_MAX_TOPICS = 1000


class RelayReport:
    """Writes the status of a relay while the block runs, from a thread of its own: a sweep may take long.

    :param relay: the relay.
    :param store: its outbox.
    :param file: where the status is written.
    :param telemetry: observes the status, too.
    :param worker_pid: the worker that it runs beside, if it does.
    """

    def __init__(
        self, relay: Relay, store: Store, file: StatusFile, telemetry: Telemetry, worker_pid: int | None = None
    ) -> None:
        self._relay = relay
        self._store = store
        self._file = file
        self._telemetry = telemetry
        self._worker_pid = worker_pid
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox-status", daemon=True)
        self._backlog: dict[str, Backlog] = {}
        self._next_count = 0.0

    def __enter__(self) -> None:
        self._telemetry.relays(self._status)
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(INTERVAL)
        self._file.remove()

    def _run(self) -> None:
        while True:
            self._file.write(self._status(), now=True)
            if self._stopping.wait(INTERVAL):
                return
            self._count()

    def _status(self) -> dict[str, Any]:
        outbox = {topic: found._asdict() for topic, found in self._backlog.items()}
        return {"outbox": outbox, "worker": self._worker_pid, **self._relay.status(outbox)}

    def _count(self) -> None:
        began = time.monotonic()
        if began < self._next_count:
            return
        try:
            self._backlog = self._store.backlog(_MAX_TOPICS)
        except Exception:  # the relay reports what is wrong with the database
            logger.debug("counting the rows of the outbox failed", exc_info=True)
        took = time.monotonic() - began
        self._next_count = began + max(_COUNT_INTERVAL, _REST * took)
