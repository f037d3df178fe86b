"""A delivery: one received message, and the count of jobs that it still waits for; jobs, alone and in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from ..queues import Message
from ..records import FacilityRecord
from .consumer import Consumer

#: The message header of a task that says when its event was ``emitted`` (by its own header), ``sent`` (SQS had it; 0
#: where a queue does not say) and ``received`` (by the engine): a dict of Unix times, in milliseconds.
TIMES = "balog_times"
#: The task's header that has the group in which a FIFO topic keeps its event; there is none otherwise.
GROUP = "balog_group"
#: The message header of a task that says when its message was received ``first`` (milliseconds of Unix time; 0 where a
#: queue does not say), and how often, this time included (``count``): a dict, for a dead letter to tell.
RECEIVES = "balog_receives"


class Job(NamedTuple):
    """One event for one consumer: what a dispatcher is given, and acknowledges or refuses once, from any thread.

    ``headers`` are the message headers of its task besides Celery's own; the jobs of an event have one dict of them.
    """

    delivery: Delivery
    event: FacilityRecord
    text: str
    consumer: Consumer
    headers: dict[str, Any]

    @property
    def jobs(self) -> tuple[Job]:
        """This job alone, as those of a batch."""
        return (self,)

    @property
    def deliveries(self) -> tuple[Delivery]:
        """The delivery of it alone, as those of a batch."""
        return (self.delivery,)

    def acknowledge(self) -> None:
        """This consumer is served: its task was accepted, or has finished."""
        settle(self.deliveries, refused=False)

    def refuse(self) -> None:
        """This consumer is not served: the message must come again."""
        settle(self.deliveries, refused=True)

    def leave(self) -> None:
        """As :meth:`refuse`, but it would be of no use now: the message comes again when its visibility ends."""
        self.delivery.later = True
        self.refuse()


class Batch(NamedTuple):
    """Several jobs of one consumer, which a dispatcher is given as one: the function gets their events in one call."""

    jobs: tuple[Job, ...]

    @property
    def consumer(self) -> Consumer:
        """Whose jobs they are."""
        return self.jobs[0].consumer

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The deliveries of its jobs, one for each: those of several events in a message are the same."""
        return tuple([job.delivery for job in self.jobs])

    @property
    def headers(self) -> dict[str, Any]:
        """The message headers of its task: those of its first event, which has waited for the longest.

        But for what would not be true of the others' messages.
        """
        return {name: value for name, value in self.jobs[0].headers.items() if name != RECEIVES}

    def acknowledge(self) -> None:
        """All of its jobs are served."""
        settle(self.deliveries, refused=False)

    def refuse(self) -> None:
        """None of its jobs is served."""
        settle(self.deliveries, refused=True)


#: What dispatchers take.
Work: TypeAlias = Job | Batch


class Delivery:
    """One received message with the count of jobs still to acknowledge.

    When the last job is settled, *settled* is called once, with it and whatever was settled with it: a delivery may be
    deleted unless a job of it was refused.
    """

    __slots__ = ("_lock", "_pending", "due", "ends", "later", "message", "refused", "settled")

    def __init__(self, message: Message, jobs: int, settled: Callable[[Sequence[Delivery]], None]) -> None:
        if jobs < 1:
            raise ValueError("a delivery waits for one job at least")
        self.message = message
        self.refused = False
        #: Whether it is not to come again at once, if it was refused.
        self.later = False
        #: When its lease must be extended; kept by the keeper.
        self.due = 0.0
        #: When its lease ends unless it is extended, by ``time.monotonic()``; kept by the keeper.
        self.ends = 0.0
        self.settled = settled
        self._pending = jobs
        self._lock = threading.Lock()

    def expect(self, jobs: int) -> bool:
        """Wait for so many jobs, now that it is known; False if it was abandoned meanwhile."""
        with self._lock:
            if self._pending <= 0:
                return False
            self._pending = jobs
            return True

    def count_down(self, *, refused: bool) -> bool:
        """One job is settled; True if it was the last one, so that *settled* is to be called: see :func:`settle`.

        :raises RuntimeError: there was none left; a dispatcher settled one twice.
        """
        with self._lock:
            if self._pending == _ABANDONED:
                return False
            if self._pending == 0:
                raise RuntimeError(_TWICE)
            self._pending -= 1
            self.refused = self.refused or refused
            return self._pending == 0

    def abandon(self) -> None:
        """Wait for no job any more: the message goes back. Does nothing if all of them were settled."""
        with self._lock:
            if self._pending <= 0:
                return
            self._pending = _ABANDONED
            self.refused = True
        self.settled([self])


_ABANDONED = -1
_TWICE = "a job was settled twice"


def settle(deliveries: Iterable[Delivery], *, refused: bool) -> None:
    """One job of each of *deliveries* is settled: served, or refused.

    Those that are settled with it are told of together, for that costs more than their jobs.

    :raises RuntimeError: as :meth:`Delivery.count_down`.
    """
    last: dict[Callable[[Sequence[Delivery]], None], list[Delivery]] = {}
    twice = False
    for delivery in deliveries:
        try:
            if delivery.count_down(refused=refused):
                last.setdefault(delivery.settled, []).append(delivery)
        except RuntimeError:  # which is no fault of the others
            twice = True
    for settled, together in last.items():
        settled(together)
    if twice:
        raise RuntimeError(_TWICE)
