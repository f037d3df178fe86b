"""Telemetry: spans and their parents, metrics, and nothing where OpenTelemetry is off."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import prometheus_client
import pytest
from celery import Celery, current_task, signals
from celery.exceptions import Ignore, Reject, TimeLimitExceeded
from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import balog_celery
from balog_celery import SQSHandler
from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator
from balog_celery.consumers.context import EVENT, ORIGINAL, RECEIVES, TIMES
from balog_celery.consumers.delivery import Job
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.engine.engine import Engine
from balog_celery.engine.stats import Lag
from balog_celery.errors import ConfigurationError
from balog_celery.producer import messages
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES
from balog_celery.sqs.queues import SQSQueue
from balog_celery.tasks.routes import register
from balog_celery.telemetry import OFF, OpenTelemetry, Telemetry, find
from balog_celery.worker.instrumentation import TaskInstrumentation
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


class Told:
    """A telemetry with what OpenTelemetry's SDK got of it."""

    def __init__(self, reader: MetricReader | None = None) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = reader or InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.telemetry = OpenTelemetry(self.tracer_provider, self.meter_provider)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """The spans that have ended, in that order."""
        return self._spans.get_finished_spans()

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The points of a metric: labels, and the sum or the count."""
        assert isinstance(self._reader, InMemoryMetricReader)
        data = self._reader.get_metrics_data()
        return [
            (dict(point.attributes or {}), getattr(point, "value", getattr(point, "count", None)))
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def close(self) -> None:
        self.meter_provider.shutdown()
        self.tracer_provider.shutdown()


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    told.close()


class Keeping:
    """A dispatcher that keeps the headers of its jobs."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None

    def dispatch(self, jobs: Sequence[Job]) -> None:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        for job in jobs:
            self.headers.append((job.consumer.task_name, job.headers))
            job.acknowledge()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return Readiness.READY

    def room(self) -> int:
        return 10

    def close(self) -> None:
        pass


def run_until(engine: Engine, queue: ObservedQueue, condition: Callable[[], bool]) -> None:
    """Run *engine* until *condition* holds after a call of *queue*, then stop it."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        queue.wait_for(condition)
    finally:
        engine.stop()
        thread.join(20)
        assert not thread.is_alive()


def hub_of(*consumers: Consumer) -> ConsumerHub:
    hub = ConsumerHub()
    for consumer in consumers:
        hub.add_consumer(consumer)
    return hub


def two_consumers() -> ConsumerHub:
    return hub_of(Consumer(print, "topic", name="one"), Consumer(print, "topic", name="two"))


def queues_of(queue: ObservedQueue, dead: ObservedQueue | None = None) -> Callable[[str], ObservedQueue]:
    """The topic's queue, and a dead-letter queue if there is one."""
    missing = ObservedQueue("topic-dead", exists=False)
    return lambda name: queue if name == queue.name else dead or missing


def hexed(number: int) -> str:
    return f"{number:016x}"


