"""Engines over scripted queues, for tests: the queues, consumer functions, a dispatcher, and a thread that runs one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.delivery import Job
from balog_celery.dispatch.dispatcher import Dispatcher, DispatchError, Readiness
from balog_celery.engine.engine import Engine
from balog_celery.sqs.clients import clients
from balog_celery.sqs.queues import SQSQueue
from scripted_sqs.observed import ObservedQueue
from scripted_sqs.server import RunningSqs

DATA = Path(__file__).parent / "data"


def sample(name: str) -> str:
    """The sample message *name* of tests/data."""
    return (DATA / f"{name}.json").read_text()


class Queues(dict[str, ObservedQueue]):
    """The queues of an engine, by name; a dead-letter queue is missing unless it was put there."""

    def __missing__(self, name: str) -> ObservedQueue:
        self[name] = ObservedQueue(name, exists=not name.endswith("-dead"))
        return self[name]


def with_dead_letters(queues: Queues) -> ObservedQueue:
    queues["topic-dead"] = ObservedQueue("topic-dead")
    return queues["topic-dead"]


def hub_of(*functions: Callable[..., Any], **wanted: Any) -> ConsumerHub:
    hub = ConsumerHub()
    for func in functions:
        hub.add_consumer(Consumer(func, "topic", **wanted))
    return hub


def is_running(thread: str) -> bool:
    """Return whether a thread of that name runs."""
    return any(one.name == thread for one in threading.enumerate())


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Run *engine* in a thread, and stop it in the end."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def engine_over_http(sqs: RunningSqs, topic: str, worker: Dispatcher, **options: Any) -> Iterator[SQSQueue]:
    """Run an engine of one topic that reaches its queue by HTTP, as in production; yield the queue to others."""
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    queues = [SQSQueue(topic, region="us-east-1", endpoint_url=sqs.endpoint, **keys) for _ in range(2)]
    queues[0].create()
    hub = ConsumerHub()
    hub.add_consumer(Consumer(lambda event: None, topic))
    try:
        with running(Engine(hub, lambda _: queues[0], dispatcher=worker, dead_letter=None, **options)):
            yield queues[1]
    finally:
        clients.forget()


class Recorder:
    """Consumer functions that remember what they were called with."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def process(self, event: dict[str, Any]) -> None:
        self.ids.append(event["header"]["id"])

    def fail(self, event: dict[str, Any]) -> None:
        raise ValueError("no\nway")

    def leave(self, event: dict[str, Any]) -> None:
        raise SystemExit(3)


class ScriptedDispatcher:
    """A dispatcher that fails a given number of times, and acknowledges jobs when the test asks it to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.taken: list[Job] = []
        self.called = threading.Event()
        self.closed = False

    def dispatch(self, jobs: Sequence[Job]) -> None:
        self.called.set()
        if self.failures:
            self.failures -= 1
            raise DispatchError("the broker is down")
        self.taken += jobs

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        pass

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return Readiness.READY

    def room(self) -> int:
        return 10

    def close(self) -> None:
        self.closed = True
