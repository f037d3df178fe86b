"""The visibility timeout has one owner: the number sent with each receive is the one that is counted with."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from balog_celery.consumers.delivery import Delivery
from balog_celery.engine import visibility as visibility_module
from balog_celery.engine.engine import Engine
from balog_celery.engine.stats import TopicStats
from balog_celery.engine.visibility import CAPACITY, VisibilityExtender
from balog_celery.engine.visibility_timeout import READ_INTERVAL, VisibilityTimeout
from balog_celery.errors import QueueError
from balog_celery.sqs.messages import MAX_VISIBILITY, EntryFailure, OutgoingMessage
from engines import Queues, Recorder, ScriptedDispatcher, engine_over_http, hub_of, running
from sample_events import event_text
from scripted_sqs.clock import StoppedClock
from scripted_sqs.observed import ObservedQueue
from scripted_sqs.script import Fault
from scripted_sqs.server import serving_sqs
from servers import wait_until


def down(_: object) -> None:
    raise QueueError("down", "ServiceUnavailable")


def own(queue: ObservedQueue, seconds: str) -> None:
    queue.configure(VisibilityTimeout=seconds)


# The number


def test_a_change_by_an_operator_applies_to_receives_a_minute_later(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and asking costs one call a minute."""
    caplog.set_level("INFO")
    clock = StoppedClock()
    queue = ObservedQueue(clock=clock)
    own(queue, "60")
    visibility = VisibilityTimeout(queue, None, clock=clock.now)
    visibility.update()
    own(queue, "4")
    for _ in range(10):
        clock.advance(READ_INTERVAL / 10 - 0.001)
        visibility.update()
    assert visibility.seconds == 60
    clock.advance(1)
    visibility.update()
    assert visibility.seconds == 4
    assert [name for name, _ in queue.calls] == ["attributes"] * 2
    assert "queue topic: its VisibilityTimeout is 4, so its messages are received with one of 4 s" in caplog.text


@pytest.mark.parametrize("own_number", ["0", "1"])
def test_a_change_to_a_number_that_cannot_be_extended_gives_30_s(own_number: str) -> None:
    """An extension by 0 s would be a release."""
    queue = ObservedQueue()
    own(queue, own_number)
    visibility = VisibilityTimeout(queue, None)
    visibility.update()
    assert visibility.seconds == 30


