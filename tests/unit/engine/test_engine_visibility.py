"""Visibility in the engine: the timeout of each receive, the messages in flight, and messages that come again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.dispatch.dispatcher import Readiness
from balog_celery.engine.engine import Engine
from balog_celery.errors import ConfigurationError, QueueError
from balog_celery.sqs.messages import Message
from engines import Queues, Recorder, ScriptedDispatcher, hub_of, running
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until


@pytest.fixture
def queues() -> Queues:
    """The topic ``topic``, and no dead-letter queue."""
    return Queues(topic=ObservedQueue())


@pytest.fixture(params=["topic", "topic.fifo"])
def queue(request: pytest.FixtureRequest) -> ObservedQueue:
    """A standard queue, and a FIFO queue."""
    queue = ObservedQueue(request.param)
    queue.configure(VisibilityTimeout="2")
    return queue


def listening(queue: ObservedQueue, func: Callable[..., Any], **options: Any) -> Engine:
    """An engine with one consumer of *queue*, for log events if *options* do not say otherwise."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(func, queue.name, cls_type=options.pop("cls_type", None)))
    queues = Queues({queue.name: queue})
    dead = queue.name.replace("topic", "topic-dead")
    queues[dead] = options.pop("dead", ObservedQueue(dead))
    return Engine(hub, queues.__getitem__, linger=0.0, **options)


def put(queue: ObservedQueue, *bodies: str) -> None:
    """Put messages into *queue*, each in a group of its own."""
    for number, body in enumerate(bodies):
        queue.put(body, group=f"g{number}")


def state(engine: Engine, topic: str = "topic") -> dict[str, Any]:
    """Return the status of *topic* as soon as *engine* has one."""
    return dict(wait_until(lambda: engine.status()["topics"].get(topic), what="the topic"))


# The number


@pytest.mark.parametrize(
    ("setting", "own", "number"),
    [(None, "77", 77), (45, "77", 45), (None, "0", 30), (None, "1", 30), (43_200, "0", 43_200)],
)
def test_what_the_engine_counts_with_is_asked_for_with_each_receive(
    queues: Queues, setting: int | None, own: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each receive asks for the visibility timeout that the engine assumes.

    An unusable queue setting is logged once.
    """
    queue = queues["topic"]
    queue.configure(VisibilityTimeout=own)
    queue.put(event_text())
    with running(
        Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, visibility_timeout=setting)
    ) as engine:
        queue.wait_for(lambda: queue.deleted == ["m1"])
        assert queue.visibility == number
        assert state(engine)["visibility"] == number
    said = [record.message for record in caplog.records if "its VisibilityTimeout is" in record.message]
    expected = f"queue topic: its VisibilityTimeout is {own}, so its messages are received with one of 30 s"
    assert said == ([expected] if number == 30 else [])


def test_a_queue_that_cannot_be_asked_at_start_is_received_from_with_what_is_assumed(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue whose attributes cannot be read at start is received from with the default visibility timeout."""
    queue = queues["topic"]

    def down(_: object) -> None:
        raise QueueError("down")

    queue.on["attributes"] = down
    queue.put(event_text())
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0)):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert queue.visibility == 30
    assert "until they are, its messages are received with a visibility timeout of 30 s" in caplog.text


@pytest.mark.parametrize("number", [0, 1])
def test_a_visibility_that_cannot_be_extended_in_time_is_refused(queues: Queues, number: int) -> None:
    """A visibility timeout that is too short to be extended is refused."""
    with pytest.raises(ConfigurationError, match=f"visibility_timeout is {number} s"):
        Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, visibility_timeout=number)


# Held from the receive


def extended_while(queue: ObservedQueue, held: set[str]) -> Callable[..., None]:
    """Return a function that takes as long as until all of *held* were extended twice."""

    def take_long(*_: Any) -> None:
        queue.wait_for(lambda: all(queue.extended.count(handle) >= 2 for handle in held))

    return take_long


def test_all_of_a_receive_stays_invisible_while_the_default_event_handler_runs(queue: ObservedQueue) -> None:
    """All messages of a receive are extended while the default event handler runs."""
    put(queue, *[event_text(str(number)) for number in range(6)])
    handler = extended_while(queue, {f"m{number}" for number in range(2, 7)})
    once = threading.Event()
    engine = listening(
        queue,
        Recorder().process,
        cls_type="log",
        default_event_handler=lambda _: once.is_set() or once.set() or handler(),
    )
    with running(engine):
        queue.wait_for(lambda: len(queue.deleted) == 6, 60)


def test_all_of_a_receive_stays_invisible_while_a_dead_letter_is_sent(queue: ObservedQueue) -> None:
    """All messages of a receive are extended while a dead letter is sent slowly."""
    put(queue, "bad", "worse", "worst")
    dead = ObservedQueue(queue.name.replace("topic", "topic-dead"))
    slow = [extended_while(queue, {"m1", "m2", "m3"})]
    dead.on["send"] = lambda letters: slow.pop()() if slow else None
    with running(listening(queue, Recorder().process, dead=dead)):
        queue.wait_for(lambda: len(queue.deleted) == 3, 60)


