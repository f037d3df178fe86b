"""Poison messages, over queues that deliver again: they delay no other message for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.delivery import Job
from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.engine.engine import Engine
from balog_celery.engine.poison import PoisonMessages
from balog_celery.events.limits import MAX_TRIES
from balog_celery.events.records import FacilityRecord, decode
from balog_celery.sqs.messages import Message
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue
from servers import wait_until


class Redelivering(ObservedQueue):
    """A queue whose messages become visible again when the test says so.

    :param bodies: the messages with their groups.
    :param counts: whether it says how often a message was received.
    :param received: how often they were received before.
    """

    def __init__(self, name: str, *bodies: tuple[str, str], counts: bool = True, received: int = 0) -> None:
        super().__init__(name)
        self._counts = counts
        for body, group in bodies:
            self.put(body, group=group, receives=received)

    def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
        messages = super().receive(limit, wait, visibility)
        return messages if self._counts else [message._replace(receive_count=1) for message in messages]

    def expire(self) -> None:
        """Let all visibility timeouts end."""
        for name in self.in_flight():
            self.lapse(name)

    def receives(self) -> dict[str, int]:
        """Return how often each of the messages was received that were put into it."""
        return {name: message.receive_count for name, message in self._put.items()}

    def wait_until_empty(self) -> None:
        """Wait until all messages are deleted, letting their visibility timeouts end soon after each receive."""
        deadline = time.monotonic() + 60
        while self.remaining():
            assert time.monotonic() < deadline, self.remaining()
            threading.Event().wait(0.2)
            self.expire()


class Lenient:
    """A dispatcher that settles on demand, and fails with given events."""

    def __init__(self, *poison: str) -> None:
        self.poison = set(poison)
        self.taken: list[Job] = []
        self.tried: list[list[str]] = []
        self.settles = True

    def dispatch(self, jobs: Sequence[Job]) -> None:
        names = [job.event.header.id for job in jobs]
        self.tried.append(names)
        if self.poison.intersection(names):
            raise RuntimeError("a fault of ours")
        self.taken += jobs
        if self.settles:
            for job in jobs:
                job.acknowledge()

    @property
    def names(self) -> list[str]:
        return [job.event.header.id for job in self.taken]

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        pass

    def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
        return Readiness.READY

    def room(self) -> int:
        return 10

    def close(self) -> None:
        pass


def reader(body: str) -> list[FacilityRecord]:
    """A decoder that ends the thread at some bodies, as no decoder should."""
    if body.startswith("poison"):
        raise SystemExit(3)
    return [decode(body)]


@contextmanager
def running(
    queue: ObservedQueue, func: Any = print, *, dead: ObservedQueue | None = None, **options: Any
) -> Iterator[Engine]:
    """An engine that listens to *queue* for as long as the block runs, and puts dead letters into *dead*."""
    dead_name = "topic-dead.fifo" if queue.is_fifo else "topic-dead"
    dead = dead or ObservedQueue(dead_name)
    hub = ConsumerHub()
    hub.add_consumer(Consumer(func, queue.name, "metrics"))
    engine = Engine(hub, {queue.name: queue, dead_name: dead}.__getitem__, wait_time=1, linger=0.0, **options)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join(60)
        assert not thread.is_alive()


def good(*names: str, group: str = "") -> list[tuple[str, str]]:
    return [(event_text(name), group) for name in names]


@pytest.mark.parametrize("counts", [True, False])
def test_what_makes_the_engine_fail_is_a_dead_letter_in_the_end(counts: bool) -> None:
    """A poison message becomes a dead letter, and the messages of its receive are processed once."""
    queue = Redelivering("topic", *good("a"), ("poison", ""), *good("b"), counts=counts)
    dead, ran = ObservedQueue("topic-dead"), list[str]()
    with running(queue, lambda event: ran.append(event["header"]["id"]), dead=dead, decoders={"topic": reader}):
        queue.wait_until_empty()
    assert ran == ["a", "b"]
    (letter,) = dead.sent
    assert (letter.body, mark_of(letter)["reason"]) == ("poison", "fault")
    assert mark_of(letter)["error"] == "the engine failed with it 3 times or more: its log has the errors"
    assert queue.receives() == {"m1": 1, "m2": MAX_TRIES, "m3": 1}


def test_what_the_queue_has_counted_counts() -> None:
    """Receives that the queue has counted count as tries, also those of another engine."""
    queue = Redelivering("topic", ("poison", ""), received=MAX_TRIES - 1)
    dead = ObservedQueue("topic-dead")
    with running(queue, dead=dead, decoders={"topic": reader}) as engine:
        queue.wait_until_empty()
    assert (queue.receives()["m1"], engine.stats.of("topic")["faults"]) == (MAX_TRIES, 1)
    assert [letter.body for letter in dead.sent] == ["poison"]


def test_without_a_dead_letter_queue_it_stays_for_the_redrive_policy() -> None:
    """Without a dead-letter queue a poison message expires, so a redrive policy can move it."""
    queue = Redelivering("topic", ("poison", ""), *good("a"))
    dead = ObservedQueue("topic-dead")
    dead.drop()
    with running(queue, dead=dead, decoders={"topic": reader}) as engine:
        for receives in range(1, MAX_TRIES + 3):
            wait_until(lambda receives=receives: queue.receives()["m1"] == receives, 60, "the next receive")  # type: ignore[misc]
            wait_until(lambda: engine.status()["topics"]["topic"]["in_flight"] == 0, 60, "its end")
            assert queue.in_flight() == ["m1"]
            queue.expire()
        assert queue.remaining() == ["m1"]
        assert queue.released == []
    assert engine.stats.of("topic")["faults"] == MAX_TRIES


def test_a_dead_letter_that_cannot_be_made_is_tried_again() -> None:
    """A failing dead letter of a poison message is retried without delaying the other messages."""
    queue = Redelivering("topic", ("poison", ""), *good("a"), received=MAX_TRIES - 1)
    dead = ObservedQueue("topic-dead")
    problems: list[Exception] = [RuntimeError("no"), RuntimeError("no")]

    def send(_: Any) -> None:
        if problems:
            raise problems.pop()

    dead.on["send"] = send
    with running(queue, dead=dead, decoders={"topic": reader}):
        queue.wait_until_empty()
    assert [letter.body for letter in dead.sent] == ["poison"]
    assert queue.receives() == {"m1": MAX_TRIES + 2, "m2": MAX_TRIES}


def test_a_fifo_group_goes_on_after_it_and_others_do_not_wait() -> None:
    """After a poison message its FIFO group goes on in order, and good messages of its receive are processed."""
    queue = Redelivering(
        "topic.fifo", *good("a1", group="A"), ("poison", "A"), *good("a3", group="A"), *good("b1", "b2", group="B")
    )
    dead, ran = ObservedQueue("topic-dead.fifo"), list[str]()
    record = {"topic.fifo": reader}
    with running(queue, lambda event: ran.append(event["header"]["id"]), dead=dead, decoders=record) as engine:
        wait_until(lambda: ran[-1:] == ["b2"] or "b2" in ran, 60, "the other group")
        assert "a3" not in ran
        for tries in range(1, MAX_TRIES):
            wait_until(lambda tries=tries: engine.stats.of("topic.fifo").get("faults") == tries, 60, "a try")  # type: ignore[misc]
            wait_until(lambda: "m3" in queue.released[-1:], 60, "what is behind it")
            queue.expire()
        queue.wait_until_empty()
    assert [name for name in ran if name[0] == "a"] == ["a1", "a3"]
    assert [name for name in ran if name[0] == "b"] == ["b1", "b2"]
    assert [letter.body for letter in dead.sent] == ["poison"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("topic", ["topic", "topic.fifo"])
def test_a_function_that_ends_the_thread_holds_up_nobody_else(topic: str) -> None:
    """A function that ends the thread delays neither the other messages of its receive nor the rejected ones."""
    bodies = [(event_text("exits"), "A"), *good("b1", group="B"), ("not json", "C"), (event_text("d", "other"), "D")]
    queue = Redelivering(topic, *bodies)
    dead, ran = ObservedQueue(), list[str]()

    def process(event: dict[str, Any]) -> None:
        if event["header"]["id"] == "exits":
            raise SystemExit(3)
        ran.append(event["header"]["id"])

    with running(queue, process, dead=dead) as engine:
        wait_until(lambda: len(queue.deleted) == 3, 60, "the others")

        def faults() -> int:
            return engine.stats.of(topic)["faults"]

        while queue.remaining():
            before = faults()
            queue.expire()
            wait_until(lambda before=before: not queue.remaining() or faults() > before, 60, "another try")  # type: ignore[misc]
    assert ran == ["b1"]
    assert {mark_of(letter)["reason"] for letter in dead.sent} == {"undecodable", "fault"}
    assert len(dead.sent) == 2


def test_of_several_that_are_dispatched_together_only_one_is_to_blame() -> None:
    """Of several messages that fail together only the culprit becomes a dead letter."""
    names = [f"e{number}" for number in range(10)]
    queue = Redelivering("topic", *good(*names), received=7)
    dead, dispatcher = ObservedQueue("topic-dead"), Lenient("e4")
    with running(queue, dead=dead, dispatcher=dispatcher):
        queue.wait_until_empty()
    assert sorted(dispatcher.names) == [name for name in names if name != "e4"]
    assert [letter.body for letter in dead.sent] == [event_text("e4")]
    assert dispatcher.tried.count(["e4"]) == MAX_TRIES


def test_what_is_under_way_is_not_given_back_for_another_groups_fault() -> None:
    """Messages that are dispatched are not released because of a fault in another group."""
    queue = Redelivering("topic.fifo", *good("a1", group="A"), *good("b1", group="B"))
    dispatcher = Lenient("b1")
    dispatcher.settles = False
    with running(queue, dispatcher=dispatcher):
        wait_until(lambda: dispatcher.names == ["a1"], 60, "the good one")
        queue.wait_for(lambda: queue.released.count("m1") == 1 and queue.released.count("m2") >= 1)
        wait_until(lambda: dispatcher.tried.count(["b1"]) == 1, 60, "the bad one")
        (job,) = dispatcher.taken
        job.acknowledge()
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert queue.released.count("m1") == 1


def leave(event: dict[str, Any]) -> None:
    """A handler that ends the thread."""
    raise SystemExit(3)


def test_a_fault_with_what_nobody_wants_holds_up_nobody() -> None:
    """A fault with an unmatched event does not end the thread, and the message becomes a dead letter."""
    queue = Redelivering("topic", (event_text("u", "other"), ""), ("not json", ""))
    dead = ObservedQueue("topic-dead")
    with running(queue, dead=dead, default_event_handler=leave) as engine:
        queue.wait_until_empty()
    assert [mark_of(letter)["reason"] for letter in dead.sent] == ["undecodable", "fault"]
    assert "restarted" not in engine.stats.of("topic")


def test_a_fault_with_what_nobody_wants_of_several_ends_as_a_dead_letter_too() -> None:
    """A repeated fault with one unmatched event of several makes a dead letter of the message."""
    queue = Redelivering("topic", ("two", ""))
    dead, ran = ObservedQueue("topic-dead"), list[str]()

    def two(body: str) -> list[FacilityRecord]:
        return [decode(event_text("wanted")), decode(event_text("unwanted", "other"))]

    with running(
        queue,
        lambda event: ran.append(event["header"]["id"]),
        dead=dead,
        decoders={"topic": two},
        default_event_handler=leave,
    ):
        queue.wait_until_empty()
    assert ran == ["wanted"] * MAX_TRIES
    assert [(letter.body, mark_of(letter)["reason"]) for letter in dead.sent] == [("two", "fault")]


def test_only_the_last_messages_are_remembered() -> None:
    """Only the latest suspect messages are remembered."""
    poison = PoisonMessages()
    for number in range(10_001):
        poison.suspect(str(number))
    assert "0" not in poison
    assert poison["10000"] == 0
    assert [poison.failed("x"), poison.failed("x"), poison["x"]] == [1, 2, 2]
