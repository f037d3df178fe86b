"""Retries that stay with the worker: what may, and what the worker and the engine tell each other of them."""

from __future__ import annotations

import json
import pickle
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry
from kombu.asynchronous.timer import Timer
from kombu.utils.limits import TokenBucket

import servers
from balog_celery import hand_off, install, worker
from balog_celery.consumers import Consumer
from balog_celery.consumers.delivery import Delivery, Job
from balog_celery.consumers.operator import ConsumerOperator
from balog_celery.dead_letters import DeadLetters
from balog_celery.dispatch import HandOffDispatcher, PublishDispatcher
from balog_celery.hand_off import HandedTask, HandOff
from balog_celery.link import Link
from balog_celery.queues import Message
from balog_celery.records import decode
from balog_celery.tasks import (
    HEADERS_GIVEN,
    MAX_STAY,
    STAYS_UNTIL,
    ConsumerTask,
    Left,
    LocalRetry,
    LocalSignature,
    register,
)
from fakes import FakeQueue, event_text

CONSUMER = Consumer(print, "topic", name="function")
NAME = CONSUMER.task_name


def test_a_local_retry_travels_between_processes() -> None:
    """With all that the worker's main process needs to know."""
    retry = pickle.loads(pickle.dumps(LocalRetry(exc=ValueError("x"), when=3.5, retries=2, burying="why")))
    assert isinstance(retry, Retry)
    assert (repr(retry.exc), retry.when, retry.retries, retry.burying) == ("ValueError('x')", 3.5, 2, "why")
    assert str(retry) == "Retry in 3.5s: ValueError('x')"


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the task of one consumer."""
    app = Celery("retries", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"retries-{id(app)}"
    register(app, CONSUMER, ConsumerOperator(), "topic", DeadLetters(lambda name: FakeQueue(name), None), None)
    yield app
    app.close()


@pytest.fixture
def task(app: Celery) -> ConsumerTask:
    """That task."""
    return app.tasks[NAME]  # type: ignore[no-any-return]


def request(**more: Any) -> Any:
    """What a task knows of its execution, after it was handed over a moment ago."""
    from celery.app.task import Context

    return Context(
        {"id": "i", "args": ["text"], "kwargs": {}, "properties": {STAYS_UNTIL: time.monotonic() + 36_000}, **more}
    )


def test_a_retry_of_a_task_that_was_handed_over_stays(task: ConsumerTask) -> None:
    """Its signature publishes nothing."""
    signature = task.signature_from_request(request(), countdown=MAX_STAY, retries=1)
    assert isinstance(signature, LocalSignature)
    assert signature.apply_async() is None


def test_so_does_one_with_headers_that_it_was_handed_over_with(task: ConsumerTask) -> None:
    """Of its trace, for instance."""
    properties = {STAYS_UNTIL: time.monotonic() + 36_000, HEADERS_GIVEN: ["a"]}
    context = request(headers={"a": "b"}, properties=properties)
    assert isinstance(task.signature_from_request(context, countdown=1, retries=1), LocalSignature)
    context.headers["added"] = "by the function"
    assert not isinstance(task.signature_from_request(context, countdown=1, retries=1), LocalSignature)


@pytest.mark.parametrize(
    ("context", "options"),
    [
        ({"properties": {}}, {}),
        ({"properties": None}, {}),
        ({"properties": {STAYS_UNTIL: 0.0}}, {}),
        ({"properties": {STAYS_UNTIL: time.monotonic() - 1}}, {}),
        ({}, {"countdown": MAX_STAY + 1}),
        ({}, {"queue": "other"}),
        ({}, {"args": ["other"]}),
        ({}, {"kwargs": {"event": "other"}}),
        ({}, {"eta": "2014-10-07T15:06:51"}),
        ({}, {"time_limit": 5}),
        ({"headers": {"a": "b"}}, {}),
        ({"chain": [1]}, {}),
        ({"callbacks": [1]}, {}),
        ({"errbacks": [1]}, {}),
    ],
)
def test_one_that_came_from_the_broker_or_is_to_differ_does_not(
    task: ConsumerTask, context: dict[str, Any], options: dict[str, Any]
) -> None:
    """It is published, as Celery does."""
    signature = task.signature_from_request(request(**context), retries=1, **{"countdown": 1, **options})
    assert not isinstance(signature, LocalSignature)


def test_one_that_was_acknowledged_early_does_not_either(task: ConsumerTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message is gone."""
    monkeypatch.setattr(type(task), "acks_late", False)
    assert not isinstance(task.signature_from_request(request(), countdown=1, retries=1), LocalSignature)


