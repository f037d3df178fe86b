"""The worker's side of the hand-off: what it does with the tasks of its engine, and what it reports of them."""

from __future__ import annotations

import gc
import os
import select
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.worker import state
from kombu.asynchronous.timer import Timer
from kombu.utils.limits import TokenBucket

from balog_celery import install
from balog_celery.celery_compat.worker import UNLIMITED
from balog_celery.consumers import Consumer
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.hand_off_message import HandOffMessage
from balog_celery.dispatch.hand_off_worker import HandOff
from balog_celery.dispatch.local_tasks import MAX_LIMITED, MAX_WAITING, MAX_WAITING_BYTES
from balog_celery.dispatch.protocol import (
    VERSION,
    Alive,
    Closed,
    Done,
    Message,
    Open,
    Publish,
    Released,
    Remaining,
    Task,
    Version,
    Waiting,
)
from balog_celery.dispatch.worker_loop import HubLoop
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.local_retry import LocalRetry, Remainder
from balog_celery.tasks.routes import register
from balog_celery.worker import bootsteps, commands
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

CONSUMER = Consumer(print, "topic", name="function")
NAME = CONSUMER.task_name


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the task of one consumer."""
    app = Celery("hand-off", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"hand-off-{id(app)}"
    registered(app)
    yield app
    app.close()


def registered(app: Celery, fifo: str = "") -> None:
    register(
        app, CONSUMER, ConsumerOperator(), "topic", DeadLetters(lambda name: ObservedQueue(name), None), None, fifo
    )


class Worker:
    """A hand-off with an engine's end to it, and a consumer whose strategies only note what they are given."""

    def __init__(self, app: Celery, hand_off: HandOff | None = None) -> None:
        self.hand_off = hand_off or HandOff()
        self.given: list[HandOffMessage] = []
        self.timer = Timer()  # type: ignore[no-untyped-call]
        self.consumer = SimpleNamespace(
            app=app,
            hostname="h",
            controller=SimpleNamespace(),
            on_task_message=set(),
            pool=SimpleNamespace(num_processes=1),
            timer=self.timer,
            strategies={NAME: self.execute},
            task_buckets={NAME: None},
        )
        self.readers: dict[int, Any] = {}
        self.hub = SimpleNamespace(
            add_reader=self.readers.__setitem__,
            remove_reader=lambda fd: self.readers.pop(fd, None),
            call_soon=lambda call, *args: call(*args),
            call_later=lambda _delay, call: call(),
            on_tick=set(),
        )
        self.engines: list[Channel] = []

    def execute(self, message: HandOffMessage, *_: Any) -> None:
        """Note the message; with a rate limit, only the first gets a token."""
        self.given.append(message)
        bucket = self.consumer.task_buckets[NAME]
        if bucket is not None and not bucket.can_consume():
            bucket.add((SimpleNamespace(message=message), 1))

    def limit(self, rate: float) -> None:
        """Let this many tasks be executed each second."""
        self.consumer.task_buckets[NAME] = TokenBucket(rate)  # type: ignore[no-untyped-call]

    def start_engine(self) -> Channel:
        """Start another engine; return its end of the channel."""
        ours, theirs = socket.socketpair()
        theirs.settimeout(60)
        self.engines.append(Channel(theirs))
        self.hand_off.use(Channel(ours))
        return self.engines[-1]

    def connect(self) -> None:
        self.hand_off.open(self.consumer, HubLoop(self.hub))

    def read(self) -> None:
        """Do what the event loop does when the engine has sent something."""
        for reader in list(self.readers.values()):
            reader()

    def hand_over(self, *numbers: int) -> list[HandOffMessage]:
        """Hand over a task for each number; return their messages."""
        for number in numbers:
            task = Task(number, f"id{number}", NAME, "(shown,)", event_text(), {"traceparent": "00-1-2-01"})
            self.engines[-1].send(task)
            self.read()
        return self.given[-len(numbers) :]

    def hand_over_batch(self, number: int, events: list[str]) -> HandOffMessage:
        self.engines[-1].send(Task(number, f"id{number}", NAME, "(shown,)", events, {}))
        self.read()
        return self.given[-1]

    def hand_over_large(self, number: int, event: str) -> HandOffMessage:
        """Hand over a task that the socket does not take at once."""
        task = Task(number, f"id{number}", NAME, "(shown,)", event, {})
        sending = threading.Thread(target=lambda: self.engines[-1].send(task))
        sending.start()
        count = len(self.given)
        while len(self.given) == count:
            self.read()
        sending.join()
        return self.given[-1]

    def fire(self) -> None:
        """Do all that the timer has to do, as if it was due."""
        entries = self.scheduled()
        self.timer.clear()  # type: ignore[no-untyped-call]
        for entry in entries:
            entry()

    def scheduled(self) -> list[Any]:
        return [scheduled.entry for scheduled in self.timer.queue if not scheduled.entry.cancelled]

    def end_turn(self) -> None:
        """Do what the event loop does at the end of a turn."""
        for call in list(self.hub.on_tick):
            call()

    def reported(self) -> list[Message]:
        """Return what the engine has been told by now; no message is an error."""
        self.end_turn()
        messages = self.engines[-1].receive()
        assert messages is not None
        return messages

    def close(self) -> None:
        """End all engines; a connected worker reads the end of the stream, and closes its own end."""
        for channel in self.engines:
            channel.close()
        self.connect()
        self.read()

    def report(self, count: int) -> list[Message]:
        """Return *count* messages that the engine receives while the worker's beats go on."""
        found: list[Message] = []
        while len(found) < count:
            found += self.reported()
            self.hand_off.flush()
        return found


