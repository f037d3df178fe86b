"""Batches: their options, how events are collected, and the outcome of each event."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Reject
from hypothesis import given, settings
from hypothesis import strategies as st

import shop_consumers as consumers
from balog_celery import FacilityRecord, MetricsPayload
from balog_celery.backoff import Backoff
from balog_celery.consumers import BatchFailure, Consumer, ConsumerHub, ConsumerOperator
from balog_celery.consumers.context import EVENT, RECEIVES
from balog_celery.consumers.delivery import Batch, Delivery, Job, Settlement, Work
from balog_celery.consumers.operator import Processed, process_batch, resolve_topic
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.channel import Channel
from balog_celery.dispatch.dispatcher import DispatchError, Readiness
from balog_celery.dispatch.hand_off_engine import HandOffDispatcher
from balog_celery.dispatch.protocol import Open, Remaining, Task, Waiting
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.engine.batcher import MAX_BYTES, Batcher
from balog_celery.engine.engine import Engine
from balog_celery.errors import ConfigurationError, QueueError
from balog_celery.events.records import decode
from balog_celery.sqs.messages import Message
from balog_celery.tasks.batch import BatchTask
from balog_celery.tasks.context import HandOffContext
from balog_celery.tasks.local_retry import LocalRetry, Remainder
from balog_celery.tasks.naming import batch_argsrepr, batch_id
from balog_celery.tasks.routes import register, register_dead_letter_task
from balog_celery.testing import ConsumerHarness
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue
from servers import wait_until


def consumer(func: Callable[..., Any] = print, batch: int | None = 3, **more: Any) -> Consumer:
    return Consumer(func, "topic", batch=batch, **{"name": "f", "module": "proj", **more})


def ids(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["header"]["id"] for event in events]


# What may be asked for


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"batch": 0}, "bad batch=0"),
        ({"batch": True}, "bad batch=True"),
        ({"batch": 10_001}, "from 1 to 10000"),
        ({"batch": "3"}, "bad batch='3'"),
        ({"batch": 2, "batch_wait": -1}, "bad batch_wait=-1"),
        ({"batch": 2, "batch_wait": 3601}, "from 0 to 3600"),
        ({"batch": 2, "batch_wait": float("nan")}, "bad batch_wait=nan"),
        ({"batch": 2, "batch_wait": None}, "bad batch_wait=None"),
        ({"batch": 2, "once": True}, "both batch= and once="),
        ({"batch_wait": 5}, "without batch="),
        ({"batch": 2, "topic": "orders.fifo"}, "use a standard queue"),
    ],
)
def test_what_cannot_be_is_told_at_decoration(wanted: dict[str, Any], says: str) -> None:
    """Impossible batch options fail at decoration, with advice."""
    with pytest.raises(ConfigurationError, match=says):
        Consumer(print, **{"topic": "topic", **wanted})


def test_a_topic_that_turns_out_to_be_fifo_is_refused_at_start() -> None:
    """A batch consumer whose resolved topic is FIFO is refused at start."""

    class Operator(ConsumerOperator):
        def get_topic(self, consumer: Consumer) -> str:
            return "orders.fifo"

    with pytest.raises(ConfigurationError, match="use a standard queue"):
        resolve_topic(Operator(), consumer())


def of_records(events: list[FacilityRecord]) -> None: ...
def of_payloads(extra: int, events: Sequence[MetricsPayload] | None = None) -> None: ...
def of_dicts(events: list[dict[str, Any]]) -> None: ...
def of_one(event: FacilityRecord) -> None: ...


def test_a_list_of_a_model_asks_for_it() -> None:
    """A batch consumer gets a model by a list annotation; the model alone is an error."""
    record = decode(event_text())
    assert isinstance(consumer(of_records).argument(record), FacilityRecord)
    assert isinstance(consumer(of_payloads).argument(record), MetricsPayload)
    assert isinstance(consumer(of_dicts).argument(record), dict)
    with pytest.raises(ConfigurationError, match=r"annotate list\[FacilityRecord\]"):
        consumer(of_one)


def test_a_batch_has_the_headers_of_its_first_event_but_not_its_messages_receives() -> None:
    """A batch has the headers of its first event, without the receive counts of that event's message."""
    delivery = Delivery(Message("", "handle", "id", 0.0), 2, lambda delivery: None)
    headers = [
        {"traceparent": name, EVENT: {"id": name}, RECEIVES: {"first": 0, "count": 3}} for name in ("first", "second")
    ]
    jobs = [Job(delivery, decode(event_text()), event_text(), consumer(), one) for one in headers]
    assert Batch(tuple(jobs)).headers == {"traceparent": "first"}


