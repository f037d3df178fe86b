"""Dispatchers that serve consumers by Celery tasks.

This file, ``hand_off.py``, ``task_events.py`` and ``worker.py`` are the only places for Celery and kombu calls that are
not documented; each says why.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from celery import Celery
from celery.utils.nodenames import anon_nodename

from .brokers import bounded_connection, is_too_large
from .consumers.consumer import Consumer
from .consumers.delivery import Delivery, Work, settle
from .consumers.dispatcher import DispatchError
from .dead_letters import Outcome
from .depth import DepthWatch
from .errors import ConfigurationError
from .link import Link
from .queues import BATCH_SIZE
from .tasks import ConsumerTask, say_fate
from .telemetry import OFF, Telemetry
from .text import printable

logger = logging.getLogger(__name__)


class PublishDispatcher:
    """Puts one task for each job on the Celery broker; a job is acknowledged when the broker has its task.

    The tasks of one receive go together: in one round trip on Redis, in one transaction on RabbitMQ. If any of it
    fails nothing is acknowledged, and the connection is dropped for a new one. What may have been published all the
    same is published again, with the same task ids. A task that is too large for the broker must not keep the others
    waiting for ever: its event becomes a dead letter.

    :param app: the Celery app; its consumers are registered.
    :param timeout: after how many seconds without an answer the broker counts as down.
    :param high_water: with so many tasks in one of the queues on the broker, it wants no more.
    :param telemetry: who else is told of what is published.
    """

    def __init__(self, app: Celery, timeout: float, high_water: int, telemetry: Telemetry = OFF) -> None:
        self._app = app
        self._timeout = timeout
        self._telemetry = telemetry
        self._depths = DepthWatch(app, high_water, partial(bounded_connection, app, timeout))
        self._envelopes: dict[str, Envelope] = {}
        # A connection is not for sharing between threads: each polling thread has its own.
        self._local = threading.local()
        self._publishers: list[Publisher] = []

    def dispatch(self, jobs: Sequence[Work]) -> None:
        too_large = self._publish(jobs)
        for job in jobs:
            self._depths.publishing_to(self.queue_of(job.consumer))
            if (error := too_large.get(id(job))) is None:
                job.acknowledge()
            else:
                self._bury(job, error)

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset(map(self.queue_of, consumers))

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        raise self.unordered(consumers[0], "an engine that puts tasks on the broker")

    def ready(self, queues: frozenset[str], timeout: float) -> bool:
        return self._depths.wait_open(queues, timeout)

    def close(self) -> None:
        self._depths.close()
        for publisher in self._publishers:
            publisher.close()

    def queue_of(self, consumer: Consumer) -> str:
        """The queue on the broker to which the tasks of *consumer* go."""
        return self._envelope(consumer).queue

    def task_of(self, consumer: Consumer) -> ConsumerTask:
        """The task of *consumer*."""
        return self._envelope(consumer).task

    def unordered(self, consumer: Consumer, who: str) -> ConfigurationError:
        """The error that says why the FIFO topic of *consumer* cannot be served."""
        return ConfigurationError(
            f"topic {printable(self.task_of(consumer).topic)!r} is FIFO, and {who} does not know when "
            f"{consumer.task_name} has finished with an event, before which the next one of its group must not begin: "
            "serve it by a worker with its engine beside it, with balog_dispatch = 'hand-off' and an event loop (not "
            "gevent or eventlet; Redis or RabbitMQ), which also serves the queues of all its consumers, or use a "
            "standard queue"
        )

    def _publish(self, jobs: Sequence[Work]) -> dict[int, Exception]:
        """Publish the tasks of *jobs*; return what the broker says of those that are too large for it, by job's id.

        :raises DispatchError: it did not take them for another reason.
        """
        try:
            error = self._try(jobs)
            if error is None:
                return {}
            # One of them is; which one, the broker does not say.
            errors = {id(job): error if len(jobs) == 1 else self._try([job]) for job in jobs}
        except Exception as trouble:
            problem = f"the broker did not take the tasks: {printable(repr(trouble), 500)}"
            raise DispatchError(problem) from trouble
        return {job: error for job, error in errors.items() if error is not None}

    def _try(self, jobs: Sequence[Work]) -> Exception | None:
        """Publish the tasks of *jobs* together; return the error of one that is too large for the broker.

        :raises Exception: whatever else is wrong.
        """
        try:
            publisher = self._publisher()
            publisher.publish([(envelope := self._envelope(job.consumer), envelope.message(job)) for job in jobs])
        except Exception as error:
            self._drop_publisher()
            if is_too_large(error):
                return error
            raise
        return None

    def _bury(self, job: Work, error: Exception) -> None:
        task = self.task_of(job.consumer)
        why = f"its task is too large for the broker: {printable(repr(error), 500)}"
        for one in job.jobs:
            outcome = task.dead_letters.bury(
                one.delivery.message, one.text, task.topic, "failed", consumer=task.name, error=why
            )
            if outcome is Outcome.NOT_NOW:
                one.leave()
            else:
                say_fate(outcome, one.text, task.dead_letters.name(task.topic), task.name, why)
                one.acknowledge()

    def _envelope(self, consumer: Consumer) -> Envelope:
        name = consumer.task_name
        envelope = self._envelopes.get(name)
        if envelope is None:
            envelope = self._envelopes[name] = Envelope(self._app, self._app.tasks[name])
        return envelope

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
    """What every message of one consumer's task has in common, worked out once."""

    def __init__(self, app: Celery, task: ConsumerTask) -> None:
        self.task = task
        # Routed once: a consumer's tasks differ in nothing that a router should go by.
        self.route: dict[str, Any] = app.amqp.router.route({"queue": None}, task.name, (), {}, task)
        self.queue: str = self.route["queue"].name
        if compression := getattr(task, "compression", None):
            self.route["compression"] = compression
        # amqp.create_task_message is what Task.apply_async builds its message with; it is not documented.
        self._create: Callable[..., Any] = app.amqp.create_task_message
        self._common = {
            "argsrepr": "",
            "kwargsrepr": "{}",
            "ignore_result": task.ignore_result,
            "time_limit": task.time_limit,
            "soft_time_limit": task.soft_time_limit,
            "expires": task.expires,
            "create_sent_event": app.conf.task_send_sent_event,
            "origin": anon_nodename(),
        }

    def message(self, job: Work) -> Any:
        """The task message of *job*."""
        job_id, shown, argument = _described(self.task, job)
        message = self._create(job_id, self.task.name, (argument,), {}, **{**self._common, "argsrepr": shown})
        message.headers.update(job.headers)
        return message