def after(seconds: float, retries: int = 1, **more: Any) -> LocalRetry:
    """Return a local retry in *seconds*."""
    return LocalRetry(when=seconds, retries=retries, **more)


@contextmanager
def connected(worker: Worker) -> Iterator[Worker]:
    """Connect the worker for the block; its engine is told."""
    worker.start_engine()
    worker.connect()
    try:
        assert [type(message) for message in worker.reported()] == [Version, Open]
        yield worker
    finally:
        worker.close()


@pytest.fixture
def one(app: Celery) -> Iterator[Worker]:
    """A connected worker with an engine."""
    with connected(Worker(app)) as worker:
        yield worker


def test_a_worker_names_its_version_credit_and_queues(app: Celery) -> None:
    """Credit for what runs, as many to follow, and one receive of ten."""
    worker = Worker(app)
    with closing(worker.start_engine()):
        worker.connect()
        assert worker.reported() == [Version(VERSION), Open(12, [app.conf.task_default_queue], [], 1)]
    worker.close()


def test_a_worker_without_an_event_loop_is_handed_nothing(app: Celery) -> None:
    """A worker without an event loop tells each new engine to publish."""
    worker = Worker(app)
    with closing(worker.start_engine()):
        worker.hand_off.decline()
        assert [type(message) for message in worker.reported()] == [Version, Publish]
        with closing(worker.start_engine()):
            assert [type(message) for message in worker.reported()] == [Version, Publish]
    worker.close()


def test_the_engine_is_woken_when_there_is_room_for_a_receive(one: Worker) -> None:
    """The ends of tasks wait a moment for others if the engine has no use for them yet: to wake it costs much."""
    # Given a worker that has taken all that it offered, and a moment that does not end
    messages = one.hand_over(*range(12))
    one.hub.call_later = lambda _delay, call: None
    # When five tasks end, then there is no room for another receive; when the sixth ends there is
    for message in messages[:5]:
        message.ack()
        one.end_turn()
    assert not select.select([one.engines[-1]], [], [], 0)[0]
    messages[5].ack()
    # Then
    assert one.reported() == [Done(number) for number in range(6)]
    # And the next one waits until the engine has answered, or for one that does not end well
    messages[6].ack()
    one.end_turn()
    assert not select.select([one.engines[-1]], [], [], 0)[0]
    messages[7].reject(None, (), requeue=True)
    assert one.reported() == [Done(6), Released(7)]
    (message,) = one.hand_over(12)
    message.ack()
    assert one.reported() == [Done(12)]


def test_the_end_of_a_task_of_a_fifo_topic_is_reported_at_once() -> None:
    """The next message of its group waits for it."""
    # Given
    own = Celery("fifo", broker="memory://", set_as_current=False)
    registered(own, "hold")
    with closing(own), connected(Worker(own)) as worker:
        first, *_ = worker.hand_over(*range(12))
        worker.hub.call_later = lambda _delay, call: None
        # When
        first.ack()
        # Then
        assert worker.reported() == [Done(0)]