class Worker:
    """A HandOff with an engine's end to it, and a consumer whose strategies only note what they are given."""

    def __init__(self, app: Celery) -> None:
        self.hand_off = HandOff()
        self.given: list[HandedTask] = []
        self.timer = Timer()  # type: ignore[no-untyped-call]
        self.consumer = SimpleNamespace(
            app=app,
            hostname="h",
            pool=SimpleNamespace(num_processes=1),
            timer=self.timer,
            strategies={NAME: self.execute},
            task_buckets={NAME: None},
        )
        self.hub = SimpleNamespace(
            add_reader=lambda *_: None, remove_reader=lambda *_: None, call_soon=lambda call, *args: call(*args)
        )
        self.engines: list[Link] = []

    def execute(self, task: HandedTask, *_: Any) -> None:
        """Note it; with a rate limit, only the first gets a token."""
        self.given.append(task)
        bucket = self.consumer.task_buckets[NAME]
        if bucket is not None and not bucket.can_consume():
            bucket.add((SimpleNamespace(message=task), 1))

    def limit(self, rate: float) -> None:
        """Let so many tasks a second be executed."""
        self.consumer.task_buckets[NAME] = TokenBucket(rate)  # type: ignore[no-untyped-call]

    def start_engine(self) -> Link:
        """Another engine; its end of the socket."""
        ours, theirs = socket.socketpair()
        theirs.settimeout(60)
        self.engines.append(Link(theirs))
        self.hand_off.use(Link(ours))
        return self.engines[-1]

    def connect(self) -> None:
        self.hand_off.open(self.consumer, self.hub)

    def hand_over(self, *numbers: int) -> list[HandedTask]:
        given = {"traceparent": "00-1-2-01"}
        lines = [("task", number, f"id{number}", NAME, "(shown,)", event_text(), given) for number in numbers]
        self.engines[-1].send(*lines)
        self.hand_off._on_readable()
        return self.given[-len(numbers) :]

    def hand_over_batch(self, number: int, events: int) -> None:
        self.engines[-1].send(("task", number, f"id{number}", NAME, "(shown,)", [event_text()] * events, {}))
        self.hand_off._on_readable()

    def fire(self) -> None:
        """Let the timer do all that it has to do, as if it was due."""
        entries = [scheduled.entry for scheduled in self.timer.queue if not scheduled.entry.cancelled]
        self.timer.clear()  # type: ignore[no-untyped-call]
        for entry in entries:
            entry()

    def told(self) -> list[list[Any]]:
        """What the engine has been told by now; nothing is an error."""
        lines = self.engines[-1].receive()
        assert lines is not None
        return lines


@pytest.fixture
def one(app: Celery) -> Iterator[Worker]:
    """A connected worker with an engine that has been told so."""
    made = Worker(app)
    made.start_engine()
    made.connect()
    try:
        assert [kind for kind, *_ in made.told()] == ["open"]
        yield made
    finally:
        for link in made.engines:
            link.close()
        made.hand_off._on_readable()  # the end of the stream


def test_a_new_engines_numbers_are_not_an_old_ones(one: Worker) -> None:
    """A task of the old engine that ends late says nothing of the new engine's task with its number."""
    (old,) = one.hand_over(1)
    one.start_engine()
    one.told()
    (new,) = one.hand_over(1)
    old.ack()
    new.ack()
    assert one.told() == [["done", 1]]
    old.retry(1, 0.0, None)
    assert len(one.timer) == 0


