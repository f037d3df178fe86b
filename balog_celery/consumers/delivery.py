"""Deliveries, the messages that were received, and jobs, the events in them for one consumer each.

Every job ends with a :class:`Settlement`. A delivery takes the strongest one of its jobs, and passes through these
states; :data:`MOVES` has the allowed moves:

================  ======================================================  ====================================
State             What happens                                            Next
================  ======================================================  ====================================
``RECEIVED``      Decoding, or waiting for its turn in a message group    ``DISPATCHED``; settled as below
``DISPATCHED``    Its jobs are with the dispatcher                        settled: ``DELETE_PENDING``,
                                                                          ``RELEASE_PENDING``, ``EXPIRED``
``DELETE_PENDING``  Acknowledged; waits for a call to delete it           ``DELETING``
``DELETING``      The call is under way                                   ``DELETED``; ``EXPIRED`` (stale
                                                                          handle); ``DELETE_PENDING`` (failed,
                                                                          or received again meanwhile)
``RELEASE_PENDING``  Waits for a call that makes it visible               ``RELEASED``; ``EXPIRED`` (lapsed)
``DELETED``       SQS has deleted it                                      none
``RELEASED``      SQS delivers it again at once                           none
``EXPIRED``       SQS delivers it again after its visibility timeout      none
================  ======================================================  ====================================

Its visibility is extended from ``RECEIVED`` to ``DELETING``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import Any, NamedTuple, TypeAlias

from ..events.records import FacilityRecord
from ..sqs.messages import NO_ATTRIBUTES, NO_TYPED, Message
from .consumer import Consumer
from .context import batch_headers, chunk_headers


class Settlement(IntEnum):
    """How a job, or a delivery, ends; a delivery takes the largest of its jobs' settlements."""

    #: Done: delete the message.
    ACKNOWLEDGE = 0
    #: Not done: make the message visible at once.
    RELEASE = 1
    #: Not done, and useless to try at once: leave the message until its visibility timeout ends.
    EXPIRE = 2


class State(IntEnum):
    """What happens to a delivery; see this module's table. Other enums are slower as keys."""

    RECEIVED = auto()
    DISPATCHED = auto()
    DELETE_PENDING = auto()
    DELETING = auto()
    RELEASE_PENDING = auto()
    DELETED = auto()
    RELEASED = auto()
    EXPIRED = auto()


_SETTLED = {
    Settlement.ACKNOWLEDGE: State.DELETE_PENDING,
    Settlement.RELEASE: State.RELEASE_PENDING,
    Settlement.EXPIRE: State.EXPIRED,
}

#: A body with fewer characters is kept while the task runs.
_SMALL = 1024

#: The allowed moves of a delivery, from each state.
MOVES: dict[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.DISPATCHED, *_SETTLED.values()}),
    State.DISPATCHED: frozenset(_SETTLED.values()),
    State.DELETE_PENDING: frozenset({State.DELETING}),
    State.DELETING: frozenset({State.DELETED, State.DELETE_PENDING, State.EXPIRED}),
    State.RELEASE_PENDING: frozenset({State.RELEASED, State.EXPIRED}),
    State.DELETED: frozenset(),
    State.RELEASED: frozenset(),
    State.EXPIRED: frozenset(),
}


class Job(NamedTuple):
    """One event for one consumer. A dispatcher settles it once, from any thread.

    ``headers`` are the headers of its task message, beside Celery's; the jobs of an event share one dict.
    """

    delivery: Delivery
    event: FacilityRecord
    text: str
    consumer: Consumer
    headers: dict[str, Any]

    @property
    def jobs(self) -> tuple[Job]:
        """This job, as :attr:`Batch.jobs`."""
        return (self,)

    def acknowledge(self) -> None:
        """Settle the job as done: its task was accepted, or has finished."""
        settle((self.delivery,), Settlement.ACKNOWLEDGE)

    def release(self) -> None:
        """Have the message delivered again at once."""
        settle((self.delivery,), Settlement.RELEASE)

    def expire(self) -> None:
        """Have the message delivered again after its visibility timeout."""
        settle((self.delivery,), Settlement.EXPIRE)


