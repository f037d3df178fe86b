"""Feeds events to consumers: the real routing and the real Celery tasks, without AWS, broker or worker."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from celery import Celery

from ..engine.engine import Engine
from ..errors import ConfigurationError
from ..events.payloads import Payload
from ..events.records import FacilityRecord, encode
from ..events.serialization import dumps
from ..integration import install
from ..sqs.addresses import queue_name
from ..sqs.messages import Message
from ..sqs.protocols import Queue
from .doubles import EagerDispatcher, MemoryIdempotencyStore, MemoryQueue
from .producers import make_event
from .report import DeadLetter, Report, Run


class ConsumerHarness:
    """Feeds events to consumers, in the thread that calls :meth:`feed`.

    It has its own Celery app, in which the consumers are tasks with their own options, as in a worker. Events are
    decoded, checked and routed as in the engine; retries, ``once`` and dead letters behave as in production. Retries do
    not wait, and limits of rate, time and concurrency do not apply.

    :param packages: the packages or modules to scan for consumers, or their names.
    :param operator: the consumer operator; default: topics as they are written, functions called with the event alone.
    :param task_annotations: Celery's setting of that name.
    :param settings: any of the package's settings, without their prefix.
    :raises ConfigurationError: a setting, a consumer or a topic is wrong, or there are no consumers.
    """

    def __init__(
        self,
        *packages: str | ModuleType,
        operator: Any = None,
        task_annotations: Any = None,
        **settings: Any,
    ) -> None:
        names = [package.__name__ if isinstance(package, ModuleType) else package for package in packages]
        self.app = Celery(
            "balog_celery.testing", broker="memory://", set_as_current=False, task_annotations=task_annotations
        )
        install(self.app, names, operator=operator, **settings)
        self._letters: list[DeadLetter] = []
        self._store = MemoryIdempotencyStore()
        self.app.balog.connect = self._connect
        self.app.balog.marks = self._store
        # Of a limit on concurrency for all workers: one thread calls all functions.
        self.app.balog.redis = lambda _option: object
        self._runs: list[Run] = []
        dispatcher = EagerDispatcher(self.app, self._runs, self._store)
        self._engine: Engine = self.app.balog.engine(dispatcher=dispatcher)
        #: The topics of the consumers.
        self.topics: tuple[str, ...] = tuple(sorted(self._engine.topics()))
        if not self.topics:
            raise ConfigurationError(f"there are no consumers in {', '.join(names) or 'no package'}")

    @classmethod
    def of(cls, app: Celery) -> ConsumerHarness:
        """Return a harness with the consumers, the operator and the settings of *app*, which does not change.

        :raises ConfigurationError: :func:`balog_celery.install` was not called with *app*, or a setting is wrong.
        """
        integration = getattr(app, "balog", None)
        if integration is None:
            raise ConfigurationError(f"balog_celery is not installed in {app!r}: call balog_celery.install(app, ...)")
        settings = integration.settings
        given = {name: getattr(settings, name) for name in settings.model_fields_set}
        return cls(*given.pop("packages", ()), task_annotations=app.conf.task_annotations, **given)

    def feed(
        self,
        *events: FacilityRecord | Payload | Mapping[str, Any] | str | Path | Iterable[FacilityRecord],
        topic: str | None = None,
        throw: bool = True,
        attributes: Mapping[str, str] | None = None,
        group: str = "",
    ) -> Report:
        """Feed events to the consumers of a topic, and report what they did.

        A batch consumer gets the events of one call, in batches of its size.

        :param events: each is a record, a payload (which becomes a record), a dict or text (the body of a message),
            several records, or the path of a file: each line of a ``.jsonl``, any other file as one body.
        :param topic: the queue's name or URL; default: the topic of the consumers, if they have only one.
        :param throw: after all consumers ran, raise the first exception with which a task failed permanently, or with
            which an event could not be decoded. False: only report it.
        :param attributes: the message attributes of each message.
        :param group: its message group.
        :raises ConfigurationError: the topic must be given, or no consumer has it.
        :raises DecodeError: with *throw*, an event cannot be decoded.
        :raises BalogError: with *throw*, the default event handler failed.
        """
        report = Report()
        for body in _bodies(events):
            message = Message(body, "", uuid.uuid4().hex, time.monotonic(), attributes=attributes or {}, group=group)
            self._feed(message, topic or self._only_topic(), report)
        self._collect(report, self._engine.flush)
        if throw:
            report.raise_first()
        return report

    def _feed(self, message: Message, topic: str, report: Report) -> None:
        unwanted_before = self._unwanted()
        self._collect(report, partial(self._engine.take, topic, message))
        report.unwanted += [message.body] * (self._unwanted() - unwanted_before)

    def _collect(self, report: Report, action: Callable[[], None]) -> None:
        """Run *action*, and add what consumers did meanwhile to *report*."""
        self._runs.clear()
        self._letters.clear()
        action()
        report.runs += self._runs
        report.dead_letters += self._letters

    def _unwanted(self) -> int:
        return sum(counts.get("unwanted", 0) for counts in self._engine.stats.all().values())

    def _only_topic(self) -> str:
        if len(self.topics) != 1:
            raise ConfigurationError(f"say which topic= to feed: {', '.join(map(repr, self.topics))}")
        return self.topics[0]

    def _connect(self, topic: str) -> Queue:
        return MemoryQueue(queue_name(topic), self._letters)


def _bodies(events: Iterable[Any]) -> Iterator[str]:
    for event in events:
        if isinstance(event, str):
            yield event
        elif isinstance(event, FacilityRecord):
            yield encode(event)
        elif isinstance(event, Payload):
            yield encode(make_event(event))
        elif isinstance(event, Mapping):
            yield dumps(dict(event))
        elif isinstance(event, Path):
            text = event.read_text(encoding="utf-8")
            # Not splitlines(), which also divides at characters that may stand in a JSON text.
            yield from (line for line in text.split("\n") if line.strip()) if event.suffix == ".jsonl" else (text,)
        elif isinstance(event, Iterable):
            yield from _bodies(event)
        else:
            raise TypeError(f"feed takes records, payloads, dicts, texts and paths, not {event!r}")
