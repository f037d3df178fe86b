"""Loggers that write records, for producers.

    from balog_celery import get_logger

    logger = get_logger(__name__)
    logger.info("done", payload={"cls_type": "metrics", "values": [{"name": "seconds", "value": 1.5}]})

This works as it stands: each call writes one line of JSON to standard output. Once the application has given
:mod:`logging` a handler, lines go through the standard library's logger of the same name instead, by its levels, to its
handlers; :func:`configure` with a *stream* is a short way to that.

Logging does not raise in the application: what cannot be a record becomes a ``log`` record that says so and shows what
was given. :func:`stats` counts those.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from ..errors import RecordError
from .processors import Line, describe, marked, shown
from .state import invalid_record, state

#: The severities of the standard library's levels, from the highest.
_LEVELS = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"))

_root = logging.getLogger()


def get_logger(name: str | None = None) -> BoundLogger:
    """Return a logger that writes records.

    :param name: the first part of its channel, and the name of the standard library's logger that it goes through;
        default: that of the module that calls this.
    """
    if name is None:
        name = sys._getframe(1).f_globals.get("__name__", "")
    return BoundLogger(logging.getLogger(name), state.processors, {})


def make_record(channel: str, payload: object, context: Mapping[str, Any] | None = None) -> Line:
    """Return the line of a record, made as loggers make theirs: with the configured processors and context.

    :param channel: the record's channel.
    :param payload: a mapping with a ``cls_type``, or a :class:`~balog_celery.Payload`.
    :param context: added to the configured context.
    :raises RecordError: the payload or the context is not valid, or a processor dropped the record.
    """
    fields = {"payload": payload, "channel": channel, "context": context}
    try:
        (line,), _ = get_logger(channel)._process_event("info", None, fields)
    except structlog.DropEvent:
        raise RecordError("a configured processor dropped the record") from None
    except RecordError:
        raise
    except Exception as error:
        raise RecordError(describe(error)) from error
    return line  # type: ignore[no-any-return]


def _method(name: str, level: int) -> Callable[..., None]:
    def log(self: BoundLogger, event: str | None = None, *args: object, **fields: Any) -> None:
        # _enabled() without its call: a disabled level is to cost as little as structlog's.
        if self._logger.isEnabledFor(level) or (not _root.handlers and _prints(self._logger, level)):
            self._emit(level, name, event, args, fields)

    log.__name__ = name
    log.__qualname__ = f"BoundLogger.{name}"
    log.__doc__ = f"Write a record at the level of ``logging.{logging.getLevelName(level)}``."
    return log


class BoundLogger(structlog.BoundLoggerBase):
    """What :func:`get_logger` returns: structlog's ``bind``, ``unbind``, ``try_unbind`` and ``new``, and methods.

    The methods take an event, %-arguments for it, and keywords: see
    :class:`~balog_celery.producer.processors.BuildRecord`. Where a level is disabled they do nothing.
    """

    _logger: logging.Logger

    debug = _method("debug", logging.DEBUG)
    info = _method("info", logging.INFO)
    warning = _method("warning", logging.WARNING)
    warn = _method("warn", logging.WARNING)
    error = _method("error", logging.ERROR)
    critical = _method("critical", logging.CRITICAL)
    fatal = _method("fatal", logging.CRITICAL)

    def exception(self, event: str | None = None, *args: object, **fields: Any) -> None:
        """Write a record at the level of ``logging.ERROR`` with the traceback of the exception being handled."""
        if _enabled(self._logger, logging.ERROR):
            self._emit(logging.ERROR, "exception", event, args, {"exc_info": True, **fields})

    def log(self, level: int, event: str | None = None, *args: object, **fields: Any) -> None:
        """Write a record at *level*, a number as in :mod:`logging`."""
        if _enabled(self._logger, level):
            name = next((name for number, name in _LEVELS if level >= number), "debug")
            self._emit(level, name, event, args, fields)

    def new(self, **new_values: Any) -> BoundLogger:
        """Return a logger with *new_values* and nothing else bound."""
        return BoundLogger(self._logger, self._processors, new_values)  # structlog's own empties this one, too

    def _emit(self, level: int, name: str, event: Any, args: tuple[object, ...], fields: dict[str, Any]) -> None:
        problem: Exception | None = None
        try:
            (line,), _ = self._process_event(name, _formatted(event, args) if args else event, fields)
        except structlog.DropEvent:
            return
        except Exception as error:
            problem = error
        if problem is not None:  # not above, where exc_info=True would mean the problem itself
            if state.strict:
                raise problem if isinstance(problem, RecordError) else RecordError(describe(problem)) from problem
            line = self._invalid(problem, event, args, fields)
        if state.captures:
            state.captures[-1](line)
            return
        logger = self._logger
        if not _root.handlers and not logger.hasHandlers():
            _standard_output.write(line)
            return
        caller = sys._getframe(2)
        code = caller.f_code
        record = logger.makeRecord(logger.name, level, code.co_filename, caller.f_lineno, line, (), None, code.co_name)
        marked(record, line)
        logger.handle(record)

    def _invalid(self, error: Exception, event: object, args: tuple[object, ...], fields: dict[str, Any]) -> Line:
        """Return a record that reports a call which makes no record."""
        given = {"event": event, "args": args, **self._context, **fields}
        channel = given.get("channel")
        if not isinstance(channel, str):
            # Not formatted, as a subclass of str may raise anything.
            channel = ".".join((self._logger.name, event)) if isinstance(event, str) else self._logger.name
        try:
            return invalid_record(channel, error, given)
        except Exception:
            return invalid_record(self._logger.name, error, {})


def _formatted(event: Any, args: tuple[object, ...]) -> Any:
    """Return the event with its %-arguments put in, or beside it if they do not fit."""
    values = args[0] if len(args) == 1 and isinstance(args[0], Mapping) and args[0] else args
    try:
        return event % values
    except (TypeError, ValueError, KeyError):
        return f"{event} {shown(args)}"


def _enabled(logger: logging.Logger, level: int) -> bool:
    return logger.isEnabledFor(level) or (not _root.handlers and _prints(logger, level))


def _prints(logger: logging.Logger, level: int) -> bool:
    """Return whether a disabled level goes to standard output, because logging is not set up.

    The root logger's level, unless changed, is then only the standard library's default, WARNING.
    """
    if logger.disabled or logger.manager.disable >= level or logger.hasHandlers():
        return False
    return logger.getEffectiveLevel() <= level or (_root.level == logging.WARNING and not _own_level(logger))


def _own_level(logger: logging.Logger | None) -> bool:
    while logger is not None and logger is not _root:
        if logger.level:
            return True
        logger = logger.parent
    return False


class _StandardOutput(logging.Handler):
    """Where lines go that logging has no handler for. As ``logging.lastResort``, it looks up the stream each time.

    A handler for its lock, which is new in a forked child, and for what it does when the stream fails.
    """

    def write(self, line: str) -> None:
        """Write *line*, without the detour over a ``LogRecord``."""
        self.acquire()
        try:
            stream = sys.stdout
            stream.write(line + "\n")
            stream.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(logging.makeLogRecord({"msg": line}))
        finally:
            self.release()


_standard_output = _StandardOutput()