def test_a_batch_failure_says_what_failed_and_travels_between_processes() -> None:
    """A BatchFailure has indexes or ids, with reasons or without, and can be pickled."""
    failure = pickle.loads(pickle.dumps(BatchFailure({0: "why", "LG2": ValueError("x")})))
    assert failure.failed == {0: "why", "LG2": "ValueError('x')"}
    assert str(failure) == "2 of the batch's events failed: 0 (why), LG2 (ValueError('x'))"
    assert str(BatchFailure(range(7))).endswith("0, 1, 2, 3, 4, ...")
    with pytest.raises(TypeError, match="not True"):
        BatchFailure([True])
    with pytest.raises(TypeError, match="put it into a list"):
        BatchFailure("LG1")


# How the function is called


def processed(func: Callable[..., Any], *texts: str) -> Any:
    return process_batch(func, consumer(func), [decode(text) for text in texts])


def test_a_function_may_name_what_failed_by_index_or_id() -> None:
    """A function names failed events by index or id, raising or returning.

    The default reason is the handled exception.
    """

    def fail(events: list[Any]) -> None:
        try:
            raise ValueError("x")
        except ValueError as error:
            raise BatchFailure([2, "a"]) from error

    found = processed(fail, event_text("a"), event_text("b"), event_text("c"), event_text("a"))
    assert found.failed == dict.fromkeys([0, 2, 3], "ValueError('x')")
    assert processed(lambda events: BatchFailure({1: "no"}), event_text("a"), event_text("b")).failed == {1: "no"}
    # Not with all that failed in the reason of each.
    alone = processed(lambda events: BatchFailure([0]), event_text("a"))
    assert alone.failed == {0: "the function says that it failed"}
    assert processed(lambda events: BatchFailure([]), event_text("a")) == Processed(None, {}, {})
    assert processed(lambda events: len(events), event_text("a"), event_text("b")) == Processed(2, {}, {})


@pytest.mark.parametrize("which", [1, -1, "b"])
def test_naming_what_is_not_there_fails_all(which: int | str) -> None:
    """Naming an event that is not in the batch fails all of its events."""
    with pytest.raises(ValueError, match=f"names {which!r}"):
        processed(lambda events: BatchFailure([which]), event_text("a"))


def test_an_event_that_does_not_fit_is_kept_from_the_function_only() -> None:
    """An event that does not fit the model is left out, and indexes refer to the function's list."""
    seen: list[int] = []

    def process(events: list[MetricsPayload]) -> None:
        seen.append(len(events))
        raise BatchFailure([1])

    found = processed(process, event_text("l", "log", message="m", severity="info"), event_text("a"), event_text("b"))
    assert (seen, [*found.failed], [*found.unfit]) == ([2], [2], [0])
    assert "MetricsPayload" in found.unfit[0]
    alone = processed(process, event_text("l", "log", message="m", severity="info"))
    assert (seen, alone.failed, [*alone.unfit]) == ([2], {}, [0])


# Gathering


class Scripted:
    """A dispatcher that records its jobs, fails on demand, and settles at once."""

    def __init__(self, script: Sequence[bool] = ()) -> None:
        self.failing = list(script)
        self.taken: list[Work] = []
        self.changed = threading.Condition()
        self.down = False
        self.broken = False

    def dispatch(self, jobs: Sequence[Work]) -> None:
        if self.down or (self.failing and self.failing.pop(0)):
            raise DispatchError("down")
        if self.broken:
            raise RuntimeError("unexpected")
        with self.changed:
            self.taken += jobs
            self.changed.notify_all()
        for job in jobs:
            job.acknowledge()

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None: ...

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return Readiness.READY

    def room(self) -> int:
        return 10

    def close(self) -> None: ...

    def sizes(self) -> list[int]:
        return [len(work.jobs) for work in self.taken if isinstance(work, Batch)]