def test_a_beat_tells_the_engine_that_the_loop_runs(one: Worker) -> None:
    """The engine judges its silence."""
    one.hand_off.beat()
    assert [type(message) for message in one.reported()] == [Alive]


def test_a_new_engines_numbers_are_not_an_old_ones(one: Worker) -> None:
    """The late end of an old engine's task does not settle a new engine's task with the same number."""
    # Given
    (old,) = one.hand_over(1)
    one.start_engine()
    one.reported()
    (new,) = one.hand_over(1)
    # When
    old.ack()
    new.ack()
    # Then
    assert one.reported() == [Done(1)]
    old.retry(after(0.0))
    assert len(one.timer) == 0


def test_an_engine_that_hangs_does_not_have_its_worker_hang(one: Worker) -> None:
    """A worker does not block on an engine that hangs; its beats send each report once when the engine reads again."""
    # Given an engine that reads nothing
    tasks = [one.hand_over(number)[0] for number in range(2000)]
    # When
    for task in tasks:
        task.ack()
    # Then
    assert one.report(2000) == [Done(number) for number in range(2000)]


def test_what_a_hanging_engine_was_not_told_goes_on_after_a_lost_broker(one: Worker) -> None:
    """Celery has forgotten the timer's entries; the next message to the engine takes the rest with it."""
    # Given
    for task in [one.hand_over(number)[0] for number in range(2000)]:
        task.ack()
    # When
    one.hand_off.shut()
    one.timer.clear()  # type: ignore[no-untyped-call]
    one.connect()
    # Then
    assert [type(message) for message in one.report(2002)[-2:]] == [Closed, Open]


@pytest.mark.parametrize("last", ["end", "shut"])
def test_a_worker_that_stops_tells_a_slow_engine_everything(one: Worker, last: str) -> None:
    """A stopping worker waits a moment for a slow engine to read its reports."""
    # Given more reports than the socket takes
    for task in [one.hand_over(number)[0] for number in range(2000)]:
        if last == "shut":
            task.ack()
        else:
            task.retry(after(60.0))
    found: list[Message | None] = []
    expected = 2001 if last == "shut" else 4001

    def read() -> None:
        while len(found) < expected:
            found.extend(one.reported())

    reader = threading.Thread(target=read)
    # When
    reader.start()
    getattr(one.hand_off, last)()
    # Then
    assert one.hand_off.flush()
    reader.join(60)
    assert len(found) == expected
    assert isinstance(found[-1], Closed if last == "shut" else Released)


