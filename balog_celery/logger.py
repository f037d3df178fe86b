"""Loggers that write records, for producers.

    from balog_celery import get_logger

    logger = get_logger(__name__)
    logger.info("done", payload={"cls_type": "metrics", "values": [{"name": "seconds", "value": 1.5}]})

This works as it stands: each call writes one line of JSON to standard output. Once the application has given
:mod:`logging` a handler, lines go through the standard library's logger of the same name instead, by its levels, to
whatever handlers there are; :func:`configure` with a *stream* is a short way to that.

Logging does not raise in the application: what cannot be a record becomes a ``log`` record that says so and shows what
was given. :func:`stats` counts those.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, TextIO

import structlog

from .errors import ConfigurationError, DecodeError, RecordError
from .processors import BuildRecord, Line, describe, pop_traceback, render_record, shown
from .wire import canonical_severity

#: The severities of the standard library's levels, from the highest.
_LEVELS = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"))

_root = logging.getLogger()


class _State:
    """What :func:`configure` has set. All loggers share it, so that it counts for those that exist already."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.invalid = 0
        self.strict = False
        self.build = BuildRecord()
        self.processors: list[Any] = [self.build, render_record]
        self.handler: logging.Handler | None = None
        #: The last of them is given lines instead of a handler: for tests.
        self.captures: list[Callable[[str], object]] = []


_state = _State()


def configure(
    *,
    context: Mapping[str, Any] | None = None,
    composition: bool | None = None,
    processors: Iterable[Callable[[Any, str, Any], Any]] = (),
    strict: bool = False,
    stream: TextIO | None = None,
    level: int | str = logging.INFO,
) -> None:
    """Set how loggers write records, also those that exist already. No call is needed; each one replaces the last.

    structlog's own configuration is neither used nor changed.

    :param context: what to put into the context of every header: ``fqdn``, ``application``, ``application_version``.
    :param composition: the header's composition.
    :param processors: structlog processors to run before the package's own; they see the event dict: ``event``,
        ``payload``, ``channel``, ... and may raise :exc:`structlog.DropEvent`.
    :param strict: raise :exc:`RecordError` in the caller for what cannot be a record: for tests.
    :param stream: as :func:`logging.basicConfig` does, add a handler to the root logger that writes to this stream: a
        line of JSON for every record, the application's and its libraries' plain ones too. Default: add none.
    :param level: with *stream*, the level of the root logger.
    :raises ConfigurationError: an argument is wrong.
    """
    chain = list(processors)
    for processor in chain:
        if not callable(processor):
            raise ConfigurationError(f"a processor is a function of (logger, name, event_dict), not {processor!r}")
    build = BuildRecord(context, composition)
    handler = None
    if stream is not None:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(SchemaFormatter())
        try:
            _root.setLevel(level)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"bad level {level!r}: give one of logging's") from error
        _root.addHandler(handler)
    if _state.handler is not None:
        _root.removeHandler(_state.handler)
    _state.handler = handler
    _state.build = build
    _state.strict = strict
    _state.processors[:] = [*chain, build, render_record]


def get_logger(name: str | None = None) -> BoundLogger:
    """Return a logger that writes records.

    :param name: the first part of its channel, and the name of the standard library's logger that it goes through;
        default: that of the module that calls this.
    """
    if name is None:
        name = sys._getframe(1).f_globals.get("__name__", "")
    return BoundLogger(logging.getLogger(name), _state.processors, {})


@contextmanager
def capture(take: Callable[[str], object], level: int | str, strict: bool) -> Iterator[None]:
    """Give the lines of all loggers in this process to *take*, instead of to handlers: for tests.

    :param level: the root logger's level meanwhile.
    :param strict: as of :func:`configure`, meanwhile.
    """
    was_level, was_disabled, was_strict = _root.level, _root.manager.disable, _state.strict
    _root.setLevel(level)
    logging.disable(logging.NOTSET)
    _state.strict = strict
    _state.captures.append(take)
    try:
        yield
    finally:
        _state.captures.remove(take)
        _state.strict = was_strict
        logging.disable(was_disabled)
        _root.setLevel(was_level)