@pytest.mark.parametrize("answer", ["down", "nonsense"])
def test_a_failure_keeps_the_number_and_is_retried_within_the_interval(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails: the receives go on."""
    caplog.set_level("INFO")
    clock = StoppedClock()
    queue = ObservedQueue(clock=clock)
    own(queue, "77")
    visibility = VisibilityTimeout(queue, None, clock=clock.now)
    visibility.update()
    if answer == "down":
        queue.on["attributes"] = down
    else:
        answer_bytes = b'{"Attributes": {"VisibilityTimeout": "soon"}}'
        queue.script.add(Fault("GetQueueAttributes", answer=answer_bytes, times=None))
    own(queue, "50")
    for _ in range(5):
        clock.advance(READ_INTERVAL)
        visibility.update()
    assert visibility.seconds == 77
    queue.on.clear()
    queue.script.release()
    clock.advance(READ_INTERVAL)
    visibility.update()
    assert visibility.seconds == 50
    assert caplog.text.count("reading the visibility timeout of topic failed, retrying") == 1
    assert "reading the visibility timeout of topic works again" in caplog.text


def test_a_setting_is_the_number_whatever_the_queue_says() -> None:
    """And the queue is not asked."""
    queue = ObservedQueue()
    own(queue, "77")
    visibility = VisibilityTimeout(queue, 45)
    visibility.update()
    assert (visibility.seconds, queue.calls) == (45, [])


def test_a_queue_that_could_not_be_asked_at_start_is_asked_again() -> None:
    """Its number then applies, without a restart."""
    queues = Queues(topic=ObservedQueue())
    queue = queues["topic"]
    own(queue, "4")
    failures = iter([down])
    queue.on["attributes"] = lambda argument: next(failures, lambda _: None)(argument)
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0)) as engine:
        queue.wait_for(lambda: queue.visibility == 4)
        assert engine.status()["topics"]["topic"]["visibility"] == 4


def test_messages_are_extended_in_time_whichever_receive_they_came_with() -> None:
    """A receive that began before the number rose has the smaller one."""
    clock = StoppedClock()
    queue = ObservedQueue(clock=clock)
    own(queue, "6")
    visibility = VisibilityTimeout(queue, None, clock=clock.now)
    visibility.update()
    extender = VisibilityExtender(queue, visibility, TopicStats(), clock=clock.now)
    asked = visibility.seconds
    own(queue, "600")
    clock.advance(READ_INTERVAL)
    visibility.update()
    queue.put("body")
    extender.hold([Delivery(queue.take("m1", asked), 1, lambda _: None)], asked)
    due = extender.extend_due()
    assert due == clock.now() + 2
    clock.move_to(due)
    extender.extend_due()
    assert queue.extended == ["m1"]


def test_an_extension_never_asks_beyond_the_12_hours_however_slow_the_calls_before_it() -> None:
    """SQS refuses one that does, and the message would count as lost."""
    clock = StoppedClock()
    answers: list[list[EntryFailure]] = []

    class Slow(ObservedQueue):
        def change_visibility(self, handles: Any, seconds: int) -> list[EntryFailure]:
            answers.append(super().change_visibility(handles, seconds))
            clock.advance(3)
            return answers[-1]

    queue, start = Slow(clock=clock), clock.now()
    extender = VisibilityExtender(queue, VisibilityTimeout(queue, 14_400), TopicStats(), clock=clock.now)
    extender.hold(deliveries(queue, 30, 14_400))
    while (due := extender.extend_due()) < start + MAX_VISIBILITY:
        clock.move_to(due)
    assert len(answers) > 9
    assert not any(answers)


# Capacity


def full_setting(visibility: int = 2) -> tuple[StoppedClock, ObservedQueue, VisibilityExtender]:
    clock = StoppedClock()
    queue = ObservedQueue(clock=clock)
    extender = VisibilityExtender(queue, VisibilityTimeout(queue, visibility), TopicStats(), clock=clock.now)
    return clock, queue, extender


def deliveries(queue: ObservedQueue, count: int, visibility: int) -> list[Delivery]:
    queue.put(*["body"] * count)
    return [Delivery(queue.take(f"m{n + 1}", visibility), 1, lambda _: None) for n in range(count)]


def test_an_extender_is_full_with_as_many_messages_as_it_can_extend() -> None:
    """The documented number: 334 for each second of the visibility timeout."""
    _, queue, extender = full_setting()
    held = deliveries(queue, 2 * CAPACITY, 2)
    extender.hold(held[:-1])
    assert not extender.is_full
    extender.hold(held[-1:])
    assert extender.is_full
    extender.forget(held[:1])
    assert not extender.is_full


def test_an_extender_whose_calls_are_too_slow_is_full_before_any_visibility_ends() -> None:
    """However few messages there are."""
    clock, queue, extender = full_setting(30)
    held = deliveries(queue, 20, 30)
    extender.hold(held)
    clock.advance(10 + 5.1)  # due at a third
    assert extender.is_full
    assert not any(extender.has_lapsed(delivery) for delivery in held)
    extender.extend_due()
    assert len(queue.extended) == 20
    assert not extender.is_full


def test_a_full_topic_receives_nothing_more_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until there is room again; health takes it for busy consumers."""
    monkeypatch.setattr(visibility_module, "CAPACITY", 1)  # ten messages at 10 s
    queues = Queues(topic=ObservedQueue())
    queue = queues["topic"]
    queue.put(*(event_text(str(number)) for number in range(11)))
    dispatcher = ScriptedDispatcher()
    engine = Engine(
        hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher, visibility_timeout=10
    )

    def topic() -> dict[str, Any]:
        found: dict[str, Any] = engine.status()["topics"].get("topic", {"doing": ""})
        return found

    with running(engine):
        wait_until(lambda: topic()["doing"] == "paused")
        assert topic()["reason"] == "as many messages are in flight as can be kept invisible"
        assert topic()["back_pressure"]
        assert len(dispatcher.taken) == 10
        dispatcher.taken[0].acknowledge()
        wait_until(lambda: len(dispatcher.taken) == 11)
        for job in dispatcher.taken[1:]:
            job.acknowledge()


# Held from the receive


@pytest.mark.parametrize("topic", ["topic", "topic.fifo"])
def test_messages_stay_invisible_while_a_decoder_takes_long(topic: str) -> None:
    """All of the receive, not only the one that is decoded."""
    queue = ObservedQueue(topic)
    own(queue, "2")
    for number in range(3):
        queue.put(event_text(str(number)), group=f"g{number}")
    decoding, go_on = threading.Event(), threading.Event()

    def slow(_body: str) -> list[Any]:
        decoding.set()
        assert go_on.wait(60)
        return []

    queues = Queues({topic: queue})
    hub = hub_of(Recorder().process)
    consumer = next(iter(hub))
    consumer.topic = topic
    with running(Engine(hub, queues.__getitem__, linger=0.0, decoders={topic: slow})):
        assert decoding.wait(60)
        queue.wait_for(lambda: {"m1", "m2", "m3"} <= set(queue.extended))
        go_on.set()
        queue.wait_for(lambda: len(queue.deleted) == 3)


def test_messages_stay_invisible_while_they_wait_for_their_batch() -> None:
    """For as long as the consumer's ``batch_wait``."""
    queues = Queues(topic=ObservedQueue())
    queue = queues["topic"]
    own(queue, "2")
    queue.put(event_text())
    calls: list[int] = []

    def process(events: list[Any]) -> None:
        calls.append(len(events))

    with running(Engine(hub_of(process, batch=2, batch_wait=3600), queues.__getitem__, linger=0.0)):
        queue.wait_for(lambda: len(queue.extended) >= 3)
        assert set(queue.extended) == {"m1"}
        queue.put(event_text("2"))
        queue.wait_for(lambda: sorted(queue.deleted) == ["m1", "m2"])
    assert calls == [2]


def test_an_extension_that_hangs_leaves_time_for_another() -> None:
    """Whatever the visibility timeout: a call has a share of it, not the seconds that other calls have."""
    worker = ScriptedDispatcher()
    with serving_sqs() as sqs:
        sqs.script.add(Fault("ChangeMessageVisibilityBatch", delay=60, hang_up=True))
        with engine_over_http(sqs, "topic", worker, visibility_timeout=6, wait_time=1) as queue:
            queue.send([OutgoingMessage(event_text())])
            wait_until(lambda: len(sqs.script.calls_of("ChangeMessageVisibilityBatch")) == 3)
            (message,) = sqs.store.named("topic")
            assert message.receive_count == 1
            worker.taken[0].acknowledge()
        sqs.advance(60)  # the call that hangs ends
