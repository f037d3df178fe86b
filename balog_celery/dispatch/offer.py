"""What a worker offers its engine: how many tasks it takes, and of which queues."""

from __future__ import annotations

from typing import Any

from ..celery_compat.worker import pool_size, prefetch, queue_names
from .protocol import Open


class Offer:
    """Knows the queues that the worker has consumed, so that it can name those that were cancelled.

    :param reserve: how many tasks it takes beside twice the size of the pool; None: as many as Celery prefetches.
    """

    def __init__(self, reserve: int | None) -> None:
        self._reserve = reserve
        self._consumed: set[str] = set()

    def of(self, consumer: Any) -> Open:
        """Return what the worker with this *consumer* takes now."""
        queues = queue_names(consumer)
        self._consumed.update(queues)
        cancelled = sorted(self._consumed.difference(queues))
        return Open(prefetch(consumer, self._reserve), queues, cancelled, pool_size(consumer))
