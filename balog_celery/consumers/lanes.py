"""Keeps what was received of a FIFO topic in order: of each group, one delivery at a time is under way."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..queues import BATCH_SIZE, Message
from ..text import printable
from .delivery import Delivery
from .keeper import Keeper

logger = logging.getLogger(__name__)

#: With so many messages in the lanes, nothing more is received for them.
MAX_HELD = 1000


class Lanes:
    """The deliveries of one FIFO topic: a lane for each group, in order of receipt.

    The first of a lane is started when the one before it was deleted, as SQS says: what comes again after a crash is
    never older than what was under way. When one goes back, or its lease has ended, all that is behind it in its lane
    goes back as well. SQS gives nothing more of a group while anything of it is in flight, to whatever engine; so a
    lane is what one receive brought, or what another brought while the delete of its last was under way.

    :param topic: the queue's name.
    :param keeper: keeps the leases, deletes, and gives back.
    :param start: has deliveries, of different groups, served; may block. Called in this object's own thread.
    """

    def __init__(self, topic: str, keeper: Keeper, start: Callable[[Sequence[Delivery]], None]) -> None:
        self._topic = topic
        self._keeper = keeper
        self._start = start
        self._changed = threading.Condition()
        # Guarded by the condition's lock. The first of a lane is ready, or under way.
        self._lanes: dict[str, deque[Delivery]] = {}
        self._ready: deque[Delivery] = deque()
        self._stopped = False
        self._thread = self._new_thread()
        keeper.keep_order(self._deleted)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ensure_alive(self) -> None:
        """Start a new thread if it has died, for whatever reason."""
        if not self._thread.is_alive() and not self._stopped:
            logger.error("the thread that serves %s in order died: starting a new one", printable(self._topic))
            self._thread = self._new_thread()
            self._thread.start()

    def stop(self) -> None:
        """Start nothing more, and give back what has not been started."""
        with self._changed:
            self._stopped = True
            waiting = {id(delivery) for delivery in self._ready}
            self._ready.clear()
            back: list[Delivery] = []
            for group, lane in list(self._lanes.items()):
                back += self._behind(group, 0 if id(lane[0]) in waiting else 1)
            self._changed.notify_all()
        self._give_back(back)

    def join(self, deadline: float) -> None:
        """Wait until the thread has ended, or for *deadline*, by ``time.monotonic()``."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def add(self, messages: Sequence[Message]) -> None:
        """Take the messages of one receive."""
        deliveries = [Delivery(message, 1, self._settled) for message in messages]
        self._keeper.hold(deliveries)
        with self._changed:
            if stopped := self._stopped:
                lost = []
            else:
                # What waits behind the first of a lane was given to us anew, or has been served by another engine.
                lost = [old for group in {message.group for message in messages} for old in self._behind(group, 1)]
                for delivery in deliveries:
                    lane = self._lanes.setdefault(delivery.message.group, deque())
                    lane.append(delivery)
                    if len(lane) == 1:
                        self._ready.append(delivery)
                self._changed.notify_all()
        self._keeper.let_go(lost)
        if stopped:
            self._give_back(deliveries)

    def wait_for_room(self, timeout: float) -> bool:
        """Whether more may be received; wait for *timeout* seconds until it may."""
        with self._changed:
            return self._changed.wait_for(lambda: sum(map(len, self._lanes.values())) < MAX_HELD, timeout)

    def leave(self, delivery: Delivery) -> None:
        """Leave *delivery* to SQS until its lease ends, and its group with it."""
        with self._changed:
            rest = self._end(delivery)
        self._keeper.let_go([delivery])
        self._give_back(rest)

    def _settled(self, deliveries: Sequence[Delivery]) -> None:
        """All jobs of *deliveries* are settled."""
        with self._changed:
            rest = [behind for delivery in deliveries if delivery.refused for behind in self._end(delivery)]
        self._keeper.settle(deliveries)
        self._give_back(rest)

    def _deleted(self, delivery: Delivery, deleted: bool) -> None:
        """SQS has deleted *delivery*, or will deliver it again."""
        with self._changed:
            lane = self._lanes.get(delivery.message.group)
            if lane is None or lane[0] is not delivery:
                return
            rest = [] if deleted else self._end(delivery)
            if deleted:
                lane.popleft()
                if lane:
                    self._ready.append(lane[0])
                else:
                    del self._lanes[delivery.message.group]
            self._changed.notify_all()
        self._give_back(rest)

    def _end(self, delivery: Delivery) -> list[Delivery]:
        """End the lane of which *delivery* is the first; return what was behind it."""
        lane = self._lanes.get(delivery.message.group)
        if lane is None or lane[0] is not delivery:
            return []
        if delivery in self._ready:
            self._ready.remove(delivery)
        self._changed.notify_all()
        return self._behind(delivery.message.group, 0)[1:]

    def _behind(self, group: str, position: int) -> list[Delivery]:
        """Take what is at *position* and behind it out of the lane of *group*."""
        lane = self._lanes.get(group, deque())
        taken = [lane.pop() for _ in range(len(lane) - position)][::-1]
        if not lane:
            self._lanes.pop(group, None)
        return taken

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Give back what was not started; the first goes first. A handle whose lease has ended says nothing."""
        ended = [delivery for delivery in deliveries if _has_ended(delivery)]
        self._keeper.let_go(ended)
        for delivery in deliveries:
            if delivery not in ended:
                delivery.abandon()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"lanes-{self._topic}", daemon=True)

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            good = [delivery for delivery in turn if not _has_ended(delivery)]
            for delivery in turn:
                if delivery not in good:
                    self.leave(delivery)
            try:
                self._start(good)
            except Exception:
                logger.exception("unexpected error with messages of %s: they come again", printable(self._topic))
                for delivery in good:
                    delivery.abandon()

    def _next(self) -> list[Delivery] | None:
        """Wait for deliveries whose turn it is; None when it is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._stopped)
            if self._stopped:
                return None
            return [self._ready.popleft() for _ in range(min(BATCH_SIZE, len(self._ready)))]


def _has_ended(delivery: Delivery) -> bool:
    return time.monotonic() >= delivery.ends
