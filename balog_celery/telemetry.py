"""OpenTelemetry: one trace from a logger's call to the tasks of its event, and metrics. No other module imports it.

A trace looks like this; the last two spans are those of the official instrumentation of Celery, if that is on::

    create events                  PRODUCER  SQSHandler, in the thread that logs; the context goes with the message
    └─ dispatch events             CONSUMER  the engine, for each event; linked to the first as well
       └─ apply_async/proj.task    PRODUCER  the engine, for each task that it publishes
          └─ run/proj.task         CONSUMER  the worker; a child of "dispatch events" if the task was handed over

Spans are parents and children, not links between traces, because a message is one event and its tasks are its only
consequence: an event for three consumers is one trace with three branches, and a redelivery adds to it. The link
follows the semantic conventions for messaging, for tools that need it.

Message attributes are always W3C Trace Context (``traceparent``, ``tracestate``).
Task headers come from the propagator of the process, with which the instrumentation of Celery reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .sqs.addresses import queue_name

if TYPE_CHECKING:
    from .consumers.delivery import Job

#: The message attributes of W3C Trace Context.
TRACE_CONTEXT = ("traceparent", "tracestate")

#: The boundaries of the histogram of lags, in seconds. A queue may be left unread for a day.
_LAGS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43_200, 86_400)

#: What is observed of an outbox, by topic: name, unit, description.
_OUTBOX = (
    ("waiting", "{row}", "Rows that wait to be sent."),
    ("failed", "{row}", "Rows that SQS can never take."),
    ("oldest", "s", "The age of the oldest row that waits."),
)


class Telemetry:
    """Telemetry of events. This base class does nothing; :func:`find` returns it where OpenTelemetry is off.

    Times are those of :class:`~balog_celery.consumers.context.EventContext`: milliseconds of Unix time, by stage.
    """

    def created(self, topic: str, logger: str) -> Mapping[str, str]:
        """Note that *logger* logs a record for *topic* now; return the message attributes to send it with."""
        return {}

    def received(self, topic: str, count: int) -> None:
        """Count *count* received messages of *topic*."""

    def arrived(self, topic: str, times: Mapping[str, int]) -> None:
        """Note that an event of *topic* was decoded."""

    def dispatching(self, topic: str, jobs: Sequence[Job]) -> AbstractContextManager[object]:
        """Trace the block that dispatches *jobs*; count them unless it raises. Keep an event's jobs together.

        The trace is added to their headers.
        """
        return _NOTHING

    def sending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        """Return what to call in place of *send*, Celery's ``amqp.send_task_message``."""
        return send

    def running(self, headers: Mapping[str, Any]) -> AbstractContextManager[object]:
        """Run the block in the trace of *headers*, those of a task."""
        return _NOTHING

    def started(self, topic: str, consumer: str, times: Mapping[str, int]) -> None:
        """Note that the task of an event for *consumer* was started."""

    def done(self, topic: str, consumer: str, times: Mapping[str, int], *, failed: bool) -> None:
        """Count a task of *consumer* that has succeeded, or *failed* permanently."""

    def dead(self, topic: str, consumer: str, reason: str) -> None:
        """Count an event in the dead-letter queue of *topic*; *consumer* is "" unless a consumer has failed."""

    def relays(self, status: Callable[[], Mapping[str, Any]]) -> None:
        """Observe an outbox relay from now on: what :class:`~balog_celery.outbox.report.RelayReport` reports."""


_NOTHING = nullcontext()
OFF = Telemetry()


def find(setting: bool | None = None) -> Telemetry:
    """Return the telemetry of this process.

    :param setting: whether OpenTelemetry is on; None: it is if a provider of traces or metrics has been set.
    :raises ConfigurationError: *setting* is True, and OpenTelemetry is not installed.
    """
    if setting is False or (setting is None and not _has_provider()):
        return OFF
    try:
        return _default()
    except ImportError as error:
        raise ConfigurationError(
            f"balog_telemetry = True needs OpenTelemetry: pip install 'balog_celery[otel]' ({error})"
        ) from error


def _has_provider() -> bool:
    # Setting a provider imports these modules. Importing them here would cost every other process.
    # While another thread imports them, they have no attributes yet.
    getters = (
        getattr(sys.modules.get("opentelemetry.trace"), "get_tracer_provider", None),
        getattr(sys.modules.get("opentelemetry.metrics"), "get_meter_provider", None),
    )
    return any(_is_real(get()) for get in getters if get is not None)


def _is_real(provider: object) -> bool:
    # The API's own providers are proxies, and providers that do nothing.
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


@lru_cache(maxsize=1)
def _default() -> OpenTelemetry:
    return OpenTelemetry()


