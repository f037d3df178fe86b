"""Deletes the messages that are done, and releases those that are not, in batches."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..consumers.delivery import Delivery, Settlement, State, settle
from ..sqs.messages import BATCH_SIZE, EntryFailure, Message
from ..sqs.protocols import Queue
from ..threads import SupervisedThread
from .config import LINGER
from .pending_calls import PendingCalls, PendingDeletes, Started
from .stats import TopicStats
from .visibility import VisibilityExtender

#: How often to look whether a release may be made, in seconds.
_RELEASE_INTERVAL = 0.1


class Acknowledger:
    """Makes the calls that delete and release the settled messages of one poller.

    Deletes go ten in a call, or as many as there are after *linger* seconds. A message stays in flight until it is
    deleted, so that it is not received again meanwhile. Releases are not delayed while they may be made. The calls are
    made in a thread, but a poller that receives one batch after the other starts full deletes beside its receives.

    :param queue: the topic's queue.
    :param extender: tracks the topic's messages in flight.
    :param stats: counts what was deleted and released.
    :param release_delay: called before a release; returns for how many seconds more the messages are to stay
        invisible. None delays the release, but not beyond :meth:`close`.
    :param linger: how long a delete may wait for nine others, in seconds.
    :param clock: returns the time in seconds.
    """

    def __init__(
        self,
        queue: Queue,
        extender: VisibilityExtender,
        stats: TopicStats,
        release_delay: Callable[[], int | None] = lambda: 0,
        *,
        linger: float = LINGER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._extender = extender
        self._stats = stats
        self._clock = clock
        lock = threading.Lock()
        #: Wakes the thread, and the pollers that wait for fewer pending calls.
        self._changed, self._done = threading.Condition(lock), threading.Condition(lock)
        # Guarded by the lock, but for the outages, which belong to the thread.
        self._deletes = PendingDeletes(queue, stats, self._changed, clock, linger)
        self._releases = PendingCalls(
            "return",
            "releasing to",
            queue,
            stats,
            lambda handles: queue.change_visibility(handles, release_delay() or 0),
            self._changed,
            clock,
            lambda: release_delay() is not None,
        )
        #: How many deletes and releases are pending.
        self.pending = 0
        self._closing = False
        self._deleted: Callable[[Delivery, bool], None] | None = None
        self._thread = SupervisedThread(f"the acknowledger of {queue.name}", f"acknowledger-{queue.name}", self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def keep_order(self, deleted: Callable[[Delivery, bool], None]) -> None:
        """Delete without delay, as the next message of a group waits for it.

        :param deleted: called with each delivery after its delete, and with False if its visibility had lapsed, so that
            the queue has kept the message.
        """
        self._deleted = deleted
        self._deletes.linger = 0.0

    def ensure_alive(self) -> None:
        """Replace the thread if it has died: without it no message is deleted."""
        if self._thread.ensure_alive():
            self._stats.add("restarted")

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Delete, release or forget *deliveries*, as they were settled."""
        released: Sequence[Delivery] = ()
        if failed := [delivery for delivery in deliveries if delivery.settlement]:
            released = [delivery for delivery in failed if delivery.settlement is Settlement.RELEASE]
            self._extender.forget(delivery for delivery in failed if delivery not in released)
            deliveries = [delivery for delivery in deliveries if not delivery.settlement]
        with self._changed:
            deletes, releases = self._deletes, self._releases
            # Wake the thread only if its next call is due before it wakes by itself: each wake has its cost.
            is_first, wake = not deletes.waiting, bool(released and not releases.waiting)
            deletes.waiting += deliveries
            releases.waiting += released
            self.pending += len(deliveries) + len(released)
            if released or self._closing or (len(deletes.waiting) >= BATCH_SIZE and not deletes.is_attended):
                wake = wake or is_first or deletes.flush_at > 0
                deletes.flush_at = 0.0
            elif deliveries and is_first:
                deletes.flush_at = self._clock() + deletes.linger
                wake = deletes.flush_at < deletes.next_look
            if wake:
                self._changed.notify_all()

    @property
    def can_start_deletes(self) -> bool:
        """Whether :meth:`start_deletes` and :meth:`finish_deletes` may be called."""
        return self._deletes.can_start

    def start_deletes(self) -> None:
        """Send the requests of deletes that fill a call, so that their answers come while the caller receives.

        Otherwise the thread makes these calls; to wake it takes more CPU than they do.
        """
        while taken := self._deletes.take_full():
            is_sent = False
            try:
                is_sent = self._deletes.start(taken).call is not None
            finally:
                if not is_sent:
                    self._carry_out(self._deletes, taken, Started(taken, [], None, 0.0))
            if not is_sent:
                return

    def finish_deletes(self, *, is_attending: bool) -> None:
        """Read the answers that have come. The thread reads those that come later.

        :param is_attending: whether the caller will soon start deletes again: then the thread need not be woken.
        """
        self._deletes.is_attended = is_attending
        while (started := self._deletes.take_answered()) is not None:
            self._carry_out(self._deletes, started.deliveries, started)

    def release(self, messages: Sequence[Message], visibility: int) -> None:
        """Release messages that were just received with this *visibility* timeout, unread."""
        deliveries = [Delivery(message, 1, self.settle) for message in messages]
        settle(self._extender.hold(deliveries, visibility), Settlement.RELEASE)

    def wait_until_pending(self, most: int, timeout: float) -> bool:
        """Wait up to *timeout* seconds until at most *most* calls are pending. Return False if there are more."""
        with self._changed:
            return self._done.wait_for(lambda: self.pending <= most, timeout)

    def status(self) -> dict[str, Any]:
        """The number of pending deletes and releases, and their outages."""
        return {
            "owed": self.pending,
            "outages": {
                name: outage
                for name, calls in (("return", self._releases), ("delete", self._deletes))
                if (outage := calls.status())
            },
        }

    def close(self, deadline: float) -> int:
        """Make the pending calls, without waiting for a back-off, and end the thread.

        :param deadline: when to give up, by ``time.monotonic()``.
        :returns: how many messages are left to the queue's visibility timeout.
        """
        with self._changed:
            self._closing = True
            for calls in (self._releases, self._deletes):
                calls.close()
            self._changed.notify_all()
        self._thread.join(deadline)
        return self.pending

    def _run(self) -> None:
        kinds = (self._releases, self._deletes, self._releases.again, self._deletes.again)
        turns = deque(calls for calls in kinds if calls is not None)
        while (due := self._next(turns)) is not None:
            turns.rotate()  # no kind waits for the others
            self._carry_out(*due)

    def _next(self, turns: Iterable[PendingCalls]) -> tuple[PendingCalls, list[Delivery], Started | None] | None:
        """Wait for a call that is due, and take its deliveries; None if all is done and no more will come.

        :param turns: the kinds of call, the one first that goes first if several are due.
        """
        deletes, has_rested = self._deletes, False
        with self._changed:
            while True:
                now = self._clock()
                due = deletes.started[0].read_at if deletes.started else math.inf
                if deletes.started and (due <= now or self._closing):
                    started = deletes.started.popleft()
                    return deletes, started.deliveries, started
                for calls in turns:
                    if not calls.waiting:
                        continue
                    at = max(calls.flush_at, calls.retry_at)
                    if at <= now and not self._closing and calls.may_call is not None and not calls.may_call():
                        at = calls.flush_at = now + _RELEASE_INTERVAL
                    if at <= now:
                        taken = calls.waiting[:BATCH_SIZE]
                        del calls.waiting[:BATCH_SIZE]
                        if calls is deletes and not self._closing and len(deletes.waiting) < BATCH_SIZE:
                            calls.flush_at = now + deletes.linger
                        return calls, taken, None
                    due = min(due, at)
                if due == math.inf and self._closing and not self.pending:
                    return None  # what the poller has just taken waits again if its request cannot be sent
                if due == math.inf and not has_rested:
                    # The next delete, which may wait as long for others, need not wake this thread.
                    due, has_rested = now + deletes.linger, True
                deletes.next_look = due
                self._changed.wait(None if due == math.inf else due - now)

    def _carry_out(self, calls: PendingCalls, taken: list[Delivery], started: Started | None) -> None:
        """Make a call, or read the answer of the delete that was *started*; what it has not done waits for the next."""
        refused: Sequence[Delivery] = ()
        try:
            if calls in (self._deletes, self._deletes.again):
                refused = self._delete(calls, taken, started)
            else:
                refused = self._release(calls, taken)
        finally:  # also if this thread dies
            with self._changed:
                again = [one for one in taken if one.state in (State.DELETE_PENDING, State.RELEASE_PENDING)]
                calls.waiting += [one for one in again if one not in refused]
                (calls.again or calls).waiting += [one for one in again if one in refused]
                self.pending -= len(taken) - len(again)
                self._done.notify_all()
                if again and started is not None:  # the thread makes the call at once, and reports if it fails
                    calls.flush_at = 0.0
                if self._closing or (again and started is not None):
                    self._changed.notify_all()

    def _delete(self, calls: PendingCalls, deliveries: list[Delivery], started: Started | None) -> Sequence[Delivery]:
        """Delete *deliveries*. Return those that the queue refused to delete."""
        if started is None:
            handles = [delivery.message.handle for delivery in deliveries]
            for delivery in deliveries:
                delivery.move(State.DELETING)
        else:
            handles = started.handles
        failures: Mapping[int, EntryFailure] | None = None
        retry, refused = deliveries, deliveries[:0]
        try:
            if started is None:
                failures = calls.make(handles)
            elif (answer := started.finish()) is not None:
                failures = calls.noted(answer)
            if failures is not None:
                refused = [deliveries[index] for index, failure in failures.items() if not failure.sender_fault]
                over = zip(deliveries, handles, strict=True)
                retry = refused + self._extender.deleted([pair for pair in over if pair[0] not in refused])
        finally:
            for delivery in retry:
                delivery.move(State.DELETE_PENDING)
        deleted = 0
        for index, delivery in enumerate(deliveries):
            if delivery.state is not State.DELETING:
                continue
            is_deleted = not failures or index not in failures
            delivery.move(State.DELETED if is_deleted else State.EXPIRED)
            deleted += is_deleted
            if self._deleted is not None:
                self._deleted(delivery, is_deleted)
        if failures is not None:
            self._stats.add("deleted", deleted)
        return refused

    def _release(self, calls: PendingCalls, deliveries: list[Delivery]) -> Sequence[Delivery]:
        """Release *deliveries*. Return those that the queue refused to release."""
        # Received again from now on, they are new messages.
        self._extender.forget(deliveries)
        # A message whose visibility has lapsed, or that came again, is visible already: do not use its old handle.
        valid = [
            delivery
            for delivery in deliveries
            if not (self._extender.has_lapsed(delivery) or self._extender.has_come_again(delivery))
        ]
        retry, refused, released = valid, valid[:0], valid[:0]
        handles = [delivery.message.handle for delivery in valid]
        if handles and (failures := calls.make(handles)) is not None:
            retry = refused = [valid[index] for index, failure in failures.items() if not failure.sender_fault]
            released = [delivery for index, delivery in enumerate(valid) if index not in failures]
            self._stats.add("returned", len(released))
        for delivery in deliveries:
            if delivery not in retry:
                delivery.move(State.RELEASED if delivery in released else State.EXPIRED)
        return refused
