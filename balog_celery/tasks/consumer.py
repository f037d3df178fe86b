"""The task of a consumer: it decodes the event, calls the function, and handles each way in which that can end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from ..consumers.consumer import Consumer
from ..errors import FunctionAborted
from ..events.decoders.documents import Reading
from ..events.records import read_event
from ..producer.lineage import consuming
from ..text import brief, printable
from .dead_letter import FailingTask, pending_failure, reason_of
from .idempotency import EXPIRES_AFTER, REMEMBER, AlreadyDone, IdempotencyStore, InProgress, OtherPayload, digest_of
from .local_retry import LocalRetry
from .naming import argsrepr, task_id
from .outcome import executing, is_for_the_pool
from .sentry import tag

logger = logging.getLogger(__name__)

#: After how many seconds an event that another attempt holds is tried again.
LATER = EXPIRES_AFTER / 4


class _RetryRequested(Exception):
    """The function asked for a retry and returned: its event must not be remembered as done."""


class CallingTask(Task):  # type: ignore[misc]
    """The last base of every consumer's task, below the app's own task class, whose ``__call__`` ends here.

    Celery's own ``Task.__call__`` would push a copy of the request for every event.
    """

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


class ConsumerTask(FailingTask):
    """The base of every consumer's task."""

    abstract = True

    consumer: Consumer
    operator: Any
    #: Calls the function with its argument: see :func:`~balog_celery.tasks.calls.compose`.
    call_function: Callable[[Any], Any]
    idempotency_store: IdempotencyStore | None
    #: Whether something of the call runs on an event loop.
    needs_loop = False

    def run(self, event: str) -> Any:
        """Call the consumer's function with *event*."""
        record = read_event(event)
        with consuming(self.topic, self.name, [record]):
            return self.call_function(self.consumer.argument(record))

    def describe(self, events: Sequence[Reading]) -> tuple[str, str, Any]:
        """Return the id, the ``argsrepr`` and the argument of the task that serves *events*.

        :param events: one event with its JSON text, or more if the consumer takes batches.
        """
        ((event, text),) = events
        return task_id(event.header.id, self.name), argsrepr(event, self.topic), text

    def __call__(self, event: Any) -> Any:
        with executing(self) as attempt:
            if attempt.running:
                # The function calls its own task, which is an ordinary call of the function.
                return self.run(event)
            attempt.running = True
            tag(self)
            if (failure := pending_failure(self.request)) is not None:
                self.finish_failure(event, failure)
            try:
                result = self.process(event)
            except Ignore:
                attempt.returned = True
                raise
            except Retry as retry:
                if not attempt.retried and attempt.local_retry is None:
                    # The function raised it by hand, so nothing has been published.
                    raise self.retry(exc=retry.exc, countdown=countdown_of(retry.when)) from retry
                raise
            except BaseException as error:
                replacement = self._failed(event, error)
                if replacement is error:
                    raise
                raise replacement from error
            attempt.returned = True
            if attempt.local_retry is not None:
                raise attempt.local_retry
            return result

    def _failed(self, event: Any, error: BaseException) -> BaseException:
        """Return what to raise in place of *error*, which the function raised.

        :raises LocalRetry: as :meth:`fail`.
        :raises Reject: as :meth:`fail`.
        """
        if is_for_the_pool(error, self, self.request):
            return error
        attempt = self.attempt
        if attempt.local_retry is None and not (isinstance(error, Reject) and error.requeue):
            self.fail(event, error)
        if attempt.local_retry is not None:
            return attempt.local_retry
        if isinstance(error, Exception) and not isinstance(error, MemoryError):
            return error
        # Celery does not count these as failures of the task, and a MemoryError ends the worker.
        return FunctionAborted(reason_of(error))

    def process(self, event: Any) -> Any:
        """Call the function with *event*, once per event if the consumer asks for that."""
        store = self.idempotency_store
        return self.call(event) if store is None else self._process_once(store, event)

    def call(self, event: Any) -> Any:
        """Call :meth:`run` through the ``__call__`` of the app's own task class."""
        return super().__call__(event)

    def _process_once(self, store: IdempotencyStore, event: str) -> Any:
        try:
            with self.once(store, event):
                result = self.call(event)
                if self.attempt.retried:
                    raise _RetryRequested
                return result
        except _RetryRequested:
            return result
        except AlreadyDone:
            return None
        except InProgress:
            raise self._again_later() from None

    @contextmanager
    def once(self, store: IdempotencyStore, event: str) -> Iterator[None]:
        """Run the block, which processes *event*, as the one attempt at it, and log why that is not to be.

        :raises AlreadyDone: the consumer has finished the event before.
        :raises Reject: it has finished another one with its id.
        :raises InProgress: the event is to be processed later.
        """
        event_id, digest = read_event(event).header.id, digest_of(event)
        remember = REMEMBER if self.consumer.once is True else float(self.consumer.once)
        began = False
        try:
            with store.attempt(task_id(event_id, self.name), remember, digest):
                began = True
                yield
        except AlreadyDone:
            logger.info("%s has finished event %s before: skipped", self.name, printable(event_id))
            raise
        except OtherPayload:
            why = f"{self.name} has already finished an event with the id {printable(event_id)} and another payload"
            logger.warning("%s, so this one becomes a dead letter: give each event an id of its own", why)
            raise Reject(why, requeue=False) from None
        except InProgress:
            logger.info("%s is processing event %s elsewhere: trying again later", self.name, printable(event_id))
            raise
        except Exception as error:
            if began:
                raise
            logger.warning("%s: the idempotency store cannot be read, trying again later: %s", self.name, brief(error))
            raise InProgress from error

    def _again_later(self) -> Exception:
        """Have the task executed again without counting a retry; return what to raise."""
        later, retries = LATER, self.request.retries
        if self.can_wait_locally(self.request, later):
            return self.wait(LocalRetry(when=later, retries=retries))
        try:
            # The copy has the same id, and this message is acknowledged once the copy is published.
            self.signature_from_request(self.request, countdown=later, retries=retries).apply_async()
        except Exception as error:
            raise Reject(error, requeue=True) from error
        return Ignore()  # type: ignore[no-any-return]


def countdown_of(when: Any) -> float | None:
    """Return the countdown in seconds that a ``Retry`` raised by hand asks for, by a number or a time; None: none."""
    if isinstance(when, datetime):
        return max(0.0, (when - datetime.now(when.tzinfo)).total_seconds())
    return when if isinstance(when, (int, float)) else None
