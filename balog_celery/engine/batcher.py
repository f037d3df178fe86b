"""Collects the jobs of batch consumers between the pollers of a topic and the dispatcher."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..consumers.consumer import Consumer
from ..consumers.delivery import Batch, Job, Settlement, Work
from ..dispatch.dispatcher import MANY_JOBS, Dispatcher, DispatchError, Readiness
from ..sqs.messages import BATCH_SIZE
from ..threads import SupervisedThread
from .outage import Outage

logger = logging.getLogger(__name__)

#: The size of a full batch, in bytes of event texts; a larger event forms a batch alone. On a broker that is SQS, where
#: the task is quoted once and encoded in base64 twice, the task stays well below 1 MiB.
MAX_BYTES = 262_144
#: How long a chunk may be collected by full receives, in seconds. It also waits no longer where no receive is made.
CHUNK_LINGER = 0.1


class Batcher:
    """A dispatcher that collects the jobs of batch consumers, and passes all others on.

    A batch is dispatched when it has as many events as its consumer asks for, or :data:`MAX_BYTES`, by the thread that
    adds the last one; or by this object's thread, when its oldest event has waited for the consumer's ``batch_wait``,
    or to retry. While a batch is being dispatched, the batcher is not ready for more jobs; so it holds at most one full
    batch for each consumer, and one receive of each poller.

    A chunk has as many events as the dispatcher allows now. It waits only while receives are full, and no longer than
    :data:`CHUNK_LINGER`; the receives are no long polls meanwhile.

    :param topic: the queue's name.
    :param dispatcher: runs the consumers. It is called by one thread at a time.
    :param clock: returns the time in seconds.
    """

    def __init__(self, topic: str, dispatcher: Dispatcher, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._dispatcher = dispatcher
        self._dispatching = threading.Lock()
        self._clock = clock
        self._outage = Outage(f"dispatching batches of {topic}", clock=clock)
        lock = threading.RLock()
        #: Wakes the thread, and the pollers that wait for :meth:`ready`.
        self._changed, self._wanted = threading.Condition(lock), threading.Condition(lock)
        # Guarded by the lock, as the outage.
        self._collecting: dict[Consumer, _Collection] = {}
        self._full: list[Batch] = []
        self._threads_dispatching = 0
        #: When the thread wakes by itself.
        self._next_due = math.inf
        self._stopped = False
        self._thread = SupervisedThread(f"the batcher of {topic}", f"batcher-{topic}", self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ensure_alive(self) -> None:
        """Replace the thread if it has died."""
        self._thread.ensure_alive()

    def join(self, deadline: float) -> None:
        """Wait until the thread has ended, or for *deadline*, of ``time.monotonic()``."""
        self._thread.join(deadline)

    def stop(self) -> None:
        """Release the jobs that have not been dispatched, and all later ones. Returns at once."""
        with self._changed:
            self._stopped = True
            self._complete(math.inf)
            batches, self._full = self._full, []
            self._changed.notify_all()
            self._wanted.notify_all()
        for batch in batches:
            batch.release()

    def flush(self) -> None:
        """Dispatch everything now, in this thread.

        :raises DispatchError: the dispatcher did not take all batches.
        """
        with self._changed:
            self._complete(math.inf)
        self._dispatch_full()

    def dispatch_due(self) -> float:
        """Dispatch the batches that are full, and those that have waited long enough.

        :returns: how many seconds to wait before the next try; 0.0 if all were dispatched.
        """
        with self._changed:
            self._complete(self._clock())
        try:
            is_done = self._dispatch_full()
        except DispatchError as error:
            with self._changed:
                return self._outage.failed(error)
        except Exception as error:
            # Its messages were released, so a retry is a new receive: back off here, or it would follow at once.
            logger.exception("unexpected error while %s: the messages will be received again", self._outage)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, self._outage.failed(error))
            return 0.0
        if is_done:
            with self._changed:
                self._outage.succeeded()
        return 0.0

    @property
    def has_chunks(self) -> bool:
        """Whether chunks are being collected."""
        with self._changed:
            return any(consumer.chunk is not None for consumer in self._collecting)

    def dispatch_chunks(self) -> None:
        """Dispatch the chunks that are being collected: a receive has brought nothing more."""
        with self._changed:
            self._complete(math.inf, chunks_only=True)
        self.dispatch_due()

    # The methods of a dispatcher.

    def dispatch(self, jobs: Sequence[Work]) -> None:
        sizes = {consumer: self._size(consumer) for consumer in {job.consumer for job in jobs}}
        passing = [job for job in jobs if isinstance(job, Batch) or not sizes[job.consumer]]
        if passing:
            # First, because it may fail, and then no job may have been taken.
            with self._dispatching:
                self._dispatcher.dispatch(passing)
        collected = [job for job in jobs if isinstance(job, Job) and sizes[job.consumer]]
        with self._changed:
            stopped = self._stopped
            if not stopped:
                for job in collected:
                    self._add(job, sizes[job.consumer])
            # In tests no thread runs: they call flush().
            if is_full := self._thread.is_alive():
                if len(jobs) < BATCH_SIZE:  # there are no more now
                    self._complete(math.inf, chunks_only=True)
                is_full = bool(self._full)
        if stopped:
            for job in collected:
                job.release()
        elif is_full:
            # In this thread, whose cache has the events. The other thread retries.
            self.dispatch_due()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return self._dispatcher.queues_of(consumers)

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        self._dispatcher.check_order(consumers)

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        with self._wanted:
            is_idle = self._wanted.wait_for(lambda: not self._full and not self._threads_dispatching, timeout)
        if is_idle:
            return self._dispatcher.ready(queues, timeout)
        if self._outage.problem:
            return Readiness.BATCH_FAILING
        readiness = self._dispatcher.ready(queues, 0.0)
        return Readiness.BATCH_WAITING if readiness is Readiness.READY else readiness

    def room(self) -> int:
        # Without its thread, as in tests, full batches wait for flush(), and nothing makes room before that.
        return MANY_JOBS if self._thread.is_alive() else sys.maxsize

    def chunk_size(self, consumer: Consumer) -> int:
        return self._dispatcher.chunk_size(consumer)

    def close(self) -> None:
        """Do nothing: the dispatcher belongs to the engine."""

    def _size(self, consumer: Consumer) -> int:
        """Return how many jobs of *consumer* go together now; 0: each passes by itself."""
        return (consumer.batch or 0) if consumer.chunk is None else self._dispatcher.chunk_size(consumer)

    def _add(self, job: Job, most: int) -> None:
        size = len(job.text) if job.text.isascii() else len(job.text.encode("utf-8", "surrogatepass"))
        collection = self._collecting.get(job.consumer)
        if collection is not None and collection.size + size > MAX_BYTES:
            self._full.append(Batch(tuple(collection.jobs)))
            collection = None
        if collection is None:
            wait = job.consumer.batch_wait if job.consumer.chunk is None else CHUNK_LINGER
            collection = self._collecting[job.consumer] = _Collection(self._clock() + wait)
            if collection.due < self._next_due:
                self._changed.notify_all()
        collection.jobs.append(job)
        collection.size += size
        if len(collection.jobs) >= most or collection.size >= MAX_BYTES:
            self._full.append(Batch(tuple(self._collecting.pop(job.consumer).jobs)))

    def _complete(self, now: float, *, chunks_only: bool = False) -> None:
        """Take the collections that are due *now* as full batches."""
        due = [consumer for consumer, collection in self._collecting.items() if collection.due <= now]
        for consumer in due:
            if chunks_only and consumer.chunk is None:
                continue
            self._full.append(Batch(tuple(self._collecting.pop(consumer).jobs)))

    def _run(self) -> None:
        while self._wait():
            if delay := self.dispatch_due():
                with self._changed:
                    # Another thread may dispatch them earlier.
                    self._changed.wait_for(lambda: self._stopped or not self._full, delay)

    def _wait(self) -> bool:
        """Wait until a batch is full or due. Return False at a stop."""
        with self._changed:
            while not self._stopped:
                self._next_due = min((collection.due for collection in self._collecting.values()), default=math.inf)
                wait = self._next_due - self._clock()
                if self._full or wait <= 0:
                    return True
                self._changed.wait(None if wait == math.inf else wait)
        return False

    def _dispatch_full(self) -> bool:
        """Dispatch full batches one by one, so that none waits for another's queue. Return False if there are none.

        :raises DispatchError: the dispatcher did not take all; the rest is kept.
        """
        with self._changed:
            batches, self._full = deque(self._full), []
            if not batches:
                return False
            self._threads_dispatching += 1
        kept: list[Batch] = []
        problem: DispatchError | None = None
        try:
            while batches and not self._stopped:
                batch = batches.popleft()
                try:
                    with self._dispatching:
                        self._dispatcher.dispatch([batch])
                except DispatchError as error:
                    kept.append(batch)
                    problem = error
                except BaseException:
                    for delivery in batch.deliveries:
                        delivery.settle_now(Settlement.RELEASE)
                    raise
        finally:
            self._keep([*kept, *batches])
        if problem is not None:
            raise problem
        return True

    def _keep(self, batches: Sequence[Batch]) -> None:
        """Keep *batches* for a retry, or release them after a stop, as a dispatching thread ends."""
        with self._changed:
            self._threads_dispatching -= 1
            stopped = self._stopped
            if not stopped:
                self._full[:0] = batches
            if self._full or self._outage.problem:
                self._changed.notify_all()
            if not self._full:
                self._wanted.notify_all()
        if stopped:
            for batch in batches:
                batch.release()


class _Collection:
    """The jobs of one consumer's next batch, and the size of their events' texts in bytes."""

    __slots__ = ("due", "jobs", "size")

    def __init__(self, due: float) -> None:
        #: When to dispatch it, however few jobs it has.
        self.due = due
        self.jobs: list[Job] = []
        self.size = 0
