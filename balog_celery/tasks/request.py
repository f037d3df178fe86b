"""Settles the message of an event's task in its worker, by the outcome of the task and not by Celery's callbacks."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from celery.exceptions import Reject, Terminated, TimeLimitExceeded, WorkerLostError

from ..celery_compat.tasks import exception_info, reported_error
from ..celery_compat.worker import HookedRequest, stops_at_once
from .context import HandOffContext
from .local_retry import LocalRetry
from .outcome import TaskOutcome, safe_repr

logger = logging.getLogger(__name__)

#: Outcomes after which the message of a task may go.
_SETTLED = (TaskOutcome.FINISHED, TaskOutcome.RETRIED, TaskOutcome.DEAD_LETTERED)
#: Those of them that Celery reports as a failure, as observers are told.
_ENDS = {TaskOutcome.FINISHED: "succeeded", TaskOutcome.DEAD_LETTERED: "failed"}
#: What ends a task permanently, whether or not its message was acknowledged at the start.
_PERMANENT = (WorkerLostError, TimeLimitExceeded)
#: What only the worker's main process knows about a task's end.
_BY_THE_POOL = (WorkerLostError, TimeLimitExceeded, Terminated, SystemExit, KeyboardInterrupt)


class Verdict(enum.Enum):
    """What Celery would do with the message of a task that failed."""

    ACKNOWLEDGE = "acknowledge"
    REJECT = "reject"
    REQUEUE = "requeue"


class EventRequest(HookedRequest):
    """The task of an event in this worker; ``inspect`` shows which event it is, without its content.

    The message is acknowledged only if the task is known to have ended well, or its event is safe elsewhere. In every
    other case it goes back, also after an exception in Celery's callbacks or in a receiver of its signals.
    """

    #: Called with each request, how its attempt ended, and for how many seconds it ran, if that is known. The ends are
    #: "succeeded", "failed" (permanently), "retried" and "released".
    observers: ClassVar[list[Callable[[EventRequest, str, float | None], None]]] = []

    #: While Celery reports the end of the task: it settles nothing yet.
    _ending = False
    _verdict: Verdict | None = None
    #: The worker executes the task again, and keeps its message.
    _waits = False
    #: Celery has found that the event is safe: its task was retried, had succeeded, or was revoked.
    _is_safe = False
    #: The end was handled: billiard reports a hard time limit twice.
    _is_settled = False

    def info(self, safe: bool = False) -> Any:
        """Same as ``Request.info(safe=True)``."""
        return super().info(safe=True)

    def acknowledge(self) -> None:
        """Acknowledge the message; while the end of the task is reported, only note that Celery would."""
        if self._ending:
            self._verdict = self._verdict or Verdict.ACKNOWLEDGE
        else:
            super().acknowledge()

    def reject(self, requeue: bool = False) -> None:
        """Reject the message; while the end of the task is reported, only note that Celery would."""
        if self._ending:
            self._verdict = self._verdict or (Verdict.REQUEUE if requeue else Verdict.REJECT)
        else:
            super().reject(requeue)

    def on_retry(self, exc_info: Any) -> None:
        """Report a retry. The message of a local one is not acknowledged."""
        self._observe("retried")
        retry = reported_error(exc_info)
        if isinstance(retry, LocalRetry):
            self._wait(retry)
        super().on_retry(exc_info)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Report an end without success, and settle the message by the outcome that *exc_info* carries."""
        error, outcome = reported_error(exc_info), getattr(exc_info, "outcome", None)
        if outcome is None and not isinstance(error, _BY_THE_POOL):
            # Not from the task: the pool could not execute it, or lost its result.
            exc_info, outcome = exception_info(Reject(error, requeue=True)), TaskOutcome.RELEASED
        self._end(lambda: super(EventRequest, self).on_failure(exc_info, send_failed_event, return_ok), error, outcome)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Report a time limit, and settle the message after a hard one."""
        if soft:
            super().on_timeout(soft, timeout)
        else:
            self._end(lambda: super(EventRequest, self).on_timeout(soft, timeout), TimeLimitExceeded(timeout), None)

    def may_begin(self) -> bool:
        return self._hand_off is None or bool(self.message.begin())

    def succeeded(self, runtime: float) -> None:
        self._observe("succeeded", runtime)

    def _observe(self, end: str, runtime: float | None = None) -> None:
        for observe in self.observers:
            try:
                observe(self, end, runtime)
            except Exception:
                logger.exception("the end of task %s[%s] was not counted", self.name, self.id)

    def pool_refused(self, error: Exception) -> None:
        logger.error(
            "the pool did not take task %s[%s]: its event will be received again", self.name, self.id, exc_info=error
        )
        self.reject(requeue=True)

    def revoke_announced(self) -> None:
        self._is_safe = True  # a user asked for it

    def success_found(self) -> None:
        self._is_safe = True

    def lost_child(self, retry: Callable[[], bool]) -> bool:
        delay = self.task.default_retry_delay
        if self._hand_off is not None and self.task.can_retry_locally(self.context, delay):
            self._wait(LocalRetry(when=delay, retries=self.context.retries + 1))
        retried = retry()  # of a local retry this publishes nothing
        if retried or self._waits:
            self._observe("retried")
        self._is_safe = self._is_safe or retried
        return retried

    @property
    def is_handed_over(self) -> bool:
        """Whether an engine handed the task to this worker, rather than a broker delivered it."""
        return self._hand_off is not None

    def waits_for_place(self, waits: bool) -> None:
        """Note whether the task waits because as many of its consumer run as may."""
        if self.is_handed_over:
            self.message.is_queued = waits

    @property
    def _hand_off(self) -> HandOffContext | None:
        return HandOffContext.from_properties(self.message.properties)

    def _wait(self, retry: LocalRetry) -> None:
        self.message.retry(retry)
        # Celery goes on with events, signals and logs, but does not acknowledge it again.
        self.acknowledged = self._waits = True

    def _end(self, report: Callable[[], None], error: BaseException, outcome: TaskOutcome | None) -> None:
        """Have Celery report the end of the task, then settle its message.

        :param report: Celery's own callback.
        :param error: what ended the task.
        :param outcome: the outcome that the task reported; None: it could not report any.
        """
        self._ending, failed = True, True
        try:
            with self._contained():
                report()
                failed = False
        finally:
            self._ending = False
            if not (self._waits or self._is_settled):
                self._is_settled = True
                with self._contained():
                    self._settle(error, outcome, failed)

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Log what the block raises: in some pools it would end the worker's loop."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt):  # how Celery asks for its end
            raise
        except BaseException:
            logger.exception("unexpected error at the end of task %s[%s]", self.name, self.id)

    def _settle(self, error: BaseException, outcome: TaskOutcome | None, failed: bool) -> None:
        over = self._verdict in (Verdict.ACKNOWLEDGE, Verdict.REJECT) or (
            self.acknowledged and isinstance(error, _PERMANENT)
        )
        if outcome in _SETTLED or self._is_safe:
            if outcome in _ENDS:
                self._observe(_ENDS[outcome])
            self.acknowledge()
        elif outcome is None and over and not (failed or stops_at_once()):
            # A worker that stops at once kills what runs, which says nothing about the task.
            self._dead_letter(error)
        elif self._verdict is not None or failed or self._hand_off is not None:
            self._observe("released")
            self.reject(requeue=True)
        # Otherwise Celery leaves the message to a broker that has lost its connection.

    def _dead_letter(self, error: BaseException) -> None:
        """Make a dead letter of a task that failed permanently and could not do that itself."""
        hand_off = self._hand_off
        failure = None if hand_off is None else hand_off.failure
        if hand_off is not None and failure is None and self.task.can_wait_locally(self.context, 0.0):
            # A child of the pool does it: calls to SQS may take minutes, and would stop the whole worker.
            self._wait(LocalRetry(when=0.0, retries=self.context.retries, failure=safe_repr(error)))
            return
        # Making the dead letter has killed a child as well, if there is a failure already.
        self.task.request_stack.push(self.context)
        try:
            outcome = self.task.dead_letter_later(self.args, error if failure is None else failure)
        except Exception:
            outcome = TaskOutcome.RELEASED  # the error is logged
        finally:
            self.task.request_stack.pop()
        if outcome in _SETTLED:
            self._observe("failed")
            self.acknowledge()
        else:
            self._observe("released")
            self.reject(requeue=True)


class ChunkRequest(EventRequest):
    """The task of a chunk, which tells the engine that handed it over how long its calls take."""

    def succeeded(self, runtime: float) -> None:
        super().succeeded(runtime)
        if self.is_handed_over:
            self.message.report_pace(self.message.events, runtime)

    def on_retry(self, exc_info: Any) -> None:
        retry = reported_error(exc_info)
        remainder = retry.remainder if isinstance(retry, LocalRetry) else None
        if self.is_handed_over and remainder is not None and remainder.calls:
            self.message.report_pace(remainder.calls, remainder.seconds)
        super().on_retry(exc_info)

    def lost_child(self, retry: Callable[[], bool]) -> bool:
        """Have each event come again alone, by the broker: it is not known which one has ended the child."""
        texts, task, retries = self.args[0], self.task, self.context.retries + 1
        if len(texts) == 1:
            return super().lost_child(retry)
        try:
            for text in texts:
                task.publish(self.context, [text], countdown=task.default_retry_delay, retries=retries)
        except Exception:
            logger.exception("the events of task %s[%s] could not be published: all come again", self.name, self.id)
            return super().lost_child(retry)
        self._is_safe = True
        self._observe("retried")
        self.send_event("task-retried", exception="WorkerLostError()")
        return True
