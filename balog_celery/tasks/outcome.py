"""The outcome of one attempt at an event's task.

An attempt has ended well only if it is known to have ended well. Celery reports the end of a task in many ways, and
some of them say nothing about the event: an error outside of the task's body, an exception that only the pool sees, a
callback that raises. So a task notes what it knows (:class:`Attempt`), :func:`traced` turns that into one
:class:`TaskOutcome` wherever Celery's tracer ends, and ``request.py`` settles the message by it.
"""

from __future__ import annotations

import enum
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from celery import states
from celery.exceptions import Ignore, Reject, Retry, WorkerShutdown, WorkerTerminate
from kombu.utils import encoding

from ..celery_compat.tasks import (
    exception_info,
    is_pool_child,
    is_terminating,
    pushed_context,
    trace_info,
    trace_result,
)
from ..producer.lineage import keeps_cause
from .local_retry import LocalRetry, Remainder

logger = logging.getLogger(__name__)


class TaskOutcome(enum.Enum):
    """How an attempt ended. The message of a task is acknowledged for all but the last two."""

    FINISHED = "the function returned, or asked to be ignored"
    RETRIED = "its retry is on the broker"
    DEAD_LETTERED = "it failed permanently, and its event is a dead letter"
    WAITING = "its worker executes it again"
    RELEASED = "its event must come again"


class Attempt:
    """What a task notes while it is executed. Only the task with that id may write to it.

    :param task_id: the id of the task.
    :param given: the task, its arguments and its request, as the pool gave them to the tracer; None without one.
    """

    __slots__ = (
        "cause",
        "dead_lettered",
        "failed",
        "given",
        "local_retry",
        "remainder",
        "retried",
        "returned",
        "running",
        "task_id",
    )

    def __init__(self, task_id: str | None, given: tuple[Any, Any, Any] | None = None) -> None:
        self.task_id = task_id
        self.given = given
        #: The function has been called.
        self.running = False
        #: The function has returned, or has asked to be ignored.
        self.returned = False
        #: A retry was asked for.
        self.retried = False
        #: That retry, if the worker executes it.
        self.local_retry: LocalRetry | None = None
        #: Every event that failed is a dead letter, or a task is published that makes it one.
        self.dead_lettered = False
        #: In a batch: why events failed, by position, and the part to retry.
        self.failed: dict[int, str] = {}
        self.remainder: Remainder | None = None
        #: In a batch: the first error that is known, which shows where the function failed.
        self.cause: BaseException | None = None


def safe_repr(value: object) -> str:
    """Return the ``repr`` of *value*, or a description of it if that raises."""
    return str(encoding.safe_repr(value))  # type: ignore[no-untyped-call]


_current: ContextVar[Attempt | None] = ContextVar("balog_attempt", default=None)


def attempt_of(request: Any) -> Attempt:
    """Return the attempt that executes *request*, a task's context; a new one if none does."""
    attempt = _current.get()
    return attempt if attempt is not None and attempt.task_id == request.id else Attempt(request.id)


@contextmanager
def executing(task: Any) -> Iterator[Attempt]:
    """Use the attempt that executes *task*, or begin one, for a task that is called without a worker."""
    with _in_this_thread(task):
        attempt = attempt_of(task.request)
        token = _current.set(attempt)
        try:
            yield attempt
        finally:
            _current.reset(token)


def _in_this_thread(task: Any) -> AbstractContextManager[None]:
    """Let *task* see its request in a thread that is not its tracer's, where it would see that of an earlier attempt.

    The pool of celery-aio-pool executes functions in such threads, which have the tracer's context variables.
    """
    attempt = _current.get()
    if attempt is None or attempt.given is None or attempt.given[0] is not task or task.request_stack.top is not None:
        return nullcontext()
    return _pushed(*attempt.given)


def is_for_the_pool(error: BaseException, task: Any, request: Any) -> bool:
    """Return whether *error* is addressed to the pool that runs *task*, rather than a failure of its function.

    :param request: the task's context.
    """
    if isinstance(error, (WorkerShutdown, WorkerTerminate)) or is_terminating():
        return True
    if request.is_eager:
        return not isinstance(error, Exception)
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        # It ends a child of the pool, which Celery then reports as lost. Other pools have no child to end.
        return is_pool_child()
    if _is_a(error, "gevent", "Timeout"):
        # The gevent pool enforces hard time limits with it.
        return bool((request.timelimit or (None,))[0] or task.time_limit)
    return _is_a(error, "greenlet", "GreenletExit")


