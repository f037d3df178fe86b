"""Traces from a logger's call through SQS and Celery to each function, and metrics, with real programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from project import Project, Start, Topic, stop

import servers
from balog_celery.telemetry import TRACE_CONTEXT

#: Sets OpenTelemetry up, as an application does where its app is made. Spans and metrics are lines of JSON in files.
SET_UP = """
import json, os
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


def write(name, document):
    data = (json.dumps(document) + "\\n").encode()
    file = os.open(os.environ[name], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, data)
    os.close(file)


class Spans(SpanExporter):
    def export(self, spans):
        for span in spans:
            write("SPANS", {**json.loads(span.to_json(indent=None)), "pid": os.getpid()})
        return SpanExportResult.SUCCESS


class Metrics(MetricExporter):
    def export(self, data, **_):
        write("METRICS", {**json.loads(data.to_json(indent=None)), "pid": os.getpid()})
        return MetricExportResult.SUCCESS

    def shutdown(self, **_):
        pass

    def force_flush(self, **_):
        return True


provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(Spans(), schedule_delay_millis=200))
trace.set_tracer_provider(provider)
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(Metrics(), export_interval_millis=500)]))
BotocoreInstrumentor().instrument()
CeleryInstrumentor().instrument()
"""

LOG = """
import logging, sys
import set_up
from opentelemetry import trace
from balog_celery import SQSHandler, get_logger

handler = SQSHandler(sys.argv[1])
logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(logging.INFO)
with trace.get_tracer("app").start_as_current_span("request"):
    get_logger("app").info("done", payload={"cls_type": "metrics", "values": [{"name": "n", "value": 1}]})
    get_logger("app").info("done", payload={"cls_type": "flaky"})
assert handler.flush(30)
"""


def lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Told:
    """The spans and metrics that a project's programs have exported."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = project
        self.spans_file = project.folder / "spans.jsonl"
        self.metrics_file = project.folder / "metrics.jsonl"
        monkeypatch.setenv("SPANS", str(self.spans_file))
        monkeypatch.setenv("METRICS", str(self.metrics_file))
        (project.folder / "set_up.py").write_text(SET_UP)
        (project.folder / "log.py").write_text(LOG)

    def log(self, topic: Topic) -> None:
        """Log an event for two consumers and one for a consumer that is retried, in a span of an application."""
        command = [sys.executable, "log.py", topic.name]
        subprocess.run(command, cwd=self.project.folder, check=True, timeout=60)

    def spans(self) -> dict[str, dict[str, Any]]:
        """The spans by their ids."""
        return {span["context"]["span_id"]: span for span in lines(self.spans_file)}

    def names(self) -> Counter[str]:
        return Counter(span["name"] for span in self.spans().values())

    def sum(self, metric: str) -> Counter[tuple[str, ...]]:
        """The latest sums of a counter in all processes together, by consumer, else by stage, else by topic."""
        latest: dict[Any, int] = {}
        for export in lines(self.metrics_file):
            for resource in export["resource_metrics"]:
                for scope in resource["scope_metrics"]:
                    for one in scope["metrics"]:
                        for point in one["data"]["data_points"] if one["name"] == metric else ():
                            labels = point["attributes"]
                            key = tuple(labels[name] for name in ("consumer", "stage") if name in labels)
                            # An instance is a process, although all but one are forks of one.
                            instance = resource["resource"]["attributes"]["service.instance.id"]
                            latest[instance, export["pid"], key] = point.get("value", point.get("count"))
        totals: Counter[tuple[str, ...]] = Counter()
        for (_, _, key), value in latest.items():
            totals[key] += value
        return totals


