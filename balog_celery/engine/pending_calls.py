"""The calls of one kind that an acknowledger has to make, and the deletes that are under way."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..consumers.delivery import Delivery, State
from ..errors import QueueError
from ..sqs.messages import BATCH_SIZE, EntryFailure
from ..sqs.protocols import DeleteStarter, Queue, StartedDelete
from ..text import count_of, printable
from .outage import Outage
from .stats import TopicStats

logger = logging.getLogger(__name__)

#: How many deletes may be under way that were started, each on a connection of its own: those of a batch of 100.
_MOST_STARTED = 10
#: After how many seconds the thread reads the answer of a delete that was started: the poller has not come back.
_READ_AFTER = 0.1
#: The longest wait before a failed call is retried while closing, in seconds.
_CLOSING_RETRY = 1.0


class PendingCalls:
    """The deliveries that wait for a call of one kind. The lock of *changed* guards what changes, but for the outage.

    :param name: what the calls do to messages, for the log.
    :param doing: the same for the log of an outage, such as "deleting from".
    :param stats: counts stale handles.
    :param call: makes one call.
    :param changed: wakes the acknowledger's thread.
    :param clock: returns the time in seconds.
    :param may_call: returns whether a call may be made now; None: always.
    :param is_again: whether these are the calls for messages that the queue refused while it took others.
    """

    def __init__(
        self,
        name: str,
        doing: str,
        queue: Queue,
        stats: TopicStats,
        call: Callable[[Sequence[str]], list[EntryFailure]],
        changed: threading.Condition,
        clock: Callable[[], float],
        may_call: Callable[[], bool] | None = None,
        *,
        is_again: bool = False,
    ) -> None:
        what = f"{doing} {queue.name}{' (single messages)' if is_again else ''}"
        #: One thread at a time makes the calls.
        self.outage = Outage(what, clock=clock)
        #: For the messages that the queue refuses: they delay no others, and their outage is one of its own.
        self.again = (
            None if is_again else PendingCalls(name, doing, queue, stats, call, changed, clock, may_call, is_again=True)
        )
        self.may_call = may_call
        self._what = f"{printable(queue.name)}: the queue refused to {name}"
        self._stats = stats
        self._call = call
        self._changed = changed
        self._clock = clock
        self.waiting: list[Delivery] = []
        #: Until when to wait for more, and until when to back off.
        self.flush_at = self.retry_at = 0.0
        self._closing = False

    def close(self) -> None:
        """Let the calls be made now, without waiting for more or for a back-off."""
        self._closing = True
        self.flush_at = self.retry_at = 0.0
        if self.again is not None:
            self.again.close()

    def status(self) -> dict[str, float | str]:
        """The status of the outage of these calls, or else of those for refused messages."""
        return self.outage.status() or ({} if self.again is None else self.again.status())

    def make(self, handles: Sequence[str]) -> Mapping[int, EntryFailure] | None:
        """Make one call. Return the failed entries by position, or None if the call failed.

        A call that fails delays the next one by the back-off. So does a call for refused messages alone, if all are
        refused again; their outage ends when none is left.
        """
        problem: object = None
        kind: object = None
        failures: Sequence[EntryFailure] | None = None
        self.outage.began = self._clock()
        try:
            failures = self._call(handles)
        except Exception as error:  # the messages stay pending
            # Keep its text, not the error: that and this frame would keep each other.
            problem, kind = printable(error, 500), getattr(error, "code", type(error))
            if not isinstance(error, QueueError):
                logger.exception("unexpected error while %s", self.outage)
        # Stale handles are not an outage.
        refused = [failure.code for failure in failures or () if not failure.sender_fault]
        if self.again is None and len(refused) == len(handles):
            problem = kind = refused[0]
        found = self.noted(failures) if failures else None if failures is None else {}
        if problem is None:
            if self.again is not None or not (refused or self.waiting):
                self.outage.succeeded()
        else:
            delay = self.outage.failed(problem, kind)
            with self._changed:
                self.retry_at = self._clock() + (min(delay, _CLOSING_RETRY) if self._closing else delay)
        return found

    def noted(self, failures: Sequence[EntryFailure]) -> Mapping[int, EntryFailure]:
        """Return the *failures* of a call by position, after noting the stale handles among them."""
        stale = [failure for failure in failures if failure.sender_fault]
        if stale:
            self._stats.add("stale_handles", len(stale))
            count, code = count_of(len(stale), "message"), printable(stale[0].code)
            logger.warning("%s %s (%s): received again, or gone", self._what, count, code)
        return {failure.index: failure for failure in failures}


class Started(NamedTuple):
    """A delete whose request was sent.

    :param handles: by which its deliveries are deleted; one that is received again meanwhile gets another.
    :param call: None if the request could not be sent.
    :param read_at: when the thread is to read the answer, by the acknowledger's clock.
    """

    deliveries: list[Delivery]
    handles: list[str]
    call: StartedDelete | None
    read_at: float

    def finish(self) -> list[EntryFailure] | None:
        """Wait for the answer; return the failures, or None if the delete must be made again."""
        return None if self.call is None else self.call.finish()


class PendingDeletes(PendingCalls):
    """The deliveries that wait for a delete, and the deletes under way.

    :param linger: how long a delete may wait for nine others, in seconds.
    """

    def __init__(
        self, queue: Queue, stats: TopicStats, changed: threading.Condition, clock: Callable[[], float], linger: float
    ) -> None:
        super().__init__("delete", "deleting from", queue, stats, queue.delete, changed, clock)
        self.linger = linger
        self._start = queue.start_delete if isinstance(queue, DeleteStarter) and not queue.is_fifo else None
        #: Those whose answers are to be read, the oldest first.
        self.started: deque[Started] = deque()
        #: Whether the poller will soon start what waits, so that the thread need not be woken for it.
        self.is_attended = False
        #: When the thread looks at them without being woken.
        self.next_look = math.inf

    @property
    def can_start(self) -> bool:
        """Whether deletes can be sent before their answers are waited for. A FIFO queue's go one after the other."""
        return self._start is not None

    def take_full(self) -> list[Delivery]:
        """Take the deliveries of a delete that may be started; none if they are too few, or the thread must make it."""
        with self._changed:
            self.is_attended = False
            if len(self.waiting) < BATCH_SIZE:
                return []
            now = self._clock()
            # Each that is under way has a connection: while answers do not come, start no more.
            is_late = bool(self.started) and (self.started[0].read_at <= now or len(self.started) >= _MOST_STARTED)
            if is_late or self._closing or self.outage.problem:
                self.flush_at = 0.0
                self._changed.notify_all()
                return []
            taken = self.waiting[:BATCH_SIZE]
            del self.waiting[:BATCH_SIZE]
            self.flush_at = now + self.linger
            return taken

    def start(self, deliveries: list[Delivery]) -> Started:
        """Send the request that deletes *deliveries*, and keep it for who reads its answer, if it was sent."""
        handles = [delivery.message.handle for delivery in deliveries]
        for delivery in deliveries:
            delivery.move(State.DELETING)
        call = None if self._start is None else self._start(handles)
        started = Started(deliveries, handles, call, self._clock() + min(self.linger, _READ_AFTER))
        if call is not None:
            with self._changed:
                self.started.append(started)
                if self.started[0].read_at < self.next_look:
                    self._changed.notify_all()
        return started

    def take_answered(self) -> Started | None:
        """Take the oldest delete under way, if its answer has come."""
        with self._changed:
            is_answered = self.started and (call := self.started[0].call) is not None and call.is_answered()
            return self.started.popleft() if is_answered else None
