"""One Celery task for each consumer."""

from __future__ import annotations

import contextlib
import logging
import uuid
from typing import Any

from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from celery.utils.time import get_exponential_backoff_interval

from .brokers import confirmed_producer
from .consumers.consumer import Consumer
from .consumers.options import ROUTING_OPTIONS
from .dead_letters import DeadLetters, Outcome
from .errors import ConfigurationError, DecodeError
from .once import LEASE, REMEMBER, AlreadyDone, InProgress, Marks
from .records import FacilityRecord, decode
from .text import printable

logger = logging.getLogger(__name__)

#: The name of the task that keeps dead letters which could not be kept at once.
BURY = "balog_celery.bury"

#: The namespace of task ids: a name-based UUID (RFC 9562, version 5) of event id and task name.
_NAMESPACE = uuid.UUID("5a0c8a5e-52f3-5d0b-9c39-6d6c0f6b4f0a")


def task_id(event_id: str, task_name: str) -> str:
    """The id of the task that serves one event to one consumer: the same whenever the event comes again."""
    return str(uuid.uuid5(_NAMESPACE, f"{event_id}:{task_name}"))


def arguments_shown(event: FacilityRecord, topic: str) -> str:
    """What Flower, ``inspect`` and the logs show as a task's arguments: which event it is, not what is in it."""
    cls_type, event_id = printable(event.payload.cls_type, 100), printable(event.header.id, 100)
    return f"(<Event {event_id} cls_type={cls_type} topic={printable(topic, 100)}>,)"


class EventTask(Task):  # type: ignore[misc]
    """The base of the tasks whose first argument is an event's JSON text.

    It travels as text, so that the broker's serializer neither changes it nor reads anything into it.
    """

    abstract = True
    # By name: the worker's own modules are not for a process that only publishes.
    Request = "balog_celery.worker:EventRequest"
    acks_late = True
    reject_on_worker_lost = True
    # An event that kills its pool child is tried as often as max_retries says, and is a dead letter then: rejecting
    # alone would run it for ever.
    retry_on_worker_lost = True
    serializer = "json"

    topic: str = ""
    dead_letters: DeadLetters
    #: After how many seconds without an answer the broker counts as down.
    publish_timeout: float = 10.0

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """As Celery's; shows which event it is instead of the event, also when Celery retries."""
        if args and "argsrepr" not in options:
            with contextlib.suppress(DecodeError):
                options["argsrepr"] = arguments_shown(decode(args[0]), self.topic)
        if "producer" in options or "connection" in options:
            return super().apply_async(args, kwargs, **options)
        # What is acknowledged once a retry is published must be published for certain.
        with confirmed_producer(self.app, self.publish_timeout) as producer:
            return super().apply_async(args, kwargs, producer=producer, confirm_timeout=self.publish_timeout, **options)

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's; where the retry cannot be published, the task comes again instead of being dropped."""
        try:
            return super().retry(*args, **kwargs)
        except Reject as error:
            raise Reject(error.reason, requeue=True) from error


class BuryTask(EventTask):
    """Keeps an event as a dead letter when that was not possible at once: an outage of SQS must not lose it."""

    name = BURY
    max_retries = None

    def run(self, event: str, topic: str, consumer: str, error: str) -> None:
        """Put *event* into the dead-letter queue of *topic*, trying for as long as that cannot be reached."""
        outcome = self.dead_letters.put(event, topic, "failed", consumer=consumer, error=error)
        if outcome is Outcome.NOT_NOW:
            raise self.retry(countdown=get_exponential_backoff_interval(5, self.request.retries, 300, True))
        _say_fate(outcome, event, self.dead_letters.name(topic), consumer, error)


