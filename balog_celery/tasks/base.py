"""The base of all tasks whose first argument is an event: how they publish, and how they retry."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from celery.exceptions import MaxRetriesExceededError, Reject, Retry
from celery.utils.time import maybe_make_aware
from kombu.exceptions import EncodeError

from ..brokers.connections import is_too_large, publish_confirmed
from ..celery_compat.tasks import TracedTask, has_sequel
from ..consumers.context import EVENT
from ..errors import ConfigurationError, DecodeError
from ..events.records import FacilityRecord, read_event
from .context import HandOffContext
from .local_retry import MAX_COUNTDOWN, MAX_GROUP_COUNTDOWN, LocalRetry, LocalSignature
from .naming import argsrepr
from .outcome import Attempt, TaskOutcome, attempt_of, safe_repr, traced
from .results import TolerantBackend
from .retry_options import problem_of

#: Errors of publishing that will come each time, such as an argument that is not JSON.
_UNPUBLISHABLE = (EncodeError, OverflowError, TypeError, ValueError)


class EventTask(TracedTask):
    """The base of the tasks whose first argument is an event's JSON text, or a list of texts for a batch.

    Events travel as text, so the broker's serializer cannot change them.
    """

    abstract = True
    # By name: a process that only publishes need not import the worker's modules.
    Request = "balog_celery.tasks.request:EventRequest"
    Strategy = "balog_celery.tasks.strategy:event_strategy"
    acks_late = True
    reject_on_worker_lost = True
    # An event that kills its pool child is retried as often as max_retries says, and then becomes a dead letter.
    # Rejecting alone would run it without end.
    retry_on_worker_lost = True
    serializer = "json"

    topic: str = ""
    #: For a FIFO topic: whether a message group waits for the retry of its event (``hold``) or goes on (``continue``).
    fifo: str = ""
    #: After how many seconds without an answer the broker counts as down.
    publish_timeout: float = 10.0

    def wrap_tracer(self, tracer: Callable[..., Any]) -> Callable[..., Any]:
        return traced(self, tracer)

    def wrap_backend(self, backend: Any) -> Any:
        return TolerantBackend(backend)

    @property
    def attempt(self) -> Attempt:
        """What is known about the current attempt."""
        return attempt_of(self.request)

    def dead_letter(self, args: Any, failure: BaseException | str) -> TaskOutcome:
        """Make a dead letter of a task that failed permanently outside of its body.

        :param args: the task's arguments.
        :param failure: why it failed.
        :returns: the outcome of the task.
        """
        return TaskOutcome.RELEASED

    def dead_letter_later(self, args: Any, failure: BaseException | str) -> TaskOutcome:
        """Have another task make the dead letter: the worker's main process must not wait for SQS."""
        return TaskOutcome.RELEASED

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish the task as Celery does, and wait for the broker's confirmation.

        The ``argsrepr`` names the event instead of showing its content, also for retries that Celery publishes.
        """
        if args and "argsrepr" not in options:
            with contextlib.suppress(DecodeError):
                options |= self.descriptive_options(args[0], options.get("headers") or {})
        if "producer" in options or "connection" in options:
            return super().apply_async(args, kwargs, **options)
        # The message of a task is acknowledged once its retry is published, so that must be certain.
        publish = super().apply_async
        options = {"confirm_timeout": self.publish_timeout, "mandatory": True, **options}
        return publish_confirmed(
            self.app, self.publish_timeout, lambda producer: publish(args, kwargs, producer=producer, **options)
        )

    def descriptive_options(self, argument: Any, headers: dict[str, Any]) -> dict[str, Any]:
        """Return the options that say which event *argument* is: ``argsrepr``, and *headers* with its id and type.

        :raises DecodeError: it is not an event.
        """
        event: FacilityRecord = read_event(argument)
        name = {"id": event.header.id, "cls_type": event.payload.cls_type}
        return {"argsrepr": argsrepr(event, self.topic), "headers": {EVENT: name, **headers}}

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, queue: Any = None, **options: Any
    ) -> Any:
        """Return the signature with which Celery retries the task; that of a local retry publishes nothing.

        :raises ConfigurationError: the task holds its message group, and this retry can never be local.
        :raises Reject: the task holds its message group, and has no time left for a local retry.
        """
        signature = super().signature_from_request(request, args, kwargs, queue=queue, **options)
        request = self.request if request is None else request
        # A batch's own retry of its remainder stays local: the worker has the whole batch, and is told the positions.
        is_remainder = attempt_of(request).remainder is not None
        changed = (args is not None and not is_remainder) or kwargs is not None or queue is not None
        changed = changed or options.get("eta") is not None or bool(options.keys() - {"countdown", "eta", "retries"})
        delay = options.get("countdown") or 0.0
        if not changed and self.can_retry_locally(request, delay):
            return LocalSignature(signature)
        if self.fifo == "hold" and HandOffContext.of(request) is not None:
            if changed or delay > MAX_GROUP_COUNTDOWN:
                raise ConfigurationError(
                    f"{self.name} holds its message group until it has finished, so it can be retried with a countdown "
                    f"of up to {MAX_GROUP_COUNTDOWN:.0f} s only, and without other options"
                )
            raise Reject("its visibility timeout cannot be extended until the retry", requeue=True)
        # A published retry needs no result here: Celery would ask the result backend to watch for it, and publish
        # nothing while that is down. The header tells the worker whether to store the result.
        ignored = bool(signature.options.get("ignore_result"))
        headers = {**(signature.options.get("headers") or {}), "ignore_result": ignored}
        signature.options.update(ignore_result=True, headers=headers)
        return signature

    def can_retry_locally(self, request: Any, delay: float) -> bool:
        """Return whether the task may wait in its worker for a retry after a failure, *delay* seconds from now.

        A task that lets its message group go on is retried by the broker.
        """
        return self.fifo != "continue" and self.can_wait_locally(request, delay)

    def can_wait_locally(self, request: Any, delay: float) -> bool:
        """Return whether the task may wait in its worker for *delay* seconds, for a retry or for its dead letter."""
        context = HandOffContext.of(request)
        if context is None or not context.retry_until or not self.acks_late:
            return False
        if time.monotonic() + delay > context.retry_until:
            return False
        if not abs(delay) <= (MAX_GROUP_COUNTDOWN if self.fifo else MAX_COUNTDOWN):  # False for NaN, too
            return False
        # Only a published retry keeps headers that the function added for it.
        added = (request.headers or {}).keys() - set(context.headers)
        return not (added or has_sequel(request))

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Retry the task as Celery does. If its retry cannot be published, the event comes again.

        :raises LocalRetry: it is retried by its worker.
        :raises MaxRetriesExceededError: its retry can never be published, or no worker could read it.
        """
        options = {**dict(zip(("args", "kwargs", "exc"), args, strict=False)), **kwargs}
        if problem := problem_of(self.app, options):
            why = f"{safe_repr(options.get('exc'))}, and its retry can never be published: {problem}"
            raise MaxRetriesExceededError(why)
        if self.fifo == "hold" and (eta := kwargs.get("eta")) is not None:
            remaining = maybe_make_aware(eta, self.app.timezone) - datetime.now(timezone.utc)
            kwargs |= {"eta": None, "countdown": max(0.0, remaining.total_seconds())}
        try:
            retry = super().retry(*args, **kwargs)
        except self.MaxRetriesExceededError as error:
            if not error.task_args:  # the one for which the function has asked for a retry
                raise
            # Not Celery's text, which has the event in it.
            text = f"{self.name} has been retried {self.request.retries} times, as often as its max_retries allows"
            raise type(error)(text) from None
        except Reject as error:
            raise _unpublished(error, kwargs.get("exc")) from error
        except Retry as error:
            self.attempt.retried = True
            if isinstance(error.sig, LocalSignature):
                raise self._retry_locally(error) from error.exc
            raise
        self.attempt.retried = True
        return self._retry_locally(retry) if isinstance(retry.sig, LocalSignature) else retry

    def _retry_locally(self, retry: Retry) -> LocalRetry:
        remainder = self.attempt.remainder
        return self.wait(
            LocalRetry(retry.message, retry.exc, retry.when, self.request.retries + 1, remainder=remainder)
        )

    def wait(self, retry: LocalRetry) -> LocalRetry:
        """Note *retry* and return it: it must not be lost if the function catches it, as nothing was published."""
        self.attempt.local_retry = retry
        return retry


def _unpublished(error: Reject, cause: BaseException | None) -> Exception:
    """Return what to raise when Celery could not publish a retry.

    :param error: Celery's own exception.
    :param cause: the exception for which the function asked for a retry.
    """
    reason = error.reason
    if isinstance(reason, Exception) and is_too_large(reason):
        problem = "is too large for the broker"
    elif isinstance(reason, _UNPUBLISHABLE):
        problem = "can never be published"
    else:
        return Reject(reason, requeue=True)  # type: ignore[no-any-return]
    why = f"{safe_repr(cause)}, and its retry {problem}: {safe_repr(reason)}"
    return MaxRetriesExceededError(why)  # type: ignore[no-any-return]
