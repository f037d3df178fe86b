"""How a task makes dead letters, and the task that makes them later when SQS cannot be reached."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.utils.time import get_exponential_backoff_interval

from ..celery_compat.tasks import route_of
from ..consumers.context import GROUP, ORIGINAL, RECEIVES, EventContext
from ..dead_letters.writer import DeadLetters, Outcome
from ..errors import DecodeError
from ..events.records import read_event
from ..text import printable
from .base import EventTask
from .context import HandOffContext
from .local_retry import LocalRetry, Remainder
from .outcome import TaskOutcome, safe_repr

logger = logging.getLogger(__name__)

#: The name of the task that makes dead letters later.
DEAD_LETTER_TASK = "balog_celery.bury"
#: How long making a dead letter may take, in seconds; it replaces the time limits of tasks.
TIME_LIMIT = 600.0
#: The first delay before a dead letter is tried again, in seconds, and the longest.
_FIRST_DELAY = 5
_LONGEST_DELAY = 300

#: The dead letters of a task: event and reason, by the event's position in a batch (0 for a single event).
Failures = dict[int, tuple[str, str]]


class DeadLetterMaker(EventTask):
    """A task that makes dead letters of its events."""

    abstract = True

    dead_letters: DeadLetters

    def put_dead_letter(self, event: str, topic: str, consumer: str, error: str) -> Outcome:
        """Put *event* into the dead-letter queue of *topic*, with the context of its message."""
        event_id = event_id_of(event)
        context = EventContext.from_headers(self.request, event_id)
        try:
            return self.dead_letters.send(
                event,
                topic,
                "failed",
                consumer=consumer,
                error=error,
                first_received=context.first_received,
                receive_count=context.receive_count,
                group=context.group,
                event_id=event_id,
                original=context.original,
            )
        except SoftTimeLimitExceeded:
            raise
        except Exception:
            # Any error, such as a local SQS that has ended, must leave the event where it is.
            logger.exception("a dead letter of %s could not be made", printable(topic))
            return Outcome.NOT_NOW


class DeadLetterTask(DeadLetterMaker):
    """Makes a dead letter that could not be made at once, so that an outage of SQS does not lose the event."""

    name = DEAD_LETTER_TASK
    max_retries = None
    ignore_result = True
    time_limit = soft_time_limit = TIME_LIMIT

    def run(self, event: str, topic: str, consumer: str, error: str) -> None:
        """Put *event* into the dead-letter queue of *topic*, and retry until that can be reached."""
        outcome = self.put_dead_letter(event, topic, consumer, error)
        if outcome is Outcome.NOT_NOW:
            raise self.retry(countdown=_delay(self.request.retries))
        log_outcome(outcome, event, self.dead_letters.name(topic), consumer, error)


class FailingTask(DeadLetterMaker):
    """A task whose events become dead letters when it fails permanently."""

    abstract = True

    def dead_letter(self, args: Any, failure: BaseException | str) -> TaskOutcome:
        self.fail(args[0], failure)
        return TaskOutcome.DEAD_LETTERED

    def dead_letter_later(self, args: Any, failure: BaseException | str) -> TaskOutcome:
        for event, error in self.failures(args[0], failure).values():
            self._publish_dead_letter(event, error)
        return TaskOutcome.DEAD_LETTERED

    def fail(self, event: Any, failure: BaseException | str) -> None:
        """Make the dead letters of a task that failed permanently.

        :param event: the task's argument.
        :raises LocalRetry: SQS cannot be reached, so the task waits in its worker.
        :raises Reject: neither SQS nor the broker can be reached, so the event must come again.
        """
        error, retries = reason_of(failure), self.request.retries
        self._make(event, self.failures(event, failure), LocalRetry(None, failure, _FIRST_DELAY, retries, error))

    def finish_failure(self, event: Any, error: str) -> None:
        """Make the dead letters of a task that failed permanently in an earlier attempt.

        :raises LocalRetry: SQS still cannot be reached.
        :raises Reject: they are made; this ends the task as a failure.
        """
        retries = self.request.retries
        # The first tries come soon, however often the function was retried before.
        later = _delay(max(0, retries - (self.max_retries or 0)))
        self._make(event, self.failures(event, error), LocalRetry(printable(error), None, later, retries + 1, error))
        raise Reject(error, requeue=False)

    def failures(self, event: Any, failure: BaseException | str) -> Failures:
        """Return the dead letters to make."""
        return {0: (event, reason_of(failure))}

    def remainder(self, event: Any, positions: list[int]) -> Remainder | None:
        """Return the part of *event*, a batch, at *positions*; None if that is all of it."""
        return None

    def _make(self, event: Any, failures: Failures, retry: LocalRetry) -> None:
        """Make dead letters, or raise *retry* for those that SQS does not take now.

        :raises Reject: neither SQS nor the broker can be reached.
        """
        outcome = Outcome.KEPT
        for done, (text, error) in enumerate(failures.values()):
            if outcome is not Outcome.NOT_NOW:  # one failed call is enough for the whole batch
                outcome = self._put(text, error)
            if outcome is not Outcome.NOT_NOW:
                log_outcome(outcome, text, self.dead_letters.name(self.topic), self.name, error)
            elif self.can_wait_locally(self.request, retry.when):
                retry.remainder = self.remainder(event, [*failures][done:])
                raise self.wait(retry)
            else:
                self._publish_dead_letter(text, error)
        self.attempt.dead_lettered = True

    def _dead_letter_now(self, failures: Failures) -> None:
        """Make dead letters while the task goes on, or publish the task that makes them.

        :raises Reject: neither SQS nor the broker can be reached.
        """
        for text, error in failures.values():
            outcome = self._put(text, error)
            if outcome is Outcome.NOT_NOW:
                self._publish_dead_letter(text, error)
            else:
                log_outcome(outcome, text, self.dead_letters.name(self.topic), self.name, error)

    def _put(self, event: str, error: str) -> Outcome:
        put = partial(self.put_dead_letter, event, self.topic, self.name, error)
        try:
            return put()
        except SoftTimeLimitExceeded:  # raised at most once, at any moment
            return put()

    def _publish_dead_letter(self, event: str, error: str) -> None:
        """Publish the task that makes a dead letter of *event*.

        :raises Reject: the broker cannot be reached.
        """
        try:
            # To the queue of this task, which some worker serves.
            self.app.tasks[DEAD_LETTER_TASK].apply_async(
                (event, self.topic, self.name, error),
                countdown=_FIRST_DELAY,
                queue=route_of(self.app, self)["queue"],
                headers={name: self.request.get(name) for name in (RECEIVES, GROUP, ORIGINAL)},
            )
        except Exception as problem:
            logger.exception("neither SQS nor the broker accepts a dead letter: the event will be received again")
            raise Reject(problem, requeue=True) from problem


def log_outcome(outcome: Outcome, event: str, dead_letter_queue: str | None, consumer: str, error: str) -> None:
    """Log that *event* failed permanently: where its dead letter is, or the whole event if there is none."""
    if outcome:
        # Celery has logged the error itself: as a second one, Sentry would show it twice.
        logger.warning(
            "%s failed permanently on event %s, which is now in %s (%s)",
            consumer,
            printable(event_id_of(event)) or "?",
            dead_letter_queue,
            printable(error),
        )
        return
    logger.error(
        "%s failed permanently on event %s (%s), and %s. The event: %s",
        consumer,
        printable(event_id_of(event)) or "?",
        printable(error),
        outcome.value,
        printable(event, len(event)),
    )


def reason_of(failure: BaseException | str) -> str:
    """Return *failure* as a dead letter names it."""
    return failure if isinstance(failure, str) else safe_repr(failure)


def event_id_of(text: str) -> str:
    """Return the id of the event in *text*, or "" if it cannot be decoded."""
    try:
        return read_event(text).header.id
    except DecodeError:
        return ""


def pending_failure(request: Any) -> str | None:
    """Return why the task of *request* failed permanently, if only its dead letter remains to be made."""
    context = HandOffContext.of(request)
    return None if context is None else context.failure


def _delay(tries: int) -> float:
    return float(get_exponential_backoff_interval(_FIRST_DELAY, tries, _LONGEST_DELAY, True))
