"""What turns the call of a logger into a record, as structlog processors: ``(logger, name, event_dict) -> event_dict``.

:func:`balog_celery.configure` puts them after the application's own. They work in any structlog chain as well, as its
last two: ``processors=[..., BuildRecord(), render_record]``.
"""

from __future__ import annotations

import json
import reprlib
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import datetime, timezone
from math import isfinite
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError

from .errors import ConfigurationError, RecordError
from .ids import new_id
from .text import printable
from .wire import SCHEMA_VERSION, SEVERITIES, dumps, explain

if TYPE_CHECKING:
    from .records import Payload

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
#: How much of what could not be logged is shown, in characters.
GIVEN_LIMIT = 8192


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
    ``context``, ``composition``
        for the header; the context is merged over the configured one. What else there is in the event dict (bound
        values, those of other processors) is added to the context.
    ``exc_info``
        as in the standard library. The traceback is the ``exc_text`` of a log payload, else of the header.
    ``raw_event``
        anything but None is returned as it is, whatever else there is.

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
        """Return the record as a dict that :func:`~balog_celery.wire.dumps` can write.

        :raises RecordError: there is no payload, no channel, or the payload or the context is not valid.
        """
        raw_event = event_dict.pop("raw_event", None)
        if raw_event is not None:
            return raw_event
        payload = event_dict.pop("payload", None)
        if payload is None:
            raise RecordError("there is no payload")
        exc_text = pop_traceback(event_dict) if "exc_info" in event_dict or "exception" in event_dict else None
        header = self.header(_pop_channel(logger, event_dict), datetime.now(timezone.utc))
        composition = event_dict.pop("composition", None)
        if composition is not None:
            if not isinstance(composition, bool):
                raise RecordError("composition is True or False")
            header["composition"] = composition
        if event_dict:
            header["context"] = self._merged(event_dict.pop("context", None) or {}, event_dict)
        content = _checked(payload, METHOD_SEVERITIES.get(name))
        if exc_text:
            on_log = content["cls_type"] == "log" and "exc_text" not in content
            (content if on_log else header)["exc_text"] = exc_text
        return {"schema": SCHEMA_VERSION, "header": header, "payload": content}

    def header(self, channel: str, timestamp: datetime) -> dict[str, Any]:
        """Return a new header, with the configured context and composition."""
        header: dict[str, Any] = {
            "id": new_id(),
            "channel": channel,
            "timestamp": timestamp.isoformat(),
            "context": self._context,
        }
        if self._composition is not None:
            header["composition"] = self._composition
        return header

    def log_record(self, channel: str, timestamp: datetime, **payload: str) -> dict[str, Any]:
        """Return a record with a log payload, which is not checked."""
        payload = {"cls_type": "log", **payload}
        return {"schema": SCHEMA_VERSION, "header": self.header(channel, timestamp), "payload": payload}

    def _merged(self, context: object, others: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(context, Mapping):
            raise RecordError("the context is not a mapping")
        try:
            return _context({**self._context, **others, **context})
        except ValidationError as error:
            raise RecordError(f"context: {explain(error)}") from None


def render_record(logger: Any, name: str, record: Any) -> Line:
    """Write a record as a line of JSON, in ASCII.

    :raises RecordError: it holds something that JSON cannot: a float that is not finite, itself, an unknown object.
    """
    try:
        return Line(dumps(record))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"it cannot be written as JSON: {describe(error)}") from error


def shown(value: object) -> str:
    """Return ``repr(value)`` or something like it, at most :data:`GIVEN_LIMIT` characters; never raises."""
    try:
        text = repr(value)
    except Exception:
        text = _Repr().repr(value)
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


class _Repr(reprlib.Repr):
    """Shows what it can of a value that has a broken ``repr()`` somewhere in it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = 20
        self.maxstring = self.maxother = self.maxlong = 200

    def repr1(self, x: Any, level: int) -> str:
        try:
            return super().repr1(x, level)
        except Exception:
            return f"<{type(x).__name__} whose repr() fails>"


def _context(value: Mapping[str, Any]) -> dict[str, Any]:
    from .records import Context

    Context.__pydantic_validator__.validate_python(dict(value))
    return {key: item for key, item in value.items() if item is not None}


def _checked(payload: object, severity: str | None) -> dict[str, Any]:
    """The payload as a dict, validated for writing, which asks for more than reading does."""
    plain = _plain_metrics(payload)
    if plain is not None:
        return plain
    from .records import LogPayload, payload_dict

    if isinstance(payload, (dict, Mapping)) and payload.get("cls_type") == "log" and "severity" not in payload:
        payload = {**payload, "severity": severity}
    try:
        model = _validated(payload)
    except ValidationError as error:
        raise RecordError(f"payload: {explain(error)}") from None
    if isinstance(model, LogPayload) and model.severity not in SEVERITIES:
        raise RecordError(f"payload: severity is none of {', '.join(sorted(SEVERITIES))}")
    return payload_dict(model)


def _plain_metrics(payload: object) -> dict[str, Any] | None:
    """What the metrics model would make of *payload*, in a fraction of its time; None where it must be asked.

    That is nothing but names in ASCII and finite floats.
    """
    if type(payload) is not dict or len(payload) != 2 or payload.get("cls_type") != "metrics":
        return None
    values = payload.get("values")
    if type(values) is not list:
        return None
    measured = []
    for item in values:
        if type(item) is not dict or len(item) != 2:
            return None
        name, value = item.get("name"), item.get("value")
        if type(name) is not str or not name.isascii() or type(value) is not float or not isfinite(value):
            return None
        measured.append({"name": name, "value": value})
    return {"cls_type": "metrics", "values": measured}


def _validated(payload: object) -> Payload:
    from .records import validate_payload

    try:
        return validate_payload(payload)
    except ValidationError as error:
        # pydantic takes no lone surrogates. dumps() replaces them; what it cannot write is not valid anyway.
        if all(detail["type"] != "string_unicode" for detail in error.errors(include_input=False)):
            raise
        try:
            mended = json.loads(dumps(payload))
        except (TypeError, ValueError):
            raise error from None
        return validate_payload(mended)


def _pop_channel(logger: Any, event_dict: MutableMapping[str, Any]) -> str:
    channel = event_dict.pop("channel", None)
    event = event_dict.pop("event", None)
    if channel is not None:
        return str(channel)
    if event is None:
        raise RecordError("there is neither an event nor a channel")
    return f"{logger.name}.{event}"


def pop_traceback(event_dict: MutableMapping[str, Any]) -> str | None:
    """The traceback that exc_info stands for, or what a processor of the application has made of it."""
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
