"""Tracks the messages in flight of a topic, and extends their visibility timeouts."""

from __future__ import annotations

import heapq
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from ..consumers.delivery import Delivery, State
from ..errors import QueueError
from ..sqs.messages import BATCH_SIZE, MAX_VISIBILITY, EntryFailure
from ..sqs.protocols import Queue
from ..text import count_of, printable
from ..threads import SupervisedThread
from .outage import Outage
from .stats import TopicStats
from .visibility_timeout import VisibilityTimeout

logger = logging.getLogger(__name__)

#: How many messages are extended before the most urgent ones are selected again.
_PASS = 10 * BATCH_SIZE
#: How many messages can be kept invisible for each second of the visibility timeout, with SQS up to 25 ms away.
CAPACITY = 334
#: How much of the longest visibility timeout is left unused, in seconds: SQS counts it from the call's arrival.
_LATENCY = 1.0


class VisibilityExtender:
    """Tracks the messages in flight of one topic, and extends their visibility timeouts in its own thread.

    A message is tracked from its receive until it is deleted or released. Its visibility is extended whenever a third
    of it has passed, which leaves time for a failed call, until SQS's limit of 12 hours after the receive.

    :param queue: the topic's queue.
    :param visibility: the visibility timeout to extend by.
    :param stats: counts extensions.
    :param clock: returns the time in seconds, as in ``Message.received``.
    """

    def __init__(
        self,
        queue: Queue,
        visibility: VisibilityTimeout,
        stats: TopicStats,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.visibility = visibility
        self._queue = queue
        self._stats = stats
        self._clock = clock
        self._outage = Outage(f"extending visibility in {queue.name}", clock=clock)
        lock = threading.Lock()
        self._changed, self._idle = threading.Condition(lock), threading.Condition(lock)
        # Guarded by the lock. By message id if that identifies a message, else by the delivery itself.
        self._held: dict[object, Delivery] = {}
        # A lower bound of when a message is due: to keep it exact would cost a search for each delete.
        self._next_due = math.inf
        self._closed = False
        self._thread = SupervisedThread(f"the visibility extender of {queue.name}", f"extender-{queue.name}", self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ensure_alive(self) -> None:
        """Replace the thread if it has died: without it messages are received twice."""
        if self._thread.ensure_alive():
            self._stats.add("restarted")

    def close(self, deadline: float) -> None:
        """Stop extending, and wait for the thread until *deadline*, of ``time.monotonic()``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(deadline)

    @property
    def is_full(self) -> bool:
        """Whether no more messages can be kept invisible: there are as many as it can extend, or it is late already."""
        late = self._clock() - self._next_due
        return len(self._held) >= CAPACITY * self.visibility.seconds or late > self.visibility.seconds / 6

    def hold(self, deliveries: Iterable[Delivery], visibility: int | None = None) -> list[Delivery]:
        """Track *deliveries*, which were just received, until :meth:`forget`. Return those that are new.

        :param visibility: the visibility timeout that they were received with, in seconds; None for the present one.

        A message that is tracked already was received again: its visibility had lapsed, or SQS delivered it twice. Its
        first delivery goes on with the new receipt handle. If that only waits to be released, the new one takes its
        place in its group.
        """
        new, first_time, count = list[Delivery](), list[Delivery](), 0
        visibility, by_id = visibility or self.visibility.seconds, self._queue.has_unique_ids
        with self._changed:
            due = math.inf
            for delivery in deliveries:
                delivery.key = delivery.message.message_id if by_id else delivery
                held = self._held.setdefault(delivery.key, delivery)
                if held.state is State.RELEASE_PENDING:
                    held.ends = 0.0  # its old handle must not be used
                    held = self._held[delivery.key] = delivery
                if held is delivery:
                    new.append(held)
                else:
                    held.renew(delivery.message)
                    if not held.received_again:
                        first_time.append(held)
                    held.received_again = True
                    count += 1
                held.due = held.message.received + visibility / 3
                held.ends = held.message.received + visibility
                due = min(due, held.due)
            # A receive usually changes nothing for the thread, so it is seldom woken.
            if due < self._next_due:
                self._next_due = due
                self._changed.notify_all()
        if count:
            self._stats.add("received_again", count)
        if first_time:
            logger.warning(
                "%s of %s came again while in flight: the visibility timeout had ended, or SQS delivered it twice; the "
                "engine does not dispatch it again, and uses the new receipt handle (message %s)",
                count_of(len(first_time), "message"),
                printable(self._queue.name),
                printable(first_time[0].message.message_id),
            )
        return new

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """Stop tracking *deliveries*: they are released, or expire."""
        self.deleted((delivery, delivery.message.handle) for delivery in deliveries)

    def deleted(self, deliveries: Iterable[tuple[Delivery, str]]) -> list[Delivery]:
        """Stop tracking deliveries that were deleted by the given handles.

        :returns: those that were received again meanwhile. They are still tracked: delete them by their new handles.
        """
        again: list[Delivery] = []
        with self._changed:
            for delivery, handle in deliveries:
                if delivery.message.handle != handle:
                    again.append(delivery)
                elif self._held.get(delivery.key) is delivery:
                    del self._held[delivery.key]
            if not self._held:
                self._idle.notify_all()
        return again

    def has_come_again(self, delivery: Delivery) -> bool:
        """Return True if the message of *delivery*, which was forgotten, is tracked as another delivery."""
        with self._changed:
            return self._held.get(delivery.key, delivery) is not delivery

    def has_lapsed(self, delivery: Delivery) -> bool:
        """Return True if the visibility of *delivery* has ended, so that another engine may have the message."""
        return self._clock() >= delivery.ends

    def held(self) -> list[Delivery]:
        """The deliveries in flight."""
        with self._changed:
            return list(self._held.values())

    def drain(self, deadline: float) -> bool:
        """Wait until no message is in flight. Return False if some are at *deadline*, of ``time.monotonic()``."""
        with self._changed:
            return self._idle.wait_for(lambda: not self._held, max(0.0, deadline - time.monotonic()))

    def status(self) -> dict[str, Any]:
        """The number of messages in flight, the age of the oldest in seconds, and the outage of extensions."""
        held = self.held()
        received = min((delivery.message.received for delivery in held), default=self._clock())
        return {
            "in_flight": len(held),
            "oldest": self._clock() - received,
            "visibility": self.visibility.seconds,
            "outages": {"extend": self._outage.status()} if self._outage.problem else {},
        }

    def extend_due(self) -> float:
        """Extend the messages that are due, the most urgent first. Return when the next one is due, by the clock.

        A message that cannot be extended is due again soon, and does not hold up the others.
        """
        for deliveries in self._take_due():
            for start in range(0, len(deliveries), BATCH_SIZE):
                self._extend(deliveries[start : start + BATCH_SIZE])
        with self._changed:
            return self._next_due

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (wait := self._next_due - self._clock()) > 0:
                    self._changed.wait(None if wait == math.inf else min(wait, threading.TIMEOUT_MAX))
                if self._closed:
                    return
            self.extend_due()

    def _take_due(self) -> list[list[Delivery]]:
        """Select the most urgent messages that are due, in groups to be extended by the same number of seconds."""
        now = self._clock()
        # With those that are due go those that will be soon: fewer and fuller calls.
        soon = now + min(self.visibility.seconds / 30, 1.0)
        with self._changed:
            due = [delivery for delivery in self._held.values() if delivery.due <= soon]
            taken = heapq.nsmallest(_PASS, due, key=lambda delivery: delivery.due)
            ended = {delivery for delivery in taken if self._left(delivery, now) < 1}
            for delivery in taken:
                # Due again soon, even if this thread dies; later if the call succeeds.
                delivery.due = math.inf if delivery in ended else now + self.visibility.retry_within
            self._next_due = min((delivery.due for delivery in self._held.values()), default=math.inf)
        if ended:
            logger.error(
                "%s of %s in flight for 12 hours, SQS's limit: to be received again while the tasks still run",
                count_of(len(ended), "message"),
                printable(self._queue.name),
            )
        going_on = [delivery for delivery in taken if delivery not in ended]
        going_on.sort(key=lambda delivery: self._left(delivery, now))
        return [list(same) for _, same in groupby(going_on, lambda one: self._left(one, now))]

    def _left(self, delivery: Delivery, now: float) -> int:
        """For how many seconds a message can be extended *now*."""
        return min(self.visibility.seconds, int(delivery.message.received + MAX_VISIBILITY - _LATENCY - now))

    def _extend(self, deliveries: Sequence[Delivery]) -> None:
        """Extend up to ten messages in one call."""
        with self._changed:
            deliveries = [delivery for delivery in deliveries if self._held.get(delivery.key) is delivery]
            handles = [delivery.message.handle for delivery in deliveries]
        asked = self._clock()
        # The calls before this one may have taken a while, and SQS refuses to go beyond its limit.
        seconds = min((self._left(delivery, asked) for delivery in deliveries), default=0)
        if seconds < 1:
            return
        self._outage.began = asked
        failures: Sequence[EntryFailure] = ()
        problem: object = None
        try:
            failures = self._queue.change_visibility(handles, seconds)
        except Exception as error:  # the thread goes on with the other messages
            if not isinstance(error, QueueError):
                logger.exception("unexpected error while %s", self._outage)
            problem = printable(error, 500)
        if problem is None and len(failures) == len(handles):
            # Stale handles are not an outage.
            problem = next((failure.code for failure in failures if not failure.sender_fault), None)
        if problem is None:
            self._outage.succeeded()
            retry = self.visibility.retry_within
        else:
            retry = min(self._outage.failed(problem), self.visibility.retry_within)
            failures = failures or [EntryFailure(index, "", "", False) for index in range(len(handles))]
        failed = {failure.index: failure for failure in failures}
        self._note([(one, handles[i], failed.get(i)) for i, one in enumerate(deliveries)], seconds, asked, retry)

    def _note(
        self, tried: Sequence[tuple[Delivery, str, EntryFailure | None]], seconds: int, asked: float, retry: float
    ) -> None:
        """Note when to extend next the messages that a call at *asked* has extended, by their handles, or has not."""
        stale: list[EntryFailure] = []
        extended = 0
        now = self._clock()
        with self._changed:
            for delivery, handle, failure in tried:
                if self._held.get(delivery.key) is not delivery or delivery.message.handle != handle:
                    continue  # settled, or received again with a visibility timeout of its own
                if failure is None:
                    extended += 1
                    delivery.ends = asked + seconds
                    # An extension up to SQS's limit is the last one.
                    is_last = delivery.ends + 1 > delivery.message.received + MAX_VISIBILITY - _LATENCY
                    delivery.due = asked + (seconds if is_last else seconds / 3)
                elif failure.sender_fault and delivery.state is not State.DELETING:
                    stale.append(failure)
                    delivery.ends, delivery.due = 0.0, math.inf
                else:
                    delivery.due = now + retry
                self._next_due = min(self._next_due, delivery.due)
        self._stats.add("extended", extended)
        if stale:
            self._stats.add("stale_handles", len(stale))
            logger.warning(
                "%s: the visibility of %s had ended before it was extended (%s): to be received again",
                printable(self._queue.name),
                count_of(len(stale), "message"),
                printable(stale[0].code),
            )
