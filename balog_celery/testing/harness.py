"""Feeds events to consumers here and now: the real routing and the real Celery tasks, without AWS, broker or worker."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from celery import Celery, signals
from celery.exceptions import Retry

from ..consumers.consumer import Consumer
from ..consumers.delivery import Work
from ..consumers.dispatcher import Dispatcher
from ..consumers.engine import Engine
from ..errors import BalogError, ConfigurationError, DecodeError
from ..integration import install
from ..once import AlreadyDone, Marks
from ..queues import EntryFailure, Message, OutgoingMessage, Queue
from ..records import FacilityRecord, Payload, encode
from ..wire import dumps
from .producers import make_event


@dataclass(frozen=True)
class Run:
    """What one consumer did with one event, or with one batch of them."""

    #: The name of its task.
    consumer: str
    #: The event; of a batch the first.
    event: FacilityRecord
    #: Celery's word for how it ended: ``"SUCCESS"``, ``"FAILURE"``, ``"REJECTED"`` or ``"IGNORED"``.
    state: str
    #: What the function returned, or the exception with which it failed for good.
    result: Any
    #: What Celery was told at each retry: ``.exc`` is the exception, ``.when`` the countdown in seconds, or the time.
    retries: tuple[Retry, ...] = ()
    #: Whether the function was not called, because the consumer has ``once`` and had finished the event before.
    skipped: bool = False
    func: Callable[..., Any] | None = field(default=None, repr=False)
    #: All events that it was for.
    events: tuple[FacilityRecord, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class DeadLetter:
    """An event that ended in failure, as it would be in a dead-letter queue."""

    #: The name of the dead-letter queue.
    queue: str
    body: str
    #: ``"failed"``, ``"undecodable"`` or ``"default_event_handler"``.
    reason: str
    #: The name of the task that failed, or "".
    consumer: str
    #: The exception in one line.
    error: str


@dataclass
class Report:
    """What became of the events that were fed; ``report[consumer]`` is the one run of that consumer."""

    #: What each consumer did, in order.
    runs: list[Run] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    #: The bodies of the events that no consumer wanted.
    unwanted: list[str] = field(default_factory=list)

    @property
    def ran(self) -> list[str]:
        """The names of the tasks whose functions were called, one for each event, in order."""
        return [run.consumer for run in self.runs if not run.skipped]

    def of(self, consumer: str | Callable[..., Any]) -> list[Run]:
        """The runs of one consumer: its function, or its name, with or without the module."""
        if callable(consumer):
            return [run for run in self.runs if _plain(run.func) is _plain(consumer)]
        return [run for run in self.runs if run.consumer == consumer or run.consumer.endswith(f".{consumer}")]

    def __getitem__(self, consumer: str | Callable[..., Any]) -> Run:
        found = self.of(consumer)
        if len(found) != 1:
            runs = ", ".join(run.consumer for run in self.runs) or "no consumer ran"
            name = consumer if isinstance(consumer, str) else consumer.__qualname__
            raise AssertionError(f"{name} ran {len(found)} times, not once ({runs})")
        return found[0]


def _plain(func: Any) -> Any:
    """The function of a method, which is a new object each time that it is looked up."""
    return getattr(func, "__func__", func)


class ConsumerHarness:
    """Feeds events to consumers, in the thread that calls :meth:`feed`.

    It has a Celery app of its own, in which the consumers are tasks as in a worker, with their own options: events are
    decoded, bounded and routed as the engine does it, and retries, ``once`` and dead letters behave as they do in
    production. What is left out: retries do not wait, and nothing limits rate or time.

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
        self._marks = _MemoryMarks()
        self.app.balog.connect = self._connect
        self.app.balog.marks = self._marks
        self._runs: list[Run] = []
        dispatcher: Dispatcher = _EagerDispatcher(self.app, self._runs, self._marks)
        self._engine: Engine = self.app.balog.engine(dispatcher=dispatcher)
        #: The topics that the consumers listen to.
        self.topics: tuple[str, ...] = tuple(sorted(self._engine.topics()))
        if not self.topics:
            raise ConfigurationError(f"there are no consumers in {', '.join(names) or 'no package'}")

    @classmethod
    def of(cls, app: Celery) -> ConsumerHarness:
        """A harness with the consumers, the operator and the settings of *app*, which is left as it is.

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
    ) -> Report:
        """Feed events to the consumers of a topic, and report what they did.

        A batch consumer gets what is fed in one call, as many at a time as it takes.

        :param events: each one a record, a payload (a record is made for it), a dict or a text that is the body of a
            message, several records, or the path of a file: of ``.jsonl`` each line, of any other the whole.
        :param topic: the queue's name or URL; default: the topic of the consumers, if they have but one.
        :param throw: when every consumer has had every event, raise the first exception with which one failed for good;
            what cannot be decoded counts. False: the report tells.
        :raises ConfigurationError: the topic must be given, or nobody listens to it.
        :raises DecodeError: with *throw*, an event cannot be decoded.
        :raises BalogError: with *throw*, the default event handler failed.
        """
        report = Report()
        for body in _bodies(events):
            self._feed(body, topic or self._only_topic(), report)
        self._take_over(report, self._engine.flush)
        if throw:
            _throw(report)
        return report

    def _feed(self, body: str, topic: str, report: Report) -> None:
        unwanted_before = self._unwanted()
        self._take_over(report, partial(self._engine.take, topic, Message(body, "", "fed", time.monotonic())))
        report.unwanted += [body] * (self._unwanted() - unwanted_before)

    def _take_over(self, report: Report, action: Callable[[], None]) -> None:
        """Let *report* tell what becomes of events by *action*."""
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
        return _MemoryQueue(topic.rstrip("/").rpartition("/")[2], self._letters)


def _throw(report: Report) -> None:
    for run in report.runs:
        if isinstance(run.result, BaseException) and run.state in ("FAILURE", "REJECTED"):
            raise run.result
    for letter in report.dead_letters:
        if letter.reason == "undecodable":
            raise DecodeError(letter.error)
        raise BalogError(f"the default event handler failed: {letter.error}")


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


class _EagerDispatcher:
    """Executes each task as ``Task.apply`` does: here and now, with its own options, retries included."""

    def __init__(self, app: Celery, runs: list[Run], marks: _MemoryMarks) -> None:
        self._app = app
        self._runs = runs
        self._marks = marks

    def dispatch(self, jobs: Sequence[Work]) -> None:
        for job in jobs:
            self._run(job)
            job.acknowledge()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        pass

    def ready(self, queues: frozenset[str], timeout: float) -> bool:
        return True

    def close(self) -> None:
        pass

    def _run(self, job: Work) -> None:
        name = job.consumer.task_name
        task = self._app.tasks[name]
        events = tuple(one.event for one in job.jobs)
        job_id = task.id_of(events)
        retries: list[Retry] = []

        def on_retry(request: Any, reason: Retry, **_: Any) -> None:
            if request.id == job_id:
                retries.append(reason)

        self._marks.skipped = False
        signals.task_retry.connect(on_retry, sender=task)
        try:
            outcome = task.apply((task.argument_of([one.text for one in job.jobs]),), task_id=job_id, throw=False)
        finally:
            signals.task_retry.disconnect(on_retry, sender=task)
        run = Run(
            name,
            events[0],
            outcome.state,
            outcome.result,
            tuple(retries),
            self._marks.skipped,
            job.consumer.func,
            events,
        )
        self._runs.append(run)


class _MemoryMarks(Marks):
    """The marks of ``once``, in memory: one attempt at a time, remembered for as long as the harness lives."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self.skipped = False

    @contextlib.contextmanager
    def attempt(self, key: str, remember: float) -> Iterator[None]:
        if key in self._done:
            self.skipped = True
            raise AlreadyDone
        yield
        self._done.add(key)


class _MemoryQueue:
    """A queue from which nothing is ever received; what is sent to it is a dead letter."""

    is_fifo = False

    def __init__(self, name: str, letters: list[DeadLetter]) -> None:
        self.name = name
        self._letters = letters

    def receive(self, limit: int, wait: float) -> list[Message]:
        return []

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        return []

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        return []

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        for message in messages:
            of = message.attributes.get
            self._letters.append(
                DeadLetter(self.name, message.body, of("reason", ""), of("consumer", ""), of("error", ""))
            )
        return []

    def attributes(self) -> Mapping[str, str]:
        return {}

    def exists(self) -> bool:
        return True

    def create(self) -> None:
        pass
