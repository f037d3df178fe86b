"""Opens the port for the metrics of one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..settings import Settings

if TYPE_CHECKING:
    from .exposition import TaskMetrics
    from .server import MetricsServer


def open_metrics(
    settings: Settings, statuses: Callable[[], Sequence[Mapping[str, Any]]], *, runs_engine: bool = True
) -> tuple[MetricsServer, TaskMetrics]:
    """Listen on ``balog_metrics_port``. Return the server, which is to be started, and what counts tasks.

    :param settings: they name a port.
    :param statuses: returns the status of the engine and of the relay of this process.
    :param runs_engine: whether there should be one.
    :raises ConfigurationError: prometheus_client is not installed, or the port is in use.
    """
    try:
        from prometheus_client import CollectorRegistry

        from .exposition import EngineCollector, OutboxCollector, TaskMetrics
        from .server import MetricsServer
    except ImportError as error:
        raise ConfigurationError(
            f"balog_metrics_port needs prometheus_client: pip install 'balog_celery[prometheus]' ({error})"
        ) from error
    registry = CollectorRegistry()
    registry.register(EngineCollector(statuses))
    registry.register(OutboxCollector(statuses))
    tasks = TaskMetrics(registry)
    port = settings.metrics_port or 0
    return MetricsServer(settings.metrics_host, port, registry, statuses, runs_engine=runs_engine), tasks
