"""A task queue that the worker has consumed and no longer does: its events stay in SQS."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from balog_celery.consumers import Consumer
from balog_celery.consumers.delivery import Delivery, Job, Settlement
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.offer import Offer
from balog_celery.dispatch.protocol import Closed, Open
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.events.records import decode as decode_event
from balog_celery.sqs.messages import Message
from balog_celery.tasks.routes import register
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

CONSUMER = Consumer(print, "topic", name="function")


class Site:
    """An engine's dispatcher, and the worker's end of its channel."""

    def __init__(self, app: Celery) -> None:
        ours, theirs = socket.socketpair()
        self.app = app
        self.worker = Channel(theirs)
        self.dispatcher = HandOffDispatcher(app, Channel(ours), PublishDispatcher(app, 1.0, 1000))
        self.queues = self.dispatcher.queues_of([CONSUMER])
        self.settled: list[Delivery] = []

    def becomes(self, readiness: Readiness) -> None:
        wait_until(lambda: self.dispatcher.ready(self.queues, 0.01) is readiness, what=readiness.name)

    def dispatch(self) -> Settlement | None:
        """Dispatch a job; return how it was settled, if it was at once."""
        delivery = Delivery(Message(event_text(), "h", "m", 0.0), 1, self.settled.extend)
        self.dispatcher.dispatch([Job(delivery, decode_event(event_text()), event_text(), CONSUMER, {})])
        return delivery.settlement if delivery in self.settled else None

    def published(self) -> int:
        """How many tasks are on the broker."""
        with self.app.connection_for_read() as connection, connection.channel() as channel:
            (queue,) = self.queues
            return int(channel._size(queue))


@pytest.fixture
def site() -> Iterator[Site]:
    app = Celery("cancelled", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"cancelled-{id(app)}"
    register(app, CONSUMER, ConsumerOperator(), "topic", DeadLetters(lambda name: ObservedQueue(name), None), None)
    one = Site(app)
    with closing(one.worker):
        yield one
    one.dispatcher.close()
    app.close()


def test_nothing_is_received_for_a_cancelled_queue_and_what_was_goes_back(site: Site) -> None:
    """Neither is published: SQS is where events wait, and an operator's wish is no problem."""
    site.worker.send(Open(10, sorted(site.queues)))
    site.becomes(Readiness.READY)
    # When
    site.worker.send(Open(10, [], sorted(site.queues)))
    # Then
    site.becomes(Readiness.QUEUE_CANCELLED)
    assert Readiness.QUEUE_CANCELLED.is_healthy
    assert site.dispatch() is Settlement.RELEASE
    assert site.published() == 0
    # And when it is added again
    site.worker.send(Open(10, sorted(site.queues)))
    # Then
    site.becomes(Readiness.READY)
    assert site.dispatch() is None


def test_a_new_engine_learns_what_was_cancelled_before_its_start(site: Site) -> None:
    """The worker remembers."""
    site.worker.send(Open(10, [], sorted(site.queues)))
    site.becomes(Readiness.QUEUE_CANCELLED)
    assert site.dispatch() is Settlement.RELEASE


def test_tasks_for_a_queue_of_other_workers_are_published(site: Site) -> None:
    """The worker has never consumed it."""
    site.worker.send(Open(10, ["another"], []))
    site.becomes(Readiness.READY)
    assert site.dispatch() is Settlement.ACKNOWLEDGE
    assert site.published() == 1


def test_what_a_closed_worker_would_have_been_handed_stays_in_sqs(site: Site) -> None:
    """It has lost its broker, or stops; what was received meanwhile is not put on the broker."""
    site.worker.send(Open(10, sorted(site.queues)))
    site.becomes(Readiness.READY)
    site.worker.send(Closed())
    site.becomes(Readiness.WORKER_CLOSED)
    assert site.dispatch() is Settlement.RELEASE
    assert site.published() == 0


def test_a_worker_offers_the_queues_that_it_consumes_and_names_those_that_were_cancelled() -> None:
    """By whatever command."""
    app = Celery("offer", broker="memory://", set_as_current=False)
    consumer: Any = SimpleNamespace(
        app=app, pool=SimpleNamespace(num_processes=1), controller=SimpleNamespace(), initial_prefetch_count=1
    )
    offer = Offer(10)
    app.amqp.queues.select(["a", "b"])
    assert list(offer.of(consumer).queues) == ["a", "b"]
    app.amqp.queues.deselect(["a"])
    assert offer.of(consumer)[1:3] == (["b"], ["a"])
    app.amqp.queues.select_add("a")
    assert offer.of(consumer)[1:3] == (["b", "a"], [])
    app.close()
