"""Runs the threads of one topic."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..consumers.delivery import Settlement
from ..dispatch.dispatcher import Readiness
from ..sqs.messages import Message
from ..text import printable
from .batcher import Batcher
from .config import POLL_END
from .poller import Poller
from .topic import Topic

logger = logging.getLogger(__name__)


class TopicRunner:
    """The pollers of one topic, its visibility extender, and the batcher of its batch consumers."""

    def __init__(self, topic: Topic) -> None:
        self.source, self.name, self.wait_time = topic.source, topic.name, topic.config.wait_time
        self._extender = topic.extender
        self._batcher: Batcher | None = None
        if any(consumer.gathers for consumer in topic.consumers):
            self._batcher = Batcher(self.name, topic.dispatcher)
            has_chunks = any(consumer.chunk is not None for consumer in topic.consumers)
            topic = replace(topic, dispatcher=self._batcher, chunks=self._batcher if has_chunks else None)
        self._dispatcher = topic.dispatcher
        self._queues = topic.task_queues
        self._stopped_at = math.inf
        count = 1 if topic.queue.is_fifo else topic.config.pollers
        self._pollers = [Poller(topic, self._release_delay) for _ in range(count)]

    def start(self) -> None:
        """Start all threads."""
        if self._batcher is not None:
            self._batcher.start()
        self._extender.start()
        for poller in self._pollers:
            poller.start()

    def ensure_alive(self) -> None:
        """Replace threads that have died.

        :raises ConfigurationError: polling has ended because the dispatcher cannot serve a FIFO topic.
        """
        self._extender.ensure_alive()
        for poller in self._pollers:
            poller.ensure_alive()
        if self._batcher is not None:
            self._batcher.ensure_alive()

    def stop(self) -> None:
        """Stop receiving, and release jobs that wait for a batch. Returns at once."""
        self._stopped_at = time.monotonic()
        for poller in self._pollers:
            poller.stop()
        if self._batcher is not None:
            self._batcher.stop()

    def join(self) -> None:
        """Wait a moment until polling has ended, after :meth:`drain`."""
        deadline = time.monotonic() + POLL_END
        for poller in self._pollers:
            if not poller.join(deadline):
                logger.warning(
                    "a receive or a dispatch of %s has not ended: what it brings will be received again",
                    printable(self.name),
                )
        if self._batcher is not None:
            self._batcher.join(deadline)

    def drain(self, deadline: float) -> None:
        """Wait until no message is in flight; at *deadline*, of ``time.monotonic()``, release those that are.

        A stopping worker finishes its tasks, however long they take: released meanwhile, they would run twice.
        """
        while not self._extender.drain(deadline) and self._is_finishing():
            deadline = time.monotonic() + 1.0
        for delivery in self._extender.held():
            # Its task may still run: at-least-once delivery allows a second run.
            delivery.settle_now(Settlement.RELEASE)

    def _release_delay(self) -> int | None:
        """Return for how many seconds a released message is to stay invisible; None if it is not to be released now.

        An open receive would take it, only for it to be released again, which counts for a redrive policy.
        """
        now = time.monotonic()
        receives = [poller.latest for poller in self._pollers]
        left = max(receive.ends for receive in receives) - now
        if left <= 0:
            return 0
        if self._stopped_at == math.inf:
            readiness = self._dispatcher.ready(self._queues, 0.0)
            return 0 if readiness is Readiness.READY or readiness.is_back_pressure else None
        if now < self._stopped_at + POLL_END and any(receive.is_open for receive in receives):
            return None
        return math.ceil(left)

    def _is_finishing(self) -> bool:
        """Return whether a worker that stops, too, finishes the tasks in flight."""
        return self._dispatcher.ready(self._queues, 0.0) is Readiness.WORKER_CLOSED

    def close(self, deadline: float) -> int:
        """Make the pending deletes and releases. Return how many are left at *deadline*, of ``time.monotonic()``."""
        pending = sum(poller.close(deadline) for poller in self._pollers)
        self._extender.close(deadline)
        return pending

    def process(self, messages: Sequence[Message]) -> None:
        """Process *messages* in this thread, while no other runs: for tests."""
        self._pollers[0].process(messages)

    def flush(self) -> None:
        """Dispatch incomplete batches in this thread, while no other runs: for tests."""
        if self._batcher is not None:
            self._batcher.flush()

    def poller_statuses(self) -> list[dict[str, Any]]:
        """The status of each poller."""
        return [poller.status() for poller in self._pollers]

    def extender_status(self) -> dict[str, Any]:
        """The status of the visibility extender."""
        return self._extender.status()
