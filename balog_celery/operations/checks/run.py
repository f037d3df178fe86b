"""Checks whether an app can run: settings, consumers, queues, broker, result backend, workers and engines."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from celery import Celery

from ...celery_compat.versions import untested
from ...consumers.lint import lint
from ...consumers.time_limits import time_limit_warnings
from ...errors import BalogError
from ...metrics.opening import open_metrics
from ...text import printable
from .access import check_buckets, check_credentials
from .finding import Finding, guarded
from .servers import check_backend, check_broker, check_engines, check_once, check_pauses, check_workers, known_statuses
from .topics import check_distinct_topics, check_fifo_order, check_topic


def check(app: Celery) -> Iterator[Finding]:
    """Check all that can be checked without receiving or sending a message. Raises nothing."""
    yield from (Finding("WARN", "versions", warning) for warning in untested())
    try:
        dispatch = app.balog.settings and app.balog.dispatch
    except BalogError as error:
        yield Finding("FAIL", "settings", str(error))
        return
    settings = _settings(app.balog, dispatch)
    yield settings
    if settings.level == "FAIL":
        return
    try:
        app.loader.import_default_modules()
    except Exception as error:
        text = str(error) if isinstance(error, BalogError) else repr(error)
        yield Finding("FAIL", "consumers", printable(text, 1000))
        return
    yield from _loaded(app)


def _settings(balog: Any, dispatch: str) -> Finding:
    """Report the settings, which are valid, and the folder of the engines' status."""
    try:
        return Finding("OK", "settings", f"dispatch {dispatch}, status in {balog.status_dir}")
    except BalogError as error:  # an engine works on without the default folder
        return Finding("WARN" if balog.settings.status_dir is None else "FAIL", "settings", str(error))


def _loaded(app: Celery) -> Iterator[Finding]:
    topics = app.balog.topics()
    broker = check_broker(app)
    usable = broker.level != "FAIL"
    yield from guarded("consumers", lambda: _consumers(app, asks_broker=usable))
    if topics:
        yield from guarded("engine", lambda: _engine(app))
    yield from guarded("outbox", lambda: _outbox(app.balog))
    yield from guarded("metrics", lambda: _metrics(app.balog))
    for topic in sorted(topics)[:1]:  # all have the same credentials
        yield from guarded("credentials", partial(check_credentials, app.balog, topic))
        yield from guarded("payload bucket", partial(check_buckets, app.balog, topic))
    if len(topics) > 1:
        yield from guarded("topics", lambda: check_distinct_topics(app.balog, sorted(topics)))
    for topic in sorted(topics):
        about = f"topic {printable(topic)}"
        yield from guarded(about, partial(check_topic, app.balog, topic))
        if usable:
            yield from guarded(f"{about}, order", partial(check_fifo_order, app, topic, topics[topic]))
    yield broker
    yield from guarded("result backend", lambda: check_backend(app))
    yield from guarded("once", lambda: check_once(app))
    if broker.level == "OK":  # else workers cannot be asked
        yield from guarded("workers", lambda: check_workers(app))
    yield from guarded("engines", lambda: check_engines(app.balog))
    yield from guarded("pauses", lambda: check_pauses(app.balog))


def _consumers(app: Celery, *, asks_broker: bool) -> Iterator[Finding]:
    topics = app.balog.topics()
    if not topics:
        yield Finding("FAIL", "consumers", "there are none: name their packages in balog_packages")
        return
    warnings = list(lint(topics))
    if asks_broker:
        warnings += time_limit_warnings(app, app.balog.hub, app.balog.dispatch)
    yield from (Finding("WARN", "consumers", warning) for warning in warnings)
    if not warnings:
        names = ", ".join(map(printable, sorted(topics)))
        yield Finding("OK", "consumers", f"{len(app.balog.hub)} found, topics: {names}")


def _engine(app: Celery) -> Iterator[Finding]:
    """Run the engine's own checks of its start that need no queue: they raise what is wrong."""
    app.balog.check_engine()
    yield Finding("OK", "engine", "its handler and decoders can be imported")


def _outbox(balog: Any) -> Iterator[Finding]:
    """Import the outbox that workers, or `balog outbox`, relay."""
    if balog.settings.outbox_relay or balog.settings.outbox is not None:
        balog.outbox()
        yield Finding("OK", "outbox", "it can be imported (its database is not asked)")


def _metrics(balog: Any) -> Iterator[Finding]:
    """Listen on the port of the metrics, unless an engine or a relay on this machine may do so already."""
    if balog.settings.metrics_port is not None and not (known_statuses(balog) or known_statuses(balog, "relay")):
        server, _ = open_metrics(balog.settings, list)
        server.stop()
        yield Finding("OK", "metrics", f"port {balog.settings.metrics_port} of {balog.settings.metrics_host} is free")
