"""One Celery task for each consumer."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, NamedTuple

from celery import Celery, Signature, Task, signals
from celery.exceptions import (
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.utils.time import get_exponential_backoff_interval, maybe_make_aware

from .brokers import confirmed_producer, is_too_large
from .consumers.consumer import Consumer
from .consumers.delivery import GROUP, RECEIVES
from .consumers.operator import Processed, process_batch
from .consumers.options import ROUTING_OPTIONS
from .dead_letters import DeadLetters, Outcome
from .errors import BatchFailure, ConfigurationError, DecodeError
from .once import LEASE, REMEMBER, AlreadyDone, InProgress, Marks
from .records import FacilityRecord, decode
from .text import printable

logger = logging.getLogger(__name__)

#: The name of the task that keeps dead letters which could not be kept at once.
BURY = "balog_celery.bury"

#: The message property that says until when, by ``time.monotonic()``, a task that was handed over may stay with its
#: worker to be retried there. No broker's message has it.
STAYS_UNTIL = "balog_stays_until"
#: The message property that names the headers which a task was handed over with, besides Celery's own.
HEADERS_GIVEN = "balog_headers_given"
#: The message property that says why an event failed for good, where only its dead letter is left to be made.
BURYING = "balog_burying"
#: The longest countdown of a retry that stays with its worker, in seconds.
MAX_STAY = 3600.0
#: The same for a task that holds its group, and that nothing else may be done about.
MAX_HOLD = 6 * 3600.0

#: How long making a dead letter may take, whatever limits tasks have, in seconds.
BURYING_LIMIT = 600.0
#: After how many seconds a dead letter that could not be made is tried again, at first.
_BURY_AGAIN = 5

#: The namespace of task ids: a name-based UUID (RFC 9562, version 5) of event id and task name.
_NAMESPACE = uuid.UUID("5a0c8a5e-52f3-5d0b-9c39-6d6c0f6b4f0a")


def task_id(event_id: str, task_name: str) -> str:
    """The id of the task that serves one event to one consumer: the same whenever the event comes again."""
    return str(uuid.uuid5(_NAMESPACE, f"{event_id}:{task_name}"))


def arguments_shown(event: FacilityRecord, topic: str) -> str:
    """What Flower, ``inspect`` and the logs show as a task's arguments: which event it is, not what is in it."""
    cls_type, event_id = printable(event.payload.cls_type, 100), printable(event.header.id, 100)
    return f"(<Event {event_id} cls_type={cls_type} topic={printable(topic, 100)}>,)"


def batch_id(event_ids: Sequence[str], task_name: str) -> str:
    """The id of the task that serves these events to one consumer as a batch: the same for the same events."""
    return task_id(json.dumps(sorted(event_ids)), task_name)


def batch_shown(events: Sequence[FacilityRecord], topic: str) -> str:
    """As :func:`arguments_shown`, of a batch."""
    cls_types = printable(",".join(sorted({event.payload.cls_type for event in events})), 100)
    first = printable(events[0].header.id, 100) if events else "none"
    return f"(<Batch of {len(events)} events cls_type={cls_types} topic={printable(topic, 100)} first={first}>,)"


_SHOWN = re.compile(r"\(<Event (.*) cls_type=(.*) topic=(.*)>,\)")


def read_shown(arguments: str) -> tuple[str, str, str]:
    """Event id, cls_type and topic, out of what :func:`arguments_shown` made; "" each if it did not."""
    match = _SHOWN.fullmatch(arguments)
    return (match[1], match[2], match[3]) if match else ("", "", "")


class Left(NamedTuple):
    """What is left of a batch."""

    #: Where its events are in the batch.
    positions: list[int]
    #: What is shown as the arguments of their task.
    shown: str


