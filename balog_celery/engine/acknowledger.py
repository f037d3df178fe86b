"""Deletes the messages that are done, and releases those that are not, in batches."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..consumers.delivery import Delivery, Settlement, State, settle
from ..errors import QueueError
from ..sqs.messages import BATCH_SIZE, EntryFailure, Message
from ..sqs.protocols import Queue
from ..text import count_of, printable
from ..threads import SupervisedThread
from .config import LINGER
from .outage import Outage
from .stats import TopicStats
from .visibility import VisibilityExtender

logger = logging.getLogger(__name__)

#: How often to look whether a release may be made, in seconds.
_RELEASE_INTERVAL = 0.1
#: The longest wait before a failed call is retried while closing, in seconds.
_CLOSING_RETRY = 1.0


class Acknowledger:
    """Makes the calls that delete and release the settled messages of one poller, in its own thread.

    Deletes go ten in a call, or as many as there are after *linger* seconds. A message stays in flight until it is
    deleted, so that it is not received again meanwhile. Releases are not delayed while they may be made.

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
        self._deletes = _Calls("delete", Outage(f"deleting from {queue.name}", clock=clock), queue.delete)
        self._deletes.linger = linger
        self._releases = _Calls(
            "return",
            Outage(f"releasing to {queue.name}", clock=clock),
            lambda handles: queue.change_visibility(handles, release_delay() or 0),
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
            if released or self._closing or len(deletes.waiting) >= BATCH_SIZE:
                wake = wake or is_first or deletes.flush_at > 0
                deletes.flush_at = 0.0
            elif deliveries and is_first:
                deletes.flush_at = self._clock() + deletes.linger
                wake = deletes.flush_at < deletes.next_look
            if wake:
                self._changed.notify_all()

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
                calls.name: calls.outage.status() for calls in (self._releases, self._deletes) if calls.outage.problem
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
                calls.flush_at = calls.retry_at = 0.0
            self._changed.notify_all()
        self._thread.join(deadline)
        return self.pending

    def _run(self) -> None:
        turns = [self._releases, self._deletes]
        while (due := self._next(turns)) is not None:
            calls, taken = due
            turns.reverse()  # neither kind waits for the other
            try:
                (self._delete if calls is self._deletes else self._release)(taken)
            finally:  # also if this thread dies
                with self._changed:
                    again = [one for one in taken if one.state in (State.DELETE_PENDING, State.RELEASE_PENDING)]
                    calls.waiting += again
                    self.pending -= len(taken) - len(again)
                    self._done.notify_all()

    def _next(self, turns: Sequence[_Calls]) -> tuple[_Calls, list[Delivery]] | None:
        """Wait for a call that is due, and take its deliveries; None if all is done and no more will come.

        :param turns: the two kinds of call, the one first that goes first if both are due.
        """
        has_rested = False
        with self._changed:
            while True:
                due, now = math.inf, self._clock()
                for calls in turns:
                    if not calls.waiting:
                        continue
                    at = max(calls.flush_at, calls.retry_at)
                    if at <= now and not self._closing and calls.may_call is not None and not calls.may_call():
                        at = calls.flush_at = now + _RELEASE_INTERVAL
                    if at <= now:
                        taken = calls.waiting[:BATCH_SIZE]
                        del calls.waiting[:BATCH_SIZE]
                        if calls is self._deletes and not self._closing and len(calls.waiting) < BATCH_SIZE:
                            calls.flush_at = now + calls.linger
                        return calls, taken
                    due = min(due, at)
                if due == math.inf and self._closing:
                    return None
                if due == math.inf and not has_rested:
                    # The next delete, which may wait as long for others, need not wake this thread.
                    due, has_rested = now + self._deletes.linger, True
                self._deletes.next_look = due
                self._changed.wait(None if due == math.inf else due - now)

    def _delete(self, deliveries: list[Delivery]) -> None:
        handles = [delivery.message.handle for delivery in deliveries]
        for delivery in deliveries:
            delivery.move(State.DELETING)
        failures: Mapping[int, EntryFailure] | None = None
        retry = deliveries
        try:
            failures = self._call(self._deletes, handles)
            if failures is not None:
                retry = [deliveries[index] for index, failure in failures.items() if not failure.sender_fault]
                over = zip(deliveries, handles, strict=True)
                retry += self._extender.deleted([pair for pair in over if pair[0] not in retry])
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

    def _release(self, deliveries: list[Delivery]) -> None:
        # Received again from now on, they are new messages.
        self._extender.forget(deliveries)
        # A message whose visibility has lapsed, or that came again, is visible already: do not use its old handle.
        valid = [
            delivery
            for delivery in deliveries
            if not (self._extender.has_lapsed(delivery) or self._extender.has_come_again(delivery))
        ]
        retry, released = valid, []
        handles = [delivery.message.handle for delivery in valid]
        if handles and (failures := self._call(self._releases, handles)) is not None:
            retry = [valid[index] for index, failure in failures.items() if not failure.sender_fault]
            released = [delivery for index, delivery in enumerate(valid) if index not in failures]
            self._stats.add("returned", len(released))
        for delivery in deliveries:
            if delivery not in retry:
                delivery.move(State.RELEASED if delivery in released else State.EXPIRED)

    def _call(self, calls: _Calls, handles: Sequence[str]) -> Mapping[int, EntryFailure] | None:
        """Make one call. Return the failed entries by position, or None if the call failed.

        A call that fails, or fails for every entry, delays the next one by the back-off. Single failed entries go with
        the next call.
        """
        problem: object = None
        failures: Sequence[EntryFailure] | None = None
        calls.outage.began = self._clock()
        try:
            failures = calls.call(handles)
        except Exception as error:  # the messages stay pending
            # Keep its text, not the error: that and this frame would keep each other.
            problem = printable(error, 500)
            if not isinstance(error, QueueError):
                logger.exception("unexpected error while %s", calls.outage)
        stale = [failure for failure in failures or () if failure.sender_fault]
        if stale:
            self._stats.add("stale_handles", len(stale))
            logger.warning(
                "%s: the queue refused to %s %s (%s): received again, or gone",
                printable(self._queue.name),
                calls.name,
                count_of(len(stale), "message"),
                printable(stale[0].code),
            )
        if failures is not None and len(failures) == len(handles) > len(stale):
            problem = next(failure.code for failure in failures if not failure.sender_fault)
        if problem is None:
            calls.outage.succeeded()
        else:
            delay = calls.outage.failed(problem)
            with self._changed:
                calls.retry_at = self._clock() + (min(delay, _CLOSING_RETRY) if self._closing else delay)
        return None if failures is None else {failure.index: failure for failure in failures}


class _Calls:
    """Calls of one kind, and the deliveries that wait for the next one."""

    def __init__(
        self,
        name: str,
        outage: Outage,
        call: Callable[[Sequence[str]], list[EntryFailure]],
        may_call: Callable[[], bool] | None = None,
    ) -> None:
        self.name = name
        self.outage = outage
        self.call = call
        self.may_call = may_call
        self.waiting: list[Delivery] = []
        self.linger = 0.0
        #: Until when to wait for more, and until when to back off.
        self.flush_at = 0.0
        self.retry_at = 0.0
        #: When the thread looks at them without being woken.
        self.next_look = math.inf