class OpenTelemetry(Telemetry):
    """Reports to OpenTelemetry.

    :param tracer_provider: where spans go; default: the provider of the process, also if it is set later.
    :param meter_provider: where metrics go; default: likewise.
    :raises ImportError: ``opentelemetry-api`` is not installed.
    """

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        from opentelemetry import context, metrics, propagate, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._context, self._propagate, self._trace = context, propagate, trace
        self._w3c = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("balog_celery", tracer_provider=tracer_provider)
        self._meter = meter = metrics.get_meter("balog_celery", meter_provider=meter_provider)

        def counter(name: str, unit: str, description: str) -> Callable[..., None]:
            return meter.create_counter(f"balog.{name}", f"{{{unit}}}", description).add

        self._received = counter("messages.received", "message", "Messages received from SQS, by topic.")
        self._dispatched = counter("tasks.dispatched", "task", "Tasks put on the broker or handed to the worker.")
        self._finished = counter("tasks.finished", "task", "Tasks that ended well.")
        self._failed = counter("tasks.failed", "task", "Tasks that failed permanently; retries are not counted.")
        self._dead = counter("dead_letters", "message", "Events kept in a dead-letter queue, by reason.")
        self._lag = meter.create_histogram(
            "balog.lag",
            "s",
            "How long ago the event was emitted, by stage: sent (SQS had it), received (the engine had it), started "
            "and done (its task; by consumer).",
            explicit_bucket_boundaries_advisory=_LAGS,
        ).record

    def created(self, topic: str, logger: str) -> Mapping[str, str]:
        if logger.partition(".")[0] == "opentelemetry":
            return {}  # the log of an exporter would make more spans to export
        about = {"messaging.system": "aws_sqs", **_about("create", "create", topic)}
        span = self._tracer.start_span(f"create {topic}", kind=self._trace.SpanKind.PRODUCER, attributes=about)
        carrier: dict[str, str] = {}
        self._w3c.inject(carrier, self._trace.set_span_in_context(span))
        span.end()
        # SQS refuses empty values.
        return {name: value for name, value in carrier.items() if value}

    def received(self, topic: str, count: int) -> None:
        self._received(count, {"topic": topic})

    def arrived(self, topic: str, times: Mapping[str, int]) -> None:
        self._since_emitted(times, "sent", {"topic": topic})
        self._since_emitted(times, "received", {"topic": topic})

    @contextmanager
    def dispatching(self, topic: str, jobs: Sequence[Job]) -> Iterator[object]:
        spans = [self._start(topic, next(group)) for _, group in groupby(jobs, lambda job: id(job.headers))]
        try:
            yield None
        except BaseException as error:
            for span in spans:
                span.record_exception(error)
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(error)))
            raise
        finally:
            for span in spans:
                span.end()
        for job in jobs:
            self._dispatched(1, {"topic": topic, "consumer": job.consumer.task_name})

    def _start(self, topic: str, job: Job) -> Any:
        message = job.delivery.message
        # Not in this thread's context: it polls for many events.
        parent = self._w3c.extract(message.attributes, self._context.Context())
        creation = self._trace.get_current_span(parent).get_span_context()
        span = self._tracer.start_span(
            f"dispatch {topic}",
            parent,
            self._trace.SpanKind.CONSUMER,
            {
                **_about("process", "dispatch", topic),
                "messaging.message.id": message.message_id,
                "balog.event.id": job.event.header.id,
                "balog.event.cls_type": job.event.payload.cls_type,
                "balog.receive_count": message.receive_count,
            },
            [self._trace.Link(creation)] if creation.is_valid else (),
        )
        self._propagate.inject(job.headers, self._trace.set_span_in_context(span, parent))
        return span

    def sending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def send_in_context(producer: Any, name: str, message: Any, **options: Any) -> Any:
            # The instrumentation of Celery starts its span in the current context, and overwrites the headers.
            with self.running(message.headers):
                return send(producer, name, message, **options)

        return send_in_context

    @contextmanager
    def running(self, headers: Mapping[str, Any]) -> Iterator[object]:
        token = self._context.attach(self._propagate.extract(headers, self._context.Context()))
        try:
            yield None
        finally:
            self._context.detach(token)

    def started(self, topic: str, consumer: str, times: Mapping[str, int]) -> None:
        self._since_emitted(times, "started", {"topic": topic, "consumer": consumer})

    def done(self, topic: str, consumer: str, times: Mapping[str, int], *, failed: bool) -> None:
        labels = {"topic": topic, "consumer": consumer}
        self._since_emitted(times, "done", labels)
        (self._failed if failed else self._finished)(1, labels)

    def _since_emitted(self, times: Mapping[str, int], stage: str, labels: dict[str, str]) -> None:
        if times.get("emitted") and times.get(stage):
            self._lag(max(0.0, (times[stage] - times["emitted"]) / 1000), {**labels, "stage": stage})

    def dead(self, topic: str, consumer: str, reason: str) -> None:
        self._dead(1, {"topic": topic, "consumer": consumer, "reason": reason})

    def relays(self, status: Callable[[], Mapping[str, Any]]) -> None:
        from opentelemetry.metrics import Observation

        def observe(name: str) -> Callable[[object], list[Any]]:
            return lambda _: [
                Observation(rows[name], {"topic": queue_name(topic)}) for topic, rows in status()["outbox"].items()
            ]

        for name, unit, description in _OUTBOX:
            self._meter.create_observable_gauge(f"balog.outbox.{name}", [observe(name)], unit, description)
        self._meter.create_observable_counter(
            "balog.outbox.sent", [lambda _: [Observation(status()["sent"])]], "{row}", "Rows sent and deleted."
        )


def _about(kind: str, name: str, topic: str) -> dict[str, str]:
    """Return the attributes of a span, by the semantic conventions for messaging."""
    return {
        "messaging.operation.type": kind,
        "messaging.operation.name": name,
        "messaging.destination.name": topic,
    }