class Deliveries:
    """Jobs, each of a delivery of its own, and how those were settled."""

    def __init__(self) -> None:
        self.made: list[Job] = []
        self.settled: list[Delivery] = []

    def job(self, consumer: Consumer, text: str = "") -> Job:
        text = text or event_text(f"e{len(self.made)}")
        delivery = Delivery(Message(text, f"h{len(self.made)}", "m", 0.0), 1, self.settled.extend)
        self.made.append(Job(delivery, decode(event_text()), text, consumer, {}))
        return self.made[-1]

    def check_each_was_settled_once(self) -> None:
        assert Counter(map(id, self.settled)) == Counter(id(job.delivery) for job in self.made)


@contextmanager
def started(dispatcher: Scripted) -> Iterator[Batcher]:
    batches = Batcher("topic", dispatcher)
    batches.start()
    try:
        yield batches
    finally:
        batches.stop()
        batches.join(time.monotonic() + 60)
        assert "batcher-topic" not in [thread.name for thread in threading.enumerate()]


def test_a_full_batch_goes_at_once_and_another_when_it_has_waited() -> None:
    """A full batch is dispatched at once and an incomplete one after its wait, for each consumer; other jobs pass."""
    dispatcher, deliveries = Scripted(), Deliveries()
    full, slow, plain = consumer(batch_wait=3600), consumer(name="g", batch_wait=0.2), consumer(batch=None, name="h")
    with started(dispatcher) as batches:
        batches.dispatch([deliveries.job(one) for one in (full, slow, plain, full, full, full)])
        # A batch is taken a moment before it is settled.
        wait_until(lambda: len(deliveries.settled) == 5, what="the batches")
        assert isinstance(dispatcher.taken[0], Job)
        assert {work.consumer: len(work.jobs) for work in dispatcher.taken[1:]} == {full: 3, slow: 1}
        assert len(dispatcher.taken) == 3
    deliveries.check_each_was_settled_once()
    assert [delivery.settlement for delivery in deliveries.settled] == [Settlement.ACKNOWLEDGE] * 5 + [
        Settlement.RELEASE
    ]


def test_a_full_batch_needs_no_other_thread() -> None:
    """The thread that adds the last event dispatches the batch; the batcher's own thread retries a failure."""
    dispatcher, deliveries = Scripted([False, True]), Deliveries()
    one = consumer(batch_wait=3600)
    with started(dispatcher) as batches:
        batches.dispatch([deliveries.job(one) for _ in range(4)])
        assert dispatcher.sizes() == [3]
        batches.dispatch([deliveries.job(one) for _ in range(2)])
        wait_until(lambda: batches.ready(frozenset(), 1.0), what="the second try")
        assert dispatcher.sizes() == [3, 3]
    deliveries.check_each_was_settled_once()


def test_a_poller_that_dispatches_a_batch_ends_the_back_off_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that a poller dispatches ends the thread's back-off."""
    monkeypatch.setattr(Backoff, "failed", lambda self: 3600.0)
    dispatcher, deliveries = Scripted(), Deliveries()
    dispatcher.down = True
    soon, full = consumer(batch_wait=0.05, name="soon"), consumer(batch_wait=3600, name="full")
    with started(dispatcher) as batches:
        batches.dispatch([deliveries.job(soon)])
        wait_until(lambda: batches.ready(frozenset(), 0.0) is Readiness.BATCH_FAILING, what="the first try")
        dispatcher.down = False
        batches.dispatch([deliveries.job(full) for _ in range(3)])
        assert dispatcher.sizes() == [1, 3]
        batches.dispatch([deliveries.job(soon)])
        wait_until(lambda: dispatcher.sizes() == [1, 3, 1], what="what has waited")
    deliveries.check_each_was_settled_once()


