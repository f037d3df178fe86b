"""A poller receives as many messages as there is room for, and none without room."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from celery import Celery

from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.consumers.delivery import Delivery, Job
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.dispatcher import MANY_JOBS
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import Closed, Done, Message, Open, Publish
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.engine.engine import Engine
from balog_celery.events.records import decode
from balog_celery.sqs import messages as sqs
from balog_celery.tasks.routes import register
from engines import Queues, Recorder, ScriptedDispatcher, hub_of, running
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

CONSUMER = Consumer(print, "topic", name="function")


class Narrow(ScriptedDispatcher):
    """A dispatcher with the room that the test sets, which counts how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.free = 0
        self.asked = 0

    def room(self) -> int:
        self.asked += 1
        return self.free


def test_a_poller_receives_no_more_than_its_dispatcher_has_room_for() -> None:
    """Without room nothing is received; then as much as there is room for, but ten at most."""
    queues, dispatcher = Queues(), Narrow()
    topic = queues["topic"]
    topic.put(*(event_text(str(number)) for number in range(30)))
    engine = Engine(hub_of(Recorder().process), queues.__getitem__, dispatcher=dispatcher)
    with running(engine):
        wait_until(lambda: dispatcher.asked > 3)
        assert topic.calls_of("receive") == []
        dispatcher.free = 3
        topic.wait_for(lambda: ("receive", 3) in topic.calls)
        dispatcher.free = 12
        topic.wait_for(lambda: ("receive", 10) in topic.calls)
        wait_until(lambda: len(dispatcher.taken) == 30)
        for job in dispatcher.taken:
            job.acknowledge()
    assert set(topic.calls_of("receive")) == {3, 10}


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the task of one consumer."""
    app = Celery("room", broker="memory://", set_as_current=False)
    register(app, CONSUMER, ConsumerOperator(), "topic", DeadLetters(lambda name: ObservedQueue(name), None), None)
    yield app
    app.close()


def test_a_hand_off_has_room_for_the_credit_that_is_left_if_that_is_worth_a_receive(app: Celery) -> None:
    """Small receives cost as much as one of ten, so there is room from half of the credit, or ten, on."""
    ours, theirs = socket.socketpair()
    dispatcher, worker = HandOffDispatcher(app, Channel(ours), PublishDispatcher(app, 1.0, 10)), Channel(theirs)

    def after(message: Message, room: int) -> None:
        worker.send(message)
        wait_until(lambda: dispatcher.room() == room, what=f"room for {room} after {message}")

    def give(count: int) -> None:
        body = event_text()
        message = sqs.Message(body, "handle", "id", 0.0)
        deliveries = [Delivery(message, 1, lambda _: None) for _ in range(count)]
        dispatcher.dispatch([Job(one, decode(body), body, CONSUMER, {}) for one in deliveries])

    assert dispatcher.room() == 0  # the worker has not spoken yet
    after(Open(8, [app.conf.task_default_queue]), 8)
    give(4)
    assert dispatcher.room() == 4
    give(1)
    assert dispatcher.room() == 0
    after(Done(1), 4)
    after(Open(100, [app.conf.task_default_queue]), 96)
    give(87)
    assert dispatcher.room() == 0
    after(Done(2), 10)
    after(Closed(), 0)
    after(Publish(), MANY_JOBS)
    worker.close()
    dispatcher.close()
