"""The structlog processors that make a record of a logger's call: ``(logger, name, event_dict) -> event_dict``.

:func:`balog_celery.configure` puts them after the application's own. They work in any structlog chain as well, as its
last two: ``processors=[..., BuildRecord(), render_record]``.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import datetime, timezone
from typing import Any

from pydantic_core import ValidationError

from ..errors import ConfigurationError, RecordError
from ..events.ids import new_id
from ..events.serialization import MAX_NAME, SCHEMA_VERSION, dumps, explain
from ..text import printable
from .lineage import current
from .payload_check import checked
from .values import MAX_DEPTH, converter, safe_repr

#: The severity that each method of a logger stands for.
METHOD_SEVERITIES = {
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
    "fatal": "critical",
}
#: The keys of a context that must be texts.
_TEXTS = frozenset({"fqdn", "application", "application_version"})
#: How much of what could not be logged is shown, in characters.
GIVEN_LIMIT = 8192
#: The attribute of log records that tells by what line they were formatted.
MARK = "balog_line"


class Line(str):
    """A line that is a finished record: :class:`~balog_celery.SchemaFormatter` leaves it as it is."""

    __slots__ = ()


class BuildRecord:
    """Makes the record, as a dict, out of these keys of the event dict:

    ``payload``
        a mapping or a :class:`~balog_celery.Payload`; required. A log payload gets the severity of the logger's method
        if it has none.
    ``event``, ``channel``
        the channel is ``channel`` if it is given, else the logger's name, a dot, and the event.
        A mapping with a ``cls_type`` in the event's place is the payload.
    ``context``, ``composition``
        for the header; the context is merged over the configured one. What else there is in the event dict (bound
        values, those of other processors, what a mapping ``extra`` holds) is added to the context.
    ``exc_info``
        as in the standard library. The traceback is the ``exc_text`` of a log payload, else of the header.
    ``raw_event``
        anything but None is returned unchanged, and the other keys are ignored.

    :param context: the context of every record: ``fqdn``, ``application``, ``application_version`` and others.
    :param composition: the composition of every record; None: none.
    :raises ConfigurationError: the context is not one.
    """

    def __init__(self, context: Mapping[str, Any] | None = None, composition: bool | None = None) -> None:
        try:
            self._context = _context(context) if context else {}
            dumps(self._context)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the context cannot be that of a record: {describe(error)}") from error
        if composition is not None and not isinstance(composition, bool):
            raise ConfigurationError(f"composition is True, False or None, not {composition!r}")
        self._composition = composition

    def __call__(self, logger: Any, name: str, event_dict: MutableMapping[str, Any]) -> Any:
        """Return the record as a dict that :func:`~balog_celery.events.serialization.dumps` can write.

        :raises RecordError: there is no payload, no channel, or the payload or the context is not valid.
        """
        raw_event = event_dict.pop("raw_event", None)
        if raw_event is not None:
            return raw_event
        payload = event_dict.pop("payload", None)
        if payload is None and is_payload(event_dict.get("event")):
            payload = event_dict.pop("event")
            event_dict.setdefault("channel", logger.name)
        if payload is None:
            raise RecordError("there is no payload")
        extra = event_dict.pop("extra") if isinstance(event_dict.get("extra"), Mapping) else {}
        exc_text = pop_traceback(event_dict) if "exc_info" in event_dict or "exception" in event_dict else None
        header = self.header(_pop_channel(logger, event_dict), datetime.now(timezone.utc), new_id())
        composition = event_dict.pop("composition", None)
        if composition is not None:
            if not isinstance(composition, bool):
                raise RecordError("composition is True or False")
            header["composition"] = composition
        if event_dict or extra:
            context = event_dict.pop("context", None) or {}
            header["context"] = self._merged(context, as_context({**extra, **event_dict}))
        return self.record(header, payload, METHOD_SEVERITIES.get(name), exc_text)

    def record(self, header: dict[str, Any], payload: Any, severity: str | None, exc_text: str | None) -> Any:
        """Return a record, with *payload* checked and *exc_text* where there is a place for it.

        :raises RecordError: the payload is not valid.
        """
        content = checked(payload, severity)
        if exc_text:
            on_log = content["cls_type"] == "log" and "exc_text" not in content
            (content if on_log else header)["exc_text"] = exc_text
        return {"schema": SCHEMA_VERSION, "header": header, "payload": content}

    def header(
        self, channel: str, timestamp: datetime, event_id: str, context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return a header, with *context* over that of the cause and the configured one, and the composition.

        :raises RecordError: *context* is not one.
        """
        header: dict[str, Any] = {
            "id": event_id,
            "channel": channel[:MAX_NAME],
            "timestamp": timestamp.isoformat(),
            "context": self._merged(context, {}) if context else self._own_context(),
        }
        if self._composition is not None:
            header["composition"] = self._composition
        return header

    def log_record(self, channel: str, timestamp: datetime, **payload: str) -> dict[str, Any]:
        """Return a record with a log payload, which is not checked."""
        payload = {"cls_type": "log", **payload}
        return {"schema": SCHEMA_VERSION, "header": self.header(channel, timestamp, new_id()), "payload": payload}

    def _own_context(self) -> dict[str, Any]:
        """The configured context, with the cause of the record if it has one."""
        cause = current()
        return {**self._context, **cause.context()} if cause.event_id else self._context

    def _merged(self, context: object, others: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(context, Mapping):
            raise RecordError("the context is not a mapping")
        merged = {**self._own_context(), **others, **context}
        try:
            return _context(merged)
        except ValidationError as error:
            try:
                return _context(converter.plain(merged))
            except ValidationError:
                raise RecordError(f"context: {explain(error)}") from None


def render_record(logger: Any, name: str, record: Any) -> Line:
    """Write a record as a line of JSON, in ASCII.

    :raises RecordError: it holds something that JSON cannot: a float that is not finite, itself, more than 100 levels.
    """
    return Line(write(record))


def marked(record: logging.LogRecord, line: str) -> str:
    """Return *line*, and note on *record* that it is a record of this package, for what passes its text on.

    A ``QueueHandler`` passes on a copy, whose message is the line; a ``SocketHandler`` sends that.
    """
    vars(record)[MARK] = _mark(line)
    return line


def is_marked(record: logging.LogRecord, message: str) -> bool:
    """Return whether *message*, that of *record*, is the line that was noted."""
    return vars(record).get(MARK) == _mark(message)


def _mark(line: str) -> tuple[int, str]:
    # Its beginning holds the event's id, which is random.
    return len(line), line[:80]


def write(document: object, max_depth: int = MAX_DEPTH) -> str:
    """Write *document* as JSON text in ASCII; errors as of :func:`render_record`."""
    try:
        return converter.write(document, max_depth)
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(f"it cannot be written as JSON: {describe(error)}") from error


def shown(value: object) -> str:
    """Return ``repr(value)`` or something like it, at most :data:`GIVEN_LIMIT` characters; never raises."""
    try:
        text = repr(value)
    except Exception:
        text = safe_repr(value)
    return text if len(text) <= GIVEN_LIMIT else text[: GIVEN_LIMIT - 3] + "..."


def describe(error: Exception) -> str:
    """Say in one line what an exception says; never raises."""
    if isinstance(error, RecordError):
        return str(error)
    if isinstance(error, ValidationError):
        return explain(error)
    try:
        return printable(f"{type(error).__name__}: {error}")
    except Exception:
        return type(error).__name__


def is_payload(event: object) -> bool:
    """Whether what was logged in a message's place is a payload."""
    return isinstance(event, Mapping) and "cls_type" in event


def as_context(extra: dict[str, Any]) -> dict[str, Any]:
    """Return what was given beside a payload as a context can hold it: some keys of one must be texts."""
    if _TEXTS.isdisjoint(extra):
        return extra
    return {name: str(item) if name in _TEXTS and item is not None else item for name, item in extra.items()}


def _context(value: Mapping[str, Any]) -> dict[str, Any]:
    from ..events.records import Context

    Context.__pydantic_validator__.validate_python(dict(value))
    return {key: item for key, item in value.items() if item is not None}


def _pop_channel(logger: Any, event_dict: MutableMapping[str, Any]) -> str:
    channel = event_dict.pop("channel", None)
    event = event_dict.pop("event", None)
    if channel is not None:
        return str(channel)
    if event is None:
        raise RecordError("there is neither an event nor a channel")
    return f"{logger.name}.{event}"


def pop_traceback(event_dict: MutableMapping[str, Any]) -> str | None:
    """Return the traceback of exc_info, or the one that a processor of the application has made of it."""
    exc_info = event_dict.pop("exc_info", None)
    made = event_dict.pop("exception", None)
    if made is not None:
        return made if isinstance(made, str) else dumps(made)
    if isinstance(exc_info, tuple):
        error = exc_info[1] if len(exc_info) == 3 else None
    elif isinstance(exc_info, BaseException):
        error = exc_info
    else:
        error = sys.exc_info()[1] if exc_info else None
    if not isinstance(error, BaseException):
        return None
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip("\n")