class Batch(NamedTuple):
    """Several jobs of one consumer in one task, whose function gets their events in one call, or each in its own."""

    jobs: tuple[Job, ...]

    @property
    def consumer(self) -> Consumer:
        """The consumer of its jobs."""
        return self.jobs[0].consumer

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """The delivery of each job; jobs from one message have the same."""
        return tuple([job.delivery for job in self.jobs])

    @property
    def headers(self) -> dict[str, Any]:
        """The headers of its task message: those of the oldest event, without those that describe one message only.

        A chunk has those for each event.
        """
        headers = [job.headers for job in self.jobs]
        return batch_headers(headers) if self.consumer.chunk is None else chunk_headers(headers)

    def acknowledge(self) -> None:
        """Settle all jobs as done."""
        settle(self.deliveries, Settlement.ACKNOWLEDGE)

    def release(self) -> None:
        """Have all messages delivered again at once."""
        settle(self.deliveries, Settlement.RELEASE)


#: The unit that a dispatcher takes.
Work: TypeAlias = Job | Batch


@dataclass(slots=True, eq=False, repr=False)
class Delivery:
    """One received message, its state, and the number of its jobs that are not settled."""

    #: The message as it was received last, without its content once its jobs have that.
    message: Message
    #: How many of its jobs are not settled; 1 until :meth:`dispatch` sets their number.
    jobs: int
    #: Called once, when the last job is settled, with all deliveries that were settled together.
    settled: Callable[[Sequence[Delivery]], None]
    state: State = State.RECEIVED
    #: The strongest settlement so far.
    settlement: Settlement = Settlement.ACKNOWLEDGE
    #: Identifies it among the messages in flight. Set by the visibility extender, as the next three.
    key: object = None
    #: When to extend its visibility, and when that ends.
    due: float = 0.0
    ends: float = 0.0
    #: Whether it was received again while in flight.
    received_again: bool = False
    #: Guards jobs, settlement and, until it is settled, state.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def move(self, state: State) -> None:
        """Enter *state*.

        :raises RuntimeError: :data:`MOVES` does not allow it.
        """
        if state not in MOVES[self.state]:
            raise RuntimeError(f"a delivery cannot go from {self.state.name} to {state.name}")
        self.state = state

    def dispatch(self, jobs: int) -> bool:
        """Set the number of jobs, now that it is known. Return False if the delivery is settled already.

        :raises ValueError: it has none, so no job would settle it.
        """
        if jobs < 1:
            raise ValueError("a delivery waits for one job at least")
        with self.lock:
            if self.state is not State.RECEIVED:
                return False
            self.jobs = jobs
            self.state = State.DISPATCHED
            return True

    def renew(self, message: Message) -> None:
        """Go on with the receipt handle of *message*, as which it was received again."""
        with self.lock:
            self.message = self.message._replace(handle=message.handle, received=message.received)

    def drop_content(self) -> None:
        """Forget the body and the attributes: a task may wait for hours, and the worker has its event."""
        old = self.message
        if len(old.body) < _SMALL and not old.attributes and not old.typed:
            return  # to forget it takes longer than it saves
        with self.lock:
            old = self.message
            # By position: this runs for every message, and _replace() takes twice as long.
            self.message = Message(
                "",
                old.handle,
                old.message_id,
                old.received,
                old.receive_count,
                old.first_received,
                old.problem,
                old.sent,
                NO_ATTRIBUTES,
                old.group,
                NO_TYPED,
                old.moved_from,
            )

    def settle_now(self, settlement: Settlement) -> None:
        """Settle the delivery with *settlement*, or a stronger one of its jobs, and ignore the jobs that are left.

        No effect on a delivery that is settled.
        """
        with self.lock:
            if State.DISPATCHED is not self.state is not State.RECEIVED:
                return
            self.settlement = max(self.settlement, settlement)
            self.state = _SETTLED[self.settlement]
        self.settled([self])


def settle(deliveries: Iterable[Delivery], settlement: Settlement) -> None:
    """Settle one job of each of *deliveries*, reporting those that end by it together: each report has its cost.

    :raises RuntimeError: a job was settled twice; the others are settled all the same.
    """
    last: dict[Callable[[Sequence[Delivery]], None], list[Delivery]] = {}
    twice = False
    for delivery in deliveries:
        with delivery.lock:
            if delivery.jobs == 0:
                twice = True
                continue
            delivery.jobs -= 1
            if State.DISPATCHED is not delivery.state is not State.RECEIVED:
                continue  # settled by settle_now
            if settlement > delivery.settlement:
                delivery.settlement = settlement
            if delivery.jobs:
                continue
            delivery.state = _SETTLED[delivery.settlement]
        last.setdefault(delivery.settled, []).append(delivery)
    for settled, together in last.items():
        settled(together)
    if twice:
        raise RuntimeError("a job was settled twice")