def test_an_engine_that_hangs_does_not_have_its_worker_hang(one: Worker) -> None:
    """It is told everything when it reads again, once each; the timer sees to that."""
    tasks = [one.hand_over(number)[0] for number in range(2000)]
    for task in tasks:
        task.ack()
    assert len(one.timer) == 1
    told: list[list[Any]] = []
    while len(told) < 2000:
        told += one.told()
        one.fire()
    assert told == [["done", number] for number in range(2000)]
    assert len(one.timer) == 0


def test_what_a_hanging_engine_was_not_told_goes_on_after_a_lost_broker(one: Worker) -> None:
    """Celery has forgotten the timer's entries; the next word to the engine takes the rest with it."""
    for task in [one.hand_over(number)[0] for number in range(2000)]:
        task.ack()
    one.hand_off.shut()
    one.timer.clear()  # type: ignore[no-untyped-call]
    one.connect()
    assert len(one.timer) == 1
    told: list[list[Any]] = []
    while len(told) < 2002:
        told += one.told()
        one.fire()
    assert [kind for kind, *_ in told[-2:]] == ["closed", "open"]


@pytest.mark.parametrize("last", ["end", "shut"])
def test_a_worker_that_stops_tells_a_slow_engine_everything(one: Worker, last: str) -> None:
    """It waits a moment until that has read, for there is no loop any more that would tell it the rest."""
    for task in [one.hand_over(number)[0] for number in range(2000)]:
        if last == "shut":
            task.ack()
        else:
            task.retry(1, 60.0, None)
    told: list[list[Any]] = []
    expected = 2001 if last == "shut" else 4000

    def read() -> None:
        while len(told) < expected:
            told.extend(one.told())

    reader = threading.Thread(target=read)
    reader.start()
    getattr(one.hand_off, last)()
    assert one.hand_off.flush()
    reader.join(60)
    assert len(told) == expected
    assert told[-1][0] == ("closed" if last == "shut" else "refused")


