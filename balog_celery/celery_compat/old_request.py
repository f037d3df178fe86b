"""What Celery's request does since 5.7 when the pool has lost a task, for older versions."""

from __future__ import annotations

import logging
from typing import Any

from celery import signals, states
from celery.exceptions import Retry, TimeLimitExceeded, WorkerLostError
from celery.worker import state
from celery.worker.request import Request

from .tasks import exception_info, reported_error

logger = logging.getLogger(__name__)


class OldRequest(Request):  # type: ignore[misc]
    """The request of Celery before 5.7, with the method names and the behaviour of 5.7 that this package needs.

    Those versions have no ``retry_on_worker_lost``, take a child's exit for an ordinary failure, repeat a task whose
    child was lost after it had stored its success, and report no hard time limit to hooks and signals.
    """

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Report a time limit; after a hard one, call the task's failure hooks and send ``task_failure``."""
        super().on_timeout(soft, timeout)
        if soft or state.should_terminate:
            return
        error = TimeLimitExceeded(timeout)
        exc_info = exception_info(error)
        self.task.on_failure(error, self.id, self.args, self.kwargs, exc_info)
        self.task.after_return(states.FAILURE, error, self.id, self.args, self.kwargs, None)
        self._send_failure(error, exc_info)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Report an end without success; retry a task whose child was lost, if its options ask for it."""
        error = reported_error(exc_info)
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            # billiard reports a child's exit since 4.3.0.
            if self._already_cancelled or self._already_revoked:
                state.task_ready(self)
                return
            error = WorkerLostError(f"Worker exited prematurely: {error!r}.")
            exc_info = exception_info(error)
        if isinstance(error, WorkerLostError):
            if meta := self._success_was_stored():
                self._succeeded(meta)
                return
            if getattr(self.task, "retry_on_worker_lost", None):
                most = self.task.max_retries
                if most is not None and self._context.retries >= most:
                    self._fail_for_good(error, exc_info)
                    return
                if self._retry_worker_lost(error, exc_info):
                    state.task_ready(self)
                    return
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _success_was_stored(self) -> Any:
        """Return the task's result, as a mapping, if the result backend says that it has succeeded."""
        if self.ignore_result:
            return False
        try:
            # Without its retries: the worker's main process must not wait for an outage.
            meta = self.task.backend._get_task_meta_for(self.id)
        except Exception:  # no backend, or one that is down or stores no results
            return False
        return meta if meta["status"] == states.SUCCESS else False

    def _succeeded(self, meta: dict[str, Any]) -> None:
        state.task_ready(self)
        if self.task.acks_late:
            self.acknowledge()
        self.send_event("task-succeeded", result=repr(meta.get("result")), runtime=None)

    def _retry_worker_lost(self, exc: BaseException, exc_info: Any) -> bool:
        """Publish the task's retry.

        :returns: False if the broker did not take it.
        """
        task, context = self.task, self._context
        countdown = task.default_retry_delay
        try:
            task.signature_from_request(context, countdown=countdown, retries=context.retries + 1).apply_async()
        except Exception:
            logger.exception("task %s[%s], whose child was lost, could not be retried", self.name, self.id)
            return False
        if self.store_errors:
            task.backend.mark_as_retry(self.id, exc, exc_info.traceback, request=context)
        if task.acks_late:
            self.acknowledge()
        self.send_event("task-retried", exception=repr(exc), traceback=exc_info.traceback)
        task.request_stack.push(context)
        try:
            task.on_retry(exc, self.id, self.args, self.kwargs, exc_info)
            reason = Retry(exc=exc, when=countdown)
            signals.task_retry.send(sender=task, request=context, reason=reason, einfo=exc_info)
        finally:
            task.request_stack.pop()
        return True

    def _fail_for_good(self, error: WorkerLostError, exc_info: Any) -> None:
        """Report the end of a task that has no retries left; Celery would run it again without end."""
        state.task_ready(self)
        if self.task.acks_late and self.task.acks_on_failure_or_timeout:
            self.acknowledge()
        else:
            self.reject(requeue=False)
        self.task.backend.mark_as_failure(self.id, error, request=self._context, store_result=self.store_errors)
        self._send_failure(error, exc_info)
        logger.error("task %s[%s] has lost its child too often: %r", self.name, self.id, error)

    def _send_failure(self, error: BaseException, exc_info: Any) -> None:
        signals.task_failure.send(
            sender=self.task,
            task_id=self.id,
            exception=error,
            args=self.args,
            kwargs=self.kwargs,
            traceback=exc_info.traceback,
            einfo=exc_info,
        )
        self.send_event("task-failed", exception=repr(error), traceback=exc_info.traceback)
