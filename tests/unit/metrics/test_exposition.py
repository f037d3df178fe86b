"""The metrics and the probes, for engines of which the test says the status."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from balog_celery.errors import ConfigurationError
from balog_celery.metrics.exposition import EngineCollector, OutboxCollector, TaskMetrics
from balog_celery.metrics.server import MetricsServer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def status(**state: Any) -> dict[str, Any]:
    """An engine's status, as its file has it."""
    topic = {
        "doing": "polling", "reason": "", "back_pressure": False, "doing_for": 1.0, "trouble": "", "last_poll": 2.0,
        "owed": 0, "in_flight": 3, "oldest": 4.0, "visibility": 30, "outages": {}, "lag": {}, "received": 10, **state,
    }  # fmt: skip
    return {"written": time.time(), "pid": 7, "wait_time": 20, "topics": {"events": topic}}


def relay(**state: Any) -> dict[str, Any]:
    """A relay's status, as its file has it."""
    topics = {"events": {"waiting": 5, "failed": 1, "oldest": 7.5}}
    return {"written": time.time(), "pid": 8, "outbox": topics, "busy_for": 0.0, "sent": 9, "outages": {}, **state}


class Port:
    """A server of metrics on a free port."""

    def __init__(self, statuses: list[dict[str, Any]], **options: Any) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(lambda: statuses))
        self.registry.register(OutboxCollector(lambda: statuses))
        self.tasks = TaskMetrics(self.registry)
        self.server = MetricsServer("127.0.0.1", 0, self.registry, lambda: statuses, **options)
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.server.port}{path}", headers=headers)
        try:
            with self.opener.open(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def value(self, name: str, **labels: str) -> float | None:
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples]
        return next((one.value for one in samples if one.name == name and one.labels == labels), None)


@contextmanager
def serving(*statuses: dict[str, Any], **options: Any) -> Iterator[Port]:
    port = Port(list(statuses), **options)
    port.server.start()
    try:
        yield port
    finally:
        port.server.stop()


def test_engines_are_exposed() -> None:
    """Counts of several add up, and times are those of the worst."""
    lag = {"emitted": {"last": 1.5, "max": 9.0}}
    with serving(status(lag=lag), status(received=5, oldest=9.0, doing="paused", doing_for=60.0)) as port:
        assert port.value("balog_engines") == 2
        assert port.value("balog_messages_received_total", topic="events") == 15
        assert port.value("balog_in_flight_messages", topic="events") == 6
        assert port.value("balog_in_flight_oldest_seconds", topic="events") == 9
        assert port.value("balog_paused_seconds", topic="events") == 60
        assert port.value("balog_engine_problems") == 1


def test_a_relay_of_the_outbox_is_exposed() -> None:
    """What waits and what failed in the outbox is exposed by topic; a relay is no engine."""
    with serving(relay()) as port:
        assert port.value("balog_outbox_waiting_rows", topic="events") == 5
        assert port.value("balog_outbox_oldest_seconds", topic="events") == 7.5
        assert port.value("balog_outbox_failed_rows", topic="events") == 1
        assert port.value("balog_outbox_sent_total") == 9
        assert port.value("balog_outbox_problems") == 0
        assert port.value("balog_engines") == 0
        assert port.get("/readyz")[0] == 503
        assert port.get("/healthz")[0] == 200


def test_a_relay_that_fails_is_not_healthy() -> None:
    """A failure that has lasted for a minute, a step that does not end and a status that is old are problems."""
    failing = {"relaying to events": {"fails_for": 56.0, "error": "there is no queue"}}
    for state, problem in [
        ({"outages": failing}, "relaying to events has failed for 56 s (5 rows wait): there is no queue"),
        ({"busy_for": 60.0}, "the outbox relay (pid 8) hangs: a step has taken 60 s"),
        ({"written": time.time() - 30}, "the outbox relay (pid 8) hangs: it wrote its status "),
    ]:
        with serving(relay(**state)) as port:
            code, text = port.get("/healthz")
            assert (code, text[: len(problem)]) == (503, problem)
            assert port.value("balog_outbox_problems") == 1


def test_ends_of_tasks_are_exposed_with_their_trace() -> None:
    """In OpenMetrics, which Prometheus asks for, with exemplars."""
    with serving(status()) as port:
        port.tasks.ended("events", "a.b", "succeeded", 0.2, TRACE)
        port.tasks.ended("events", "a.b", "failed")
        labels = {"topic": "events", "consumer": "a.b"}
        assert port.value("balog_tasks_ended_total", **labels, outcome="succeeded") == 1
        assert port.value("balog_tasks_ended_total", **labels, outcome="failed") == 1
        assert port.value("balog_task_runtime_seconds_count", **labels) == 1
        _, text = port.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert f'# {{trace_id="{TRACE}"}}' in text


def test_probes_of_an_engine_that_works() -> None:
    """Both are 200; other paths are 404."""
    with serving(status()) as port:
        assert port.get("/healthz") == (200, "ok\n")
        assert port.get("/readyz") == (200, "ok\n")
        assert port.get("/")[0] == 404


def test_probes_without_an_engine() -> None:
    """Not ready while it starts, which is no reason to restart the worker; a worker without one is ready at once."""
    with serving() as port:
        assert port.get("/readyz")[0] == 503
        assert port.get("/healthz")[0] == 200
    with serving(runs_engine=False) as port:
        assert port.get("/readyz")[0] == 200


def test_an_engine_that_hangs_is_not_healthy() -> None:
    """With the reason, which is the one of `balog health`."""
    hanging = {**status(), "written": time.time() - 60}
    with serving(hanging) as port:
        code, text = port.get("/healthz")
        assert code == 503
        assert "hangs" in text


def test_a_port_that_is_in_use_is_refused() -> None:
    """The error names the setting."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        number = sock.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"balog_metrics_port = {number}"):
            MetricsServer("127.0.0.1", number, CollectorRegistry(), list)