def test_a_worker_that_waits_for_its_engine_still_tells_it_what_it_waits_for(
    one: Worker, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that end while the pool is drained may fill the socket once more; the engine ends when it knows of all."""
    install(app)
    step = worker.EngineStep(SimpleNamespace(app=app))
    step._hand_off = one.hand_off
    tasks = [one.hand_over(number)[0] for number in range(2000)]
    one.hand_off.shut()
    for task in tasks:
        task.ack()
    told: list[list[Any]] = []

    class Engine:
        """A process that reads a little at a time, and ends when it has been told of every task."""

        def wait(self, timeout: float) -> int:
            told.extend(one.told())
            if len(told) < 2001:
                raise subprocess.TimeoutExpired("engine", timeout)
            return 0

    monkeypatch.setattr(step, "_process", Engine())
    step._end(60.0)
    assert len(told) == 2001


def test_a_retry_is_given_to_celery_when_it_is_due(one: Worker) -> None:
    """With one more retry, and as the same task; the engine hears of it once."""
    (task,) = one.hand_over(7)
    for count in (1, 2):
        task.retry(count, 0.0, None)
        one.fire()
        assert one.given[-1] is not task
        task = one.given[-1]
        assert (task.headers["retries"], task.headers["id"], task.headers["eta"]) == (count, "id7", None)
        assert task.headers["traceparent"] == "00-1-2-01"
    task.ack()
    assert one.told() == [["waiting", 7], ["done", 7]]


@pytest.mark.parametrize(("settings", "hours"), [({}, 10), ({"event_broker_url": "memory://"}, 1 / 3)])
def test_a_retry_stays_for_no_longer_than_its_message_is_kept(
    app: Celery, settings: dict[str, Any], hours: float
) -> None:
    """SQS keeps it for 12 hours, RabbitMQ for half an hour."""
    made = SimpleNamespace(app=install(app, **settings))
    worker.EngineStep(made)
    one = Worker(app)
    one.hand_off = made.balog_hand_off
    with closing(one.start_engine()):
        one.connect()
        (task,) = one.hand_over(1)
        assert task.properties[STAYS_UNTIL] - time.monotonic() == pytest.approx(hours * 3600, abs=60)
    one.hand_off._on_readable()  # the end of the stream


def test_a_copy_that_ran_twice_has_its_say_once(one: Worker) -> None:
    """Celery may have forgotten a task that a child was already executing."""
    (task,) = one.hand_over(1)
    task.retry(1, 10.0, None)
    task.retry(1, 10.0, None)
    task.ack()
    assert len(one.timer) == 1
    assert one.told() == [["waiting", 1]]


def test_what_is_left_of_a_batch_is_what_is_retried(one: Worker) -> None:
    """The engine is told what is done before anything else of it."""
    (task,) = one.hand_over(7)
    task._carry(["a", "b", "c"])
    task.retry(1, 0.0, None, Left([0, 2], "(shown)"))
    one.fire()
    again = one.given[-1]
    assert again.payload[0] == (["a", "c"],)
    assert json.loads(again.body)[0] == [["a", "c"]]
    assert again.headers["argsrepr"] == "(shown)"
    again.retry(2, 0.0, "why", Left([1], "(less)"))
    one.fire()
    assert one.given[-1].payload[0] == (["c"],)
    one.given[-1].reject(None, None)
    assert one.told() == [["left", 7, [0, 2]], ["waiting", 7], ["left", 7, [1]], ["done", 7]]


def test_what_waits_outlives_a_lost_broker(one: Worker) -> None:
    """New tasks go back, retries are scheduled again."""
    one.hand_over(1, 2)[0].retry(1, 30.0, None)
    one.hand_off.shut()
    assert one.timer.queue[0].entry.cancelled
    assert one.told() == [["waiting", 1], ["closed"], ["refused", 2]]
    one.connect()
    (entry,) = [scheduled.entry for scheduled in one.timer.queue if not scheduled.entry.cancelled]
    assert entry.args[0].message.headers["retries"] == 1
    assert entry.args[0].eta is not None


def test_a_retry_asked_for_without_a_broker_is_scheduled_when_there_is_one(one: Worker) -> None:
    """It ran when the broker was lost."""
    (task,) = one.hand_over(1)
    task.retry(1, 0.0, None)
    (entry,) = [scheduled.entry for scheduled in one.timer.queue]
    one.hand_off.shut()
    one.timer.schedule.apply_entry(entry)
    assert len(one.given) == 1
    one.connect()
    assert [scheduled.entry.cancelled for scheduled in one.timer.queue].count(False) == 1


def test_a_stop_gives_back_what_waits_and_what_would(one: Worker) -> None:
    """Nothing is retried any more."""
    waiting, running = one.hand_over(1, 2)
    waiting.retry(1, 30.0, None)
    one.hand_off.end()
    running.retry(1, 30.0, None)
    assert one.told() == [["waiting", 1], ["refused", 1], ["refused", 2]]
    assert all(scheduled.entry.cancelled for scheduled in one.timer.queue)


def test_only_so_many_wait(one: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are told that they cannot; when one has finished there is room again."""
    monkeypatch.setattr(hand_off, "MAX_WAITING", 1)
    first, second = one.hand_over(1, 2)
    assert first.properties[STAYS_UNTIL] > time.monotonic() + MAX_STAY
    first.retry(1, 0.0, None)
    assert one.hand_over(3)[0].properties[STAYS_UNTIL] == 0.0
    one.fire()
    one.given[-1].ack()
    assert one.hand_over(4)[0].properties[STAYS_UNTIL] > 0.0
    second.ack()


def test_what_a_killed_engine_left_running_is_not_overtaken(
    one: Worker, task: ConsumerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a FIFO topic: its event has come again, and waits for it, and keeps its retries."""

    class Running:
        id = "id1"

    monkeypatch.setattr(type(task), "fifo", "hold")
    running = Running()
    monkeypatch.setattr(hand_off.state, "reserved_requests", {running})
    one.hand_over(1)
    assert one.given == []
    one.fire()
    assert one.given == []
    hand_off.state.reserved_requests.clear()
    one.fire()
    (again,) = one.given
    assert again.headers["retries"] == 0


def test_what_waits_for_its_rate_limit_takes_no_room(one: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """But only so many do; when one has finished there is room again."""
    monkeypatch.setattr(hand_off, "MAX_LIMITED", 2)
    one.limit(1 / 60)
    started, first, *_ = one.hand_over(1, 2, 3, 4)
    started.ack()
    first.ack()
    one.hand_over(5)
    assert one.told() == [["waiting", 2], ["waiting", 3], ["done", 1], ["done", 2], ["waiting", 5]]


def test_of_batches_that_wait_for_their_rate_limit_the_events_count(one: Worker) -> None:
    """Their messages are in flight as others are, and leases cost the same."""
    one.limit(1 / 60)
    (started,) = one.hand_over(1)
    for number, events in enumerate((60, 60, 40), 2):
        one.hand_over_batch(number, events)
    started.ack()
    assert one.told() == [["waiting", 2], ["waiting", 4], ["done", 1]]


def test_one_that_would_wait_for_longer_than_its_message_is_kept_takes_room(one: Worker) -> None:
    """At this rate there are ten of them in the hours that it may stay."""
    one.limit(1 / 3600)
    (started, *_) = one.hand_over(*range(20))
    started.ack()
    assert one.told() == [*(["waiting", number] for number in range(1, 11)), ["done", 0]]


def test_what_waits_for_its_rate_limit_goes_back_when_the_broker_is_lost(one: Worker) -> None:
    """Celery has forgotten it; what was counted is counted no more."""
    one.limit(1 / 60)
    one.hand_over(1, 2)
    one.hand_off.shut()
    assert one.told() == [["waiting", 2], ["closed"], ["refused", 1], ["refused", 2]]
    assert not one.hand_off._limited


def test_what_is_settled_last_is_settled_by_its_last_word(one: Worker) -> None:
    """Whatever is done meanwhile, such as making a dead letter, comes before the engine hears of it."""
    first, second = one.hand_over(1, 2)
    with first.settled_last():
        first.ack()
        second.ack()
    assert one.told() == [["done", 2], ["done", 1]]


def test_a_waiting_job_takes_no_room_and_is_settled_later(app: Celery) -> None:
    """The engine hands over the next ones; if the worker is gone, it gives back those that waited, too."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    far = Link(theirs)
    dispatcher = HandOffDispatcher(app, Link(ours), PublishDispatcher(app, 1.0, 10))
    settled: list[Delivery] = []

    def jobs(count: int) -> list[Job]:
        event = decode(event_text())
        message = Message(event_text(), "handle", "id", 0.0)
        return [Job(Delivery(message, 1, settled.extend), event, message.body, CONSUMER, {}) for _ in range(count)]

    try:
        far.send(("open", 10, [app.conf.task_default_queue]))
        queues = dispatcher.queues_of([CONSUMER])
        assert dispatcher.ready(queues, 5)
        with pytest.raises(TypeError):  # nor does one that could not be handed over
            dispatcher.dispatch([job._replace(headers={"a": object()}) for job in jobs(10)])
        assert [delivery.refused for delivery in settled] == [True] * 10
        settled.clear()
        dispatcher.dispatch(jobs(10))
        lines = far.receive() or []
        assert [line[0] for line in lines] == ["task"] * 10
        assert not dispatcher.ready(queues, 0.05)
        numbers = [line[1] for line in lines]
        far.send(*[("waiting", number) for number in numbers])
        assert dispatcher.ready(queues, 5)
        far.send(("done", numbers[0]), ("refused", numbers[1]))
        servers.wait_until(lambda: len(settled) == 2)
        assert [delivery.refused for delivery in settled] == [False, True]
        far.close()
        servers.wait_until(lambda: len(settled) == 10)
        assert [delivery.refused for delivery in settled[2:]] == [True] * 8
    finally:
        dispatcher.close()
        for thread in threading.enumerate():
            if thread.name == "hand-off":
                thread.join(5)


def test_an_engine_that_cannot_hear_its_worker_stops(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker starts another one; an engine that waits for ever would look well."""
    stopped = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    ours, theirs = socket.socketpair()
    far = Link(theirs)
    dispatcher = HandOffDispatcher(app, Link(ours), PublishDispatcher(app, 1.0, 10))
    try:
        far.send(("open", "no number", None))
        servers.wait_until(stopped.is_set, what="the signal")
    finally:
        signal.signal(signal.SIGTERM, previous)
        far.close()
        dispatcher.close()
