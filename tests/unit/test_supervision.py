"""Threads that die come back, with what they were doing."""

from __future__ import annotations

import ast
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import balog_celery
from balog_celery import SQSHandler
from balog_celery.dispatch.back_pressure import BackPressure
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.dispatch.worker_loop import ThreadLoop
from balog_celery.producer.buffer import Buffer
from balog_celery.sqs.messages import EntryFailure, OutgoingMessage
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

PACKAGE = Path(balog_celery.__file__).parent

#: The threads that are started otherwise, each with the reason why its death needs no supervision.
UNSUPERVISED = {
    "threads.py": "it is the supervised thread",
    "cli/engine.py": "two calls that cannot fail, until the engine ends",
    "cli/outbox.py": "two calls that cannot fail, until the relay ends",
    "dev/moto_server.py": "socketserver catches what requests raise",
    "dispatch/back_pressure.py": "asks once; the next check starts another one",
    "dispatch/hand_off_engine.py": "its death ends the engine, which the worker starts again: its reports are lost",
    "dispatch/worker_loop.py": "a reader: its death closes the channel, so that the worker starts another engine",
    "metrics/server.py": "socketserver catches what requests raise",
    "operations/checks/finding.py": "asks once, with a deadline",
    "outbox/report.py": "errors of the database and the disk are caught; without it, health reports a relay that hangs",
    "sqs/deadlines.py": "makes one call, with a deadline",
    "tasks/idempotency.py": "renews one attempt; every error is caught",
    "web/activity.py": "it reconnects when the broker fails, until the page ends",
    "web/jobs.py": "a user's replay, which reports its error",
    "web/questions.py": "asks once, with a deadline",
    "web/sampler.py": "every error is caught, and shown",
    "worker/cluster_places.py": "what Redis raises is caught, and the call is made again",
}

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


Runs = Callable[[str], bool]


@pytest.fixture
def runs() -> Runs:
    """Tells whether a thread that this test has started runs, by the beginning of its name."""
    before = set(threading.enumerate())
    return lambda name: any(one.name.startswith(name) for one in set(threading.enumerate()) - before)


def test_threads_are_supervised_or_have_a_reason_not_to_be() -> None:
    """A new thread is a SupervisedThread, or has a reason here."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "threading.Thread"
    }
    assert found == set(UNSUPERVISED)


class DyingQueue(ObservedQueue):
    """A queue whose calls end their thread at first."""

    def __init__(self, deaths: int, what: str) -> None:
        super().__init__()
        self.deaths = deaths
        self.what = what

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        if self.deaths:
            self.deaths -= 1
            if self.what == "exit":
                raise SystemExit
            return [EntryFailure(99, "InternalError", "", False)]  # of no message
        return super().send(messages)


@pytest.mark.parametrize("what", ["exit", "bad index"])
def test_no_error_of_a_queue_ends_the_sender_of_a_handler(runs: Runs, what: str) -> None:
    """Each record is sent, and counted once."""
    queue = DyingQueue(2, what)
    handler = SQSHandler("topic", queue=queue, linger=0.0)
    log = logging.Logger("supervised")
    log.addHandler(handler)
    # When
    for number in range(5):
        log.warning("record %d", number)
    # Then
    assert handler.flush(30)
    assert len(queue.sent) == 5
    assert handler.stats()["sent"] == 5
    handler.close()
    wait_until(lambda: not runs("balog-sqs-handler"), what="the end of the sender")


def test_a_dead_sender_of_a_handler_is_replaced(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next record."""
    take, queue = Buffer.take, ObservedQueue()
    deaths = [SystemExit(), MemoryError()]

    def die_first(buffer: Buffer) -> Any:
        if deaths:
            raise deaths.pop()
        return take(buffer)

    monkeypatch.setattr(Buffer, "take", die_first)
    handler = SQSHandler("topic", queue=queue, linger=0.0)
    for number in range(3):
        handler.emit(logging.makeLogRecord({"msg": str(number), "levelno": logging.ERROR}))
        # The first record may see both deaths: the thread's at its start, and that of its successor.
        wait_until(lambda sent=number + 1: not runs("balog-sqs-handler") or len(queue.sent) == sent, what="its death")
    assert handler.flush(30)
    handler.close()
    assert len(queue.sent) == 3


class Broker:
    """A connection whose checks end their thread at first."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.checks = 0
        self.channel_errors = (KeyError,)

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None: ...

    def channel(self) -> Any:
        self.checks += 1
        if self.deaths:
            self.deaths -= 1
            raise SystemExit
        raise KeyError


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("supervision", broker="memory://", set_as_current=False)
    yield app
    app.close()


def test_the_check_of_the_task_queues_comes_back(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a full queue would stay full for the engine, and nothing would be received."""
    monkeypatch.setattr("balog_celery.dispatch.back_pressure.INTERVAL", 0.01)
    broker = Broker(3)
    pressure = BackPressure(app, 10, lambda: broker)
    pressure.publishing_to("queue")

    def is_checked() -> bool:
        pressure.wait_open(frozenset({"queue"}), 0.01)
        pressure.publishing_to("queue")
        return broker.checks > 5

    wait_until(is_checked)
    assert pressure.wait_open(frozenset({"queue"}), 0.01) in (Readiness.READY, Readiness.BROKER_DOWN)
    pressure.close()


def test_the_loop_of_a_worker_without_an_event_loop_comes_back() -> None:
    """Its next call is made."""
    loop, called = ThreadLoop(), threading.Event()

    def leave() -> None:
        raise SystemExit

    ours, theirs = socket.socketpair()
    with closing(Channel(ours)), closing(Channel(theirs)) as engine:
        loop.start_reading(engine, lambda _lines: None)
        loop.call_soon(leave)

        def is_called() -> bool:
            loop.call_soon(called.set)
            return called.wait(0.05)

        wait_until(is_called)


def test_a_reader_that_dies_ends_its_channel(runs: Runs) -> None:
    """So that its engine ends, and the worker starts another one."""

    class BrokenChannel(Channel):
        def receive(self) -> Any:
            raise SystemExit

    loop, ended = ThreadLoop(), threading.Event()
    ours, theirs = socket.socketpair()
    with closing(BrokenChannel(ours)) as channel, closing(Channel(theirs)):
        loop.start_reading(channel, lambda lines: ended.set() if lines is None else None)
        assert ended.wait(30)
        wait_until(lambda: not runs("hand-off-reader"), what="its death")
