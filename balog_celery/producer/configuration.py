"""Sets how loggers write records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

from ..arguments import check_whole, optional_text, shown
from ..errors import ConfigurationError
from ..signatures import why_not
from .formatter import SchemaFormatter
from .processors import BuildRecord, render_record
from .state import state
from .values import converter

_root = logging.getLogger()


def configure(
    *,
    context: Mapping[str, Any] | None = None,
    composition: bool | None = None,
    processors: Iterable[Callable[[Any, str, Any], Any]] = (),
    default: Callable[[Any], Any] | None = None,
    operator: Any = None,
    bucket: str | None = None,
    payload_threshold: int | None = None,
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
    :param default: as of :func:`json.dumps`: called with a value that cannot be written, it returns one that can, or
        raises TypeError. Without it, and beyond it, numbers of numpy are written as numbers, keys as their text, and
        anything else as its ``repr``, cut after 1,000 characters. :func:`balog_celery.logger.stats` counts all of those
        as ``converted``. A float that is not finite cannot be written.
    :param operator: resolves the topics of :func:`~balog_celery.send`; default: the operator of the current Celery app.
    :param bucket: the S3 bucket for what :func:`~balog_celery.send` sends and the queue does not take, in a process
        without a Celery app; an app has ``balog_payload_bucket``.
    :param payload_threshold: larger messages go to *bucket*, too, also where the queue takes them; in bytes. Default:
        none. An app has ``balog_payload_threshold``.
    :param strict: raise :exc:`RecordError` in the caller for what cannot be a record: for tests.
    :param stream: as :func:`logging.basicConfig` does, add a handler to the root logger that writes to this stream: a
        line of JSON for every record, the application's and its libraries' plain ones too. Default: add none.
    :param level: with *stream*, the level of the root logger.
    :raises ConfigurationError: an argument is wrong.
    """
    if not isinstance(processors, Iterable):
        raise ConfigurationError(f"bad processors{shown(processors)}: give a list of functions")
    if operator is not None and (isinstance(operator, type) or not callable(getattr(operator, "get_topic", None))):
        raise ConfigurationError(
            f"bad operator{shown(operator)}: give an object with get_topic(consumer), not its name"
        )
    if stream is not None and not callable(getattr(stream, "write", None)):
        raise ConfigurationError(f"bad stream{shown(stream)}: give an open file of text, such as sys.stdout")
    if payload_threshold is not None:
        check_whole("payload_threshold", payload_threshold, "a number of bytes, 1 or more", least=1)
    bucket = optional_text("bucket", bucket)
    chain = list(processors)
    for processor in chain:
        if wrong := why_not(processor, "logger", "name", "event_dict"):
            raise ConfigurationError(
                f"a processor is a function of (logger, name, event_dict), not {processor!r}: {wrong}"
            )
    if default is not None and (wrong := why_not(default, "value")):
        raise ConfigurationError(f"default is a function of a value, not {default!r}: {wrong}")
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
    if state.handler is not None:
        _root.removeHandler(state.handler)
    state.handler = handler
    state.build = build
    state.operator = operator
    state.bucket, state.payload_threshold = bucket, payload_threshold
    converter.default = default
    state.strict = strict
    state.processors[:] = [*chain, build, render_record]
