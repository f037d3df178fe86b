"""The metrics of engines, consumers and outbox relays, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..engine.status import problems
from ..sqs.addresses import queue_name

#: The engine's counters, by their names in its status.
_COUNTERS = {
    "received": "Messages received.",
    "dispatched": "Tasks handed to the worker, or published.",
    "deleted": "Messages deleted.",
    "returned": "Messages released.",
    "dead": "Messages that the engine sent to a dead-letter queue.",
    "unwanted": "Events without a consumer.",
    "undecodable": "Messages that cannot be decoded.",
    "faults": "Unexpected errors with a message.",
    "received_again": "Messages received again while in flight.",
}
_GAUGES = {
    "in_flight": ("in_flight_messages", "Messages in flight."),
    "oldest": ("in_flight_oldest_seconds", "How long the oldest message has been in flight."),
    "owed": ("pending_deletes", "Deletes and releases that SQS has not confirmed."),
    "last_poll": ("last_poll_seconds", "How long ago the last successful poll was."),
}
_OUTBOX = {
    "waiting": ("waiting_rows", "Rows that wait to be sent."),
    "oldest": ("oldest_seconds", "The age of the oldest row that waits."),
    "failed": ("failed_rows", "Rows that SQS can never take."),
}
#: The boundaries of the histogram of run times, in seconds.
_RUN_TIMES = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

Statuses = Callable[[], Sequence[Mapping[str, Any]]]


class EngineCollector(Collector):
    """The metrics of the engines whose status *statuses* returns.

    An engine that starts again counts from zero, as Prometheus expects of counters.
    """

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering asks no engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        statuses = [status for status in self._statuses() if "topics" in status]
        up = GaugeMetricFamily("balog_engines", "Engines that run.")
        up.add_metric([], len(statuses))
        problem_count = GaugeMetricFamily("balog_engine_problems", "Problems that `balog health` reports.")
        problem_count.add_metric([], sum(len(problems(status)) for status in statuses))
        yield from (up, problem_count)
        states = [(topic, state) for status in statuses for topic, state in status["topics"].items()]
        for name, text in _COUNTERS.items():
            yield _summed(CounterMetricFamily(f"balog_messages_{name}", text, labels=["topic"]), states, name)
        for name, (metric, text) in _GAUGES.items():
            yield _summed(GaugeMetricFamily(f"balog_{metric}", text, labels=["topic"]), states, name)
        paused = GaugeMetricFamily("balog_paused_seconds", "For how long receiving has been paused.", labels=["topic"])
        lag = GaugeMetricFamily(
            "balog_last_lag_seconds", "The age of the last event when it was received.", labels=["topic", "since"]
        )
        for topic, state in dict(states).items():
            paused.add_metric([topic], state["doing_for"] if state["doing"] == "paused" else 0)
            for since, found in state["lag"].items():
                lag.add_metric([topic, since], found["last"])
        yield from (paused, lag)


class OutboxCollector(Collector):
    """The metrics of the outbox relay whose status is among those that *statuses* returns; none without a relay."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering asks no relay."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        for status in (status for status in self._statuses() if "outbox" in status):
            for name, (metric, text) in _OUTBOX.items():
                family = GaugeMetricFamily(f"balog_outbox_{metric}", text, labels=["topic"])
                for topic, state in status["outbox"].items():
                    family.add_metric([queue_name(topic)], state[name])
                yield family
            yield CounterMetricFamily("balog_outbox_sent", "Rows sent and deleted.", value=status["sent"])
            yield GaugeMetricFamily(
                "balog_outbox_problems", "Problems that `balog health` reports.", value=len(problems(status))
            )


def _summed(family: Any, states: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> Metric:
    """Add to *family* one value per topic: several engines on a machine count together, or the worst is shown."""
    values: dict[str, float] = {}
    for topic, state in states:
        value = float(state.get(name, 0))
        is_time = name in ("oldest", "last_poll")
        values[topic] = max(values.get(topic, 0.0), value) if is_time else values.get(topic, 0.0) + value
    for topic, value in values.items():
        family.add_metric([topic], value)
    found: Metric = family
    return found


class TaskMetrics:
    """The ends of consumers' tasks in one worker. Its labels are bounded: there is one value for each consumer.

    :param registry: where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["topic", "consumer"]
        self._ended = Counter(
            "balog_tasks_ended",
            "Attempts of tasks, by how they ended: succeeded, failed (permanently), retried, or released.",
            [*labels, "outcome"],
            registry=registry,
        )
        self._run_times = Histogram(
            "balog_task_runtime_seconds", "The run times of tasks.", labels, buckets=_RUN_TIMES, registry=registry
        )

    def ended(
        self, topic: str, consumer: str, outcome: str, runtime: float | None = None, trace_id: str | None = None
    ) -> None:
        """Count an end.

        :param runtime: how long the task ran, in seconds.
        :param trace_id: the trace that the task belongs to.
        """
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._ended.labels(topic, consumer, outcome).inc(exemplar=exemplar)
        if runtime is not None:
            self._run_times.labels(topic, consumer).observe(runtime, exemplar=exemplar)