def stats() -> dict[str, int]:
    """Return what was counted in this process: ``invalid``, the calls that became a record which says what is wrong."""
    return {"invalid": _state.invalid}


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

    The methods take an event, %-arguments for it, and keywords: see :class:`~balog_celery.processors.BuildRecord`.
    Where a level is disabled they do nothing.
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
            if _state.strict:
                raise problem if isinstance(problem, RecordError) else RecordError(describe(problem)) from problem
            line = self._invalid(problem, event, args, fields)
        if _state.captures:
            _state.captures[-1](line)
            return
        logger = self._logger
        if not _root.handlers and not logger.hasHandlers():
            _standard_output.write(line)
            return
        caller = sys._getframe(2)
        code = caller.f_code
        logger.handle(
            logger.makeRecord(logger.name, level, code.co_filename, caller.f_lineno, line, (), None, code.co_name)
        )

    def _invalid(self, error: Exception, event: object, args: tuple[object, ...], fields: dict[str, Any]) -> Line:
        """The record in the place of one that cannot be written."""
        given = {"event": event, "args": args, **self._context, **fields}
        channel = given.get("channel")
        if not isinstance(channel, str):
            channel = f"{self._logger.name}.{event}" if isinstance(event, str) else self._logger.name
        return _invalid(channel, error, given)


def _invalid(channel: str, error: Exception, given: dict[str, Any]) -> Line:
    with _state.lock:
        _state.invalid += 1
    payload = {"message": f"invalid record: {describe(error)}; given: {shown(given)}", "severity": "error"}
    if exc_text := pop_traceback({"exc_info": given.get("exc_info")}):
        payload["exc_text"] = exc_text
    return render_record(None, "error", _state.build.log_record(channel, datetime.now(timezone.utc), **payload))


def _formatted(event: Any, args: tuple[object, ...]) -> Any:
    """The event with its %-arguments, as the standard library puts them in; where that fails, beside it."""
    values = args[0] if len(args) == 1 and isinstance(args[0], Mapping) and args[0] else args
    try:
        return event % values
    except (TypeError, ValueError, KeyError):
        return f"{event} {shown(args)}"


def _enabled(logger: logging.Logger, level: int) -> bool:
    return logger.isEnabledFor(level) or (not _root.handlers and _prints(logger, level))


def _prints(logger: logging.Logger, level: int) -> bool:
    """Whether a level that is disabled goes to standard output, because nobody has set up logging.

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


class SchemaFormatter(logging.Formatter):
    """Formats records of the standard library as ``log`` records, one line of JSON each.

    Message, level and logger's name become message, severity and channel; a traceback and a stack become ``exc_text``.
    A level with a name of its own keeps it, in lower case. Lines of :func:`get_logger` are left as they are, and so is
    a message that is a record already; other JSON is wrapped like any text. The context and the composition are those
    of :func:`configure`. It takes the arguments of :class:`logging.Formatter` but uses none, and it never raises.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for *record*."""
        if isinstance(record.msg, Line) and not record.args:
            return record.msg
        try:
            return self._record(record)
        except Exception as error:
            problem = error
        channel = record.name if isinstance(record.name, str) else shown(record.name)
        return _invalid(channel, problem, {"msg": record.msg, "args": record.args, "exc_info": record.exc_info})

    def _record(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if _is_record(message):
            return message
        payload = {"message": message, "severity": canonical_severity(record.levelname.lower())}
        if exc_text := self._exc_text(record):
            payload["exc_text"] = exc_text
        made = datetime.fromtimestamp(record.created, timezone.utc)
        return render_record(None, "log", _state.build.log_record(record.name, made, **payload))

    def _exc_text(self, record: logging.LogRecord) -> str:
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            # Kept on the record, as the standard library's own formatter does for the next handler.
            record.exc_text = self.formatException(record.exc_info)
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(text for text in (record.exc_text, stack) if text)


def _is_record(text: str) -> bool:
    if not text.startswith("{"):
        return False
    from .records import decode

    try:
        decode(text)
    except DecodeError:
        return False
    return True


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
