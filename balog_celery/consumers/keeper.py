"""Keeps what one topic has in flight: extends leases, deletes what is done, gives back what is not."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias

from ..backoff import Backoff
from ..errors import QueueError
from ..queues import BATCH_SIZE, MAX_VISIBILITY, EntryFailure, Message, Queue
from ..text import printable
from .delivery import Delivery, settle
from .stats import Stats

logger = logging.getLogger(__name__)

#: How long a delete may wait for nine others, in seconds.
LINGER = 1.0
#: After how many seconds in flight a lease is given up: a little before SQS would refuse to extend it.
_LEASE_END = MAX_VISIBILITY - 60

Owed: TypeAlias = Literal["delete", "return"]


class Keeper:
    """One thread that makes every SQS call about a topic's received messages.

    Deletes are batched: ten, or what there is after a second. A message that stays in flight for half of its
    visibility is kept invisible for as long again, until 12 hours after its receive, where SQS ends it.

    :param queue: the topic's queue.
    :param visibility: how long a received message stays invisible, in seconds.
    :param stats: where to count.
    """

    def __init__(self, queue: Queue, visibility: int, stats: Stats) -> None:
        self._queue = queue
        self._visibility = visibility
        self._stats = stats
        self._wake = threading.Condition()
        # Everything below is guarded by the condition's lock, but for the back-off, which is the thread's own.
        self._held: dict[Delivery, None] = {}
        # No lease must be extended before this. It is looked for when it is reached: there may be thousands of leases.
        self._lease_at = math.inf
        self._owed: dict[Owed, list[Delivery]] = {"delete": [], "return": []}
        self._flush_at = 0.0
        self._retry_at = 0.0
        self._looks_at = 0.0  # when the thread, if it waits, looks again by itself
        self._failing_since = 0.0
        self._trouble = ""
        self._closing = False
        self._linger = LINGER
        self._deleted: Callable[[Delivery, bool], None] | None = None
        self._backoff = Backoff()
        self._thread = self._new_thread()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def keep_order(self, deleted: Callable[[Delivery, bool], None]) -> None:
        """Delete at once, for something waits for it.

        :param deleted: told of each delivery whose delete was carried out, and of whether SQS did delete it: it does
            not if the lease had ended.
        """
        self._linger = 0.0
        self._deleted = deleted

    def ensure_alive(self) -> None:
        """Start a new thread if it has died, for whatever reason: without it nothing is extended or deleted."""
        if not self._thread.is_alive() and not self._closing:
            logger.error("the keeper of %s died: starting a new one", printable(self._queue.name))
            self._stats.add(self._queue.name, "restarted")
            self._thread = self._new_thread()
            self._thread.start()

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"keeper-{self._queue.name}", daemon=True)

    def hold(self, deliveries: Iterable[Delivery]) -> None:
        """Keep the leases of *deliveries* from now on, until they are settled."""
        with self._wake:
            due = math.inf
            for delivery in deliveries:
                delivery.due = delivery.message.received + self._visibility / 2
                delivery.ends = delivery.message.received + self._visibility
                self._held[delivery] = None
                due = min(due, delivery.due)
            self._lease_at = min(self._lease_at, due)
            # One that was received long ago may be due before all others.
            if due < self._looks_at:
                self._wake.notify_all()

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """All jobs of *deliveries* are settled: delete their messages, and give back those of which one was refused."""
        if later := [delivery for delivery in deliveries if delivery.later]:
            self.let_go(later)
            deliveries = [delivery for delivery in deliveries if not delivery.later]
        with self._wake:
            owed = self._owed_count()
            for delivery in deliveries:
                self._owed["return" if delivery.refused else "delete"].append(delivery)
            # The thread is woken only when it must plan anew: waking it for each delivery costs more than its work.
            if self._owed["return"] or len(self._owed["delete"]) >= BATCH_SIZE:
                if owed == 0 or self._flush_at:
                    self._flush_at = 0.0
                    self._wake.notify_all()
            elif owed == 0 and self._owed_count():
                self._flush_at = time.monotonic() + self._linger
                self._wake.notify_all()

    def wait_until_owed(self, most: int, timeout: float) -> bool:
        """Wait until no more than *most* messages are to be deleted or given back, for *timeout* seconds at most."""
        with self._wake:
            return self._wake.wait_for(lambda: self._owed_count() <= most, timeout)

    def give_back(self, messages: Sequence[Message]) -> None:
        """Return messages to the queue at once, without having looked at them."""
        deliveries = [Delivery(message, 1, self.settle) for message in messages]
        self.hold(deliveries)
        settle(deliveries, refused=True)

    @property
    def in_flight(self) -> int:
        """How many deliveries are held; those whose delete is owed count."""
        with self._wake:
            return len(self._held)

    @property
    def oldest(self) -> float:
        """For how many seconds the oldest delivery has been in flight; 0 if there is none."""
        with self._wake:
            received = min((delivery.message.received for delivery in self._held), default=None)
        return 0.0 if received is None else time.monotonic() - received

    @property
    def owed(self) -> int:
        """How many messages are to be deleted or given back."""
        with self._wake:
            return self._owed_count()

    def status(self) -> dict[str, Any]:
        """Counts, seconds, and the trouble that SQS makes of what is owed, while there is any."""
        return {
            "in_flight": self.in_flight,
            "oldest": self.oldest,
            "owed": self.owed,
            "keeping_trouble": self._trouble,
            "keeping_fails_for": time.monotonic() - self._failing_since if self._trouble else 0.0,
        }

    def drain(self, deadline: float) -> bool:
        """Wait until nothing is in flight; True if that came before *deadline*, by ``time.monotonic()``."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._held, max(0.0, deadline - time.monotonic()))

    def close(self, deadline: float) -> int:
        """Give back what is in flight, carry out what is owed, and end the thread.

        :param deadline: when to give up, by ``time.monotonic()``.
        :returns: how many messages are left to SQS's visibility timeout.
        """
        with self._wake:
            owed = {*self._owed["delete"], *self._owed["return"]}
            # It may still be running somewhere: a second run is what at-least-once means.
            self._owed["return"] += [delivery for delivery in self._held if delivery not in owed]
            self._flush_at = self._retry_at = 0.0
            self._closing = True
            self._wake.notify_all()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self.owed

    def _run(self) -> None:
        while True:
            with self._wake:
                if self._finished():
                    return
                if (wait := self._wait()) != 0.0:
                    self._looks_at = math.inf if wait is None else time.monotonic() + wait
                    self._wake.wait(wait)
                    continue
                leases = self._due_leases()
                batches = self._due_batches()
            if leases:
                self._extend(leases)
            for kind, deliveries in batches:
                self._carry_out(kind, deliveries)

    def _finished(self) -> bool:
        return self._closing and not self._owed_count()

    def _owed_count(self) -> int:
        return sum(map(len, self._owed.values()))

    def _wait(self) -> float | None:
        """Seconds until there is something to do; None while nothing is planned."""
        times = []
        if self._owed_count():
            times.append(max(self._flush_at, self._retry_at))
        if self._held:
            times.append(self._lease_at)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _due_leases(self) -> list[Delivery]:
        now = time.monotonic()
        if now < self._lease_at:
            return []
        due = [*itertools.islice((delivery for delivery in self._held if delivery.due <= now), BATCH_SIZE)]
        for delivery in due:
            # Until the extension is known to have worked, it is due again soon: a failing one must not spin.
            delivery.due = now + max(1.0, self._visibility / 8)
        self._lease_at = min((delivery.due for delivery in self._held), default=math.inf)
        return due

    def _due_batches(self) -> list[tuple[Owed, list[Delivery]]]:
        now = time.monotonic()
        if now < self._flush_at or now < self._retry_at:
            return []
        batches: list[tuple[Owed, list[Delivery]]] = []
        for kind, owed in self._owed.items():
            if owed:
                batches.append((kind, owed[:BATCH_SIZE]))
                del owed[:BATCH_SIZE]
        if not self._closing and not self._owed["return"] and len(self._owed["delete"]) < BATCH_SIZE:
            self._flush_at = now + self._linger
        return batches

    def _extend(self, deliveries: list[Delivery]) -> None:
        now = time.monotonic()
        ended = [delivery for delivery in deliveries if now + self._visibility > delivery.message.received + _LEASE_END]
        if ended:
            logger.error(
                "%d deliveries of %s have been in flight for 12 hours, the longest lease: they will come again",
                len(ended),
                printable(self._queue.name),
            )
            self._lost(ended)
            deliveries = [delivery for delivery in deliveries if delivery not in ended]
        handles = [delivery.message.handle for delivery in deliveries]
        if not handles:
            return
        failures = self._call("extend", handles, lambda: self._queue.change_visibility(handles, self._visibility))
        if failures is None:
            return
        failed = {deliveries[failure.index] for failure in failures}
        # A stale handle has nothing left to extend. What else failed is due again soon.
        self._lost([deliveries[failure.index] for failure in failures if failure.sender_fault])
        with self._wake:
            for delivery in deliveries:
                if delivery not in failed:
                    delivery.ends = now + self._visibility
                    delivery.due = now + self._visibility / 2
                    self._lease_at = min(self._lease_at, delivery.due)
        self._stats.add(self._queue.name, "extended", len(deliveries) - len(failed))

    def _carry_out(self, kind: Owed, deliveries: list[Delivery]) -> None:
        handles = [delivery.message.handle for delivery in deliveries]
        again = deliveries
        failures: list[EntryFailure] | None = None
        try:
            if kind == "delete":
                failures = self._call(kind, handles, lambda: self._queue.delete(handles))
            else:
                failures = self._call(kind, handles, lambda: self._queue.change_visibility(handles, 0))
            if failures is not None:
                again = [deliveries[failure.index] for failure in failures if not failure.sender_fault]
        finally:  # what is owed stays owed, even if this thread dies
            with self._wake:
                self._owed[kind] += again
        done = [delivery for delivery in deliveries if delivery not in again]
        self.let_go(done)
        self._stats.add(self._queue.name, "deleted" if kind == "delete" else "returned", len(done))
        if self._deleted is not None and kind == "delete":
            stale = {deliveries[failure.index] for failure in failures or ()}
            for delivery in done:
                self._deleted(delivery, delivery not in stale)

    def _lost(self, deliveries: Sequence[Delivery]) -> None:
        """These will come again, whatever becomes of them here."""
        for delivery in deliveries:
            delivery.ends = 0.0
        self.let_go(deliveries)

    def let_go(self, deliveries: Sequence[Delivery]) -> None:
        """Extend their leases no more."""
        with self._wake:
            for delivery in deliveries:
                self._held.pop(delivery, None)
            self._wake.notify_all()

    def _call(
        self, what: str, handles: Sequence[str], call: Callable[[], list[EntryFailure]]
    ) -> list[EntryFailure] | None:
        """Make one batch call; None if all of it failed.

        While calls fail as a whole, or for every entry, the next ones wait for the back-off. Single entries that failed
        are simply in the next batch.
        """
        problem: str | None = None
        failures: list[EntryFailure] | None = None
        try:
            failures = call()
        except Exception as error:  # whatever it is, what is owed stays owed and this thread goes on
            # Not the error itself, which would keep this frame, and the frame the error.
            problem = printable(error, 500)
            if not isinstance(error, QueueError):
                logger.exception("unexpected error at %s on %s", what, printable(self._queue.name))
        stale = [failure for failure in failures or () if failure.sender_fault]
        if stale:
            self._stats.add(self._queue.name, "stale_handles", len(stale))
            logger.warning(
                "%s: the queue refused to %s %d messages (%s): they were delivered anew, or are gone",
                printable(self._queue.name),
                what,
                len(stale),
                stale[0].code,
            )
        if failures is not None and len(failures) == len(handles) > len(stale):
            problem = next(failure.code for failure in failures if not failure.sender_fault)
        if problem is None:
            if self._backoff.failing:
                logger.info("%s: the queue takes deletes and extensions again", printable(self._queue.name))
            self._backoff.succeeded()
            self._trouble = ""
            return failures
        if not self._backoff.failing:
            self._failing_since = time.monotonic()
            logger.warning("%s: the queue did not %s, trying again: %s", printable(self._queue.name), what, problem)
        self._trouble = problem
        delay = self._backoff.failed()
        with self._wake:
            self._retry_at = time.monotonic() + (min(delay, 1.0) if self._closing else delay)
        return failures