def _described(task: ConsumerTask, job: Work) -> tuple[str, str, Any]:
    """Of the task that serves *job*: its id, what is shown as its argument, and its argument."""
    events = [one.event for one in job.jobs]
    return task.id_of(events), task.shown_of(events), task.argument_of([one.text for one in job.jobs])


class Publisher:
    """One connection to the broker, that never waits for it longer than *timeout* seconds."""

    def __init__(self, app: Celery, timeout: float, telemetry: Telemetry) -> None:
        self._timeout = timeout
        # amqp.send_task_message is what Task.apply_async publishes with: signals and task-sent events included, and
        # without the AsyncResult. It is not documented.
        self._send: Callable[..., Any] = telemetry.sending(app.amqp.send_task_message)
        self._declared: set[str] = set()
        self._connection = bounded_connection(app, timeout)
        self._producer = app.amqp.Producer(self._connection, auto_declare=False)
        # RabbitMQ takes a message without a word, whether or not it will keep it. One transaction for the tasks of a
        # receive has one answer for all of them; on a channel that confirms each message it is neither needed nor
        # allowed.
        channel = self._producer.channel
        confirms = self._connection.transport_options.get("confirm_publish")
        self._transaction = channel if hasattr(channel, "tx_select") and not confirms else None
        if self._transaction is not None:
            self._transaction.tx_select()

    def publish(self, messages: Sequence[tuple[Envelope, Any]]) -> None:
        """Publish all of *messages*; when this returns, the broker has them.

        :raises Exception: whatever the transport raises. This publisher must then be closed.
        """
        with self._producer.batch():
            for envelope, message in messages:
                self._publish(envelope, message)
        if self._transaction is not None:
            self._transaction.tx_commit()

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        # Not close(), which would wait for the answer of a broker that may have none.
        with contextlib.suppress(Exception):
            self._connection.collect(self._timeout)

    def _publish(self, envelope: Envelope, message: Any) -> None:
        # The queue is declared with the first message to it; None means "declare the queue", as in Celery.
        declare: list[Any] | None = [] if envelope.queue in self._declared else None
        self._send(
            self._producer,
            envelope.task.name,
            message,
            serializer="json",
            retry=False,
            declare=declare,
            confirm_timeout=self._timeout,
            **envelope.route,
        )
        self._declared.add(envelope.queue)