def test_without_a_provider_telemetry_is_off() -> None:
    """Without a provider telemetry is off, and OpenTelemetry is not imported."""
    code = (
        "import sys, balog_celery.integration, balog_celery.producer.handlers\n"
        "from balog_celery.telemetry import OFF, find\n"
        "assert find() is OFF and find(False) is OFF\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'opentelemetry']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "provider",
    [
        "from opentelemetry.sdk.trace import TracerProvider; trace.set_tracer_provider(TracerProvider())",
        "from opentelemetry.sdk.metrics import MeterProvider; metrics.set_meter_provider(MeterProvider())",
    ],
)
def test_a_provider_of_either_kind_turns_it_on(provider: str) -> None:
    """A tracer or meter provider, set at any time, turns telemetry on; the setting False turns it off."""
    code = (
        "from balog_celery.telemetry import OFF, OpenTelemetry, find\n"
        "from opentelemetry import metrics, trace\n"
        "assert find() is OFF\n"
        f"{provider}\n"
        "assert isinstance(find(), OpenTelemetry) and find() is find() and find(False) is OFF"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_the_extra_everything_works_but_asking_for_it() -> None:
    """Without the extra everything works, and asking for telemetry is an error that says what to install."""
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "import balog_celery.integration, balog_celery.producer.handlers\n"
        "from balog_celery.telemetry import OFF, find\n"
        "assert find() is OFF\n"
        "find(True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ConfigurationError: balog_telemetry = True needs OpenTelemetry: pip install" in done.stderr


def test_asked_for_it_is_on_before_a_provider_is_set() -> None:
    """With the setting True telemetry is on before a provider is set."""
    assert isinstance(find(True), OpenTelemetry)


def test_a_record_carries_the_context_of_the_thread_that_logs(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the thread that sends: the span of the application is the parent."""
    monkeypatch.setattr(messages, "find", lambda setting: told.telemetry)
    queue = ObservedQueue()
    handler = SQSHandler("https://sqs.eu-west-1.amazonaws.com/1/topic", queue=queue, linger=0)
    logger = logging.Logger("app")
    logger.addHandler(handler)
    with told.tracer_provider.get_tracer("app").start_as_current_span("request") as request:
        logger.warning("done")
    handler.close()
    created, _request = told.spans
    context = created.get_span_context()
    assert context is not None
    assert created.name == "create topic"
    assert created.kind is trace.SpanKind.PRODUCER
    assert created.parent == request.get_span_context()
    assert created.attributes == {
        "messaging.system": "aws_sqs",
        "messaging.operation.type": "create",
        "messaging.operation.name": "create",
        "messaging.destination.name": "topic",
    }
    (message,) = queue.sent
    assert list(message.attributes) == ["traceparent"]
    assert message.attributes["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")


def test_a_record_of_the_largest_size_goes_without_its_trace(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is worth more."""
    monkeypatch.setattr(messages, "find", lambda setting: told.telemetry)
    queue = ObservedQueue()
    handler = SQSHandler("topic", queue=queue, linger=0)
    monkeypatch.setattr(handler, "format", lambda record: "x" * MAX_MESSAGE_BYTES)
    handler.handle(logging.makeLogRecord({"name": "app"}))
    handler.close()
    assert [(len(message.body), message.attributes) for message in queue.sent] == [(MAX_MESSAGE_BYTES, {})]


def test_opentelemetrys_own_log_makes_no_spans(told: Told) -> None:
    """OpenTelemetry's own log lines make no spans, because a failing exporter would log without end."""
    assert told.telemetry.created("topic", "opentelemetry.sdk.trace.export") == {}
    assert not told.spans


def test_a_message_is_a_child_of_its_creation_and_the_parent_of_its_tasks(told: Told) -> None:
    """Each event has one span, a child of its creation and linked to it, and the parent of its tasks."""
    queue = ObservedQueue()
    queue.put(event_text("e"), attributes={"traceparent": TRACEPARENT, "tracestate": "vendor=1"})
    dispatcher = Keeping()
    engine = Engine(two_consumers(), queues_of(queue), dispatcher=dispatcher, telemetry=told.telemetry)
    run_until(engine, queue, lambda: queue.deleted == ["m1"])
    (span,) = told.spans
    context = span.get_span_context()
    assert context is not None
    assert span.parent is not None
    assert (f"{context.trace_id:032x}", hexed(span.parent.span_id)) == (TRACE, SPAN)
    assert [hexed(link.context.span_id) for link in span.links] == [SPAN]
    assert span.kind is trace.SpanKind.CONSUMER
    assert span.name == "dispatch topic"
    assert span.attributes is not None
    assert span.attributes["balog.event.id"] == "e"
    assert span.attributes["messaging.message.id"] == queue.id_of("m1")
    (one, headers), (two, same) = dispatcher.headers
    assert (one.rpartition(".")[2], two.rpartition(".")[2]) == ("one", "two")
    assert headers is same
    assert headers["traceparent"].startswith(f"00-{TRACE}-{hexed(context.span_id)}-")
    assert headers["tracestate"] == "vendor=1"


@pytest.mark.parametrize("attributes", [{}, {"traceparent": "nonsense"}])
def test_a_message_without_a_trace_begins_one(told: Told, attributes: dict[str, str]) -> None:
    """Each event of a message without a trace begins a trace."""
    queue = ObservedQueue()
    queue.put(event_text("a"), event_text("b"), attributes=attributes)
    engine = Engine(two_consumers(), queues_of(queue), dispatcher=Keeping(), telemetry=told.telemetry)
    run_until(engine, queue, lambda: len(queue.deleted) == 2)
    assert [(span.parent, len(span.links)) for span in told.spans] == [(None, 0)] * 2
    assert len({span.context.trace_id for span in told.spans if span.context}) == 2


def test_a_dispatch_that_fails_unexpectedly_is_in_its_span(told: Told) -> None:
    """An unexpected error of a dispatch is in its span; the redelivery adds another span to the trace."""
    queue = ObservedQueue(bodies=[event_text("e")])
    dispatcher = Keeping()
    dispatcher.error = ValueError("no way")
    engine = Engine(two_consumers(), queues_of(queue), dispatcher=dispatcher, telemetry=told.telemetry)
    run_until(engine, queue, lambda: queue.released == ["m1"])
    span, *_ = told.spans  # the released message comes again
    assert span.status.description == "no way"
    assert told.points("balog.tasks.dispatched") == []


def test_functions_called_inline_are_in_the_trace(told: Told) -> None:
    """Functions that are called inline have spans like tasks, and are counted."""
    spans: list[Any] = []

    def fine(event: dict[str, Any]) -> None:
        spans.append(trace.get_current_span().get_span_context())

    def bad(event: dict[str, Any]) -> None:
        raise ValueError

    queue, dead = ObservedQueue(), ObservedQueue("topic-dead")
    queue.put(event_text("e"), attributes={"traceparent": TRACEPARENT})
    hub = hub_of(Consumer(fine, "topic", module="m"), Consumer(bad, "topic", module="m"))
    engine = Engine(hub, queues_of(queue, dead), telemetry=told.telemetry)
    run_until(engine, queue, lambda: queue.deleted == ["m1"])
    assert [f"{context.trace_id:032x}" for context in spans] == [TRACE]
    assert told.points("balog.messages.received") == [({"topic": "topic"}, 1)]
    consumers = [{"topic": "topic", "consumer": f"m.{name}"} for name in ("fine", "bad")]
    assert told.points("balog.tasks.dispatched") == [(labels, 1) for labels in consumers]
    assert told.points("balog.tasks.finished") == [(consumers[0], 1)]
    assert told.points("balog.tasks.failed") == [(consumers[1], 1)]
    assert told.points("balog.dead_letters") == [({**consumers[1], "reason": "failed"}, 1)]
    stages = [(labels["stage"], labels.get("consumer")) for labels, _ in told.points("balog.lag")]
    tasks = [(stage, f"m.{name}") for name in ("fine", "bad") for stage in ("started", "done")]
    assert sorted(stages, key=str) == sorted([("sent", None), ("received", None), *tasks], key=str)


def test_an_event_comes_again_if_telemetry_fails() -> None:
    """If telemetry fails, the message is released."""

    class Broken(Telemetry):
        def dispatching(self, topic: str, jobs: Sequence[Job]) -> AbstractContextManager[object]:
            raise RuntimeError("a span processor's fault")

    queue = ObservedQueue(bodies=[event_text("e")])
    engine = Engine(two_consumers(), queues_of(queue), dispatcher=Keeping(), telemetry=Broken())
    run_until(engine, queue, lambda: queue.released == ["m1"])


def test_a_task_says_when_its_event_was_emitted_sent_and_received() -> None:
    """A task's request has the times when its event was emitted, sent and received, with and without OpenTelemetry."""
    queue, dispatcher, sent = ObservedQueue(), Keeping(), int(time.time() * 1000) - 2000
    queue.put(event_text("e"), sent=sent)
    engine = Engine(two_consumers(), queues_of(queue), dispatcher=dispatcher, telemetry=OFF)
    shown: list[dict[str, Any]] = []
    queue.on["delete"] = lambda handles: shown.append(engine.status()["topics"]["topic"]["lag"])
    run_until(engine, queue, lambda: bool(shown))
    (_, headers), _ = dispatcher.headers
    assert headers.keys() == {EVENT, TIMES, RECEIVES, ORIGINAL}
    assert headers[TIMES]["emitted"] == 1412694411641
    assert headers[TIMES]["sent"] == sent
    assert headers[TIMES]["received"] == pytest.approx(time.time() * 1000, abs=60_000)
    assert shown[0].keys() == {"emitted", "sent"}
    assert 2.0 <= shown[0]["sent"]["last"] == shown[0]["sent"]["max"] < 60


def test_lag_has_percentiles_of_the_last_thousand_events() -> None:
    """Percentiles are those of the last 1,000 events, and the largest is that since the start."""
    lag = Lag()
    lag.note(emitted=0, sent=0, received=9_000_000)
    for late in range(1, 1001):
        lag.note(emitted=0, sent=0, received=late)
    shown = lag.status()["emitted"]
    assert shown == {"last": 1.0, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 9000.0}


def test_lag_is_the_last_and_the_largest() -> None:
    """Lag has the last and the largest value; a negative one counts as zero."""
    lag = Lag()
    assert lag.status() == {}
    lag.note(emitted=10_000, sent=11_000, received=13_000)
    lag.note(emitted=14_500, sent=0, received=14_000)
    shown = {stage: (found["last"], found["max"]) for stage, found in lag.status().items()}
    assert shown == {"emitted": (0.0, 3.0), "sent": (2.0, 2.0)}


def test_prometheus_scrapes_the_metrics() -> None:
    """OpenTelemetry's exporter serves Prometheus the documented metrics and labels."""
    told = Told(PrometheusMetricReader())
    try:
        queue = ObservedQueue(bodies=[event_text("e")])
        hub = hub_of(Consumer(lambda event: None, "topic", name="one", module="m"))
        engine = Engine(hub, queues_of(queue), telemetry=told.telemetry)
        run_until(engine, queue, lambda: queue.deleted == ["m1"])
        page = prometheus_client.generate_latest().decode()
    finally:
        told.close()
    labels = [line.partition("{")[2] for line in page.splitlines() if line.startswith("balog_tasks_finished_total{")]
    assert len(labels) == 1
    assert 'consumer="m.one"' in labels[0]
    assert 'topic="topic"' in labels[0]
    assert "balog_messages_received_total{" in page
    assert "balog_lag_seconds_bucket{" in page


def test_an_outbox_relay_is_observed(told: Told) -> None:
    """The rows of an outbox are gauges by topic, and what its relay has sent is a counter, as they are now."""
    rows = {"waiting": 3, "failed": 1, "oldest": 2.5}
    status = {"outbox": {"https://sqs/1/orders": rows}, "sent": 7}
    told.telemetry.relays(lambda: status)
    for name, value in rows.items():
        assert told.points(f"balog.outbox.{name}") == [({"topic": "orders"}, value)]
    assert told.points("balog.outbox.sent") == [({}, 7)]
    status["outbox"] = {}
    assert told.points("balog.outbox.waiting") == []


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app; receivers of Celery's signals are disconnected after the test."""
    listened_to = [signals.task_prerun, signals.task_postrun, signals.task_failure]
    before = [list(signal.receivers) for signal in listened_to]
    app = Celery("telemetry", broker="memory://", set_as_current=False)
    yield app
    app.close()
    for signal, receivers in zip(listened_to, before, strict=True):
        signal.receivers[:] = receivers


def task_of(app: Celery, func: Callable[..., Any]) -> Any:
    """The task of a consumer of https://sqs/1/topic, with a dead-letter queue."""
    consumer = Consumer(func, "topic", module="m")
    letters = DeadLetters(lambda _url: ObservedQueue("topic-dead"), "{topic}-dead")
    return register(app, consumer, ConsumerOperator(), "https://sqs/1/topic", letters, None)


def nothing(event: dict[str, Any]) -> None:
    """Do nothing."""


def test_tasks_are_counted_when_they_are_done(app: Celery, told: Told) -> None:
    """Tasks are counted when they succeed or fail permanently, not when they are redelivered or ignored."""

    def fine(event: dict[str, Any]) -> None:
        # What handlers see of it.
        assert current_task.request.balog_times["started"] <= time.time() * 1000

    def bad(event: dict[str, Any]) -> None:
        raise ValueError

    def refused(event: dict[str, Any]) -> None:
        raise Reject("no use", requeue=False)

    def again(event: dict[str, Any]) -> None:
        raise Reject("later", requeue=True)

    def ignored(event: dict[str, Any]) -> None:
        raise Ignore

    TaskInstrumentation(app, lambda: told.telemetry).begin()
    tasks = [task_of(app, func) for func in (fine, bad, refused, again, ignored)]
    for task in tasks:
        task.apply(args=(event_text(),))
    # Only the main process sees hard time limits and lost children, and it did not start the task.
    signals.task_failure.send(sender=tasks[0], exception=TimeLimitExceeded(1.0), args=(event_text(),))
    labels = {"topic": "topic"}
    assert told.points("balog.tasks.finished") == [({**labels, "consumer": "m.fine"}, 1)]
    failed = {labels["consumer"]: count for labels, count in told.points("balog.tasks.failed")}
    assert failed == {"m.bad": 1, "m.refused": 1, "m.fine": 1}


def test_the_events_of_a_chunk_are_counted_one_by_one(app: Celery, told: Told) -> None:
    """And their task is not counted."""

    def fine_but_one(event: dict[str, Any]) -> None:
        if event["header"]["id"] == "bad":
            raise ValueError

    # Given
    TaskInstrumentation(app, lambda: told.telemetry).begin()
    letters = DeadLetters(lambda _url: ObservedQueue("topic-dead"), "{topic}-dead")
    consumer = Consumer(fine_but_one, "topic", module="m", chunk=100)
    task = register(app, consumer, ConsumerOperator(), "https://sqs/1/topic", letters, None)
    # When
    task.apply(args=([event_text(event_id) for event_id in ("a", "bad", "b")],))
    # Then
    labels = {"topic": "topic", "consumer": "m.fine_but_one"}
    assert told.points("balog.tasks.finished") == [(labels, 2)]
    assert told.points("balog.tasks.failed") == [(labels, 1)]


def test_at_debug_the_log_has_the_times_of_each_event(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG the log has the times of each event, without OpenTelemetry."""
    caplog.set_level(logging.DEBUG, "balog_celery.worker.instrumentation")
    TaskInstrumentation(app, lambda: OFF).begin()
    task_of(app, nothing).apply(args=(event_text(),))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "balog_celery.worker.instrumentation"]
    assert re.fullmatch(r"m.nothing  done: started 20\S+\+00:00, done \+0\.\d{3} s", line)


def test_a_worker_without_telemetry_connects_to_no_task_signals(app: Celery) -> None:
    """A worker without telemetry disconnects from task signals at its first task."""
    watch = TaskInstrumentation(app, lambda: OFF)

    def listens() -> list[bool]:
        each = [signals.task_prerun, signals.task_postrun]
        return [any(getattr(one, "__self__", None) is watch for _, one in signal.receivers) for signal in each]

    watch.begin()
    assert listens() == [True, False]
    task_of(app, nothing).apply(args=(event_text(),))
    assert listens() == [False, False]


@pytest.mark.parametrize("setting", ["yes please", 7])
def test_the_setting_is_yes_no_or_left_out(app: Celery, setting: Any) -> None:
    """A setting other than True, False and None is an error at start."""
    with pytest.raises(ConfigurationError, match="balog_telemetry"):
        balog_celery.install(app, telemetry=setting)


def test_an_instrumented_client_sees_every_call(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instrumented boto3 client sees every call, so its official instrumentation makes the spans."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    instrumentor = BotocoreInstrumentor()
    instrumentor.instrument(tracer_provider=told.tracer_provider, meter_provider=told.meter_provider)
    try:
        # Nothing listens there: only the call counts.
        queue = SQSQueue("http://127.0.0.1:9/1/topic", region="eu-west-1", endpoint_url="http://127.0.0.1:9")
        with pytest.raises(balog_celery.QueueError):
            queue.delete(["handle"])
    finally:
        instrumentor.uninstrument()
    assert [span.name for span in told.spans] == ["SQS.DeleteMessageBatch"]
