"""The seam between the engine and what serves the consumers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import BalogError
from ..telemetry import Telemetry
from ..text import printable
from .consumer import Consumer
from .delivery import TIMES, Batch, Job, Work
from .operator import process_batch

logger = logging.getLogger(__name__)


class DispatchError(BalogError):
    """The jobs of one receive could not be dispatched; none of them was settled, so that they may be tried again."""


class Dispatcher(Protocol):
    """Takes jobs and batches of them, and settles each of them once, now or later, from any thread."""

    def dispatch(self, jobs: Sequence[Work]) -> None:
        """Take the jobs of one receive, or batches.

        :raises DispatchError: none was taken and none settled; the engine keeps them and tries again.
        """

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        """The queues on the broker to which the tasks of *consumers* would go; none without a broker."""

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        """Check that it acknowledges jobs of *consumers*, who listen to a FIFO topic, when they are done: before that
        the next event of a group must not be dispatched.

        :raises ConfigurationError: it does not, and what is to be done about it.
        """

    def ready(self, queues: frozenset[str], timeout: float) -> bool:
        """Whether it wants more jobs whose tasks would go to *queues*; while it does not, nothing is received for them.

        :param timeout: for how many seconds to wait until it does.
        """

    def close(self) -> None:
        """Let go of connections. Nothing is dispatched any more."""


class InlineDispatcher:
    """Calls the operator here and now, in the polling thread: for scripts and tests, as the original did.

    A consumer that raises neither stops the loop nor keeps the others from the event.

    :param operator: the consumer operator.
    :param bury: told of a job that failed, and why; True if the event is now a dead letter, so that the job is done.
    :param topic_of: gives the topic of a consumer.
    :param telemetry: who else is told.
    """

    def __init__(
        self,
        operator: Any,
        bury: Callable[[Job, str], bool],
        topic_of: Callable[[Consumer], str],
        telemetry: Telemetry,
    ) -> None:
        self._operator = operator
        self._bury = bury
        self._topic_of = topic_of
        self._telemetry = telemetry

    def dispatch(self, jobs: Sequence[Work]) -> None:
        for job in jobs:
            self._run(job)

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        pass

    def ready(self, queues: frozenset[str], timeout: float) -> bool:
        return True

    def close(self) -> None:
        pass

    def _run(self, job: Work) -> None:
        with self._telemetry.running(job.headers):
            topic, consumer, times = self._topic_of(job.consumer), job.consumer.task_name, job.headers[TIMES]
            started = {**times, "started": int(time.time() * 1000)}
            self._telemetry.started(topic, consumer, started)
            failed = self._process_batch(job) if isinstance(job, Batch) else self._process(job)
            for position, one in enumerate(job.jobs):
                if position in failed and not self._bury(one, failed[position]):
                    one.leave()
                else:
                    one.acknowledge()
            self._telemetry.done(topic, consumer, {**started, "done": int(time.time() * 1000)}, failed=bool(failed))

    def _process(self, job: Job) -> dict[int, str]:
        """Call the function; return why it failed, at 0."""
        try:
            self._operator.process_event(job.consumer, job.consumer.argument(job.event))
        except Exception as error:
            logger.exception("%s failed on event %s", job.consumer.task_name, printable(job.event.header.id))
            return {0: repr(error)}
        return {}

    def _process_batch(self, batch: Batch) -> dict[int, str]:
        """Call the function; return which events failed, by their positions, and why."""
        name, count = batch.consumer.task_name, len(batch.jobs)
        try:
            processed = process_batch(self._operator, batch.consumer, [job.event for job in batch.jobs])
        except Exception as error:
            logger.exception("%s failed on a batch of %d events", name, count)
            return dict.fromkeys(range(count), repr(error))
        failed = {**processed.failed, **processed.unfit}
        for position, reason in failed.items():
            logger.error("%s failed on event %s: %s", name, printable(batch.jobs[position].event.header.id), reason)
        return failed
