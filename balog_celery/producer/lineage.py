"""The event that is being consumed: records that are logged or sent meanwhile carry its id.

Kept in context variables, so that it holds for a task in every pool of Celery, and for asyncio's tasks. A thread that a
consumer starts has a context of its own: start it with ``contextvars.copy_context().run``, or use :func:`caused_by` in
it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import wraps
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from structlog.contextvars import bind_contextvars, reset_contextvars, unbind_contextvars

from ..events.serialization import MAX_NAME
from ..sqs.addresses import queue_name

if TYPE_CHECKING:
    from ..events.records import FacilityRecord

#: The keys of a header's context: the event that caused this one, and the first one of all.
CAUSATION, CORRELATION = "causation_id", "correlation_id"
#: The attributes of log records, and structlog's context variables.
LOG_FIELDS = ("event_id", "cls_type", "topic", "consumer")

_log_values = attrgetter(*LOG_FIELDS)

Result = TypeVar("Result")


class Cause(NamedTuple):
    """The event that is being consumed. A batch has no id, and no type if it has several."""

    topic: str = ""
    consumer: str = ""
    event_id: str = ""
    cls_type: str = ""
    correlation_id: str = ""

    def context(self) -> dict[str, str]:
        """Return the keys that this cause adds to the context of a record's header."""
        return {CAUSATION: self.event_id, CORRELATION: self.correlation_id} if self.event_id else {}

    def log_fields(self) -> dict[str, str]:
        """Return the fields that this cause adds to log records."""
        return dict(zip(LOG_FIELDS, _log_values(self), strict=True))


_NO_CAUSE = Cause()
_current: ContextVar[Cause] = ContextVar("balog_cause", default=_NO_CAUSE)
_is_kept: ContextVar[bool] = ContextVar("balog_cause_is_kept", default=False)
#: The queues that consumers in this process listen to.
_consumed: set[str] = set()


def current() -> Cause:
    """Return the cause of what is logged or sent now; its fields are "" outside of consumers."""
    return _current.get()


def consumes(topic: str) -> None:
    """Note that consumers in this process listen to *topic*."""
    _consumed.add(queue_name(topic))


def is_consumed(queue: str) -> bool:
    """Return whether consumers in this process listen to the queue of that name."""
    return queue in _consumed


def consuming(topic: str, consumer: str, records: Sequence[FacilityRecord]) -> AbstractContextManager[None]:
    """Make *records*, an event or a batch, the cause of what the block logs and sends."""
    event_id = correlation_id = cls_type = ""
    if len(records) == 1:
        event_id, correlation_id = _ids(records[0].header.id, records[0].header.context.__pydantic_extra__ or {})
    if len(records) == 1 or len({record.payload.cls_type for record in records}) == 1:
        cls_type = records[0].payload.cls_type
    return _Causing(Cause(queue_name(topic), consumer, event_id, cls_type, correlation_id))


def continue_with(record: FacilityRecord) -> None:
    """Make *record*, one of several that are consumed, the cause of what this context logs and sends from now on."""
    event_id, correlation_id = _ids(record.header.id, record.header.context.__pydantic_extra__ or {})
    now, cls_type = _current.get(), record.payload.cls_type
    _current.set(Cause(now.topic, now.consumer, event_id, cls_type, correlation_id))
    bind_contextvars(event_id=event_id, cls_type=cls_type)


@contextmanager
def caused_by(event: Mapping[str, Any] | FacilityRecord) -> Iterator[None]:
    """Make *event* the cause of what the block logs and sends.

    For each event of a batch, and in a thread that a consumer starts.

    :param event: an event as consumers get it, a dict or a record.
    """
    if isinstance(event, Mapping):
        header, cls_type = event["header"], event["payload"]["cls_type"]
        event_id, correlation_id = _ids(header["id"], header.get("context") or {})
    else:
        event_id, correlation_id = _ids(event.header.id, event.header.context.__pydantic_extra__ or {})
        cls_type = event.payload.cls_type
    now = current()
    with _Causing(Cause(now.topic, now.consumer, event_id, cls_type, correlation_id)):
        yield


def keeps_cause(call: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap what executes a task, so that lines about its end also name its event."""

    @wraps(call)
    def keep(*args: Any, **kwargs: Any) -> Result:
        kept = _is_kept.set(True)
        before = _current.set(_NO_CAUSE)
        try:
            return call(*args, **kwargs)
        finally:
            if _current.get() is not _NO_CAUSE:
                unbind_contextvars(*LOG_FIELDS)
            _current.reset(before)
            _is_kept.reset(kept)

    return keep


class CauseFilter(logging.Filter):
    """Adds ``event_id``, ``cls_type``, ``topic`` and ``consumer`` to log records: "" outside of consumers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them, and let the record pass."""
        vars(record).update(
            {name: value for name, value in current().log_fields().items() if not hasattr(record, name)}
        )
        return True


def cause_of(record: FacilityRecord) -> str:
    """Return the id of the event that caused *record*; "" if it does not say."""
    cause = (record.header.context.__pydantic_extra__ or {}).get(CAUSATION)
    return cause if isinstance(cause, str) else ""


def _ids(event_id: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """Return the event's id and the id of the first event of the chain, which the event may carry."""
    first = context.get(CORRELATION)
    return event_id, first if isinstance(first, str) and 0 < len(first) <= MAX_NAME else event_id


class _Causing:
    """Makes a cause the current one in a block. Each event enters one, so it is no generator, which takes longer."""

    __slots__ = ("_bound", "_cause", "_token")

    def __init__(self, cause: Cause) -> None:
        self._cause = cause

    def __enter__(self) -> None:
        self._token = _current.set(self._cause)
        self._bound = bind_contextvars(**self._cause.log_fields())

    def __exit__(self, *_: object) -> None:
        if not _is_kept.get():
            reset_contextvars(**self._bound)
            _current.reset(self._token)