class ConsumerTask(EventTask):
    """The base of every consumer's task."""

    abstract = True

    consumer: Consumer
    operator: Any
    marks: Marks | None

    def run(self, event: str) -> Any:
        """Have the operator call the consumer's function with *event*."""
        return self.operator.process_event(self.consumer, self.consumer.argument(decode(event)))

    def __call__(self, event: str) -> Any:
        try:
            if self.marks is not None:
                return self._run_once(self.marks, event)
            return self.run(event)
        except (Retry, Ignore):
            raise
        except Reject as error:
            if not error.requeue:
                self.bury(event, error)
            raise
        except Exception as error:
            self.bury(event, error)
            raise

    def _run_once(self, marks: Marks, event: str) -> Any:
        event_id = decode(event).header.id
        remember = REMEMBER if self.consumer.once is True else float(self.consumer.once)
        began = False
        try:
            with marks.attempt(task_id(event_id, self.name), remember):
                began = True
                return self.run(event)
        except AlreadyDone:
            logger.info("%s has finished event %s before: skipped", self.name, printable(event_id))
            return None
        except InProgress:
            logger.info("%s is being run for event %s: looking again later", self.name, printable(event_id))
        except Exception as error:
            if began:
                raise
            logger.warning("%s: the marks of once= cannot be read, trying again later: %r", self.name, error)
        # Not a retry, which would count. The copy has the same id; this message is acknowledged when it is sent.
        self.signature_from_request(self.request, countdown=LEASE / 4, retries=self.request.retries).apply_async()
        raise Ignore

    def bury(self, event: str, failure: BaseException) -> None:
        """Keep an event that failed for good: as a dead letter, now or as soon as SQS can be reached.

        Where there is no dead-letter queue, the whole event is logged as an ERROR.
        """
        error = repr(failure)
        outcome = self.dead_letters.put(event, self.topic, "failed", consumer=self.name, error=error)
        if outcome is Outcome.NOT_NOW:
            try:
                # To the queue of this task: whoever runs that runs this.
                queue = self.app.amqp.router.route({}, self.name)["queue"]
                self.app.tasks[BURY].apply_async((event, self.topic, self.name, error), countdown=5, queue=queue)
            except Exception:
                logger.exception("neither SQS nor the broker takes an event that failed for good")
            else:
                return
        _say_fate(outcome, event, self.dead_letters.name(self.topic), self.name, error)


def _say_fate(outcome: Outcome, event: str, dead_letter_queue: str | None, consumer: str, error: str) -> None:
    if outcome:
        logger.error(
            "%s failed for good on event %s: it is in %s now (%s)",
            consumer,
            _event_id(event),
            dead_letter_queue,
            printable(error),
        )
        return
    logger.error(
        "%s failed for good on event %s (%s), and %s. The event: %s",
        consumer,
        _event_id(event),
        printable(error),
        outcome.value,
        printable(event, len(event)),
    )


@signals.task_failure.connect  # type: ignore[untyped-decorator]
def _bury_what_the_child_could_not(sender: Any, exception: Any, args: Any, **_: Any) -> None:
    """A hard time limit and a lost pool child are told to the worker's main process only."""
    if isinstance(sender, ConsumerTask) and isinstance(exception, (TimeLimitExceeded, WorkerLostError)) and args:
        sender.bury(args[0], exception)


def _event_id(text: str) -> str:
    try:
        return printable(decode(text).header.id)
    except DecodeError:
        return "?"


def register(
    app: Celery, consumer: Consumer, operator: Any, topic: str, dead_letters: DeadLetters, marks: Marks | None
) -> ConsumerTask:
    """Register the task of *consumer* with *app*, under the consumer's name and with its options.

    :param marks: where it is remembered which events are done, for a consumer with ``once``.
    :raises ConfigurationError: another task has that name.
    """
    name = consumer.task_name
    existing = app.tasks.get(name)
    if existing is not None and getattr(existing, "consumer", None) is not consumer:
        raise ConfigurationError(f"there are two tasks named {name!r}: give the consumer another name=")
    members: dict[str, Any] = {
        option: value for option, value in consumer.options.items() if option not in ROUTING_OPTIONS
    }
    members |= {
        "name": name,
        "__module__": consumer.module,
        "__doc__": getattr(consumer.func, "__doc__", None),
        "consumer": consumer,
        "operator": operator,
        "topic": topic,
        "dead_letters": dead_letters,
        "marks": marks if consumer.once else None,
    }
    task = type(str(consumer.name), (ConsumerTask,), members)()
    app.register_task(task)
    return task  # type: ignore[no-any-return]


def register_bury(app: Celery, dead_letters: DeadLetters) -> None:
    """Register the task that keeps dead letters later, with *app*."""
    app.register_task(type("bury", (BuryTask,), {"dead_letters": dead_letters})())


class Routes:
    """A Celery router (``task_routes``): sends consumers' tasks to the queue and with the priority they asked for."""

    def __init__(self) -> None:
        self._routes: dict[str, dict[str, Any]] = {}

    def add(self, consumer: Consumer) -> None:
        """Route the tasks of *consumer* as its options say."""
        options = {name: consumer.options[name] for name in ROUTING_OPTIONS if name in consumer.options}
        if options:
            self._routes[consumer.task_name] = options

    def __call__(self, name: str, *_args: Any, **_kwargs: Any) -> dict[str, Any] | None:
        route = self._routes.get(name)
        return dict(route) if route else None
