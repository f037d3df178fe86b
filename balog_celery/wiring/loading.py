"""Imports the packages that are scanned for consumers, and registers the tasks of those."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from celery import Celery
from celery.utils.time import rate
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
from .imports import IMPORT_FAILURES, frames_of, import_error

logger = logging.getLogger(__name__)


def scan_packages(hub: ConsumerHub, settings: Settings) -> None:
    """Scan each of ``balog_packages``, and warn of each of ``balog_ignore`` that can match nothing in them.

    :raises ConfigurationError: as :func:`scan_package`.
    """
    for package in settings.packages:
        scan_package(hub, package, settings.ignore)
    for name in settings.ignore:
        is_absolute = isinstance(name, str) and not name.startswith(".")
        if is_absolute and not any(_overlap(name, package) for package in settings.packages):
            logger.warning(
                "balog_ignore has %r, which is in none of balog_packages: write '.%s' for a name within each of them",
                name,
                name,
            )


def _overlap(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.") or f"{package}.".startswith(f"{name}.")


def scan_package(hub: ConsumerHub, name: str, ignore: Any) -> None:
    """Import a package with all its modules, and add its consumers to *hub*.

    :param name: an entry of ``balog_packages``.
    :param ignore: what to leave out, as ``balog_ignore`` says.
    :raises PackageImportError: a module cannot be imported, or declares a consumer that is wrong.
    :raises ConfigurationError: two consumers have the same name.
    """
    try:
        hub.scan(importlib.import_module(name), ignore=ignore)
    except IMPORT_FAILURES as error:
        if isinstance(error, BalogError) and not frames_of(error):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            missing = f"balog_packages names {name!r}, and there is no such package: correct the name, or install it"
            raise PackageImportError(missing, "") from error
        raise import_error(f"balog_packages entry {name!r}", error) from error


def _check_task(task: Any) -> None:
    """Check what Celery and kombu would refuse when they publish or execute *task*; its app's settings count, too.

    :raises ConfigurationError: kombu does not know its compression, or Celery cannot read its rate limit.
    """
    if (given := getattr(task, "compression", None)) is not None:
        try:
            get_encoder(given)  # type: ignore[no-untyped-call]
        except KeyError:
            raise ConfigurationError(
                f"{task.name} has compression={given!r}, which kombu does not know: name one such as 'gzip', or "
                "install or register it (kombu.compression)"
            ) from None
    try:
        rate(task.rate_limit)
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(
            f"{task.name} has rate_limit={task.rate_limit!r}, by task_annotations or task_default_rate_limit, which "
            "Celery cannot read: write it as '10/s', '10/m' or '10/h'"
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
        consumes(topic)
        # Brokers other than SQS have no message groups.
        is_fifo = queue_address(topic).is_fifo and settings.event_broker_url is None
        fifo = settings.fifo_on_failure if is_fifo else ""
        marks = store() if consumer.once else None
        register(app, consumer, operator, topic, dead_letters, marks, fifo, middleware)
        _check_task(app.tasks[consumer.task_name])


#: The keys of an entry of ``balog_routes`` that are no Celery task options.
_ROUTE_KEYS = frozenset(inspect.signature(consumer_config).parameters) - {"topic", "task_options"}


def routed_consumers(app: Celery, routes: Mapping[str, Any]) -> Iterator[Consumer]:
    """Return the consumers that ``balog_routes`` declares.

    :raises ConfigurationError: an entry is wrong, or there is no such task.
    """
    for topic, entries in routes.items():
        # An empty list is an entry that is wrong: it may be one that came out empty.
        for entry in entries if isinstance(entries, (list, tuple)) and entries else (entries,):
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
        except IMPORT_FAILURES as error:
            found, problem = None, f"{problem}, and {import_error(module, error)}"
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
