"""The room for tasks in the worker beside the engine, which the threads of all topics share."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from ..consumers.delivery import Delivery
from .protocol import Open

#: How much memory the events in the worker may take, in bytes, beside those that wait for a retry or a rate limit.
MAX_BYTES = 128 * 2**20


class Room:
    """The tasks in the worker, and the threads that wait for room for more.

    Threads get room in the order in which they began to wait, so a topic with many events leaves room to the others
    after each part of them.

    The lock of *changed* guards it.

    :param changed: is notified when there may be more room.
    """

    def __init__(self, changed: threading.Condition) -> None:
        #: How many tasks the worker accepts altogether.
        self.credit = 0
        #: For how many tasks there must be room before the next receive.
        self.enough = 1
        #: The deliveries of each task, and the size of its events in bytes. The worker has the events themselves, and
        #: keeping thousands of them here would cost time.
        self.tasks: dict[int, tuple[tuple[Delivery, ...], int]] = {}
        #: The size of all their events.
        self.size = 0
        #: The threads that wait now.
        self.waiting: set[int] = set()
        self._changed = changed
        # By thread. A thread keeps its place from one wait to the next, as each has a timeout.
        self._places: dict[int, int] = {}
        self._numbers = itertools.count()

    def offer(self, offer: Open) -> None:
        """Take what the worker accepts."""
        self.credit, self.enough = offer.credit, offer.enough

    def wait_for(self, has_room: Callable[[], int], timeout: float) -> bool:
        """Wait up to *timeout* seconds for room, and for this thread's turn. Return False if there is none.

        :param has_room: returns whether there is room.
        """
        me = threading.get_ident()
        place = self._places.setdefault(me, next(self._numbers))

        def has_turn() -> bool:
            return bool(has_room()) and all(self._places[other] >= place for other in self.waiting)

        self.waiting.add(me)
        try:
            if not self._changed.wait_for(has_turn, timeout):
                return False
        finally:
            self.waiting.discard(me)
        del self._places[me]
        self._changed.notify_all()  # there may be room for the next one, too
        return True
