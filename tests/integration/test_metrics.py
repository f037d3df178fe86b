"""Metrics and probes of a real worker, and of an engine by itself."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import pytest
from project import Project, Start, Topic, stop

import servers
from sample_events import event_text

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families


class Port:
    """What a process serves on its port; nothing while it does not."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> tuple[int, str]:
        try:
            with self.opener.open(f"http://127.0.0.1:{self.number}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def value(self, name: str, **labels: str) -> float | None:
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples]
        return next((one.value for one in samples if one.name == name and one.labels == labels), None)


@pytest.fixture
def port(project: Project) -> Port:
    number = servers.free_port()
    project.add(f"balog_metrics_port = {number}")
    return Port(number)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_serves_metrics_of_its_engine_and_its_tasks(
    project: Project, topic: Topic, start: Start, port: Port, pool: str
) -> None:
    """Tasks by how they ended, in its main process whatever the pool; the probes say that it works."""
    worker = start("worker", "-c", "2", "-P", pool, "-l", "INFO")
    servers.wait_until(lambda: port.get("/readyz")[0] == 200, 60, "the engine")
    topic.send(*[event_text(f"m{number}", values=[{"name": "n", "value": 1}]) for number in range(3)])
    topic.send(event_text("d1", "doomed"), event_text("f1", "flaky"))

    def ended(consumer: str, outcome: str) -> Any:
        labels = {"topic": topic.name, "consumer": f"proj.consumers.{consumer}", "outcome": outcome}
        return port.value("balog_tasks_ended_total", **labels)

    servers.wait_until(lambda: ended("first", "succeeded") == 3, 60, "the tasks")
    servers.wait_until(lambda: ended("doomed", "failed") == 1, 60, "the failure")
    servers.wait_until(lambda: ended("flaky", "succeeded") == 1, 60, "the retries")
    assert ended("flaky", "retried") == 2
    assert ended("doomed", "succeeded") is None
    labels = {"topic": topic.name, "consumer": "proj.consumers.first"}
    assert port.value("balog_task_runtime_seconds_count", **labels) == 3
    servers.wait_until(lambda: port.value("balog_messages_received_total", topic=topic.name) == 5, 30)
    assert port.get("/healthz") == (200, "ok\n")
    assert stop(worker) == 0
    assert port.get("/healthz") == (0, "")


def test_an_engine_by_itself_serves_its_metrics(project: Project, topic: Topic, start: Start, port: Port) -> None:
    """Without tasks, which run elsewhere."""
    start("balog", "engine", ready="engine started")
    servers.wait_until(lambda: port.get("/readyz")[0] == 200, 60, "the engine")
    topic.send(event_text("m1"))
    servers.wait_until(lambda: port.value("balog_messages_received_total", topic=topic.name) == 1, 60)
    assert port.value("balog_engines") == 1


def test_a_worker_whose_port_is_in_use_says_so(project: Project, start: Start, port: Port) -> None:
    """In one line, with the exit code of a wrong configuration."""
    start("balog", "engine", ready="engine started")
    second = start("worker", "-c", "1", ready=None)
    assert second.wait(60) == 78
    assert f"balog_metrics_port = {port.number}" in second.output
