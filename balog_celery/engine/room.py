"""The limit on the messages of a topic that an engine holds at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..sqs.messages import BATCH_SIZE
from .visibility import VisibilityExtender


class InFlightRoom:
    """Divides the room for messages in flight among the pollers of a topic.

    :param extender: tracks the topic's messages in flight.
    :param most: how many may be in flight.
    """

    def __init__(self, extender: VisibilityExtender, most: int) -> None:
        self._extender = extender
        self._most = most
        self._lock = threading.Lock()
        #: How many messages the open receives may return.
        self._reserved = 0

    @property
    def is_full(self) -> bool:
        """Whether there is too little room for a receive: smaller receives cost as much as one of ten."""
        return self._free() < min(BATCH_SIZE, max(1, self._most // 2))

    @contextmanager
    def reserve(self, wanted: int) -> Iterator[int]:
        """Reserve room for up to *wanted* messages, and yield for how many, while the block receives and tracks them.

        That is 0 if another poller has taken the room.
        """
        with self._lock:
            granted = max(0, min(wanted, self._free()))
            self._reserved += granted
        try:
            yield granted
        finally:
            with self._lock:
                self._reserved -= granted

    def _free(self) -> int:
        return self._most - len(self._extender.held()) - self._reserved
