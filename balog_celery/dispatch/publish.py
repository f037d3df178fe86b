"""The dispatcher that publishes Celery tasks to the broker."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping, Sequence
from functools import cache, partial
from types import MappingProxyType
from typing import Any

from amqp import NotFound
from celery import Celery

from ..brokers.connections import RoutedProducer, Unroutable, bounded_connection, is_too_large
from ..brokers.kombu_compat import batch
from ..celery_compat.tasks import MessageFactory, begin_transactions, drop_connection, route_of, sender
from ..consumers.consumer import Consumer
from ..consumers.context import EventContext
from ..consumers.delivery import Work
from ..dead_letters.writer import Outcome
from ..tasks.consumer import ConsumerTask
from ..tasks.dead_letter import log_outcome
from ..telemetry import OFF, Telemetry
from ..text import printable
from .back_pressure import BackPressure, TaskQueue
from .dispatcher import MANY_JOBS, DispatchError, Readiness
from .order import ENGINE, check_order

logger = logging.getLogger(__name__)


class PublishDispatcher:
    """Publishes one task for each job; a job is acknowledged when the broker has its task.

    The tasks of one receive are published together: in one round trip to Redis (one by one before kombu 5.7), in one
    transaction on RabbitMQ. If that fails, nothing is acknowledged, and the connection is replaced. Tasks that the
    broker took all the same are published again later, with the same ids. If the broker has no queue for a task, the
    queue is declared again. An event whose task is too large for the broker becomes a dead letter, so that it does not
    hold up the others.

    :param app: the Celery app; its consumers are registered.
    :param timeout: after how many seconds without an answer the broker counts as down.
    :param high_water: with more tasks than this in one of its queues, the dispatcher is not ready for more.
    :param telemetry: what counts and traces the tasks.
    :param high_waters: the same number for single topics, in place of *high_water*.
    """

    def __init__(
        self,
        app: Celery,
        timeout: float,
        high_water: int,
        telemetry: Telemetry = OFF,
        high_waters: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._app = app
        self._timeout = timeout
        self._telemetry = telemetry
        self._high_waters = high_waters
        self._depths = BackPressure(app, high_water, partial(bounded_connection, app, timeout))
        #: The task of a consumer, its queue on the broker, and its messages.
        self.envelope = cache(lambda consumer: Envelope(app, app.tasks[consumer.task_name]))
        # Threads cannot share a connection: each polling thread has its own.
        self._local = threading.local()
        self._publishers: list[Publisher] = []

    def dispatch(self, jobs: Sequence[Work]) -> None:
        too_large = self._publish(jobs)
        for job in jobs:
            self._depths.publishing_to(self.envelope(job.consumer).queue)
            if (error := too_large.get(id(job))) is None:
                job.acknowledge()
            else:
                self._bury(job, error)

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        envelopes = [self.envelope(consumer) for consumer in consumers]
        return frozenset(TaskQueue(one.queue, self._high_waters.get(one.task.topic)) for one in envelopes)

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        for envelope in map(self.envelope, consumers):
            check_order(envelope.task, envelope.queue, publisher=ENGINE)

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return self._depths.wait_open(queues, timeout)

    def room(self) -> int:
        return MANY_JOBS

    def chunk_size(self, consumer: Consumer) -> int:
        # A task that takes too long publishes the rest of its chunk.
        return consumer.chunk or 1

    def close(self) -> None:
        self._depths.close()
        for publisher in self._publishers:
            publisher.close()

    def _publish(self, jobs: Sequence[Work]) -> dict[int, Exception]:
        """Publish the tasks of *jobs*, and return the broker's errors for those that are too large, by ``id(job)``.

        :raises DispatchError: the broker did not take them for another reason.
        """
        try:
            error = self._try(jobs)
            if error is None:
                return {}
            # The broker does not say which one is too large, so publish them one by one.
            errors = {id(job): error if len(jobs) == 1 else self._try([job]) for job in jobs}
        except Exception as trouble:
            problem = f"the broker did not take the tasks: {printable(repr(trouble), 500)}"
            raise DispatchError(problem) from trouble
        return {job: error for job, error in errors.items() if error is not None}

    def _try(self, jobs: Sequence[Work]) -> Exception | None:
        """Publish the tasks of *jobs* together, and return the error if one of them is too large for the broker.

        :raises Exception: any other error.
        """
        try:
            try:
                self._send(jobs)
            except (Unroutable, NotFound) as error:  # the queue or the exchange is gone
                self._send(jobs)
                logger.warning("%s: it was declared again, and its tasks were published", printable(error, 500))
        except Exception as error:
            if is_too_large(error):
                return error
            raise
        return None

    def _send(self, jobs: Sequence[Work]) -> None:
        try:
            publisher = self._publisher()
            publisher.publish([(envelope := self.envelope(job.consumer), envelope.message(job)) for job in jobs])
        except Exception:
            # The next publisher has a new connection, and declares the queues again.
            self._drop_publisher()
            raise

    def _bury(self, job: Work, error: Exception) -> None:
        task = self.envelope(job.consumer).task
        why = f"its task is too large for the broker: {printable(repr(error), 500)}"
        for one in job.jobs:
            outcome = task.dead_letters.send_received(
                one.delivery.message,
                one.text,
                task.topic,
                "failed",
                consumer=task.name,
                error=why,
                event_id=one.event.header.id,
                original=EventContext.from_headers(one.headers).original,
            )
            if outcome is Outcome.NOT_NOW:
                one.expire()
            else:
                log_outcome(outcome, one.text, task.dead_letters.name(task.topic), task.name, why)
                one.acknowledge()

    def _publisher(self) -> Publisher:
        publisher: Publisher | None = getattr(self._local, "publisher", None)
        if publisher is None:
            publisher = self._local.publisher = Publisher(self._app, self._timeout, self._telemetry)
            self._publishers.append(publisher)
        return publisher

    def _drop_publisher(self) -> None:
        publisher: Publisher | None = self._local.__dict__.pop("publisher", None)
        if publisher is not None:
            self._publishers.remove(publisher)
            publisher.close()


class Envelope:
    """What all messages of one consumer's task have in common.

    :param app: the Celery app.
    :param task: the task.
    """

    def __init__(self, app: Celery, task: ConsumerTask) -> None:
        self.task = task
        # Routed once: a consumer's tasks differ only in their events, by which no router should decide.
        self.route: dict[str, Any] = route_of(app, task)
        self.queue: str = self.route["queue"].name
        if compression := getattr(task, "compression", None):
            self.route["compression"] = compression
        self._factory = MessageFactory(app, task)

    def message(self, job: Work) -> Any:
        """Return the task message of *job*."""
        task_id, argsrepr, argument = self.task.describe([(one.event, one.text) for one in job.jobs])
        message = self._factory.message(task_id, argsrepr, (argument,))
        message.headers.update(job.headers)
        return message


class Publisher:
    """One connection to the broker.

    :param app: the Celery app.
    :param timeout: how long to wait for the broker's answers, in seconds.
    :param telemetry: what traces the tasks.
    """

    def __init__(self, app: Celery, timeout: float, telemetry: Telemetry) -> None:
        self._timeout = timeout
        self._send = telemetry.sending(sender(app))
        self._declared: set[str] = set()
        self._connection = bounded_connection(app, timeout)
        self._producer: Any = RoutedProducer(self._connection, auto_declare=False)  # type: ignore[no-untyped-call]
        # RabbitMQ does not answer a plain publish. One transaction gives one answer for the tasks of a receive; a
        # channel that confirms each message has no transactions, and needs none.
        confirms = self._connection.transport_options.get("confirm_publish")
        self._commit = None if confirms else begin_transactions(self._producer.channel)

    def publish(self, messages: Sequence[tuple[Envelope, Any]]) -> None:
        """Publish all of *messages*; when this returns, the broker has them.

        :raises Exception: the transport's error. This publisher must then be closed.
        """
        with batch(self._producer):
            for envelope, message in messages:
                self._publish(envelope, message)
        if self._commit is not None:
            self._commit()

    def close(self) -> None:
        """Close the connection in any state, without waiting for the broker."""
        with contextlib.suppress(Exception):
            drop_connection(self._connection, self._timeout)

    def _publish(self, envelope: Envelope, message: Any) -> None:
        # The first message to a queue declares it: as in Celery, None means "declare the queue".
        declare: list[Any] | None = [] if envelope.queue in self._declared else None
        self._send(
            self._producer,
            envelope.task.name,
            message,
            serializer="json",
            retry=False,
            declare=declare,
            confirm_timeout=self._timeout,
            mandatory=True,
            **envelope.route,
        )
        self._declared.add(envelope.queue)
