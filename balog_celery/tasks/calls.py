"""How a consumer's task calls its function: by the operator, inside the middleware, on an event loop if it is async."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeAlias

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from ..consumers.consumer import Consumer
from ..consumers.context import message_of
from ..consumers.operator import EachResult
from ..errors import ConfigurationError
from ..events.records import FacilityRecord
from ..producer.lineage import caused_by
from ..signatures import is_coroutine_function
from ..text import printable
from . import event_loop
from .outcome import safe_repr

logger = logging.getLogger(__name__)

Middleware: TypeAlias = Callable[..., Any]
Errors: TypeAlias = tuple[type[BaseException], ...]

#: Whether one event of a batch is being processed, beside others.
in_each: ContextVar[bool] = ContextVar("balog_in_each", default=False)


def compose(
    consumer: Consumer,
    operator: Any,
    middleware: Sequence[Middleware] = (),
    request: Callable[[], Any] = dict,
    retried: tuple[Errors, Errors] = ((), ()),
) -> Callable[[Any], Any]:
    """Return what calls the function of *consumer* with its argument, and returns its result.

    :param middleware: what to call around it, the outermost first.
    :param request: returns the headers of the current task, which may have the message.
    :param retried: with ``each=True``, the exceptions after which an event is retried, and those of them after which
        it is not.
    :raises ConfigurationError: plain middleware would run on the loop, and could not wait for the function there.
    """
    call, is_async = compose_calls(consumer, operator, middleware, request, retried)
    return _on_loop(consumer, call) if is_async else call


def compose_calls(
    consumer: Consumer,
    operator: Any,
    middleware: Sequence[Middleware] = (),
    request: Callable[[], Any] = dict,
    retried: tuple[Errors, Errors] = ((), ()),
) -> tuple[Callable[[Any], Any], bool]:
    """Return what :func:`compose` does, and whether a call of it returns a coroutine instead of the result.

    :raises ConfigurationError: as :func:`compose`.
    """
    is_async = consumer.is_async or is_coroutine_function(operator.process_event)
    call: Callable[[Any], Any] = partial(operator.process_event, consumer)
    if consumer.each:
        call = partial(_each, consumer, call, retried, gets_events=consumer.arguments == "event")
    waits = None
    for one in reversed(middleware):
        if not is_coroutine_function(one):
            if is_async:
                is_async, waits = False, one
            call = partial(_around, one, consumer, request, _on_loop(consumer, call))
        elif waits is None:
            call, is_async = partial(_around_async, one, consumer, request, call), True
        else:
            raise ConfigurationError(
                f"balog_middleware: the plain {waits!r} is inside the async {one!r}, and cannot wait there for async "
                f"code of {consumer.task_name}: list plain middleware before async middleware"
            )
    return (call if is_async else _on_loop(consumer, call)), is_async


def _on_loop(consumer: Consumer, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(event: Any) -> Any:
        result = call(event)
        if result is None:  # as of most functions
            return None
        # Also where a plain function wraps an async one: the event would count as done, and nothing had run.
        if inspect.iscoroutine(result):
            result = event_loop.run(result)
        return finished(consumer, result)

    return run


def finished(consumer: Consumer, result: Any) -> Any:
    """Return *result*, of the function of *consumer* or of middleware around it.

    :raises TypeError: nothing of it has run, though the event would count as done.
    """
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(f"{consumer.task_name} returned a generator, so none of its code has run: return its items")
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # without a warning that says the same
        raise TypeError(f"{consumer.task_name}, or middleware around it, returned an awaitable: await it")
    return result


def _around(middleware: Middleware, consumer: Consumer, request: Any, call: Callable[[Any], Any], event: Any) -> Any:
    return middleware(partial(call, event), consumer, event, message_of(request()))


async def _around_async(
    middleware: Middleware, consumer: Consumer, request: Any, call: Callable[[Any], Any], event: Any
) -> Any:
    async def inner() -> Any:
        result = call(event)
        return finished(consumer, await result if inspect.isawaitable(result) else result)

    return await middleware(inner, consumer, event, message_of(request()))


async def _each(
    consumer: Consumer,
    call: Callable[[Any], Coroutine[Any, Any, Any]],
    retried: tuple[Errors, Errors],
    events: Sequence[Any],
    *,
    gets_events: bool,
) -> EachResult:
    """Process *events* concurrently, and return how each ended. A cancellation cancels the events that still run."""

    async def process(event: Any) -> Any:
        in_each.set(True)
        # A payload and parameters have no id.
        if not isinstance(event, FacilityRecord) and not (gets_events and isinstance(event, Mapping)):
            return finished(consumer, await call(event))
        with caused_by(event):
            return finished(consumer, await call(event))

    tasks = [asyncio.ensure_future(process(event)) for event in events]
    limit: BaseException | None = None
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        limit = SoftTimeLimitExceeded()
    failed: dict[int, str] = {}
    dead: dict[int, str] = {}
    cause: BaseException | None = None
    for index, task in enumerate(tasks):
        error = (limit or asyncio.CancelledError()) if task.cancelled() else task.exception()
        if error is None or isinstance(error, Ignore):
            continue
        cause = cause or error
        # With its traceback: the failure of the whole task has only the first.
        logger.warning("%s failed on event %s", consumer.task_name, _id_of(events[index]), exc_info=error)
        (failed if is_retried(error, retried) else dead)[index] = safe_repr(error)
    return EachResult(failed, dead, cause)


def _id_of(event: Any) -> str:
    """Return the id of what a function was given; "?" of a payload and of parameters, which have none."""
    header = event.get("header") if isinstance(event, Mapping) else getattr(event, "header", None)
    found = header.get("id") if isinstance(header, Mapping) else getattr(header, "id", None)
    return printable(found or "?")


def is_retried(error: BaseException, retried: tuple[Errors, Errors]) -> bool:
    """Return whether one event among others is retried after *error*.

    :param retried: as in :func:`compose`.
    """
    if isinstance(error, Retry) or (isinstance(error, Reject) and error.requeue):
        return True
    return isinstance(error, retried[0]) and not isinstance(error, retried[1])