def test_a_fault_is_no_hot_loop(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """After an unexpected error the batch is released, with a growing back-off for its poller."""
    waited: list[bool] = []
    monkeypatch.setattr(Backoff, "failed", lambda self: waited.append(True) or 0.0)
    dispatcher, deliveries = Scripted(), Deliveries()
    dispatcher.broken = True
    with started(dispatcher) as batches:
        for count in (1, 2):
            batches.dispatch([deliveries.job(consumer(batch=1))])
            assert len(waited) == len(deliveries.settled) == count
        batches.dispatch([deliveries.job(consumer(batch_wait=0))])
        wait_until(lambda: len(waited) == 3, what="the thread")
    assert all(delivery.settlement is Settlement.RELEASE for delivery in deliveries.settled)
    assert caplog.text.count("unexpected error while dispatching batches of topic") == 3
    deliveries.check_each_was_settled_once()


def test_an_outage_does_not_end_because_there_is_nothing_to_dispatch(caplog: pytest.LogCaptureFixture) -> None:
    """An outage of the dispatcher ends only when it takes a batch."""
    caplog.set_level("INFO")
    now = 100.0
    dispatcher, deliveries = Scripted(), Deliveries()
    batches = Batcher("topic", dispatcher, clock=lambda: now)
    one = consumer(batch_wait=60)

    # Given an outage of which no batch is left, as the messages of an unexpected error are released
    dispatcher.broken = True
    batches.dispatch([deliveries.job(one)])
    now += 60
    batches.dispatch_due()
    assert "dispatching batches of topic failed" in caplog.text
    dispatcher.broken = False

    # When there is nothing to dispatch, then it lasts
    assert batches.dispatch_due() == 0.0
    assert "works again" not in caplog.text

    # When a batch is dispatched, then it ends
    batches.dispatch([deliveries.job(one)])
    now += 60
    assert batches.dispatch_due() == 0.0
    assert "dispatching batches of topic works again" in caplog.text


def test_a_batch_is_dispatched_when_its_oldest_event_has_waited_long_enough() -> None:
    """A batch is dispatched when its oldest event has waited long enough, by the clock."""
    now = 100.0
    dispatcher, deliveries = Scripted(), Deliveries()
    batches = Batcher("topic", dispatcher, clock=lambda: now)
    one, other = consumer(batch_wait=60, name="one"), consumer(batch_wait=90, name="other")
    batches.dispatch([deliveries.job(one), deliveries.job(other)])

    now = 159.9
    batches.dispatch([deliveries.job(one)])
    assert batches.dispatch_due() == 0.0
    assert dispatcher.sizes() == []
    now = 160.0
    batches.dispatch_due()
    assert dispatcher.sizes() == [2]
    now = 190.0
    batches.dispatch_due()
    assert dispatcher.sizes() == [2, 1]
    deliveries.check_each_was_settled_once()


def test_a_batch_that_fails_after_the_stop_is_released() -> None:
    """A batch whose dispatch fails after the stop is released."""
    dispatching, proceed = threading.Event(), threading.Event()

    class Slow(Scripted):
        def dispatch(self, jobs: Sequence[Work]) -> None:
            dispatching.set()
            assert proceed.wait(60)
            raise DispatchError("down")

    # Given two full batches, the first of which is being dispatched
    deliveries = Deliveries()
    with started(Slow()) as batches:
        jobs = [deliveries.job(consumer(batch=1, name=name)) for name in ("one", "two")]
        poller = threading.Thread(target=batches.dispatch, args=(jobs,))
        poller.start()
        assert dispatching.wait(60)

        # When the batcher stops before the dispatcher fails
        batches.stop()
        proceed.set()
        poller.join(60)

        # Then both are released
        deliveries.check_each_was_settled_once()
        assert [delivery.settlement for delivery in deliveries.settled] == [Settlement.RELEASE] * 2


def test_a_batch_is_bounded_in_bytes() -> None:
    """A batch is limited in bytes; a larger event forms a batch by itself."""
    dispatcher, deliveries = Scripted(), Deliveries()
    batches = Batcher("topic", dispatcher)
    sizes = [MAX_BYTES // 2, MAX_BYTES // 2 - 2, 3, 2 * MAX_BYTES, 1]
    batches.dispatch([deliveries.job(consumer_of_all, "x" * size) for size in sizes])
    batches.dispatch([deliveries.job(consumer_of_all, "\u00e9" * (MAX_BYTES // 2))])
    batches.flush()
    assert dispatcher.sizes() == [2, 1, 1, 1, 1]
    deliveries.check_each_was_settled_once()


consumer_of_all = consumer(batch=100, batch_wait=3600)


def test_while_the_dispatcher_fails_nothing_more_is_wanted_and_nothing_lost() -> None:
    """While dispatching fails the batcher is not ready, and retries the batch until it is taken."""
    dispatcher, deliveries = Scripted(), Deliveries()
    dispatcher.down = True
    with started(dispatcher) as batches:
        assert batches.ready(frozenset(), 0.0)
        batches.dispatch([deliveries.job(consumer(batch=1))])
        assert not batches.ready(frozenset(), 0.05)
        dispatcher.down = False
        wait_until(lambda: batches.ready(frozenset(), 1.0), what="the dispatch")
    assert dispatcher.sizes() == [1]
    deliveries.check_each_was_settled_once()


def test_jobs_of_others_that_are_not_taken_leave_nothing_gathered() -> None:
    """If single jobs are not taken, no job of the receive is collected, because all come again."""
    dispatcher, deliveries = Scripted([True]), Deliveries()
    batches = Batcher("topic", dispatcher)
    jobs = [deliveries.job(consumer()), deliveries.job(consumer(batch=None))]
    with pytest.raises(DispatchError):
        batches.dispatch(jobs)
    batches.dispatch(jobs)
    batches.flush()
    assert dispatcher.sizes() == [1]
    deliveries.check_each_was_settled_once()


def test_after_a_stop_everything_goes_back() -> None:
    """After a stop the collected jobs are released, and so are those of a poll under way."""
    dispatcher, deliveries = Scripted(), Deliveries()
    with started(dispatcher) as batches:
        batches.dispatch([deliveries.job(consumer_of_all)])
        batches.stop()
        batches.dispatch([deliveries.job(consumer_of_all)])
    assert [delivery.settlement for delivery in deliveries.settled] == [Settlement.RELEASE, Settlement.RELEASE]
    deliveries.check_each_was_settled_once()
    assert dispatcher.taken == []


ARRIVALS = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, MAX_BYTES * 3 // 2)), max_size=10), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(ARRIVALS, st.lists(st.booleans(), max_size=8), st.booleans())
def test_whatever_comes_each_job_is_settled_once_and_no_batch_is_too_large(
    arrivals: list[list[tuple[int, int]]], script: list[bool], stopped: bool
) -> None:
    """Each job is settled once and no batch is too large, with failures in between and a stop at the end."""
    kinds = [consumer(batch=1), consumer(batch=4, batch_wait=3600), consumer(batch=100, batch_wait=0)]
    dispatcher, deliveries = Scripted(script), Deliveries()
    batches = Batcher("topic", dispatcher)
    for arrival in arrivals:
        batches.dispatch([deliveries.job(kinds[kind], "x" * size) for kind, size in arrival])
        try:
            batches.flush()
        except DispatchError:
            assert not batches.ready(frozenset(), 0.0)
    if stopped:
        batches.stop()
    else:
        dispatcher.failing.clear()
        batches.flush()
    deliveries.check_each_was_settled_once()
    for work in dispatcher.taken:
        assert isinstance(work, Batch)
        assert {job.consumer for job in work.jobs} == {work.consumer}
        assert len(work.jobs) <= (work.consumer.batch or 0)
        assert len(work.jobs) == 1 or sum(len(job.text) for job in work.jobs) <= MAX_BYTES
    for kind in kinds:
        taken = [job for work in dispatcher.taken if work.consumer is kind for job in work.jobs]
        assert stopped or Counter(map(id, taken)) == Counter(id(job) for job in deliveries.made if job.consumer is kind)


# In an engine of a script


@contextmanager
def running(wanted: Consumer, queues: dict[str, ObservedQueue]) -> Iterator[Engine]:
    hub = ConsumerHub()
    hub.add_consumer(wanted)
    engine = Engine(hub, queues.__getitem__, linger=0.0)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join(60)
        assert not thread.is_alive()


def test_a_script_gets_more_than_one_receive_in_a_call() -> None:
    """In a script a batch has the events of several receives, the rest comes after the wait, and all are deleted."""
    calls: list[list[str]] = []
    queue = ObservedQueue("topic", [event_text(f"e{number}") for number in range(27)])
    with running(
        consumer(lambda events: calls.append(ids(events)), batch=25, batch_wait=3),
        {"topic": queue, "topic-dead": ObservedQueue("topic-dead")},
    ):
        queue.wait_for(lambda: len(queue.deleted) == 27)
    assert calls == [[f"e{number}" for number in range(25)], ["e25", "e26"]]


def test_in_a_script_only_what_failed_is_a_dead_letter() -> None:
    """In a script only the failed events become dead letters, each with its reason."""
    dead, queue = ObservedQueue("topic-dead"), ObservedQueue("topic", [event_text("a"), event_text("b")])
    with running(consumer(lambda events: BatchFailure({"b": "no"}), batch=2), {"topic": queue, "topic-dead": dead}):
        queue.wait_for(lambda: len(queue.deleted) == 2)
    assert [(letter.body, mark_of(letter)["error"]) for letter in dead.sent] == [(event_text("b"), "no")]


def test_a_script_whose_function_raises_has_all_of_them_as_dead_letters() -> None:
    """In a script, an exception makes a dead letter of each event; without a queue for them their messages expire."""

    def fail(events: list[Any]) -> None:
        raise ValueError("x")

    dead, queue = ObservedQueue("topic-dead"), ObservedQueue("topic", [event_text("a"), event_text("b")])
    with running(consumer(fail, batch=2), {"topic": queue, "topic-dead": dead}):
        queue.wait_for(lambda: len(queue.deleted) == 2)
    assert [mark_of(letter)["error"] for letter in dead.sent] == ["ValueError('x')"] * 2


def test_a_stop_gives_back_what_is_gathered() -> None:
    """A stop in a script releases the collected events at once, and runs none."""
    queue = ObservedQueue("topic", [event_text("a"), event_text("b")])
    queues = {"topic": queue, "topic-dead": ObservedQueue("topic-dead")}
    with running(consumer(lambda events: 1 / 0, batch=100, batch_wait=3600), queues) as engine:
        wait_until(lambda: engine.stats.of("topic").get("dispatched") == 2)
    assert sorted(queue.released) == ["m1", "m2"]


# Its task


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on a broker in memory, of this test only."""
    app = Celery("batches", broker="memory://", set_as_current=False)
    app.conf.task_default_queue = f"batches-{id(app)}"
    yield app
    app.close()


@pytest.fixture
def dead() -> ObservedQueue:
    """The dead-letter queue."""
    return ObservedQueue("topic-dead")


def registered(app: Celery, dead: ObservedQueue, func: Any, **options: Any) -> BatchTask:
    letters = DeadLetters(lambda name: dead, "{topic}-dead")
    register_dead_letter_task(app, letters)
    task = register(app, consumer(func, options=options), ConsumerOperator(), "topic", letters, None)
    assert isinstance(task, BatchTask)
    return task


@contextmanager
def handed(task: BatchTask, events: list[str], retries: int = 0) -> Iterator[Any]:
    """Within an execution of *task* that was handed over."""
    properties = HandOffContext(time.monotonic() + 36_000).to_properties()
    context = Context(
        {"id": "i", "args": [events], "kwargs": {}, "properties": properties, "retries": retries}, called_directly=False
    )
    task.push_request(**vars(context))
    try:
        yield task.request
    finally:
        task.pop_request()


THREE = [event_text("a"), event_text("b"), event_text("c")]


def test_the_same_events_have_the_same_task_id() -> None:
    """The task id of a batch depends on its events, in any order."""
    assert batch_id(["a", "b"], "t") == batch_id(["b", "a"], "t") != batch_id(["a"], "t")
    assert len({batch_id(["a,b"], "t"), batch_id(["a", "b"], "t"), batch_id(["a", "b"], "u")}) == 3


def test_a_batch_is_shown_as_how_many_of_what() -> None:
    """The ``argsrepr`` of a batch has the number and types of its events, but no content."""
    events = [decode(event_text("a")), decode(event_text("b", "log", message="m", severity="info"))]
    assert batch_argsrepr(events, "t") == "(<Batch of 2 events cls_type=log,metrics topic=t first=a>,)"


def test_only_what_failed_is_retried_where_it_is(app: Celery, dead: ObservedQueue) -> None:
    """Only failed events are retried in the worker, which is told the remainder; Celery sees the original call."""
    task = registered(app, dead, lambda events: BatchFailure([0, "c"]), max_retries=1, default_retry_delay=7)
    with handed(task, THREE), pytest.raises(LocalRetry) as raised:
        task(THREE)
    retry = pickle.loads(pickle.dumps(raised.value))
    assert retry.remainder == Remainder([0, 2], "(<Batch of 2 events cls_type=metrics topic=topic first=a>,)")
    assert (retry.retries, retry.when, dead.sent) == (1, 7, [])


def test_if_all_of_them_failed_all_are_retried_where_they_are(app: Celery, dead: ObservedQueue) -> None:
    """If all events failed, all are retried in the worker, with the options of ``autoretry_for``."""
    task = registered(app, dead, lambda events: BatchFailure([0, 1, 2]), retry_backoff=9, retry_jitter=False)
    with handed(task, THREE, retries=1), pytest.raises(LocalRetry) as raised:
        task(THREE)
    assert (raised.value.remainder, raised.value.retries, raised.value.when) == (None, 2, 18)


def test_when_retries_are_exhausted_each_is_a_dead_letter(app: Celery, dead: ObservedQueue) -> None:
    """When retries are exhausted, each failed event becomes a dead letter, and no other."""
    task = registered(app, dead, lambda events: BatchFailure({1: "no", 2: ""}), max_retries=1)
    with (
        handed(task, THREE, retries=1),
        pytest.raises(BatchFailure, match=r"2 of the batch's events failed: b \(no\), c"),
    ):
        task(THREE)
    assert [letter.body for letter in dead.sent] == THREE[1:]
    assert mark_of(dead.sent[0])["error"] == "no"
    assert mark_of(dead.sent[0])["consumer"] == "proj.f"


def test_autoretry_for_does_not_retry_what_is_done(app: Celery, dead: ObservedQueue) -> None:
    """``autoretry_for=(Exception,)`` does not retry the events that are done."""
    task = registered(app, dead, lambda events: BatchFailure([1]), autoretry_for=(Exception,), max_retries=1)
    with handed(task, THREE), pytest.raises(LocalRetry) as raised:
        task(THREE)
    assert raised.value.remainder is not None
    assert raised.value.remainder.positions == [1]


def test_any_other_exception_is_that_of_all(app: Celery, dead: ObservedQueue) -> None:
    """Another exception retries all events if it is in ``autoretry_for``, else makes dead letters of all."""

    def fail(events: list[Any]) -> None:
        raise {"a": OSError, "b": ValueError}[events[0]["header"]["id"]]("x")

    task = registered(app, dead, fail, autoretry_for=(OSError,))
    with handed(task, THREE), pytest.raises(LocalRetry) as raised:
        task(THREE)
    assert raised.value.remainder is None
    assert not dead.sent
    with handed(task, THREE[1:]), pytest.raises(ValueError, match="x"):
        task(THREE[1:])
    assert [letter.body for letter in dead.sent] == THREE[1:]


def test_dead_letters_that_cannot_be_made_now_are_what_is_left(app: Celery, dead: ObservedQueue) -> None:
    """Dead letters that cannot be made now are the remainder of the retry; the function is not called again."""
    calls: list[int] = []

    def fail(events: list[Any]) -> None:
        calls.append(len(events))
        raise ValueError("x")

    def down_after_one(_: Any) -> None:
        if dead.sent:
            raise QueueError("down")

    dead.on["send"] = down_after_one
    task = registered(app, dead, fail)
    with handed(task, THREE), pytest.raises(LocalRetry) as raised:
        task(THREE)
    retry = raised.value
    assert retry.remainder is not None
    assert (retry.remainder.positions, retry.failure, [letter.body for letter in dead.sent]) == (
        [1, 2],
        "ValueError('x')",
        THREE[:1],
    )
    # Asked for once: each attempt may take as long as SQS's client tries.
    assert sum(what == "send" for what, _ in dead.calls) == 2
    del dead.on["send"]
    with handed(task, THREE[1:]) as request:
        request.properties.update(HandOffContext(failure=retry.failure).to_properties())
        with pytest.raises(Reject, match="ValueError"):
            task(THREE[1:])
    assert [letter.body for letter in dead.sent] == THREE
    assert calls == [3]


def test_without_a_place_to_wait_they_are_made_by_tasks_of_their_own(app: Celery, dead: ObservedQueue) -> None:
    """Where a task cannot wait, a task for each event makes the dead letters."""

    def down(_: Any) -> None:
        raise QueueError("down")

    dead.on["send"] = down
    task = registered(app, dead, lambda events: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        task(THREE)
    with app.connection_for_read() as connection:
        queue = app.amqp.queues[app.conf.task_default_queue](connection.default_channel)
        assert [queue.get(accept=["json"]).payload[0][0] for _ in THREE] == THREE


# In the harness


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The calls of ``shop_consumers.ship``."""
    calls: list[list[str]] = []
    monkeypatch.setattr(consumers, "shipped", calls)
    return calls


def test_the_harness_feeds_batches(calls: list[list[str]]) -> None:
    """The harness feeds the events of one call in batches, and retries only those that failed."""
    report = ConsumerHarness(consumers).feed(
        *(event_text(f"e{number}", "shipment", fails=int(number == 1)) for number in range(5))
    )
    assert calls == [["e0", "e1", "e2"], ["e1"], ["e3", "e4"]]
    first, second = report.of(consumers.ship)
    assert ([event.header.id for event in first.events], first.event, first.state) == (
        ["e0", "e1", "e2"],
        first.events[0],
        "SUCCESS",
    )
    assert (len(first.retries), len(second.retries)) == (1, 0)


def test_the_harness_tells_which_events_of_a_batch_are_dead_letters(calls: list[list[str]]) -> None:
    """The harness reports the dead letters of a batch, and raises the task's exception."""
    texts = [event_text(f"e{number}", "shipment", fails=9 * number) for number in range(2)]
    report = ConsumerHarness(consumers).feed(*texts, throw=False)
    assert [(letter.body, letter.error) for letter in report.dead_letters] == [(texts[1], "lost")]
    assert calls == [["e0", "e1"], ["e1"], ["e1"]]
    with pytest.raises(BatchFailure, match=r"1 of the batch's events failed: e1 \(lost\)"):
        ConsumerHarness(consumers).feed(*texts)


# Between the engine and its worker


def test_what_is_done_of_a_batch_is_acknowledged_while_the_rest_waits(app: Celery) -> None:
    """The finished events of a waiting batch are acknowledged, and a stop does not release them."""
    wanted = consumer()
    register(app, wanted, ConsumerOperator(), "topic", DeadLetters(lambda name: ObservedQueue(name), None), None)
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    far, deliveries = Channel(theirs), Deliveries()
    others = set(threading.enumerate())
    dispatcher = HandOffDispatcher(app, Channel(ours), PublishDispatcher(app, 1.0, 10))
    try:
        far.send(Open(10, [app.conf.task_default_queue]))
        assert dispatcher.ready(dispatcher.queues_of([wanted]), 5)
        dispatcher.dispatch([Batch(tuple(deliveries.job(wanted) for _ in range(4)))])
        (task,) = far.receive() or []
        assert isinstance(task, Task)
        assert (task.name, task.argument) == ("proj.f", [job.text for job in deliveries.made])
        assert task.argsrepr.startswith("(<Batch of 4 events")
        far.send(Remaining(task.number, [1, 3]), Waiting(task.number))
        wait_until(lambda: len(deliveries.settled) == 2)
        assert deliveries.settled == [deliveries.made[0].delivery, deliveries.made[2].delivery]
        far.send(Remaining(task.number, [1]))
        wait_until(lambda: len(deliveries.settled) == 3)
        far.close()
        wait_until(lambda: len(deliveries.settled) == 4)
        assert [delivery.settlement for delivery in deliveries.settled] == [
            Settlement.ACKNOWLEDGE,
            Settlement.ACKNOWLEDGE,
            Settlement.ACKNOWLEDGE,
            Settlement.RELEASE,
        ]
        assert deliveries.settled[3] is deliveries.made[3].delivery
    finally:
        dispatcher.close()
        for thread in set(threading.enumerate()) - others:
            thread.join(5)
