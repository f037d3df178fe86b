"""The engine's side of the hand-off: which jobs it hands over, and how it treats the worker's reports."""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from balog_celery.consumers import Consumer
from balog_celery.consumers.delivery import Delivery, Job, Settlement
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import VERSION, Done, Open, Released, Task, Version, Waiting
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.events.records import decode as decode_event
from balog_celery.sqs.messages import Message
from balog_celery.tasks.routes import register
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

CONSUMER = Consumer(print, "topic", name="function")


class Site:
    """A dispatcher, the worker's end of its channel, and what was settled."""

    def __init__(self, app: Celery) -> None:
        ours, self.socket = socket.socketpair()
        self.worker = Channel(self.socket)
        self.dispatcher = HandOffDispatcher(app, Channel(ours), PublishDispatcher(app, 1.0, 10))
        self.queues = self.dispatcher.queues_of([CONSUMER])
        self.settled: list[Delivery] = []

    def open(self, credit: int) -> None:
        self.worker.send(Open(credit, sorted(self.queues)))
        assert self.dispatcher.ready(self.queues, 5)

    def jobs(self, count: int, **headers: Any) -> list[Job]:
        event = decode_event(event_text())
        message = Message(event_text(), "handle", "id", 0.0)
        return [
            Job(Delivery(message, 1, self.settled.extend), event, message.body, CONSUMER, headers) for _ in range(count)
        ]

    def handed(self) -> list[Task]:
        """The tasks that the worker has been given."""
        return [message for message in self.worker.receive() or [] if isinstance(message, Task)]

    def released(self) -> list[bool]:
        return [delivery.settlement is Settlement.RELEASE for delivery in self.settled]


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the task of one consumer."""
    app = Celery("hand-off", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"hand-off-{id(app)}"
    register(app, CONSUMER, ConsumerOperator(), "topic", DeadLetters(lambda name: ObservedQueue(name), None), None)
    yield app
    app.close()


@pytest.fixture
def site(app: Celery) -> Iterator[Site]:
    one = Site(app)
    yield one
    one.worker.close()
    one.dispatcher.close()
    for thread in threading.enumerate():
        if thread.name == "hand-off":
            thread.join(5)


def test_a_job_that_cannot_be_handed_over_uses_no_credit(site: Site) -> None:
    """A job whose header cannot be encoded uses no credit, and its message comes again."""
    site.open(10)
    with pytest.raises(TypeError):
        site.dispatcher.dispatch(site.jobs(10, a=object()))
    assert site.released() == [True] * 10
    assert site.dispatcher.ready(site.queues, 0.05)


def test_a_waiting_job_uses_no_credit_and_is_settled_later(site: Site) -> None:
    """A waiting job frees its credit for the next one, and is settled later."""
    # Given a worker without credit left
    site.open(10)
    site.dispatcher.dispatch(site.jobs(10))
    numbers = [task.number for task in site.handed()]
    assert len(numbers) == 10
    assert not site.dispatcher.ready(site.queues, 0.05)
    # When
    site.worker.send(*[Waiting(number) for number in numbers])
    # Then
    assert site.dispatcher.ready(site.queues, 5)
    # And when
    site.worker.send(Done(numbers[0]), Released(numbers[1]))
    # Then
    wait_until(lambda: len(site.settled) == 2)
    assert site.released() == [False, True]


def test_a_worker_that_is_gone_has_finished_nothing(site: Site) -> None:
    """When the worker is gone, running and waiting tasks are released, not acknowledged."""
    # Given
    site.open(10)
    site.dispatcher.dispatch(site.jobs(10))
    numbers = [task.number for task in site.handed()]
    site.worker.send(*[Waiting(number) for number in numbers[:5]])
    # When
    site.worker.close()
    # Then
    wait_until(lambda: len(site.settled) == 10)
    assert site.released() == [True] * 10


def test_what_a_later_release_adds_to_the_protocol_is_skipped(site: Site) -> None:
    """Unknown kinds of message and unknown fields are skipped."""
    opened = ["open", *Open(10, sorted(site.queues)), "a new field"]
    site.socket.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in (["pause", 5], [], [7], opened)))
    assert site.dispatcher.ready(site.queues, 5)


@pytest.mark.parametrize(("version", "warnings"), [(VERSION, 0), (VERSION + 1, 1)])
def test_a_worker_of_another_version_is_warned_of(
    site: Site, caplog: pytest.LogCaptureFixture, version: int, warnings: int
) -> None:
    """A worker with another version of the protocol is logged, and served as far as possible."""
    caplog.set_level(logging.WARNING)
    site.worker.send(Version(version))
    site.open(10)
    assert [record.getMessage() for record in caplog.records] == [
        f"the worker speaks version {version} of the hand-off, this engine version {VERSION}: "
        "restart the worker to have both of one release"
    ] * warnings


def test_an_engine_that_cannot_hear_its_worker_stops(site: Site) -> None:
    """An engine that cannot read its channel stops, so that the worker starts another."""
    stopped = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        site.socket.sendall(b'["open", "no number", null]\n')
        wait_until(stopped.is_set, what="the signal")
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.parametrize(("credit", "busy", "room"), [(4, 3, 1), (8, 5, 0), (8, 4, 4), (32, 23, 0), (32, 22, 10)])
def test_no_part_of_the_pool_waits_until_a_whole_receive_has_room(
    site: Site, credit: int, busy: int, room: int
) -> None:
    """With long tasks and a prefetch limit, one free process is enough for another receive."""
    # Given a pool of four processes, or of eleven
    size = 11 if credit == 32 else 4
    site.worker.send(Open(credit, sorted(site.queues), [], size))
    assert site.dispatcher.ready(site.queues, 5)
    # When
    site.dispatcher.dispatch(site.jobs(busy))
    # Then
    assert site.dispatcher.room() == room