class HandOffDispatcher:
    """Hands jobs to the worker beside the engine, over a socket; a job is acknowledged when its task has finished.

    Finished means: it succeeded, it failed for good, or a retry of it is on the broker. One that waits in the worker,
    to be retried there or for its rate limit, has not finished, and takes no room. Consumers whose queue that worker
    does not serve are published, and all are while the worker cannot be handed tasks.

    :param app: the Celery app; its consumers are registered.
    :param link: the engine's end of the socket.
    :param publish: serves what is not handed over.
    """

    def __init__(self, app: Celery, link: Link, publish: PublishDispatcher) -> None:
        self._link = link
        self._publish = publish
        self._changed = threading.Condition()
        # Guarded by the condition's lock. Before the worker has said what it wants, nothing is received.
        # Of each task only its deliveries: its events have gone with it, and thousands of them would take time to keep.
        self._jobs: dict[int, tuple[Delivery, ...]] = {}
        self._waiting: dict[int, tuple[Delivery, ...]] = {}
        self._limit: int | None = 0
        self._queues: frozenset[str] = frozenset()
        self._number = 0
        threading.Thread(target=self._run, name="hand-off", daemon=True).start()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return self._publish.queues_of(consumers)

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        with self._changed:
            limit, queues = self._limit, self._queues
        for consumer in consumers:
            if not self._publish.task_of(consumer).acks_late:
                raise self._publish.unordered(consumer, "a task with acks_late=False")
            if limit is None:
                raise self._publish.unordered(consumer, "a worker that is handed no tasks, as it has no event loop,")
            # With no room the worker has not said yet what it serves.
            if limit and (queue := self._publish.queue_of(consumer)) not in queues:
                raise self._publish.unordered(consumer, f"a worker that does not serve the queue {queue!r}")

    def ready(self, queues: frozenset[str], timeout: float) -> bool:
        with self._changed:
            if not self._changed.wait_for(self._has_room, timeout):
                return False
            published = queues if self._limit is None else queues - self._queues
        return not published or self._publish.ready(published, timeout)

    def _has_room(self) -> bool:
        # Room for a whole receive, or else receives get ever smaller, and each costs as much as one of ten.
        return self._limit is None or self._limit - len(self._jobs) >= min(BATCH_SIZE, max(1, self._limit // 2))

    def dispatch(self, jobs: Sequence[Work]) -> None:
        with self._changed:
            queues = self._queues if self._limit is not None else frozenset()
        handed: Sequence[Work] = [job for job in jobs if self._publish.queue_of(job.consumer) in queues]
        others = [job for job in jobs if self._publish.queue_of(job.consumer) not in queues]
        # Published, a FIFO topic's tasks would overtake one another: the worker has just lost its broker, or stops.
        refused = [job for job in others if self._publish.task_of(job.consumer).fifo]
        if len(refused) < len(others):
            # First, because it may fail, and then nothing may have been handed over.
            self._publish.dispatch([job for job in others if job not in refused])
        for job in refused:
            job.refuse()
        while handed:
            handed = self._hand_over(handed)

    def close(self) -> None:
        self._publish.close()
        self._link.close()

    def _hand_over(self, jobs: Sequence[Work]) -> Sequence[Work]:
        """Hand over as many of *jobs* as there is room for, waiting for some; return the others."""
        with self._changed:
            # Other topics' pollers may have filled the room that this one saw.
            self._changed.wait_for(lambda: not self._limit or len(self._jobs) < self._limit)
            room = self._limit - len(self._jobs) if self._limit else 0
            first = self._number + 1
            taken = dict(enumerate(jobs[:room], first))
            self._number += len(taken)
            self._jobs.update({number: job.deliveries for number, job in taken.items()})
        if not taken:  # the worker stops, or has lost its broker
            for job in jobs:
                job.refuse()
            return []
        try:
            self._link.send(*[self._line(number, job) for number, job in taken.items()])
        except BaseException as error:
            # Nothing was handed over; what is kept here would take room for ever.
            self._settle([(number, True) for number in taken])
            if not isinstance(error, OSError):  # the worker is gone
                raise
        return jobs[room:]

    def _line(self, number: int, job: Work) -> tuple[Any, ...]:
        task = self._publish.task_of(job.consumer)
        job_id, shown, argument = _described(task, job)
        return ("task", number, job_id, task.name, shown, argument, job.headers)

    def _run(self) -> None:
        try:
            self._listen()
        except BaseException:
            # A fault of ours. Nobody would hear the worker any more, so it is to start another engine.
            logger.exception("unexpected error while listening to the worker: the engine stops")
            signal.raise_signal(signal.SIGTERM)

    def _listen(self) -> None:
        while (lines := self._link.receive()) is not None:
            for number, positions in (rest for kind, *rest in lines if kind == "left"):
                self._leave(number, positions)
            self._set_aside([rest[0] for kind, *rest in lines if kind == "waiting"])
            self._settle([(rest[0], kind == "refused") for kind, *rest in lines if kind in ("done", "refused")])
            for kind, *rest in lines:
                if kind in ("open", "publish", "closed"):
                    self._heed(kind, *rest)
        # The worker is gone, and whatever it ran with it.
        self._heed("closed")
        with self._changed:
            left = [(number, True) for number in (*self._jobs, *self._waiting)]
        self._settle(left)

    def _heed(self, kind: str, limit: int = 0, queues: Sequence[str] = ()) -> None:
        """Do as the worker says: hand it tasks of these queues, none for now, or none at all."""
        with self._changed:
            self._limit = None if kind == "publish" else limit
            self._queues = frozenset(queues)
            self._changed.notify_all()

    def _leave(self, number: int, positions: Sequence[int]) -> None:
        """Only these of a batch are left to be served; the others are done."""
        with self._changed:
            jobs = self._jobs if number in self._jobs else self._waiting
            deliveries = jobs.get(number, ())
            if deliveries:
                jobs[number] = tuple(deliveries[position] for position in positions)
        settle((one for position, one in enumerate(deliveries) if position not in positions), refused=False)

    def _set_aside(self, numbers: Sequence[int]) -> None:
        """These wait in the worker, to be retried there or for their rate limit."""
        if numbers:
            with self._changed:
                self._waiting.update({number: self._jobs.pop(number) for number in numbers if number in self._jobs})
                self._changed.notify_all()

    def _settle(self, settled: Sequence[tuple[int, bool]]) -> None:
        """Settle jobs by their numbers: refused, or not."""
        with self._changed:
            jobs = [
                (self._jobs.pop(number, ()) or self._waiting.pop(number, ()), refused) for number, refused in settled
            ]
            self._changed.notify_all()
        for how in (False, True):
            settle((one for deliveries, refused in jobs if refused is how for one in deliveries), refused=how)