@pytest.fixture
def told(project: Project, sqs: servers.Sqs, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(project, monkeypatch)


@pytest.mark.parametrize("dispatch", ["publish", "hand-off"])
def test_one_trace_leads_from_the_logger_to_every_task(
    start: Start, project: Project, topic: Topic, told: Told, dispatch: str
) -> None:
    """One trace leads from the logger to every task and retry, with spans of each process."""
    project.add(f"balog_dispatch = {dispatch!r}\nimport set_up")
    worker = start("worker", "-l", "DEBUG", "-c", "2")
    told.log(topic)
    runs = {"run/proj.consumers.first": 1, "run/proj.consumers.typed": 1, "run/proj.consumers.flaky": 3}
    servers.wait_until(lambda: {name: told.names()[name] for name in runs} == runs, 60, "the spans of the tasks")
    servers.wait_until(lambda: told.names()[f"dispatch {topic.name}"] == 2, 20, "the spans of the engine")

    spans = told.spans()
    (request,) = [span for span in spans.values() if span["name"] == "request"]
    part_of_it = Counter(
        span["name"] for span in spans.values() if span["context"]["trace_id"] == request["context"]["trace_id"]
    )
    published = {name.replace("run/", "apply_async/"): count for name, count in runs.items()}
    expected = {"request": 1, f"create {topic.name}": 2, f"dispatch {topic.name}": 2, **runs}
    if dispatch == "publish":
        expected |= published
    assert part_of_it == expected

    def ancestors(span: dict[str, Any]) -> list[str]:
        parent = spans.get(span["parent_id"].removeprefix("0x")) or spans.get(span["parent_id"])
        assert parent is not None
        return [parent["name"]] + (ancestors(parent) if parent["parent_id"] else [])

    (first,) = [span for span in spans.values() if span["name"] == "run/proj.consumers.first"]
    way = [f"dispatch {topic.name}", f"create {topic.name}", "request"]
    assert ancestors(first) == (["apply_async/proj.consumers.first", *way] if dispatch == "publish" else way)

    consumers = [f"proj.consumers.{name}" for name in ("first", "typed", "flaky")]
    once = {(consumer,): 1 for consumer in consumers}
    # Each process exports at times of its own, so any of these may be the last one to come true.
    servers.wait_until(lambda: told.sum("balog.tasks.finished") == once, 30, "the ends of the tasks")
    servers.wait_until(lambda: told.sum("balog.tasks.dispatched") == once, 30, "the tasks of the engine")
    servers.wait_until(lambda: told.sum("balog.messages.received") == {(): 2}, 30, "the messages of the engine")
    lags = {("sent",): 2, ("received",): 2} | {(consumer, "done"): 1 for consumer in consumers}
    lags |= {(consumer, "started"): runs[f"run/{consumer}"] for consumer in consumers}
    servers.wait_until(lambda: told.sum("balog.lag") == lags, 30, "the lags")
    assert told.sum("balog.tasks.failed") == {}
    worker.wait_for("proj.consumers.first (<Event ", 60)
    assert " done: emitted 20" in worker.output
    assert stop(worker) == 0


def test_without_a_provider_nothing_is_asked_for_and_nothing_told(
    start: Start, project: Project, topic: Topic, told: Told
) -> None:
    """Without a provider no attributes are requested, and an incoming trace ends."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    told.log(topic)
    project.wait_for(lambda runs: len(runs) == 3)
    assert stop(worker) == 0
    assert told.names()["request"] == 1
    assert not [name for name in told.names() if name.startswith(("dispatch ", "run/"))]


def test_the_trace_is_in_message_attributes(topic: Topic, told: Told) -> None:
    """The trace context is in W3C message attributes, without an empty state."""
    told.log(topic)
    (message, *_) = topic.client.receive_message(
        QueueUrl=topic.url, MaxNumberOfMessages=10, MessageAttributeNames=[*TRACE_CONTEXT], WaitTimeSeconds=1
    )["Messages"]
    (name,) = message["MessageAttributes"]
    assert name == "traceparent"
    servers.wait_until(lambda: told.names()[f"create {topic.name}"] == 2, 20, "the spans")
    created = [span["context"] for span in told.spans().values() if span["name"] == f"create {topic.name}"]
    expected = {f"00-{context['trace_id'][2:]}-{context['span_id'][2:]}" for context in created}
    assert message["MessageAttributes"][name]["StringValue"].rpartition("-")[0] in expected