def test_what_is_left_to_the_queue_is_held_no_longer(queue: ObservedQueue) -> None:
    """An expired message is not extended and does not count as in flight."""
    put(queue, "bad")
    dead = ObservedQueue(queue.name.replace("topic", "topic-dead"), exists=False)
    with running(listening(queue, Recorder().process, dead=dead)) as engine:
        wait_until(lambda: engine.stats.of(queue.name).get("undecodable") == 1)
        wait_until(lambda: state(engine, queue.name)["in_flight"] == 0)
    assert (queue.deleted, queue.released) == ([], [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_leaves_a_thread_settles_all_of_the_receive(queue: ObservedQueue) -> None:
    """When an exception ends a thread, unfinished messages of the receive are released, and other groups go on."""
    # Given a receive of an event whose consumer leaves the thread, one that nobody wants, and one without an event
    bodies = [event_text("a"), event_text("b", "log", message="m", severity="info"), "not json"]
    put(queue, *bodies)
    leaves = [SystemExit(3)]
    ran: list[str] = []

    def process(event: dict[str, Any]) -> None:
        if leaves:
            raise leaves.pop()
        ran.append(event["header"]["id"])

    with running(listening(queue, process, cls_type="metrics")) as engine:
        # When it does
        queue.wait_for(lambda: len(queue.released) + len(queue.deleted) >= 3)
        # Then what comes again is processed, and nothing is in flight
        queue.wait_for(lambda: {"m1", "m2", "m3"} == set(queue.deleted), 60)
        assert "m1" in queue.released
        wait_until(lambda: state(engine, queue.name)["in_flight"] == 0)
    assert ran == ["a"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_event_that_is_dispatched_is_not_released_because_another_is_trouble(queue: ObservedQueue) -> None:
    """A dispatched event is not released because of a fault with another message of its receive."""
    put(queue, event_text("a"), event_text("b", "log", message="m", severity="info"), "not json")
    dispatcher = ScriptedDispatcher()

    def leave(_: Any) -> None:
        raise SystemExit(3)

    engine = listening(
        queue, Recorder().process, cls_type="metrics", dispatcher=dispatcher, default_event_handler=leave
    )
    with running(engine):
        wait_until(lambda: engine.stats.of(queue.name).get("faults") == 1)
        assert "m1" not in queue.released
        dispatcher.taken[0].acknowledge()
        queue.wait_for(lambda: "m1" in queue.deleted)
    assert "m1" not in queue.released


# What comes again


def test_what_is_in_flight_is_not_dispatched_again(queue: ObservedQueue, caplog: pytest.LogCaptureFixture) -> None:
    """A message in flight is not dispatched again by any poller, and is deleted once, by its last handle."""
    dispatcher = ScriptedDispatcher()
    queue.put(event_text("a"), name="a", group="a")
    with running(listening(queue, Recorder().process, dispatcher=dispatcher, pollers=3)) as engine:
        wait_until(lambda: len(dispatcher.taken) == 1)
        for times in (1, 2):
            queue.lapse("a")
            wait_until(lambda: engine.stats.of(queue.name).get("received_again", 0) >= times)  # noqa: B023
        queue.put(event_text("b"), name="other", group="other")
        wait_until(lambda: len(dispatcher.taken) == 2)
        assert state(engine, queue.name)["in_flight"] == 2
        for job in dispatcher.taken:
            job.acknowledge()
        queue.wait_for(lambda: len(queue.deleted) == 2)
        wait_until(lambda: state(engine, queue.name)["in_flight"] == 0)
    assert sorted(queue.deleted) == ["a", "other"]
    assert caplog.text.count("came again while in flight") == 1


def test_an_event_of_a_batch_that_comes_again_is_in_it_once() -> None:
    """A collected event of a batch that is received again is in the batch once."""
    queue = ObservedQueue()
    sizes: list[int] = []
    hub = ConsumerHub()
    hub.add_consumer(Consumer(lambda events: sizes.append(len(events)), "topic", batch=2, batch_wait=3600))
    queue.put(event_text("a"))
    with running(Engine(hub, Queues(topic=queue).__getitem__)) as engine:
        queue.wait_for(lambda: queue.in_flight() == ["m1"])
        queue.lapse("m1")
        wait_until(lambda: engine.stats.of("topic").get("received_again") == 1)
        queue.put(event_text("b"))
        queue.wait_for(lambda: sorted(queue.deleted) == ["m1", "m2"])
    assert sizes == [2]


def test_two_messages_that_share_an_id_are_two_where_ids_say_nothing() -> None:
    """Without unique ids two messages with one id are both dispatched."""

    class OneId(ObservedQueue):
        """Gives all messages one id, as some brokers give them none."""

        has_unique_ids = False

        def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
            return [one._replace(message_id="same") for one in super().receive(limit, wait, visibility)]

    queue, recorder = OneId("topic", [event_text("a"), event_text("b")]), Recorder()
    with running(Engine(hub_of(recorder.process), Queues(topic=queue).__getitem__)):
        queue.wait_for(lambda: sorted(queue.deleted) == ["m1", "m2"])
    assert recorder.ids == ["a", "b"]


# Stopping


def test_what_is_pending_when_the_drain_is_over_is_still_deleted(queues: Queues) -> None:
    """Deletes that are pending when the drain ends are still made."""
    # Given an engine that drains for no time, and a slow delete
    queue = queues["topic"]
    queue.put(event_text())
    queue.on["delete"] = lambda _handles: time.sleep(0.5)
    dispatcher = ScriptedDispatcher()
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher, drain=0)):
        queue.wait_for(lambda: len(dispatcher.taken) == 1)
        # When a job is done just before the stop
        dispatcher.taken[0].acknowledge()
    # Then its message is deleted, and not released
    assert (queue.deleted, queue.released) == (["m1"], [])


def test_a_stop_waits_out_no_back_off_of_anything(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop does not wait for a back-off of a poll, a dispatch or a delete; unfinished messages are released."""
    monkeypatch.setattr("balog_celery.backoff.Backoff.failed", lambda self: 3600.0)
    hub = hub_of(Recorder().process)
    hub.add_consumer(Consumer(Recorder().process, "other", name="other"))
    queue, other = queues["topic"], queues["other"]
    queue.put(event_text())

    def down(_: object) -> None:
        raise QueueError("down")

    other.on["receive"] = down
    dispatcher = ScriptedDispatcher(failures=1_000_000)
    begin = time.monotonic()
    with running(Engine(hub, queues.__getitem__, linger=0.0, dispatcher=dispatcher, drain=60)):
        assert dispatcher.called.wait(60)
        other.wait_for(lambda: ("receive", 10) in other.calls)
    assert queue.released == ["m1"]
    assert time.monotonic() - begin < 30


# Trouble that health tells


def test_a_pause_tells_its_reason(queues: Queues) -> None:
    """The status of a paused poller has the reason and the duration, until it polls again."""

    class Closed(ScriptedDispatcher):
        readiness = Readiness.WORKER_CLOSED

        def ready(self, queues: frozenset[str], timeout: float) -> Readiness:
            time.sleep(0.01)
            return self.readiness

    dispatcher = Closed()
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher)) as engine:
        wait_until(lambda: state(engine)["doing"] == "paused")
        wait_until(lambda: state(engine)["doing_for"] > 0.2)
        assert state(engine)["reason"] == Readiness.WORKER_CLOSED.value
        assert not state(engine)["back_pressure"]
        # Another reason of its kind does not make it a new pause.
        dispatcher.readiness = Readiness.BROKER_DOWN
        wait_until(lambda: state(engine)["reason"] == Readiness.BROKER_DOWN.value)
        assert state(engine)["doing_for"] > 0.2
        dispatcher.readiness = Readiness.WORKER_FULL
        wait_until(lambda: state(engine)["back_pressure"])
        dispatcher.readiness = Readiness.READY
        wait_until(lambda: state(engine)["doing"] == "polling")
        assert state(engine)["reason"] == ""


def test_deletes_that_pile_up_pause_their_topic_for_that_reason(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poller pauses while too many deletes are pending, and the status has their error."""
    monkeypatch.setattr("balog_celery.engine.poller.MAX_PENDING", 5)
    queue = queues["topic"]
    queue.put(*(event_text(str(number)) for number in range(10)))

    def down(_: object) -> None:
        raise QueueError("no sqs:DeleteMessage")

    queue.on["delete"] = down
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, drain=0)) as engine:
        wait_until(lambda: state(engine)["reason"] == "more than 5 deletes are pending")
        now = state(engine)
        assert not now["back_pressure"]
        assert now["outages"]["delete"]["error"] == "no sqs:DeleteMessage"
        queue.on.clear()
        queue.wait_for(lambda: len(queue.deleted) == 10)


def test_dispatches_that_fail_are_an_outage(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """Failing dispatches are an outage until one succeeds."""
    caplog.set_level(logging.INFO)
    queue = queues["topic"]
    queue.put(event_text())
    dispatcher = ScriptedDispatcher(failures=1_000_000)
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher)) as engine:
        wait_until(lambda: "dispatch" in state(engine)["outages"])
        dispatcher.failures = 0
        wait_until(lambda: len(dispatcher.taken) == 1)
        wait_until(lambda: state(engine)["outages"] == {})
        dispatcher.taken[0].acknowledge()
    assert caplog.text.count("topic: dispatching failed, retrying") == 1
    assert caplog.text.count("topic: dispatching works again") == 1


def test_a_queue_that_answers_empty_at_once_is_not_asked_all_the_time(queue: ObservedQueue) -> None:
    """A server that answers an empty queue at once is not polled in a busy loop."""
    queue.store.longest_poll = 0.0
    with running(listening(queue, Recorder().process)):
        queue.wait_for(lambda: len(queue.calls) > 1)
        threading.Event().wait(1.0)
        assert len(queue.calls_of("receive")) <= 15