class LocalRetry(Retry):  # type: ignore[misc]
    """A retry that is published nowhere: the worker that was handed the task executes it again, and SQS has it.

    :param retries: how often the task will have been retried then.
    :param burying: why it failed for good, if only its dead letter is left to be made.
    :param left: what is left of a batch, if not all of it; the other events are done.
    """

    def __init__(
        self,
        message: Any = None,
        exc: Any = None,
        when: Any = None,
        retries: int = 0,
        burying: str | None = None,
        left: Left | None = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.retries = retries
        self.burying = burying
        self.left = left

    def __reduce__(self) -> tuple[Any, ...]:
        # It travels from the pool's child to the worker's main process.
        return type(self), (self.message, self.exc, self.when, self.retries, self.burying, self.left)


class LocalSignature(Signature):  # type: ignore[misc]
    """The signature of a retry that stays with its worker."""

    def apply_async(self, *_: Any, **__: Any) -> None:
        """Publish nothing."""


class _NotDone(Exception):
    """A function has asked for a retry, and returned as if all was well: it is not to be remembered as done."""


class EventTask(Task):  # type: ignore[misc]
    """The base of the tasks whose first argument is an event's JSON text, or a batch of them.

    It travels as text, so that the broker's serializer neither changes it nor reads anything into it.
    """

    abstract = True
    # By name: the worker's own modules are not for a process that only publishes.
    Request = "balog_celery.hand_off:EventRequest"
    acks_late = True
    reject_on_worker_lost = True
    # An event that kills its pool child is tried as often as max_retries says, and is a dead letter then: rejecting
    # alone would run it for ever.
    retry_on_worker_lost = True
    serializer = "json"

    topic: str = ""
    #: What the group of an event of a FIFO topic does while a retry waits, ``hold`` or ``continue``; "": no such topic.
    fifo: str = ""
    dead_letters: DeadLetters
    #: After how many seconds without an answer the broker counts as down.
    publish_timeout: float = 10.0

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """As Celery's; shows which event it is instead of the event, also when Celery retries."""
        if args and "argsrepr" not in options:
            with contextlib.suppress(DecodeError):
                options["argsrepr"] = self.shown(args[0])
        if "producer" in options or "connection" in options:
            return super().apply_async(args, kwargs, **options)
        # What is acknowledged once a retry is published must be published for certain.
        with confirmed_producer(self.app, self.publish_timeout) as producer:
            return super().apply_async(args, kwargs, producer=producer, confirm_timeout=self.publish_timeout, **options)

    def shown(self, argument: Any) -> str:
        """What is shown instead of *argument*.

        :raises DecodeError: it holds no event.
        """
        return arguments_shown(decode(argument), self.topic)

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, queue: Any = None, **options: Any
    ) -> Any:
        """As Celery's, which makes retries with it; one that can stay with its worker publishes nothing.

        :raises ConfigurationError: it must stay, for it holds its group, and never can.
        :raises Reject: it must stay, and cannot any more: the event is to come again.
        """
        signature = super().signature_from_request(request, args, kwargs, queue=queue, **options)
        request = self.request if request is None else request
        # A batch's own retry of what is left of it: the worker, which has the whole batch, is told which events.
        left = getattr(request, "left", None) is not None
        changed = (args is not None and not left) or kwargs is not None or queue is not None
        changed = changed or options.get("eta") is not None or bool(options.keys() - {"countdown", "eta", "retries"})
        delay = options.get("countdown") or 0.0
        if not changed and self.may_be_retried_here(request, delay):
            return LocalSignature(signature)
        if self.fifo == "hold" and STAYS_UNTIL in (request.properties or {}):
            if changed or delay > MAX_HOLD:
                raise ConfigurationError(
                    f"{self.name} holds the other events of its group until it has finished, so it can be retried with "
                    f"nothing but a countdown of up to {MAX_HOLD:.0f} s"
                )
            raise Reject("it has waited for so long that SQS ends its lease", requeue=True)
        return signature

    def may_be_retried_here(self, request: Any, delay: float) -> bool:
        """As :meth:`may_stay`, for a retry after a failure: one that lets its group go on is the broker's."""
        return self.fifo != "continue" and self.may_stay(request, delay)

    def may_stay(self, request: Any, delay: float) -> bool:
        """Whether a retry after *delay* seconds can stay with the worker that was handed the task of *request*."""
        until = (request.properties or {}).get(STAYS_UNTIL, 0.0)
        if not until or not self.acks_late or time.monotonic() + delay > until:
            return False
        if delay > (MAX_HOLD if self.fifo else MAX_STAY):
            return False
        # What a task that was handed over has none of, and a function may have added for its retry.
        added = (request.headers or {}).keys() - set(request.properties.get(HEADERS_GIVEN, ()))
        return not (added or request.chain or request.callbacks or request.errbacks or request.chord)

    def _put_dead(self, event: str, topic: str, consumer: str, error: str) -> Outcome:
        """Put *event* into the dead-letter queue of *topic*, with what this task knows of its message."""
        receives = self.request.get(RECEIVES) or {}
        try:
            return self.dead_letters.put(
                event,
                topic,
                "failed",
                consumer=consumer,
                error=error,
                first_received=receives.get("first", 0),
                receive_count=receives.get("count", 0),
                group=self.request.get(GROUP) or "",
            )
        except SoftTimeLimitExceeded:
            raise
        except Exception:
            # Whatever it is, such as an embedded SQS that has ended, it must not take the event with it.
            logger.exception("a dead letter of %s could not be made", printable(topic))
            return Outcome.NOT_NOW

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's; where the retry cannot be published, the task comes again instead of being dropped.

        :raises MaxRetriesExceededError: it never can, as it is too large for the broker.
        """
        if self.fifo == "hold" and (eta := kwargs.get("eta")) is not None:
            left = maybe_make_aware(eta, self.app.timezone) - datetime.now(timezone.utc)
            kwargs |= {"eta": None, "countdown": max(0.0, left.total_seconds())}
        try:
            retry = super().retry(*args, **kwargs)
        except Reject as error:
            if isinstance(error.reason, Exception) and is_too_large(error.reason):
                cause = kwargs.get("exc")
                raise MaxRetriesExceededError(
                    f"{cause!r}, and its retry is too large for the broker: {error.reason!r}"
                ) from cause
            raise Reject(error.reason, requeue=True) from error
        except Retry as error:
            self.request.retried = True
            if isinstance(error.sig, LocalSignature):
                raise self._local(error) from error.exc
            raise
        self.request.retried = True
        return self._local(retry) if isinstance(retry.sig, LocalSignature) else retry

    def _local(self, retry: Retry) -> LocalRetry:
        left = getattr(self.request, "left", None)
        local = LocalRetry(retry.message, retry.exc, retry.when, self.request.retries + 1, left=left)
        # Nobody has published it, so a function that catches it, or asks for it without having it thrown, must not
        # make it disappear.
        self.request.local_retry = local
        return local


class BuryTask(EventTask):
    """Keeps an event as a dead letter when that was not possible at once: an outage of SQS must not lose it."""

    name = BURY
    max_retries = None
    time_limit = soft_time_limit = BURYING_LIMIT

    def run(self, event: str, topic: str, consumer: str, error: str) -> None:
        """Put *event* into the dead-letter queue of *topic*, trying for as long as that cannot be reached."""
        outcome = self._put_dead(event, topic, consumer, error)
        if outcome is Outcome.NOT_NOW:
            raise self.retry(countdown=get_exponential_backoff_interval(_BURY_AGAIN, self.request.retries, 300, True))
        say_fate(outcome, event, self.dead_letters.name(topic), consumer, error)


class ConsumerTask(EventTask):
    """The base of every consumer's task."""

    abstract = True

    consumer: Consumer
    operator: Any
    marks: Marks | None

    def run(self, event: str) -> Any:
        """Have the operator call the consumer's function with *event*."""
        return self.operator.process_event(self.consumer, self.consumer.argument(decode(event)))

    def id_of(self, events: Sequence[FacilityRecord]) -> str:
        """The id of the task that serves *events*, which is one unless the consumer takes batches."""
        return task_id(events[0].header.id, self.name)

    def shown_of(self, events: Sequence[FacilityRecord]) -> str:
        """What is shown as its argument."""
        return arguments_shown(events[0], self.topic)

    def argument_of(self, texts: list[str]) -> Any:
        """Its argument, of the events' JSON texts."""
        return texts[0]

    def __call__(self, event: Any) -> Any:
        if (burying := (self.request.properties or {}).get(BURYING)) is not None:
            self._bury_now(event, burying)
        try:
            result = self._attempt(event)
        except (Retry, Ignore):
            raise
        except Exception as error:
            if not (self._local_retry or (isinstance(error, Reject) and error.requeue)):
                self._failed(event, error)
            if self._local_retry:
                raise self._local_retry from error
            raise
        if self._local_retry:
            raise self._local_retry
        return result

    @property
    def _local_retry(self) -> LocalRetry | None:
        return getattr(self.request, "local_retry", None)

    def _attempt(self, event: Any) -> Any:
        return self.run(event) if self.marks is None else self._run_once(self.marks, event)

    def _run_once(self, marks: Marks, event: str) -> Any:
        event_id = decode(event).header.id
        remember = REMEMBER if self.consumer.once is True else float(self.consumer.once)
        began = False
        try:
            with marks.attempt(task_id(event_id, self.name), remember):
                began = True
                result = self.run(event)
                if getattr(self.request, "retried", False):
                    raise _NotDone
                return result
        except _NotDone:
            return result
        except AlreadyDone:
            logger.info("%s has finished event %s before: skipped", self.name, printable(event_id))
            return None
        except InProgress:
            logger.info("%s is being run for event %s: looking again later", self.name, printable(event_id))
        except Exception as error:
            if began:
                raise
            logger.warning("%s: the marks of once= cannot be read, trying again later: %r", self.name, error)
        # Not a retry that counts.
        later, retries = LEASE / 4, self.request.retries
        if self.may_stay(self.request, later):
            raise LocalRetry(when=later, retries=retries)
        # The copy has the same id; this message is acknowledged when it is sent.
        self.signature_from_request(self.request, countdown=later, retries=retries).apply_async()
        raise Ignore

    def _failed(self, event: Any, failure: Exception) -> None:
        """Bury what has failed of *event* here, in the pool's child.

        :raises LocalRetry: SQS cannot be reached; as it has the message yet, this task's place is kept, to try again.
        """
        positions = self._bury(self._letters(event, failure), _BURY_AGAIN)
        if positions:
            raise LocalRetry(
                exc=failure,
                when=_BURY_AGAIN,
                retries=self.request.retries,
                burying=repr(failure),
                left=self._left(event, positions),
            ) from failure

    def _bury_now(self, event: Any, error: str) -> None:
        """Make the dead letters that could not be made before, and nothing else.

        :raises LocalRetry: not now either.
        :raises Reject: they are made, and so this task has failed for good.
        """
        retries = self.request.retries
        later = get_exponential_backoff_interval(_BURY_AGAIN, retries, 300, True)
        positions = self._bury(self._letters(event, error), later)
        if positions:
            left = self._left(event, positions)
            raise LocalRetry(printable(error), when=later, retries=retries + 1, burying=error, left=left)
        raise Reject(error, requeue=False)

    def bury(self, event: Any, failure: BaseException) -> None:
        """Keep what failed for good: as a dead letter, now or as soon as SQS can be reached.

        Where there is no dead-letter queue, the whole event is logged as an ERROR.
        """
        self._bury(self._letters(event, failure), None)

    def _letters(self, event: Any, failure: BaseException | str) -> dict[int, tuple[str, str]]:
        """What is to be a dead letter, and why, by its position."""
        return {0: (event, _why(failure))}

    def _left(self, event: Any, positions: list[int]) -> Left | None:
        """What is left of *event*, if not all of it."""
        return None

    def _bury(self, letters: dict[int, tuple[str, str]], later: float | None) -> list[int]:
        """Make dead letters.

        :param later: after how many seconds this task may try again, as far as it can stay; None: not at all.
        :returns: those that it must try again.
        """
        outcome = Outcome.KEPT
        for done, (event, error) in enumerate(letters.values()):
            if outcome is not Outcome.NOT_NOW:  # what cannot be reached need not be asked for each event of a batch
                outcome = self._put(event, error)
            if outcome is Outcome.NOT_NOW and later is not None and self.may_stay(self.request, later):
                return [*letters][done:]
            self._see_to(outcome, event, error)
        return []

    def _put(self, event: str, error: str) -> Outcome:
        put = partial(self._put_dead, event, self.topic, self.name, error)
        try:
            return put()
        except SoftTimeLimitExceeded:  # it comes but once, and at any moment
            return put()

    def _see_to(self, outcome: Outcome, event: str, error: str) -> None:
        """Have a dead letter made later if it could not be made now, and say what became of the event."""
        if outcome is Outcome.NOT_NOW:
            try:
                # To the queue of this task: whoever runs that runs this.
                queue = self.app.amqp.router.route({}, self.name)["queue"]
                self.app.tasks[BURY].apply_async(
                    (event, self.topic, self.name, error),
                    countdown=_BURY_AGAIN,
                    queue=queue,
                    headers={name: self.request.get(name) for name in (RECEIVES, GROUP)},
                )
            except Exception:
                logger.exception("neither SQS nor the broker takes an event that failed for good")
            else:
                return
        say_fate(outcome, event, self.dead_letters.name(self.topic), self.name, error)


