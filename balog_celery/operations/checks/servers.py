"""Checks of the broker, the result backend, the Redis of ``once``, the workers and the engines."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.backends.base import DisabledBackend

from ...brokers.connections import bounded_connection
from ...engine.pauses import Paused
from ...engine.status import problems
from ...errors import BalogError, ConfigurationError
from ...text import brief, printable
from ...wiring.broker import require_backend, require_broker
from ..task_queues import task_queue
from .finding import TIMEOUT, Finding, within_timeout


def check_broker(app: Celery) -> Finding:
    """Report whether the broker answers."""
    try:
        require_broker(app)
    except BalogError as error:
        return Finding("FAIL", "broker", str(error))
    where = app.connection_for_write().as_uri(include_password=False)

    def connect() -> Any:
        with bounded_connection(app, TIMEOUT) as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
            return connection.transport.implements.exchange_type

    try:
        exchange_types = within_timeout(connect)
    except Exception as error:
        mend = "start a worker or `balog up`" if app.balog.local else "start it, or correct broker_url"
        return Finding("FAIL", "broker", f"{where} does not answer ({brief(error)}): {mend}")
    if "fanout" not in exchange_types:
        text = f"{where} carries no remote control: inspect, Flower and `balog tail` see nothing"
        return Finding("WARN", "broker", text)
    return Finding("OK", "broker", f"{where} answers")


def check_backend(app: Celery) -> Iterator[Finding]:
    """Report whether the result backend answers."""
    require_backend(app)
    about, backend = "result backend", app.backend
    if isinstance(backend, DisabledBackend):
        yield Finding("OK", about, "none: what functions return is not kept")
        return
    where = backend.as_uri(include_password=False)
    if not backend.persistent:
        yield Finding("OK", about, f"{where}, by way of the broker")
        return
    try:
        within_timeout(lambda: backend.get_task_meta(str(uuid.uuid4()), cache=False))
    except Exception as error:
        yield Finding("FAIL", about, f"{where} does not answer ({brief(error)}): start it, or correct result_backend")
        return
    yield Finding("OK", about, f"{where} answers")


def check_once(app: Celery) -> Iterator[Finding]:
    """Report whether the Redis of consumers with ``once``, or with a limit for all workers, answers."""
    if not any(one.once or (one.limit and one.limit.in_cluster) for one in app.balog.hub):
        return
    try:
        within_timeout(app.balog.marks.ping)
    except BalogError as error:
        yield Finding("FAIL", "once", str(error))
    except Exception as error:
        text = f"its Redis does not answer ({type(error).__name__}): start it, or correct balog_once_url"
        yield Finding("FAIL", "once", text)
    else:
        yield Finding("OK", "once", "its Redis answers")


def check_workers(app: Celery) -> Iterator[Finding]:
    """Report whether workers answer, and serve the queues of all consumers."""
    try:
        answers: dict[str, Any] = within_timeout(lambda: app.control.inspect(timeout=2.0).active_queues()) or {}
    except Exception as error:
        yield Finding("WARN", "workers", f"they cannot be asked ({brief(error)})")
        return
    if not answers:
        yield Finding("WARN", "workers", "none answers: start one with `celery worker`")
        return
    served = {queue["name"] for queues in answers.values() for queue in queues}
    unserved: dict[str, str] = {}
    for consumer in app.balog.hub:
        if (name := task_queue(app, consumer.task_name)) not in served:
            unserved.setdefault(name, consumer.task_name)
    for name, consumer_name in sorted(unserved.items()):
        text = f"none serves queue {printable(name)}, of {consumer_name}: start one with -Q {printable(name)}"
        yield Finding("WARN", "workers", text)
    if not unserved:
        count = f"{len(answers)} answer" if len(answers) > 1 else "1 answers"
        yield Finding("OK", "workers", f"{count}, and all queues of the consumers are served")


def known_statuses(balog: Any, kind: str = "engine") -> list[dict[str, Any]]:
    """Return the statuses of *kind* on this machine; none without a folder for them, which is reported by itself."""
    with suppress(ConfigurationError):
        found: list[dict[str, Any]] = balog.statuses(kind)
        return found
    return []


def check_pauses(balog: Any) -> Iterator[Finding]:
    """Report what each worker on this machine remembers as paused: it stays so when the worker starts again."""
    if not balog.settings.remember_pauses:
        return
    for node, path in balog.pause_files.all_remembered().items():
        about = f"pauses of {printable(node)}"
        try:
            paused = Paused.read(path)
        except (OSError, ValueError) as error:
            text = f"{path} cannot be read ({printable(error)}), so that worker will not start: fix or delete it"
            yield Finding("FAIL", about, text)
            continue
        if any(paused):
            names = ", ".join(map(printable, sorted(paused.topics | paused.consumers)))
            text = f"{names}, also after a restart: `celery control balog_resume` while it runs, or delete {path}"
            yield Finding("WARN", about, text)


def check_engines(balog: Any) -> Iterator[Finding]:
    """Report on each engine that runs on this machine."""
    for status in known_statuses(balog):
        about, found = f"engine {status['pid']}", problems(status)
        if not found:
            yield Finding("OK", about, "it runs, without problems")
        for problem in found:
            yield Finding("FAIL", about, printable(problem, 1000))
