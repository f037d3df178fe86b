"""The formatter that makes records of the standard library's log lines."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import Any

from ..events.ids import new_id
from ..events.serialization import SCHEMA_VERSION, canonical_severity
from .lineage import LOG_FIELDS
from .processors import MARK, Line, as_context, is_marked, is_payload, marked, render_record, shown
from .state import invalid_record, state

#: The attributes of every record; others were given as ``extra=``, or by a filter.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName", "balog_id", MARK}


class SchemaFormatter(logging.Formatter):
    """Formats records of the standard library as ``log`` records, one line of JSON each.

    Message, level and logger's name become message, severity and channel; a traceback and a stack become ``exc_text``;
    ``extra=`` goes to the header's context. A level with a name of its own keeps it, in lower case. A dict with a
    ``cls_type`` in the message's place is the payload. Lines of :func:`get_logger` are left as they are, and so is what
    this class has formatted, as behind a ``QueueHandler``; other JSON is wrapped like any text, also if it is a record:
    a text from outside that is logged is to forge no event. However many handlers format one record, it is one event
    with one id. The context and the composition are those of :func:`configure`.

    It takes the arguments of :class:`logging.Formatter` but uses none, and it never raises.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for *record*."""
        if isinstance(record.msg, Line) and not record.args:
            return record.msg
        try:
            return marked(record, self._record(record))
        except Exception as error:
            problem = error
        channel = record.name if isinstance(record.name, str) else shown(record.name)
        return invalid_record(channel, problem, {"msg": record.msg, "args": record.args, "exc_info": record.exc_info})

    def _record(self, record: logging.LogRecord) -> str:
        payload = record.msg if is_payload(record.msg) and not record.args else None
        message = "" if payload else record.getMessage()
        if is_marked(record, message):
            return message
        made = datetime.fromtimestamp(record.created, timezone.utc)
        header = state.build.header(record.name, made, _id_of(record), _extra(record))
        exc_text, severity = self._exc_text(record), canonical_severity(record.levelname.lower())
        if payload:
            return render_record(None, "log", state.build.record(header, payload, severity, exc_text))
        content = {"cls_type": "log", "message": message, "severity": severity}
        if exc_text:
            content["exc_text"] = exc_text
        return render_record(None, "log", {"schema": SCHEMA_VERSION, "header": header, "payload": content})

    def _exc_text(self, record: logging.LogRecord) -> str:
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            # Kept on the record, as the standard library's own formatter does for the next handler.
            record.exc_text = self.formatException(record.exc_info)
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(text for text in (record.exc_text, stack) if text)


def _id_of(record: logging.LogRecord) -> str:
    """The id of the event that *record* is; kept on the record, for the next handler."""
    attributes = vars(record)
    if "balog_id" not in attributes:
        attributes["balog_id"] = new_id()
    return str(attributes["balog_id"])


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What was given with *record* for its context."""
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if extra and record.name.startswith("celery."):
        extra.pop("data", None)  # what the message says already, and the result of the task
    for name in LOG_FIELDS:
        if isinstance(given := extra.get(name), str) and not given:  # CauseFilter's, outside of consumers
            del extra[name]
    return as_context(extra)