def test_a_worker_that_waits_for_its_engine_still_tells_it_what_it_waits_for(
    app: Celery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Tasks that end while the pool is drained may fill the socket once more; the engine ends when it knows of all."""
    # Given an engine whose process ends when it has been told of 2,000 tasks
    install(app, local=False, region="eu-west-1", status_dir=str(tmp_path))
    app.balog.hub.add_consumer(Consumer(print, "topic"))
    app.balog.load()

    class CeleryWorker:
        timer = SimpleNamespace(call_repeatedly=lambda *_: None)
        loglevel = logfile = None
        hostname = "w@h"
        prefetch_multiplier = 1
        balog_hand_off: HandOff

    worker: Any = CeleryWorker()
    worker.app = app
    found: list[Message | None] = []

    class Engine:
        """A process that reads a little at a time."""

        def __init__(self, _command: list[str], pass_fds: list[int], **_: Any) -> None:
            self.channel = Channel(socket.socket(fileno=os.dup(pass_fds[0])))
            one.engines.append(self.channel)

        def poll(self) -> None:
            """Report that it runs."""

        def terminate(self) -> None:
            """Terminate all tasks, and report that."""

        def wait(self, timeout: float) -> int:
            found.extend(one.reported())
            if len(found) < 2003:
                raise subprocess.TimeoutExpired("engine", timeout)
            return 0

    monkeypatch.setattr(subprocess, "Popen", Engine)
    monkeypatch.setattr(commands, "celery_command", lambda _: ["celery"])
    step = bootsteps.EngineStep(worker)
    one = Worker(app, worker.balog_hand_off)
    step.start(worker)
    one.connect()
    tasks = [one.hand_over(number)[0] for number in range(2000)]
    # When the worker stops, and the tasks end
    one.hand_off.shut()
    for task in tasks:
        task.ack()
    signals.worker_shutdown.send(sender=worker)
    # Then
    assert len(found) == 2003
    one.close()


def test_a_retry_is_given_to_celery_when_it_is_due(one: Worker) -> None:
    """A due retry is executed by Celery as the same task with a higher retry count, and reported as waiting once."""
    (task,) = one.hand_over(7)
    for count in (1, 2):
        # When
        task.retry(after(0.0, count))
        one.fire()
        # Then
        assert one.given[-1] is not task
        task = one.given[-1]
        assert (task.headers["retries"], task.headers["id"], task.headers["eta"]) == (count, "id7", None)
        assert task.headers["traceparent"] == "00-1-2-01"
    task.ack()
    assert one.reported() == [Waiting(7), Done(7)]


@pytest.mark.parametrize(("settings", "hours"), [({}, 10), ({"event_broker_url": "memory://"}, 1 / 3)])
def test_a_retry_waits_for_no_longer_than_its_message_is_kept(
    app: Celery, settings: dict[str, Any], hours: float
) -> None:
    """SQS keeps it for 12 hours, RabbitMQ for half an hour."""
    made = SimpleNamespace(app=install(app, **settings), prefetch_multiplier=1)
    bootsteps.EngineStep(made)
    with connected(Worker(app, made.balog_hand_off)) as one:
        assert retry_period(one.hand_over(1)[0]) == pytest.approx(hours * 3600, abs=60)


def retry_period(message: HandOffMessage) -> float:
    """Return for how many seconds from now the task may be retried in its worker."""
    context = HandOffContext.from_properties(message.properties)
    assert context is not None
    return max(0.0, context.retry_until - time.monotonic())


def test_a_copy_that_ran_twice_is_settled_once(one: Worker) -> None:
    """Celery may have forgotten a task that a child was already executing."""
    (task,) = one.hand_over(1)
    task.retry(after(10.0))
    task.retry(after(10.0))
    task.ack()
    assert len(one.timer) == 1
    assert one.reported() == [Waiting(1)]


def test_only_the_remainder_of_a_batch_is_retried(one: Worker) -> None:
    """Only the remainder of a batch is retried, and the engine is told first which events remain."""
    # Given
    task = one.hand_over_batch(7, ["a", "b", "c"])
    # When
    task.retry(after(0.0, remainder=Remainder([0, 2], "(shown)")))
    one.fire()
    # Then
    again = one.given[-1]
    assert again.body[0] == [["a", "c"]]
    assert again.headers["argsrepr"] == "(shown)"
    # And when
    again.retry(after(0.0, 2, failure="why", remainder=Remainder([1], "(less)")))
    one.fire()
    # Then
    last = one.given[-1]
    assert last.payload[0] == [["c"]]
    assert last.headers["timelimit"] == [600.0, 600.0]
    context = HandOffContext.from_properties(last.properties)
    assert context is not None
    assert context.failure == "why"
    last.reject(None, None)
    assert one.reported() == [Remaining(7, [0, 2]), Waiting(7), Remaining(7, [1]), Done(7)]


def test_what_waits_outlives_a_lost_broker(one: Worker) -> None:
    """New tasks go back, retries are scheduled again."""
    # Given a retry and a new task
    one.hand_over(1, 2)[0].retry(after(30.0))
    # When
    one.hand_off.shut()
    # Then
    assert one.scheduled() == []
    assert one.reported() == [Waiting(1), Closed(), Released(2)]
    # And when
    one.connect()
    # Then
    (entry,) = one.scheduled()
    assert entry.args[0].message.headers["retries"] == 1
    assert entry.args[0].eta is not None


def test_a_retry_that_celery_had_when_the_broker_was_lost_is_scheduled_again(one: Worker) -> None:
    """No child had accepted it, and Celery has forgotten it."""
    one.hand_over(1)[0].retry(after(0.0))
    one.fire()
    one.hand_off.shut()
    one.connect()
    one.fire()
    assert [message.headers.get("retries") for message in one.given] == [0, 1, 1]


def test_a_task_whose_child_celery_forgot_is_executed_again(one: Worker) -> None:
    """A task that Celery forgot when the broker was lost is executed again."""

    class Running:
        def __init__(self, message: HandOffMessage) -> None:
            self.message = message

    # Given
    (message,) = one.hand_over(1)
    running = Running(message)
    state.active_requests.add(running)
    # When
    one.hand_off.shut()
    state.active_requests.discard(running)
    one.connect()
    one.fire()
    # Then
    assert one.given == [message, message]
    message.ack()
    assert [one for one in one.reported() if not isinstance(one, (Closed, Open))] == [Done(1)]


def test_a_timer_that_fires_without_a_broker_changes_nothing(one: Worker) -> None:
    """The retry is scheduled when there is a broker."""
    # Given
    (task,) = one.hand_over(1)
    task.retry(after(0.0))
    (entry,) = one.scheduled()
    # When
    one.hand_off.shut()
    one.timer.schedule.apply_entry(entry)
    # Then
    assert len(one.given) == 1
    one.connect()
    assert len(one.scheduled()) == 1


def test_a_stop_releases_what_waits_and_what_would(one: Worker) -> None:
    """A stop releases the tasks that wait for a retry, and those that ask for one later."""
    waiting, running = one.hand_over(1, 2)
    waiting.retry(after(30.0))
    one.hand_off.end()
    running.retry(after(30.0))
    assert one.reported() == [Waiting(1), Closed(), Released(1), Released(2)]
    assert one.scheduled() == []


def test_a_worker_that_stops_takes_nothing_until_its_end(one: Worker) -> None:
    """Neither what its engine had sent before it knew, nor when the pool or the connection to the broker changes."""
    (running,) = one.hand_over(1)
    # When
    one.hand_off.end()
    one.engines[-1].send(Task(2, "id2", NAME, "(shown,)", event_text(), {}))
    one.read()
    one.consumer.pool.num_processes = 5
    one.hand_off.announce()
    one.connect()
    running.ack()
    # Then
    assert one.reported() == [Closed(), Released(2), Done(1)]
    assert len(one.given) == 1


def test_the_number_of_tasks_that_wait_is_limited(one: Worker) -> None:
    """Retries of more are published; when one has finished there is room again."""
    # Given one task less than may wait
    for number in range(MAX_WAITING - 1):
        one.hand_over(number)[0].retry(after(60.0))
    one.reported()
    # When
    first, second = one.hand_over(5001, 5002)
    first.retry(after(0.0))
    # Then
    assert retry_period(second) > 3600
    assert retry_period(one.hand_over(5003)[0]) == 0.0
    # And when
    one.fire()
    one.given[-1].ack()
    # Then
    assert retry_period(one.hand_over(5004)[0]) > 3600


def test_what_a_killed_engine_left_running_is_not_overtaken(app: Celery) -> None:
    """In a FIFO topic an event of a killed engine waits until its first execution ends, and keeps its retries."""

    class Running:
        id = "id1"

    # Given
    own = Celery("fifo", broker="memory://", set_as_current=False)
    registered(own, "hold")
    running = Running()
    state.reserved_requests.add(running)
    try:
        with connected(Worker(own)) as one:
            # When
            one.hand_over(1)
            one.fire()
            # Then
            assert one.given == []
            # And when
            state.reserved_requests.discard(running)
            one.fire()
            # Then
            (again,) = one.given
            assert again.headers["retries"] == 0
    finally:
        state.reserved_requests.discard(running)
        own.close()


def test_what_waits_for_its_rate_limit_needs_no_credit(one: Worker) -> None:
    """Up to a limit; when one has finished there is room again."""
    # Given
    one.limit(1 / 60)
    started, first, *_ = one.hand_over(*range(MAX_LIMITED + 2))
    assert one.reported() == [Waiting(number) for number in range(1, MAX_LIMITED + 1)]
    # When
    started.ack()
    first.ack()
    one.hand_over(500)
    # Then
    assert one.reported() == [Done(0), Done(1), Waiting(500)]


def test_the_events_of_batches_that_wait_for_their_rate_limit_count(one: Worker) -> None:
    """Rate-limited batches count by their events, because each message's visibility must be extended."""
    one.limit(1 / 60)
    (started,) = one.hand_over(1)
    for number, events in enumerate((60, 60, 40), 2):
        one.hand_over_batch(number, [event_text()] * events)
    started.ack()
    assert one.reported() == [Waiting(2), Waiting(4), Done(1)]


def test_one_that_would_wait_for_longer_than_its_message_is_kept_uses_credit(one: Worker) -> None:
    """A task that would wait for its rate limit longer than its message is kept uses credit."""
    one.limit(1 / 3600)
    (started, *_) = one.hand_over(*range(20))
    started.ack()
    assert one.reported() == [*(Waiting(number) for number in range(1, 11)), Done(0)]


def test_what_waits_for_its_rate_limit_goes_back_when_the_broker_is_lost(one: Worker) -> None:
    """Celery has forgotten it, and it counts for nothing."""
    # Given as many as may wait
    one.limit(1 / 60)
    one.hand_over(*range(MAX_LIMITED + 1))
    # When
    one.hand_off.shut()
    # Then
    released = [message for message in one.reported() if isinstance(message, Released)]
    assert released == [Released(number) for number in range(MAX_LIMITED + 1)]
    # And when
    one.connect()
    one.hand_over(500)
    # Then
    assert Waiting(500) in one.reported()


def test_large_tasks_that_wait_are_bounded_by_their_bytes(one: Worker) -> None:
    """Retries of more are published, and rate-limited tasks use credit, long before there are as many as may wait."""
    # Given as many bytes as may wait
    large = event_text(text="x" * (MAX_WAITING_BYTES // 8))
    for number in range(8):
        one.hand_over_large(number, large).retry(after(60.0))
    # Then
    assert retry_period(one.hand_over(10)[0]) == 0.0
    # And
    one.limit(1 / 60)
    for number in range(20, 30):
        one.hand_over_large(number, large)
    waiting = [message for message in one.reported() if isinstance(message, Waiting)]
    assert len(waiting) == 8 + 8


def test_a_waiting_task_keeps_its_events_once(one: Worker) -> None:
    """Not the payload, its JSON and the request's copy of that as well."""
    # Given
    tracemalloc.start()
    size = 1_000_000
    task = one.hand_over_large(1, event_text(text="x" * size))
    one.given.clear()
    # When
    task.retry(after(60.0))
    del task
    gc.collect()
    # Then
    kept, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < kept < 2 * size


def test_a_new_engine_is_told_of_the_credit_again(one: Worker) -> None:
    """Also if a beat came while there was none."""
    one.engines[-1].close()
    one.read()
    one.hand_off.announce()
    one.start_engine()
    assert [type(message) for message in one.reported()] == [Version, Open]


def test_the_engine_is_told_of_changes_only(one: Worker) -> None:
    """Of the pool's size, and of the queues."""
    one.hand_off.announce()
    one.consumer.pool.num_processes = 4
    one.hand_off.announce()
    one.hand_off.announce()
    one.consumer.app.amqp.queues.select_add("more")
    one.hand_off.announce()
    one.hand_off.beat()
    first, second, alive = one.reported()
    assert isinstance(first, Open)
    assert isinstance(second, Open)
    assert (first.credit, set(second.queues) - set(first.queues)) == (18, {"more"})
    assert isinstance(alive, Alive)


@pytest.mark.parametrize(
    ("given", "credit"),
    [
        ({"reserve": 10}, 3 * 2 + 10),
        ({"reserve": 10, "disabled": True}, 3),
        ({"multiplier": 1}, 3),
        ({"multiplier": 4}, 12),
        ({"multiplier": 0}, UNLIMITED),
        ({"multiplier": 2, "maximum": 30}, 60),
        ({"disabled": True, "maximum": 30}, 30),
    ],
)
def test_the_credit_is_the_prefetch_limit(app: Celery, given: dict[str, Any], credit: int) -> None:
    """Of a pool of three processes, or of as many as the autoscaler may start; unless the app leaves it open."""
    app.conf.worker_disable_prefetch = given.get("disabled", False)
    worker = Worker(app, HandOff(reserve=given.get("reserve")))
    worker.consumer.pool.num_processes = 3
    worker.consumer.prefetch_multiplier = given.get("multiplier", 1)
    if "maximum" in given:
        worker.consumer.controller.autoscaler = SimpleNamespace(max_concurrency=given["maximum"])
    with closing(worker.start_engine()):
        worker.connect()
        assert [message.credit for message in worker.reported() if isinstance(message, Open)] == [credit]
    worker.close()