def say_fate(outcome: Outcome, event: str, dead_letter_queue: str | None, consumer: str, error: str) -> None:
    """Log what became of *event*, which failed for good: a dead letter, or else all of it in the log."""
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


class BatchTask(ConsumerTask):
    """The base of the task of a consumer that takes batches: its argument is the JSON texts of several events."""

    abstract = True

    def run(self, event: list[str]) -> Processed:  # type: ignore[override]
        """Have the operator call the consumer's function with a batch."""
        # One after the other, so that not all of them are in memory in two forms.
        return process_batch(self.operator, self.consumer, map(decode, event))

    def shown(self, argument: Any) -> str:
        return self.shown_of([decode(text) for text in argument])

    def id_of(self, events: Sequence[FacilityRecord]) -> str:
        return batch_id([event.header.id for event in events], self.name)

    def shown_of(self, events: Sequence[FacilityRecord]) -> str:
        return batch_shown(events, self.topic)

    def argument_of(self, texts: list[str]) -> Any:
        return texts

    def _attempt(self, event: list[str]) -> Any:
        # Outside of run, around which Celery puts autoretry_for: that would retry all of the batch.
        processed = self.run(event)
        reasons = {**processed.failed, **processed.unfit}
        if self._local_retry or not reasons:
            return processed.result
        self.request.failed = reasons
        # People know events by their ids; the function may have named them by where they were in its list.
        failure = BatchFailure({_event_id(event[position]): reason for position, reason in reasons.items()})
        if processed.failed:
            self._retry_failed(event, sorted(reasons), failure)
        raise failure

    def _retry_failed(self, event: list[str], positions: list[int], failure: BatchFailure) -> None:
        """Retry what failed of a batch: after as long, and as often, as an exception of ``autoretry_for`` is.

        :raises Retry: it is retried.
        :raises BatchFailure: not any more.
        """
        how = dict(getattr(self, "retry_kwargs", {}))
        if factor := float(getattr(self, "retry_backoff", False)):
            maximum, jitter = int(getattr(self, "retry_backoff_max", 600)), getattr(self, "retry_jitter", True)
            how["countdown"] = get_exponential_backoff_interval(
                int(max(1.0, factor)), self.request.retries, maximum, jitter
            )
        self.request.left = left = self._left(event, positions)
        args = None if left is None else ([event[position] for position in positions],)
        raise self.retry(args=args, exc=failure, **how)

    def _letters(self, event: list[str], failure: BaseException | str) -> dict[int, tuple[str, str]]:
        if isinstance(failure, BatchFailure):
            reasons: dict[int, str] = self.request.failed
        else:
            reasons = dict.fromkeys(range(len(event)), _why(failure))
        return {position: (event[position], reason) for position, reason in reasons.items()}

    def _left(self, event: list[str], positions: list[int]) -> Left | None:
        if len(positions) == len(event):
            return None
        return Left(positions, self.shown([event[position] for position in positions]))


