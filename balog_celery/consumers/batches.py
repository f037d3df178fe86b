"""Gathers the jobs of batch consumers, between a topic's listener and the dispatcher."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence

from ..backoff import Backoff
from ..text import printable
from .consumer import Consumer
from .delivery import Batch, Job, Work
from .dispatcher import Dispatcher, DispatchError

logger = logging.getLogger(__name__)

#: With so many bytes of event texts a batch is full; one event may be larger. On a broker that is SQS too, where the
#: task is quoted once and encoded in base64 twice, it still is well below 1 MiB.
MAX_BYTES = 262_144


class Batches:
    """Dispatches the jobs of a topic's batch consumers in batches; those of its other consumers pass.

    A batch is dispatched when it has as many events as its consumer takes, or :data:`MAX_BYTES` of them, by the thread
    that brings the last one; or by a thread of its own, when its first event has waited for as long as the consumer
    says, and when it was not taken before. Until then its deliveries keep their leases. While one that is to be
    dispatched has not been, the topic wants no more jobs: no more is gathered than what makes each consumer's batch
    full, and one receive of each poller.

    :param topic: the queue's name.
    :param dispatcher: serves the consumers. It is called by one thread at a time.
    """

    def __init__(self, topic: str, dispatcher: Dispatcher) -> None:
        self._topic = topic
        self._dispatcher = dispatcher
        self._dispatching = threading.Lock()
        self._backoff = Backoff()
        self._failing = False
        lock = threading.RLock()
        #: For the thread: there is something to do. For pollers: more is wanted.
        self._changed, self._wanted = threading.Condition(lock), threading.Condition(lock)
        # Guarded by the lock.
        self._gathering: dict[Consumer, _Gathering] = {}
        self._full: list[Batch] = []
        #: How many threads dispatch.
        self._under_way = 0
        #: When the thread, if it waits, looks again by itself.
        self._looks_at = math.inf
        self._stopped = False
        self._thread = self._new_thread()

    def start(self) -> None:
        """Start the thread that dispatches."""
        self._thread.start()

    def ensure_alive(self) -> None:
        """Start a new thread if it has died, for whatever reason."""
        if not self._thread.is_alive() and not self._stopped:
            logger.error("the thread that dispatches batches of %s died: starting a new one", printable(self._topic))
            self._thread = self._new_thread()
            self._thread.start()

    def join(self, deadline: float) -> None:
        """Wait until the thread has ended, or for *deadline*, by ``time.monotonic()``."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Give back what has not been dispatched, and gather nothing any more; returns at once."""
        with self._changed:
            self._stopped = True
            self._fill()
            batches, self._full = self._full, []
            self._changed.notify_all()
            self._wanted.notify_all()
        for batch in batches:
            batch.refuse()

    def flush(self) -> None:
        """Dispatch everything now, in this thread, where no other was started.

        :raises DispatchError: as the dispatcher does.
        """
        with self._changed:
            self._fill()
        self._dispatch_full()

    # What follows is the dispatcher of a listener.

    def dispatch(self, jobs: Sequence[Work]) -> None:
        passing = [job for job in jobs if isinstance(job, Batch) or job.consumer.batch is None]
        if passing:
            # First, because it may fail, and then none may have been taken.
            with self._dispatching:
                self._dispatcher.dispatch(passing)
        gathered = [job for job in jobs if isinstance(job, Job) and job.consumer.batch is not None]
        with self._changed:
            stopped = self._stopped
            if not stopped:
                for job in gathered:
                    self._gather(job)
            # Where no thread was started, :meth:`flush` does it.
            full = bool(self._full) and self._thread.is_alive()
        if stopped:
            for job in gathered:
                job.refuse()
        elif full:
            # Here, where the events are at hand; what fails is for the thread to try again.
            self._try()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return self._dispatcher.queues_of(consumers)

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        self._dispatcher.check_order(consumers)

    def ready(self, queues: frozenset[str], timeout: float) -> bool:
        with self._wanted:
            if not self._wanted.wait_for(lambda: not self._full and not self._under_way, timeout):
                return False
        return self._dispatcher.ready(queues, timeout)

    def close(self) -> None:
        """The dispatcher is whose who made it."""

    def _gather(self, job: Job) -> None:
        size = len(job.text) if job.text.isascii() else len(job.text.encode("utf-8", "surrogatepass"))
        gathering = self._gathering.get(job.consumer)
        if gathering is not None and gathering.size + size > MAX_BYTES:
            self._full.append(gathering.batch())
            gathering = None
        if gathering is None:
            gathering = self._gathering[job.consumer] = _Gathering(time.monotonic() + job.consumer.batch_wait)
            if gathering.due < self._looks_at:
                self._changed.notify_all()
        gathering.add(job, size)
        if len(gathering.jobs) == job.consumer.batch or gathering.size >= MAX_BYTES:
            self._full.append(self._gathering.pop(job.consumer).batch())

    def _fill(self, due: float = float("inf")) -> None:
        """Take what is gathered, and has waited for long enough at *due*, for full."""
        for consumer in [consumer for consumer, gathering in self._gathering.items() if gathering.due <= due]:
            self._full.append(self._gathering.pop(consumer).batch())

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"batches-{self._topic}", daemon=True)

    def _run(self) -> None:
        while self._wait():
            if not self._try():
                with self._changed:
                    # Another thread may be faster.
                    self._changed.wait_for(lambda: self._stopped or not self._full, self._backoff.failed())

    def _try(self) -> bool:
        """Dispatch what is full; False if it was not taken, which is said when it begins and when it is over."""
        try:
            if not self._dispatch_full():  # another thread has done it, or does
                return True
        except DispatchError as error:
            if not self._failing:
                logger.error(
                    "%s: dispatching a batch failed, trying again and again: %s", printable(self._topic), error
                )
            self._failing = True
            return False
        except Exception:
            logger.exception("unexpected error with a batch of %s: it comes again", printable(self._topic))
            # It is a fault of ours, and it would come again and again.
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, self._backoff.failed())
            return True
        if self._failing:
            logger.info("%s: dispatching batches works again", printable(self._topic))
        self._failing = False
        self._backoff.succeeded()
        return True

    def _wait(self) -> bool:
        """Wait until there is a batch to dispatch; False when it is to stop."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                self._fill(now)
                if self._full:
                    return True
                self._looks_at = min((gathering.due for gathering in self._gathering.values()), default=math.inf)
                self._changed.wait(None if self._looks_at == math.inf else self._looks_at - now)
        return False

    def _dispatch_full(self) -> bool:
        """Dispatch what is full, each by itself, so that none has to wait for another's queue; False if nothing is.

        :raises DispatchError: some were not taken, and stay.
        """
        with self._changed:
            batches, self._full = deque(self._full), []
            if not batches:
                return False
            self._under_way += 1
        kept: list[Batch] = []
        trouble = ""
        try:
            while batches and not self._stopped:
                batch = batches.popleft()
                try:
                    with self._dispatching:
                        self._dispatcher.dispatch([batch])
                except DispatchError as error:
                    kept.append(batch)
                    trouble = str(error)
                except BaseException:
                    for job in batch.jobs:
                        job.delivery.abandon()
                    raise
        finally:
            kept += batches
            with self._changed:
                self._under_way -= 1
                if not self._stopped:
                    self._full[:0], kept = kept, []
                if self._full or self._failing:
                    self._changed.notify_all()
                if not self._full:
                    self._wanted.notify_all()
            for batch in kept:
                batch.refuse()
        if trouble:
            raise DispatchError(trouble)
        return True


class _Gathering:
    """What is to be one consumer's next batch."""

    def __init__(self, due: float) -> None:
        #: When it is dispatched whatever it holds, by ``time.monotonic()``.
        self.due = due
        self.jobs: list[Job] = []
        #: Of its events' texts, in bytes.
        self.size = 0

    def add(self, job: Job, size: int) -> None:
        """Add one job, whose text has so many bytes."""
        self.jobs.append(job)
        self.size += size

    def batch(self) -> Batch:
        """It as a batch."""
        return Batch(tuple(self.jobs))
