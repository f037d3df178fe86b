"""Keeps the order of a FIFO topic: of each message group, one message at a time is dispatched."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from sys import getsizeof

from ..consumers.delivery import Delivery, Settlement
from ..sqs.messages import BATCH_SIZE, Message
from ..text import printable
from ..threads import SupervisedThread
from .acknowledger import Acknowledger
from .visibility import VisibilityExtender

logger = logging.getLogger(__name__)

#: Stop receiving while this many messages are held, or while their bodies take this much memory, in bytes.
MAX_HELD = 1000
MAX_HELD_SIZE = 64 * 2**20


class MessageGroups:
    """The deliveries of one FIFO topic: a queue for each message group, in order of receipt.

    A delivery is started when SQS has deleted the one before it in its group, so that no message older than a running
    one is received again after a crash. When one is released or expires, all behind it in its group are released, too.
    SQS delivers no more messages of a group while one is in flight, to any engine; so the deliveries of a group are
    from one receive, or from one more that came while the last of them was being deleted.

    :param topic: the queue's name.
    :param extender: tracks the topic's messages in flight.
    :param acknowledger: deletes and releases them.
    :param start: processes deliveries of different groups, in this object's thread; may block. If it raises, all of
        them are settled, or will be.
    """

    def __init__(
        self,
        topic: str,
        extender: VisibilityExtender,
        acknowledger: Acknowledger,
        start: Callable[[Sequence[Delivery]], None],
    ) -> None:
        self._topic = topic
        self._extender = extender
        self._acknowledger = acknowledger
        self._start = start
        self._changed = threading.Condition()
        # Guarded by the condition's lock. The first of each group is ready, or started.
        self._groups: dict[str, deque[Delivery]] = {}
        self._ready: deque[Delivery] = deque()
        self._stopped = False
        self._thread = SupervisedThread(f"the message groups of {topic}", f"groups-{topic}", self._run)
        acknowledger.keep_order(self._deleted)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ensure_alive(self) -> None:
        """Replace the thread if it has died."""
        self._thread.ensure_alive()

    def stop(self) -> None:
        """Release the deliveries that were not started, and all later ones."""
        with self._changed:
            self._stopped = True
            waiting = {id(delivery) for delivery in self._ready}
            self._ready.clear()
            back: list[Delivery] = []
            for group, members in list(self._groups.items()):
                back += self._behind(group, 0 if id(members[0]) in waiting else 1)
            self._changed.notify_all()
        self._release(back)

    def join(self, deadline: float) -> None:
        """Wait until the thread has ended, or for *deadline*, of ``time.monotonic()``."""
        self._thread.join(deadline)

    def add(self, messages: Sequence[Message], visibility: int | None = None) -> None:
        """Add the messages of one receive.

        :param visibility: the visibility timeout that they were received with, in seconds; None for the present one.
        """
        deliveries = [Delivery(message, 1, self._settled) for message in messages]
        with self._changed:
            new = self._extender.hold(deliveries, visibility)
            if not (stopped := self._stopped):
                received = {delivery.message.handle for delivery in deliveries}
                # Of a group that was received again, a waiting delivery that was not has gone to another engine.
                waiting = [one for group in {message.group for message in messages} for one in self._behind(group, 1)]
                lost = [delivery for delivery in waiting if delivery.message.handle not in received]
                again = {one.message.handle: one for one in waiting if one.message.handle in received}
                for delivery in deliveries:
                    if delivery in new:
                        self._append(delivery)
                    elif held := again.get(delivery.message.handle):
                        self._append(held)
                for delivery in lost:
                    delivery.settle_now(Settlement.EXPIRE)
                self._changed.notify_all()
        if stopped:
            self._release(new)

    def _append(self, delivery: Delivery) -> None:
        members = self._groups.setdefault(delivery.message.group, deque())
        members.append(delivery)
        if len(members) == 1:
            self._ready.append(delivery)

    def start_again(self, deliveries: Sequence[Delivery]) -> None:
        """Start deliveries again that are the first of their groups and were put off."""
        with self._changed:
            self._ready.extend(deliveries)
            self._changed.notify_all()

    def wait_for_room(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until fewer messages are held than the limits allow. Return False if not."""
        with self._changed:
            return self._changed.wait_for(self._has_room, timeout)

    def _has_room(self) -> bool:
        sizes = [getsizeof(delivery.message.body) for members in self._groups.values() for delivery in members]
        return len(sizes) < MAX_HELD and sum(sizes) < MAX_HELD_SIZE

    def _settled(self, deliveries: Sequence[Delivery]) -> None:
        """Settle *deliveries*, and release those behind the ones that will be received again."""
        with self._changed:
            rest = [behind for delivery in deliveries if delivery.settlement for behind in self._end(delivery)]
            self._acknowledger.settle(deliveries)
        self._release(rest)

    def _deleted(self, delivery: Delivery, deleted: bool) -> None:
        """Start the delivery behind *delivery*, which SQS has *deleted*, or release all behind it, if SQS has not."""
        with self._changed:
            members = self._groups.get(delivery.message.group)
            if members is None or members[0] is not delivery:
                return
            rest = [] if deleted else self._end(delivery)
            if deleted:
                members.popleft()
                if members:
                    self._ready.append(members[0])
                else:
                    del self._groups[delivery.message.group]
            self._changed.notify_all()
        self._release(rest)

    def _end(self, delivery: Delivery) -> list[Delivery]:
        """Remove the group of which *delivery* is the first. Return the deliveries behind it."""
        members = self._groups.get(delivery.message.group)
        if members is None or members[0] is not delivery:
            return []
        if delivery in self._ready:
            self._ready.remove(delivery)
        self._changed.notify_all()
        return self._behind(delivery.message.group, 0)[1:]

    def _behind(self, group: str, position: int) -> list[Delivery]:
        """Remove the deliveries of *group* from *position* on, and return them."""
        members = self._groups.get(group, deque())
        taken = [members.pop() for _ in range(len(members) - position)][::-1]
        if not members:
            self._groups.pop(group, None)
        return taken

    def _release(self, deliveries: Sequence[Delivery]) -> None:
        """Release deliveries that were not started, in order; other engines may have those that have lapsed."""
        for delivery in deliveries:
            delivery.settle_now(Settlement.EXPIRE if self._extender.has_lapsed(delivery) else Settlement.RELEASE)

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            good = [delivery for delivery in turn if not self._extender.has_lapsed(delivery)]
            for delivery in turn:
                if delivery not in good:
                    delivery.settle_now(Settlement.EXPIRE)
            try:
                self._start(good)
            except Exception:
                logger.exception(
                    "unexpected error with messages of %s: they will be received again", printable(self._topic)
                )

    def _next(self) -> list[Delivery] | None:
        """Wait for deliveries that are ready. Return None at a stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._stopped)
            if self._stopped:
                return None
            return [self._ready.popleft() for _ in range(min(BATCH_SIZE, len(self._ready)))]
