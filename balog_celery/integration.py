"""Installs the package into a Celery app."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import Celery, signals

from .errors import ConfigurationError
from .settings import PREFIX, Settings
from .text import printable
from .wiring.app_wiring import Integration
from .wiring.start_errors import check_worker_servers, is_command, worker_start_errors
from .worker.bootsteps import EngineStep, LocalStep, no_engine_option
from .worker.concurrency_step import ConcurrencyStep
from .worker.hand_off_step import HandOffStep
from .worker.instrumentation import TaskInstrumentation
from .worker.logs import WorkerLogs
from .worker.metrics_step import MetricsStep
from .worker.outbox_step import OutboxStep
from .worker.task_events import TaskEventsStep


def install(app: Celery, packages: Iterable[str] = (), **settings: Any) -> Celery:
    """Let *app* consume events: its workers run an engine, and each consumer becomes one of its tasks.

    Call it where the app is created; consumers are imported later. The app keeps its own tasks and settings.

    :param app: a Celery app.
    :param packages: the packages to scan for consumers, by dotted name.
    :param settings: any of the package's settings, without their prefix: ``region="eu-west-1"``. The same setting in
        the app's configuration, with the prefix ``balog_``, wins.
    :returns: the app.
    :raises ConfigurationError: a setting is unknown or has a wrong value, or this is the second call for *app*.
    """
    if not isinstance(app, Celery):
        raise ConfigurationError(f"bad app {printable(repr(app))}: give the Celery app, Celery('proj')")
    if not isinstance(packages, Iterable):
        raise ConfigurationError(f"bad packages {printable(repr(packages))}: give dotted names of packages")
    given = {"packages": (packages,) if isinstance(packages, str) else tuple(packages), **settings}
    if not is_command():  # which shows an error in one line later
        Settings.from_conf({PREFIX + key: value for key, value in given.items()})  # an error shows the caller's line
    return _install(app, given, may_be_local=False)


def install_default(app: Celery) -> Celery:
    """Install into the app of ``celery -A balog_celery``: it runs the local stack if no broker or endpoint is set."""
    return _install(app, {}, may_be_local=True)


def _install(app: Celery, given: dict[str, Any], *, may_be_local: bool) -> Celery:
    if hasattr(app, "balog"):
        raise ConfigurationError(f"balog_celery is installed in {app!r} already: name all packages in one call")
    # An attribute of the app, so that steps and commands find it.
    app.balog = integration = Integration(app, given, may_be_local=may_be_local)
    app.user_options["worker"].add(no_engine_option())
    app.steps["worker"].add(LocalStep)
    app.steps["worker"].add(EngineStep)
    app.steps["worker"].add(OutboxStep)
    app.steps["worker"].add(MetricsStep)
    app.steps["consumer"].add(HandOffStep)
    app.steps["consumer"].add(ConcurrencyStep)
    app.steps["consumer"].add(TaskEventsStep)

    def configured(source: Any, **_: Any) -> None:
        integration.configure(source)

    def import_modules(**_: Any) -> Exception | None:
        try:
            with worker_start_errors():
                integration.load()
                check_worker_servers(app)
        except Exception as error:
            # Celery's loader raises what a receiver returns; what a receiver raises it logs with a traceback as well.
            return error
        return None

    if app.configured:
        configured(app.conf)
    # Also then: a later config_from_object configures it again.
    app.on_after_configure.connect(configured, weak=False)
    # Sent when a worker, an engine or a command loads the app's modules. Errors raised there reach the user.
    signals.import_modules.connect(import_modules, sender=app, weak=False)
    TaskInstrumentation(app, lambda: integration.telemetry).begin()
    WorkerLogs(lambda: integration.settings.ship_logs_to, lambda topic: integration.connect(topic)).begin()
    return app
