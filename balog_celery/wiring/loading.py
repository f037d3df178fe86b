"""Imports the packages that are scanned for consumers, and registers the tasks of those."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import celery
import kombu
import venusian
from celery import Celery
from kombu.compression import get_encoder

from ..consumers.consumer import Consumer
from ..consumers.declaration import consumer_config
from ..consumers.existing import consumer_of_task, is_task
from ..consumers.hub import ConsumerHub
from ..consumers.operator import resolve_topic
from ..dead_letters.writer import DeadLetters
from ..errors import BalogError, ConfigurationError, PackageImportError
from ..producer.lineage import consumes
from ..settings import Settings
from ..sqs.addresses import queue_address, queue_name
from ..tasks.idempotency import IdempotencyStore
from ..tasks.routes import register
from ..text import printable

#: How many frames of a failed import are shown.
_FRAMES = 3
#: The files of this package and of those that import for it: their frames say nothing about the user's code.
_LIBRARIES = (
    str(Path(__file__).parents[1]),
    *(str(Path(str(one.__file__)).parent) for one in (venusian, celery, kombu)),
)


def scan_package(hub: ConsumerHub, name: str, ignore: Any) -> None:
    """Import a package with all its modules, and add its consumers to *hub*.

    :param name: an entry of ``balog_packages``.
    :param ignore: what to leave out, as ``balog_ignore`` says.
    :raises PackageImportError: a module cannot be imported, or declares a consumer that is wrong.
    :raises ConfigurationError: two consumers have the same name.
    """
    try:
        hub.scan(importlib.import_module(name), ignore=ignore)
    except Exception as error:
        if isinstance(error, BalogError) and not _frames_of(error):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            missing = f"balog_packages names {name!r}, and there is no such package"
            raise PackageImportError(missing, "") from error
        raise import_error(f"balog_packages entry {name!r}", error) from error


def _frames_of(error: Exception) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]


def _is_library(filename: str) -> bool:
    return filename.startswith(("<", *_LIBRARIES)) or "/importlib/" in filename


def import_error(what: str, error: Exception) -> PackageImportError:
    """Return the error that tells where and why *what*, a module or a package, cannot be imported."""
    where, frames = "", _frames_of(error)
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}, line {error.lineno})"
    elif frames:
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    reason = str(error) if isinstance(error, BalogError) else f"{type(error).__name__}: {error}"
    message = f"{what} cannot be imported{where}: {printable(reason, 500)}"
    return PackageImportError(message, "".join(traceback.format_list(frames[-_FRAMES:])))


def _check_compression(consumer: Consumer) -> None:
    """Check that kombu knows the compression of a consumer's tasks, which any module may have registered by now."""
    if (given := consumer.options.get("compression")) is None:
        return
    try:
        get_encoder(given)  # type: ignore[no-untyped-call]
    except KeyError:
        raise ConfigurationError(
            f"{consumer.task_name} has compression={given!r}, which kombu does not know: name one such as 'gzip', or "
            "install or register it (kombu.compression)"
        ) from None


def register_consumers(
    app: Celery,
    hub: ConsumerHub,
    operator: Any,
    settings: Settings,
    dead_letters: DeadLetters,
    store: Callable[[], IdempotencyStore],
    middleware: Sequence[Callable[..., Any]] = (),
) -> None:
    """Register a task for each consumer of *hub*.

    :param store: returns the store for consumers with ``once``.
    :param middleware: what is called around every consumer.
    :raises ConfigurationError: a topic cannot be resolved, or there is no such store.
    """
    for consumer in hub:
        topic = resolve_topic(operator, consumer)
        _check_compression(consumer)
        consumes(topic)
        # Brokers other than SQS have no message groups.
        is_fifo = queue_address(topic).is_fifo and settings.event_broker_url is None
        fifo = settings.fifo_on_failure if is_fifo else ""
        marks = store() if consumer.once else None
        register(app, consumer, operator, topic, dead_letters, marks, fifo, middleware)


#: The keys of an entry of ``balog_routes`` that are no Celery task options.
_ROUTE_KEYS = frozenset(inspect.signature(consumer_config).parameters) - {"topic", "task_options"}


def routed_consumers(app: Celery, routes: Mapping[str, Any]) -> Iterator[Consumer]:
    """Return the consumers that ``balog_routes`` declares.

    :raises ConfigurationError: an entry is wrong, or there is no such task.
    """
    for topic, entries in routes.items():
        for entry in entries if isinstance(entries, (list, tuple)) else (entries,):
            where = f"balog_routes[{topic!r}]"
            if not isinstance(entry, Mapping) or not isinstance(name := entry.get("task"), str):
                raise ConfigurationError(f"{where} = {entry!r}: give a dict with the name of a task under 'task'")
            arguments = {key: value for key, value in entry.items() if key in _ROUTE_KEYS}
            options = {key: value for key, value in entry.items() if key not in _ROUTE_KEYS | {"task"}}
            try:
                yield consumer_of_task(_task(app, name), topic=topic, options=options, **arguments)
            except ConfigurationError as error:
                raise ConfigurationError(f"{where}: {error}") from error


def _task(app: Celery, name: str) -> Any:
    """Return the task *name* of *app*, or the one that an import of that name finds."""
    module = name.rpartition(".")[0]
    problem = f"the app has no task {name!r}"
    if name not in app.tasks and module:
        try:
            found = getattr(importlib.import_module(module), name.rpartition(".")[2], None)
        except ImportError as error:
            found, problem = None, f"{problem}, and {module} cannot be imported: {error}"
        if found is not None and is_task(found):
            return found
    if name not in app.tasks:
        raise ConfigurationError(f"{problem}: give the name of a task, such as 'proj.tasks.resize'")
    return app.tasks[name]


def topic_names(topics: Mapping[str, Sequence[Consumer]], topic: str) -> list[str]:
    """Return the names that a setting may have for *topic*: as it is resolved, and as its consumers have it."""
    return [
        name
        for known, consumers in topics.items()
        if queue_name(known) == queue_name(topic)
        for name in (known, *(consumer.topic for consumer in consumers))
    ]