def _why(failure: BaseException | str) -> str:
    return failure if isinstance(failure, str) else repr(failure)


@signals.task_failure.connect  # type: ignore[untyped-decorator]
def _bury_what_the_child_could_not(sender: Any, exception: Any, args: Any, **_: Any) -> None:
    """A hard time limit and a lost pool child are told to the worker's main process only."""
    if isinstance(sender, ConsumerTask) and isinstance(exception, (TimeLimitExceeded, WorkerLostError)) and args:
        if sender.may_stay(sender.request, 0.0):
            # Another child does it: calling SQS may take minutes, for which all of the worker would stand still.
            sender.request.unburied = repr(exception)
        else:
            sender.bury(args[0], exception)


def _event_id(text: str) -> str:
    try:
        return printable(decode(text).header.id)
    except DecodeError:
        return "?"


def register(
    app: Celery,
    consumer: Consumer,
    operator: Any,
    topic: str,
    dead_letters: DeadLetters,
    marks: Marks | None,
    fifo: str = "",
) -> ConsumerTask:
    """Register the task of *consumer* with *app*, under the consumer's name and with its options.

    :param marks: where it is remembered which events are done, for a consumer with ``once``.
    :param fifo: as :attr:`EventTask.fifo`.
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
        "fifo": fifo,
        "dead_letters": dead_letters,
        "marks": marks if consumer.once else None,
    }
    base = ConsumerTask if consumer.batch is None else BatchTask
    task = type(str(consumer.name), (base,), members)()
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
