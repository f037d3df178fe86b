"""A hand-off without an event loop: a thread reads, another one acts, and a pool executes in threads."""

from __future__ import annotations

import queue
import select
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.concurrency.thread import TaskPool
from celery.worker import state
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer

from balog_celery.consumers import Consumer
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.hand_off_worker import HandOff
from balog_celery.dispatch.protocol import Closed, Done, Message, Released, Task
from balog_celery.dispatch.worker_loop import HubLoop, ThreadLoop
from balog_celery.tasks.request import EventRequest
from balog_celery.tasks.routes import register
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

CONSUMER = Consumer(print, "topic", name="function")


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """The worker's end of a channel, and the engine's."""
    ours, theirs = map(Channel, socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_messages_are_read_in_order_until_the_end(ends: tuple[Channel, Channel]) -> None:
    """Also after an error in what acts on them, and however often reading is started."""
    # Given
    ours, theirs = ends
    seen: queue.Queue[Any] = queue.Queue()

    def act(messages: Any) -> None:
        for message in messages or [None]:
            seen.put(message)
        if messages == [Done(50)]:
            raise ValueError("bad")

    loop = ThreadLoop()
    loop.start_reading(ours, act)
    loop.stop_reading(ours)
    loop.start_reading(ours, act)
    # When
    for number in range(100):
        theirs.send(Done(number))
        assert seen.get(timeout=60) == Done(number)
    theirs.close()
    # Then
    assert seen.get(timeout=60) is None
    assert seen.empty()


def test_calls_are_made_one_after_the_other(ends: tuple[Channel, Channel]) -> None:
    """By whichever threads they are asked for."""
    loop, running, counts = ThreadLoop(), threading.Lock(), []
    loop.start_reading(ends[0], lambda _: None)
    done = threading.Event()

    def call() -> None:
        assert running.acquire(blocking=False)
        counts.append(threading.get_ident())
        running.release()
        if len(counts) == 200:
            done.set()

    threads = [threading.Thread(target=lambda: [loop.call_soon(call) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert done.wait(60)
    assert len(set(counts)) == 1


class SlowChannel(Channel):
    """One end of a socket that counts how often it is written to, and whose writes begin when they may."""

    writes = 0

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.may_write = threading.Event()

    def send(self, *messages: Message, timeout: float | None = None, hold: bool = False) -> bool:
        if not hold:
            self.may_write.wait(60)
            self.writes += 1
        return super().send(*messages, timeout=timeout, hold=hold)


def test_messages_of_many_tasks_are_sent_together() -> None:
    """In one write, in order, also while the loop waits for a place in a full pool: each write wakes the engine."""
    # Given a loop that waits, and a writer that does
    sockets = socket.socketpair()
    ours, theirs = SlowChannel(sockets[0]), Channel(sockets[1])
    loop, may_go_on = ThreadLoop(), threading.Event()
    loop.start_reading(ours, lambda _: None)
    loop.call_soon(may_go_on.wait, 60)
    # When
    for number in range(100):
        loop.send(ours, Done(number))
    ours.may_write.set()
    wait_until(lambda: ours.writes > 0, 10)
    # Then all are sent by the write that waited, or the rest by another one
    received: list[Message] = []
    while len(received) < 100:
        received += theirs.receive() or []
    assert received == [Done(number) for number in range(100)]
    assert ours.writes <= 2
    # And what comes later is sent as well
    loop.send(ours, Done(100))
    assert theirs.receive() == [Done(100)]
    may_go_on.set()
    theirs.close()
    ours.close()


def test_an_event_loop_sends_the_messages_of_a_turn_together() -> None:
    """In one write, before it waits for more; those of other threads at once, as the loop may sleep then."""
    # Given Celery's event loop
    hub, sockets = Hub(), socket.socketpair()
    ours, theirs = SlowChannel(sockets[0]), Channel(sockets[1])
    ours.may_write.set()
    loop, received = HubLoop(hub), list[Message]()
    loop.start_reading(ours, lambda _: None)
    # When three tasks end in one turn of it
    hub.call_soon(lambda: [loop.send(ours, Done(number)) for number in range(3)])
    next(hub.create_loop())
    # Then
    received += theirs.receive() or []
    assert (received, ours.writes) == ([Done(0), Done(1), Done(2)], 1)
    # And another thread does not wait for the loop
    thread = threading.Thread(target=loop.send, args=(ours, Done(3)))
    thread.start()
    assert theirs.receive() == [Done(3)]
    # And what was sent last is written when reading stops
    loop.send(ours, Done(4))
    loop.stop_reading(ours)
    assert theirs.receive() == [Done(4)]
    thread.join(60)
    hub.close()
    theirs.close()
    ours.close()


def end_turn(hub: Hub) -> None:
    """Do what Celery's event loop does at the end of a turn, before it waits."""
    for call in list(hub.on_tick):
        call()


def test_messages_that_may_wait_are_sent_with_one_that_may_not() -> None:
    """In one write, in order: of the event loop at the end of the turn, of a thread as soon as it is there."""
    # Given two loops that would let them wait for long
    hub, sockets = Hub(), [socket.socketpair() for _ in range(2)]
    ours, theirs = [SlowChannel(pair[0]) for pair in sockets], [Channel(pair[1]) for pair in sockets]
    for loop, near, far in zip((HubLoop(hub, linger=60), ThreadLoop(linger=60)), ours, theirs, strict=True):
        near.may_write.set()
        loop.start_reading(near, lambda _: None)
        # When three wait, and a turn of the event loop ends
        for number in range(3):
            loop.send(near, Done(number), may_wait=True)
        end_turn(hub)
        # Then none is sent alone, and a fourth takes all of them with it
        loop.send(near, Closed())
        end_turn(hub)
        assert far.receive() == [Done(0), Done(1), Done(2), Closed()]
        assert near.writes == 1
        far.close()
        near.close()
    hub.close()


@pytest.mark.parametrize("kind", ["event loop", "thread"])
def test_a_message_that_may_wait_is_sent_though_no_other_follows(kind: str, ends: tuple[Channel, Channel]) -> None:
    """After a moment, by a timer of the event loop, or by the thread itself."""
    # Given
    hub, (ours, theirs) = Hub(), ends
    loop = HubLoop(hub) if kind == "event loop" else ThreadLoop()
    loop.start_reading(ours, lambda _: None)
    # When
    for number in range(2):
        loop.send(ours, Done(number), may_wait=True)
        if kind == "event loop":
            turns = hub.create_loop()
            wait_until(lambda turns=turns: next(turns) or select.select([theirs], [], [], 0)[0], 60)
        # Then
        assert theirs.receive() == [Done(number)]
    hub.close()


def test_an_event_loop_that_executes_tasks_sends_each_message_at_once() -> None:
    """Its next turn may come only after the next task, hours later."""
    # Given
    hub, (ours, theirs) = Hub(), map(Channel, socket.socketpair())
    loop = HubLoop(hub, gathers=False)
    loop.start_reading(ours, lambda _: None)
    # When
    loop.send(ours, Done(1))
    # Then
    assert theirs.receive() == [Done(1)]
    hub.close()
    theirs.close()
    ours.close()


class ThreadWorker:
    """A worker with Celery's pool of one thread, whose strategy gives each task to the pool at once.

    The first task runs until it is allowed to end.
    """

    def __init__(self, app: Celery, channel: Channel) -> None:
        self.began: queue.Queue[int] = queue.Queue()
        self.given: queue.Queue[int] = queue.Queue()
        self.may_end = threading.Event()
        self.pool = TaskPool(1)
        self.pool.start()
        self.app = app
        self.hand_off = HandOff()
        self.consumer = SimpleNamespace(
            app=app,
            hostname="h",
            controller=SimpleNamespace(),
            on_task_message=set(),
            pool=self.pool,
            timer=Timer(),  # type: ignore[no-untyped-call]
            strategies={CONSUMER.task_name: self.execute},
            task_buckets={CONSUMER.task_name: None},
        )
        self.hand_off.use(channel)
        self.hand_off.open(self.consumer, ThreadLoop())

    def execute(self, message: Any, _body: Any, ack: Any, reject: Any, _callbacks: Any) -> None:
        task = self.app.tasks[message.headers["task"]]
        request = EventRequest(message, app=self.app, task=task, hostname="h", on_ack=ack, on_reject=reject)

        def end(_: Any) -> None:
            state.task_ready(request)
            message.ack()

        self.pool.apply_async(self.run, (message.number,), accept_callback=request.on_accepted, callback=end)
        self.given.put(message.number)

    def run(self, number: int) -> None:
        self.began.put(number)
        self.may_end.wait(60)


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the task of one consumer."""
    app = Celery("threads", broker="memory://", set_as_current=False)
    register(app, CONSUMER, ConsumerOperator(), "topic", DeadLetters(lambda name: ObservedQueue(name), None), None, "")
    yield app
    app.close()


def task(number: int) -> Task:
    """The message with which an engine hands a task over."""
    return Task(number, f"id{number}", CONSUMER.task_name, "()", event_text(f"e{number}"), {})


def reported(channel: Channel, wanted: Message) -> list[tuple[Any, ...]]:
    """The messages that the worker has sent, up to *wanted*."""
    found: list[tuple[Any, ...]] = []
    while kind_and(wanted) not in found:
        found += [kind_and(message) for message in channel.receive() or []]
    return found


def kind_and(message: Message) -> tuple[Any, ...]:
    """A message with its kind: as tuples, messages of different kinds may be equal."""
    return (type(message), *message)


def test_a_pool_of_threads_does_not_execute_what_was_given_back(ends: tuple[Channel, Channel], app: Celery) -> None:
    """It had the task in its queue when the broker was lost. What it executes is finished."""
    # Given one task that runs, and one that the pool has queued behind it
    ours, theirs = ends
    worker = ThreadWorker(app, ours)
    for number in (1, 2):
        theirs.send(task(number))
        assert worker.given.get(timeout=60) == number
    assert worker.began.get(timeout=60) == 1
    # When
    worker.hand_off.shut()
    # Then
    assert reported(theirs, Released(2))[-2:] == [kind_and(Closed()), kind_and(Released(2))]
    worker.may_end.set()
    assert reported(theirs, Done(1)) == [kind_and(Done(1))]
    worker.pool.executor.shutdown()
    assert worker.began.empty()


def test_a_task_that_arrives_without_a_broker_goes_back(ends: tuple[Channel, Channel], app: Celery) -> None:
    """The thread reads all the time."""
    ours, theirs = ends
    worker = ThreadWorker(app, ours)
    worker.hand_off.shut()
    theirs.send(task(1))
    assert reported(theirs, Released(1))[-1] == kind_and(Released(1))
    worker.pool.stop()
