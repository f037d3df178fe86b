"""The interface between the engine and what runs the consumers, and the dispatcher that calls them in place."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, Protocol

from ..consumers.calling import prepare
from ..consumers.consumer import Consumer
from ..consumers.context import TIMES
from ..consumers.delivery import Batch, Job, Work
from ..consumers.operator import process_batch
from ..errors import BalogError, ConfigurationError
from ..producer.lineage import consuming
from ..tasks.calls import compose
from ..telemetry import Telemetry
from ..text import printable

logger = logging.getLogger(__name__)

#: How many jobs to dispatch at once where nothing else limits them: all that most receives have, and few enough for
#: other topics to have their turn soon.
MANY_JOBS = 100


class DispatchError(BalogError):
    """The dispatcher did not take the jobs, and settled none of them, so they can be dispatched again."""


class Readiness(Enum):
    """Whether a dispatcher takes more jobs, and if not, why: the values are texts for users. Only ``READY`` is true."""

    READY = "ready"
    #: The worker has as many tasks as it takes.
    WORKER_FULL = "its worker has as many tasks as it accepts"
    #: The worker has not announced yet that it takes tasks, or takes none now.
    WORKER_CLOSED = "its worker accepts no tasks: it has lost its broker, hangs, or is stopping"
    #: Its tasks have ended with it.
    WORKER_GONE = "its worker has ended"
    #: The worker's event loop is blocked, so it neither takes tasks nor reports.
    WORKER_SILENT = "its worker does not respond: it hangs, or waits for its broker or its result backend"
    #: The worker was told so by ``celery control cancel_consumer``: the events stay in SQS.
    QUEUE_CANCELLED = "its worker no longer consumes the task queue of a consumer of this topic"
    #: As many tasks wait on the broker as are allowed.
    QUEUE_FULL = "as many tasks wait on the broker as balog_high_water allows"
    #: The same, and no worker takes them from there.
    QUEUE_UNSERVED = "as many tasks wait on the broker as balog_high_water allows, and no worker takes them"
    BROKER_DOWN = "the broker does not answer"
    #: A full batch could not be dispatched, and is retried.
    BATCH_FAILING = "a batch cannot be dispatched"
    #: A full batch is waiting to be dispatched.
    BATCH_WAITING = "a batch is being dispatched"

    def __bool__(self) -> bool:
        return self is Readiness.READY

    @property
    def is_back_pressure(self) -> bool:
        """Whether consumers are busy, which may take any time, and is not a problem."""
        return self in (Readiness.WORKER_FULL, Readiness.QUEUE_FULL, Readiness.BATCH_WAITING)

    @property
    def is_healthy(self) -> bool:
        """Whether this may last: consumers are busy, or an operator has cancelled their queue."""
        return bool(self) or self.is_back_pressure or self is Readiness.QUEUE_CANCELLED


class Dispatcher(Protocol):
    """Takes jobs and batches, and settles each of them once, now or later, from any thread."""

    def dispatch(self, jobs: Sequence[Work]) -> None:
        """Take the jobs of one receive, or batches.

        :raises DispatchError: it took none and settled none; the engine retries.
        """

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        """The task queues of *consumers* on the broker; none without a broker."""

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        """Check that it acknowledges the jobs of a FIFO topic's *consumers* only when they have finished.

        The next event of a group must not be dispatched before that.

        :raises ConfigurationError: it does not; the text says how to configure it.
        """

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        """Whether it takes more jobs for the task queues *queues*. The engine receives nothing for them until it does.

        :param timeout: how long to wait until it does, in seconds.
        """

    def room(self) -> int:
        """How many jobs it takes at once now, or 0; the engine dispatches and receives no more than that at a time."""

    def chunk_size(self, consumer: Consumer) -> int:
        """How many events the next chunk of *consumer* may have, which has ``chunk``; 0: each is a job by itself."""

    def close(self) -> None:
        """Close connections. Nothing is dispatched after this."""


class _Current(threading.local):
    """The headers of a thread's current job, in place of a task's request."""

    request: Mapping[str, Any] = MappingProxyType({})


class InlineDispatcher:
    """Calls the functions in the polling thread, for scripts and tests.

    An exception of one consumer affects neither the loop nor the other consumers of the event.

    :param operator: the consumer operator.
    :param dead_letter: called with a failed job and its error. Returns True if the event is a dead letter now.
    :param topic_of: returns the topic of a consumer.
    :param telemetry: reports what runs.
    """

    def __init__(
        self,
        operator: Any,
        dead_letter: Callable[[Job, str], bool],
        topic_of: Callable[[Consumer], str],
        telemetry: Telemetry,
    ) -> None:
        self._operator = operator
        self._calls: dict[Consumer, Callable[[Any], Any]] = {}
        self._current = _Current()
        self._dead_letter = dead_letter
        self._topic_of = topic_of
        self._telemetry = telemetry

    def dispatch(self, jobs: Sequence[Work]) -> None:
        for job in jobs:
            self._run(job)

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        for consumer in consumers:
            if consumer.options.get("bind"):
                raise ConfigurationError(
                    f"{consumer.task_name} has bind=True, and there are no Celery tasks in a script: leave bind= out"
                )

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return Readiness.READY

    def room(self) -> int:
        return MANY_JOBS

    def chunk_size(self, consumer: Consumer) -> int:
        return 0  # one call for each, in this thread, is all that there is to do

    def close(self) -> None:
        pass

    def _run(self, job: Work) -> None:
        topic, consumer = self._topic_of(job.consumer), job.consumer.task_name
        headers, records = job.headers, [one.event for one in job.jobs]
        with self._telemetry.running(headers), consuming(topic, consumer, records):
            started = {**headers[TIMES], "started": int(time.time() * 1000)}
            self._telemetry.started(topic, consumer, started)
            failed = self._process_batch(job) if isinstance(job, Batch) else self._process(job)
            for position, one in enumerate(job.jobs):
                if position in failed and not self._dead_letter(one, failed[position]):
                    one.expire()
                else:
                    one.acknowledge()
            self._telemetry.done(topic, consumer, {**started, "done": int(time.time() * 1000)}, failed=bool(failed))

    def _call_of(self, job: Work) -> Callable[[Any], Any]:
        """Return what calls the function of *job*, which is the current job of this thread now."""
        self._current.request = job.headers
        consumer = job.consumer
        if consumer not in self._calls:
            prepare(consumer, self._current, self._operator)
            self._calls[consumer] = compose(consumer, self._operator)
        return self._calls[consumer]

    def _process(self, job: Job) -> dict[int, str]:
        """Call the function. Return its error by position, which is 0; empty if it succeeded."""
        try:
            self._call_of(job)(job.consumer.argument(job.event))
        except (SystemExit, KeyboardInterrupt):
            raise  # they end the thread; the message is received again
        except BaseException as error:  # such as asyncio.CancelledError
            logger.exception("%s failed on event %s", job.consumer.task_name, printable(job.event.header.id))
            return {0: repr(error)}
        return {}

    def _process_batch(self, batch: Batch) -> dict[int, str]:
        """Call the function. Return the errors of the events that failed, by position."""
        name, count = batch.consumer.task_name, len(batch.jobs)
        try:
            processed = process_batch(self._call_of(batch), batch.consumer, [job.event for job in batch.jobs])
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            logger.exception("%s failed on a batch of %d events", name, count)
            return dict.fromkeys(range(count), repr(error))
        failed = {**processed.failed, **processed.unfit}
        for position, reason in failed.items():
            logger.error("%s failed on event %s: %s", name, printable(batch.jobs[position].event.header.id), reason)
        return failed
