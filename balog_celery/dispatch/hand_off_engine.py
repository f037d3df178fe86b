"""The engine's side of the hand-off: gives jobs to the worker beside it, which reports how each ended.

The worker's side is in ``hand_off_worker.py``, the messages between them in ``protocol.py``.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence
from sys import getsizeof

from celery import Celery

from ..consumers.consumer import Consumer
from ..consumers.delivery import Delivery, Settlement, Work, settle
from .channel import Channel
from .chunk_sizes import ChunkSizes
from .dispatcher import MANY_JOBS, Readiness
from .order import WORKER, check_order
from .protocol import (
    VERSION,
    Alive,
    Availability,
    Closed,
    Done,
    Message,
    Open,
    Pace,
    Publish,
    Released,
    Remaining,
    Task,
    Version,
    Waiting,
)
from .publish import PublishDispatcher
from .room import MAX_BYTES, Room

logger = logging.getLogger(__name__)

#: A worker that reports every second that it is alive, and has not for this many, stands still.
_SILENT_AFTER = 5.0
_NONE: tuple[tuple[Delivery, ...], int] = ((), 0)


class HandOffDispatcher:
    """Hands jobs to the worker beside the engine; a job is acknowledged when its task has finished.

    A task has finished when it succeeded, failed permanently, or has a retry on the broker. One waiting in the worker
    for its own retry or for its rate limit has not finished, but needs no credit. Jobs of consumers whose queue the
    worker has never served are published, and all jobs are if the worker cannot be handed tasks. Those of a queue that
    was cancelled, or whose worker is closed, stay in SQS.

    :param app: the Celery app; its consumers are registered.
    :param channel: the engine's end of the channel.
    :param publish: serves the jobs that are not handed over.
    """

    def __init__(self, app: Celery, channel: Channel, publish: PublishDispatcher) -> None:
        self._channel = channel
        self._publish = publish
        lock = threading.RLock()
        #: Wakes pollers that wait for room, and those that wait for the credit of one task.
        self._changed, self._credit = threading.Condition(lock), threading.Condition(lock)
        # Guarded by the lock. The deliveries of the tasks that wait in the worker; the others use room.
        self._room = Room(self._changed)
        self._waiting: dict[int, tuple[Delivery, ...]] = {}
        self._availability = Availability.CLOSED
        self._queues: frozenset[str] = frozenset()
        #: The queues that the worker has served at any time.
        self._served: frozenset[str] = frozenset()
        self._number = 0
        self._chunk_sizes = ChunkSizes()
        #: When the worker last reported that it is alive, by ``time.monotonic()``; 0: never.
        self._alive_at = 0.0
        threading.Thread(target=self._run, name="hand-off", daemon=True).start()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return self._publish.queues_of(consumers)

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        with self._changed:
            availability, served = self._availability, self._served
        publisher = WORKER if availability is Availability.PUBLISH else ""
        # A closed worker has not named its queues yet.
        known = served if availability is Availability.OPEN else None
        for envelope in map(self._publish.envelope, consumers):
            check_order(envelope.task, envelope.queue, publisher=publisher, served=known)

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        with self._changed:
            has_room = bool(self.room())
            if timeout and (self._room.waiting or not has_room):
                has_room = self._room.wait_for(self.room, timeout)
            is_open = self._availability is Availability.OPEN
            if is_open and self._alive_at and time.monotonic() - self._alive_at > _SILENT_AFTER:
                return Readiness.WORKER_SILENT
            if not has_room and self._availability is Availability.GONE:
                return Readiness.WORKER_GONE
            if not has_room:
                return Readiness.WORKER_FULL if is_open else Readiness.WORKER_CLOSED
            published = queues - self._queues
            if is_open and published & self._served:
                self._changed.wait(timeout)
                return Readiness.QUEUE_CANCELLED
        return self._publish.ready(published, timeout) if published else Readiness.READY

    def room(self) -> int:
        with self._changed:
            if self._availability is not Availability.OPEN:
                return MANY_JOBS if self._availability is Availability.PUBLISH else 0
            # What is received beyond the credit would wait here, while another worker may be idle.
            room = self._room
            free = room.credit - len(room.tasks) if room.size < MAX_BYTES else 0
            return free if free >= room.enough else 0

    def dispatch(self, jobs: Sequence[Work]) -> None:
        with self._changed:
            queues, served = self._queues, self._served
        handed: Sequence[Work] = [job for job in jobs if self._publish.envelope(job.consumer).queue in queues]
        if len(handed) < len(jobs):
            # First, because it may fail, and then nothing may be handed over.
            self._divert([job for job in jobs if self._publish.envelope(job.consumer).queue not in queues], served)
        while handed:
            taken = self._take_credit(handed)
            handed = handed[len(taken) :]
            if not taken:  # the worker stops, or has lost its broker
                for job in handed:
                    job.release()
                return
            try:
                tasks = []
                for number, job in taken.items():
                    task = self._publish.envelope(job.consumer).task
                    task_id, argsrepr, argument = task.describe([(one.event, one.text) for one in job.jobs])
                    tasks.append(Task(number, task_id, task.name, argsrepr, argument, job.headers))
                self._channel.send(*tasks)
            except BaseException as error:
                # Nothing was handed over, so these jobs must not use credit.
                self._settle(tuple(taken), Settlement.RELEASE)
                if not isinstance(error, OSError):  # the worker is gone
                    raise

    def chunk_size(self, consumer: Consumer) -> int:
        # Only this worker reports how long calls take.
        is_handed_over = self._publish.envelope(consumer).queue in self._served
        return self._chunk_sizes.of(consumer) if is_handed_over else self._publish.chunk_size(consumer)

    def close(self) -> None:
        self._publish.close()
        self._channel.close()

    def _divert(self, jobs: Sequence[Work], served: frozenset[str]) -> None:
        """Publish *jobs*, whose queues the worker does not consume.

        Those of a queue in *served*, which the worker has consumed, are released: it was cancelled, or the worker has
        lost its broker, or stops. So are those of a FIFO topic, which would overtake one another on the broker.
        """
        refused, published = list[Work](), list[Work]()
        for job in jobs:
            envelope = self._publish.envelope(job.consumer)
            (refused if envelope.task.fifo or envelope.queue in served else published).append(job)
        if published:
            self._publish.dispatch(published)
        for job in refused:
            job.release()

    def _take_credit(self, jobs: Sequence[Work]) -> dict[int, Work]:
        """Number as many of *jobs* as there is room for, waiting for some. Return none if the worker takes none."""
        taken: dict[int, Work] = {}
        room = self._room
        with self._changed:
            # Pollers of other topics may have used the room that this one saw.
            while self._availability is Availability.OPEN and (
                len(room.tasks) >= room.credit or room.size >= MAX_BYTES
            ):
                self._credit.wait()
            free = room.credit - len(room.tasks) if self._availability is Availability.OPEN else 0
            for job in jobs[:free]:
                if room.size >= MAX_BYTES:
                    break
                parts = job.jobs
                size = sum([getsizeof(one.text) for one in parts])
                self._number += 1
                room.tasks[self._number] = tuple([one.delivery for one in parts]), size
                room.size += size
                taken[self._number] = job
        return taken

    def _run(self) -> None:
        try:
            self._listen()
        except BaseException:
            # An engine that cannot hear its worker must end, so that the worker starts another one.
            logger.exception("unexpected error while listening to the worker: the engine stops")
            signal.raise_signal(signal.SIGTERM)

    def _listen(self) -> None:
        while (messages := self._channel.receive()) is not None:
            done, released, waiting = list[int](), list[int](), list[int]()
            others: list[Message] = []
            for message in messages:
                if isinstance(message, Done):
                    done.append(message.number)
                elif isinstance(message, Released):
                    released.append(message.number)
                elif isinstance(message, Waiting):
                    waiting.append(message.number)
                elif isinstance(message, Remaining):
                    self._finish_others(message.number, message.positions)
                else:
                    others.append(message)
            # First: a closing worker returns jobs, which must not be received again before the engine knows of it.
            for message in others:
                self._heed(message)
            if waiting:
                self._settle(waiting, None)
            if done:
                self._settle(done, Settlement.ACKNOWLEDGE)
            if released:
                self._settle(released, Settlement.RELEASE)
        # The worker is gone, with all that it ran.
        self._become(Availability.GONE)
        with self._changed:
            left = (*self._room.tasks, *self._waiting)
        self._settle(left, Settlement.RELEASE)

    def _heed(self, message: Message) -> None:
        """Act on a message that is not about a job."""
        if isinstance(message, Alive):
            self._alive_at = time.monotonic()
        elif isinstance(message, Pace):
            self._chunk_sizes.note(*message)
        elif isinstance(message, Open):
            with self._changed:
                self._served |= frozenset(message.cancelled)
                self._room.offer(message)
            self._become(Availability.OPEN, frozenset(message.queues))
        elif isinstance(message, Closed):
            self._become(Availability.CLOSED)
        elif isinstance(message, Publish):
            self._become(Availability.PUBLISH)
        elif isinstance(message, Version) and message.version != VERSION:
            logger.warning(
                "the worker speaks version %d of the hand-off, this engine version %d: restart the worker to have both "
                "of one release",
                message.version,
                VERSION,
            )

    def _become(self, availability: Availability, queues: frozenset[str] = frozenset()) -> None:
        with self._changed:
            self._availability, self._queues = availability, queues
            self._served |= queues
            self._credit.notify_all()
            self._changed.notify_all()

    def _finish_others(self, number: int, positions: Sequence[int]) -> None:
        """Settle the jobs of a batch that are done; those at *positions* remain."""
        with self._changed:
            deliveries, size = self._room.tasks.get(number, _NONE)
            deliveries = deliveries or self._waiting.get(number, ())
            remaining = tuple([deliveries[position] for position in positions]) if deliveries else ()
            if number in self._room.tasks:
                self._room.tasks[number] = remaining, size
            elif remaining:
                self._waiting[number] = remaining
        settle((one for position, one in enumerate(deliveries) if position not in positions), Settlement.ACKNOWLEDGE)

    def _settle(self, numbers: Sequence[int], settlement: Settlement | None) -> None:
        """Free the credit of jobs, and settle them.

        :param numbers: the jobs'.
        :param settlement: None if they wait in the worker, for a retry or for their rate limit.
        """
        deliveries: list[Delivery] = []
        with self._changed:
            for number in numbers:
                own, size = self._room.tasks.pop(number, _NONE)
                self._room.size -= size
                if settlement is not None:
                    deliveries += own or self._waiting.pop(number, ())
                elif own:
                    self._waiting[number] = own
            # Wake the threads for which there is room now: to wake the others would cost more than all else here.
            self._credit.notify_all()
            if self.room():
                self._changed.notify_all()
        if settlement is not None:
            settle(deliveries, settlement)
