"""Collects numbers of topics and engines in the background, and keeps those of the last hour in memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from celery import Celery

from ..cli.topic_rows import describe_topic
from ..engine.outage import Outage
from ..sqs.addresses import queue_name
from ..text import printable
from .activity import Activity
from .engines import EngineReport, engine_reports

#: How long numbers are kept, in seconds.
_KEPT = 3600


class Sample(NamedTuple):
    """The numbers of a topic at one time; None: not known.

    Rates are in messages per second; *lag* is the 95th percentile of the worst engine, in seconds.
    """

    waiting: float | None
    in_flight: float | None
    dead: float | None
    rate_in: float | None
    rate_out: float | None
    lag: float | None


class TopicHistory:
    """What is known of a topic.

    :param length: how many samples are kept.
    """

    def __init__(self, length: int) -> None:
        self.row: Mapping[str, Any] = {}
        self.samples: deque[Sample] = deque(maxlen=length)

    def series(self, name: str) -> list[float | None]:
        """Return one number of each sample, the oldest first."""
        return [getattr(sample, name) for sample in list(self.samples)]

    @property
    def last(self) -> Sample:
        """The newest sample."""
        return self.samples[-1] if self.samples else Sample(None, None, None, None, None, None)


class Rates:
    """Turns counters of engines, which begin anew with each engine, into rates."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[tuple[str, str, str], tuple[float, int]] = {}

    def of(self, reports: list[EngineReport], topic: str, counter: str) -> float | None:
        """Return how much *counter* of a topic grew per second since the last call; None if that is not known."""
        now, rates = self._clock(), []
        for report in reports:
            if topic in report.topics:
                key, count = (report.name, topic, counter), int(report.topics[topic].get(counter, 0))
                before, self._before[key] = self._before.get(key), (now, count)
                if before is not None and now > before[0]:
                    grown = count - before[1] if count >= before[1] else count  # the engine was started again
                    rates.append(grown / (now - before[0]))
        return sum(rates) if rates else None


class Sampler:
    """Samples the topics of an app, and its engines, until it is stopped. Pages read its attributes at any time.

    :param app: the app, with its consumers loaded.
    :param interval: the time between samples, in seconds.
    """

    def __init__(self, app: Celery, interval: float) -> None:
        self._app = app
        self._interval = interval
        self._stopping = threading.Event()
        self._rates = Rates()
        self.activity = Activity(app)
        self.topics = {topic: TopicHistory(max(2, int(_KEPT / interval))) for topic in sorted(app.balog.topics())}
        self.engines: list[EngineReport] = []
        self.problem = ""
        self._threads = [
            threading.Thread(target=self._repeat, args=(what, sample), name=what, daemon=True)
            for what, sample in (("sampling engines", self.sample_engines), ("sampling topics", self.sample_topics))
        ]

    def start(self) -> None:
        """Begin to sample."""
        self.activity.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop sampling; do not wait for calls under way."""
        self._stopping.set()
        self.activity.stop()

    def _repeat(self, what: str, sample: Callable[[], None]) -> None:
        outage = Outage(what)
        while not self._stopping.is_set():
            try:
                sample()
            except Exception as error:  # a page that shows old numbers is better than none
                outage.failed(repr(error))
            else:
                outage.succeeded()
            self._stopping.wait(self._interval)

    def sample_engines(self) -> None:
        """Ask the workers."""
        try:
            self.engines = engine_reports(self._app)
        except Exception as error:
            self.problem = f"the workers cannot be asked: {printable(type(error).__name__)}"
            raise
        self.problem = ""

    def paused(self) -> dict[str, tuple[bool, bool]]:
        """Return for each topic and consumer whether it is paused in all engines that serve it, and in some."""
        found = {}
        for topic, consumers in self._app.balog.topics().items():
            name = printable(queue_name(topic))
            states = [report.topics[name].get("paused", ()) for report in self.engines if name in report.topics]
            for one in (topic, *(consumer.task_name for consumer in consumers)):
                are = [one in paused for paused in states]
                found[one] = bool(are) and all(are), any(are)
        return found

    def sample_topics(self) -> None:
        """Ask the queues."""
        for topic, history in self.topics.items():
            if self._stopping.is_set():
                return
            row = describe_topic(self._app, topic)
            name = printable(queue_name(topic))
            reports = self.engines
            history.row = row
            history.samples.append(
                Sample(
                    row.get("waiting"),
                    row.get("in_flight"),
                    _dead(row),
                    self._rates.of(reports, name, "received"),
                    self._rates.of(reports, name, "deleted"),
                    _lag(reports, name),
                )
            )


def _lag(reports: list[EngineReport], topic: str) -> float | None:
    """Return the 95th percentile of the time between an event's send, or its log call, and its receive."""
    lags = [report.topics[topic]["lag"] for report in reports if topic in report.topics]
    found = [stage["p95"] for lag in lags if (stage := lag.get("sent") or lag.get("emitted")) and "p95" in stage]
    return max(found, default=None)


def _dead(row: Mapping[str, Any]) -> int | None:
    counts = [
        sum(queue[name] or 0 for name in ("waiting", "in_flight", "delayed"))
        for queue in row["dead_letters"]
        if "error" not in queue
    ]
    return sum(counts) if counts else None