def _is_a(error: BaseException, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def traced(task: Any, tracer: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Celery's *tracer* of *task*, so that its result always says how the attempt ended.

    The ``ExceptionInfo`` in the result has the :class:`TaskOutcome` as its attribute ``outcome``. A task that finished
    has no ``ExceptionInfo``.
    """

    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        attempt = Attempt(uuid, (task, args, request))
        token = _current.set(attempt)
        try:
            try:
                result = tracer(uuid, args, kwargs, request)
            except BaseException as error:
                # The gevent pool reports a task whose greenlet was killed as finished.
                killed = _is_a(error, "greenlet", "GreenletExit")
                if not killed and is_for_the_pool(error, task, pushed_context(request, args)):
                    raise
                logger.exception("task %s[%s] was interrupted outside of its function", task.name, uuid)
                result = trace_result(exception_info(error, internal=True), trace_info(states.FAILURE, error), 0.0, "")
            if result.info is None:
                return result
            with _pushed(task, args, request):
                return _concluded(task, attempt, args, result)
        finally:
            _current.reset(token)

    return keeps_cause(trace)


@contextmanager
def _pushed(task: Any, args: Any, request: Any) -> Iterator[None]:
    """Let *task* see its request again: the tracer has removed it by now."""
    task.request_stack.push(pushed_context(request, args))
    try:
        yield
    finally:
        task.request_stack.pop()


def _concluded(task: Any, attempt: Attempt, args: Any, result: Any) -> Any:
    """Return *result*, a tracer's, with the outcome of the attempt."""
    try:
        outcome = _known(attempt, result) or task.dead_letter(args, result.info.retval)
    except LocalRetry as retry:
        attempt.local_retry, outcome = retry, TaskOutcome.WAITING
    except Exception:
        logger.exception("no outcome for task %s[%s]: its event comes again", task.name, attempt.task_id)
        outcome = TaskOutcome.RELEASED
    if outcome is TaskOutcome.FINISHED and result.info.state == states.FAILURE:
        return trace_result(None, None, result.runtime, "None")
    info = exception_info(_reported(outcome, attempt, result.info))
    info.traceback = result.retval.traceback
    info.outcome = outcome
    return trace_result(info, result.info, result.runtime, result.retstr)


class Reported(Exception):
    """Stands for a task's exception in the worker's main process, and has the same ``repr``.

    The exception itself stays in the child: a worker ends if it cannot unpickle one.
    """

    def __repr__(self) -> str:
        return str(self)


def _reported(outcome: TaskOutcome, attempt: Attempt, info: Any) -> Exception:
    """Return the exception that makes Celery's main process act on *outcome*."""
    reported = Reported(safe_repr(info.retval))
    retry = attempt.local_retry
    if outcome is TaskOutcome.WAITING and retry is not None:
        cause = None if retry.exc is None else Reported(safe_repr(retry.exc))
        return LocalRetry(retry.message, cause, retry.when, retry.retries, retry.failure, retry.remainder)
    if outcome is TaskOutcome.RETRIED:
        return Retry(exc=reported)  # type: ignore[no-any-return]
    if outcome is TaskOutcome.FINISHED:
        return Ignore(str(reported))  # type: ignore[no-any-return]
    if outcome is TaskOutcome.RELEASED:
        return Reject(str(reported), requeue=True)  # type: ignore[no-any-return]
    return Reject(str(reported)) if info.state == states.REJECTED else reported


def _known(attempt: Attempt, result: Any) -> TaskOutcome | None:
    """Return the outcome of an attempt without success; None: it failed permanently, and has no dead letter yet."""
    state, error, internal = result.info.state, result.info.retval, result.retval.internal
    if attempt.local_retry is not None:
        return TaskOutcome.WAITING
    if attempt.dead_lettered:
        return TaskOutcome.DEAD_LETTERED
    if attempt.retried:
        return TaskOutcome.RETRIED
    if state == states.IGNORED or (attempt.returned and state == states.FAILURE and internal):
        return TaskOutcome.FINISHED
    if state == states.RETRY or (state == states.REJECTED and error.requeue) or (state == states.FAILURE and internal):
        return TaskOutcome.RELEASED
    return None
