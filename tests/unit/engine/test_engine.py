"""The engine over scripted queues: outcomes of events, failures of the queue and the dispatcher, stopping."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from balog_celery.backoff import Backoff
from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator
from balog_celery.consumers.delivery import Job
from balog_celery.engine.engine import Engine
from balog_celery.errors import AccessDenied, ConfigurationError, QueueError, QueueNotFound
from engines import Queues, Recorder, ScriptedDispatcher, hub_of, running, with_dead_letters
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue
from servers import wait_until


@pytest.fixture
def queues() -> Queues:
    """The topic ``topic``, and no dead-letter queue."""
    return Queues(topic=ObservedQueue())


def test_an_event_is_processed_and_its_message_deleted(queues: Queues) -> None:
    """Every matching consumer processes the event, and its message is deleted."""
    one, two = Recorder(), Recorder()
    hub = ConsumerHub()
    hub.add_consumer(Consumer(one.process, "topic", name="one"))
    hub.add_consumer(Consumer(two.process, "topic", name="two", cls_type="log"))
    queue = queues["topic"]
    queue.put(*[event_text("a"), event_text("b", "log", message="m", severity="info")])
    with running(Engine(hub, queues.__getitem__, linger=0.0)) as engine:
        queue.wait_for(lambda: sorted(queue.deleted) == ["m1", "m2"])
    assert (one.ids, two.ids) == (["a", "b"], ["b"])
    assert engine.stats.of("topic") == {"received": 2, "dispatched": 3, "deleted": 2}


def test_the_operator_names_the_topic_and_calls_the_function(queues: Queues) -> None:
    """The operator resolves the topic and may pass more arguments to the function."""
    called = threading.Event()

    def process(settings: dict[str, str], event: dict[str, Any]) -> None:
        assert settings == {"env": "test"}
        called.set()

    class Operator:
        def get_topic(self, consumer: Consumer) -> str:
            return consumer.topic.format(env="test")

        def process_event(self, consumer: Consumer, event: Any) -> Any:
            return consumer.func({"env": "test"}, event)

    hub = ConsumerHub()
    hub.add_consumer(Consumer(process, "myproj-{env}"))
    queue = queues["myproj-test"]
    queue.put(event_text())
    with running(Engine(hub, queues.__getitem__, linger=0.0, consumer_operator=Operator())):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert called.is_set()


def test_a_failing_consumer_keeps_neither_the_others_nor_the_loop(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing consumer does not affect others; its event becomes a dead letter and the message is deleted."""
    recorder = Recorder()
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.put(*[event_text("a"), event_text("b")])
    with running(Engine(hub_of(recorder.fail, recorder.process), queues.__getitem__, linger=0.0)) as engine:
        queue.wait_for(lambda: len(queue.deleted) == 2)
    assert recorder.ids == ["a", "b"]
    assert [letter.body for letter in dead.sent] == [event_text("a"), event_text("b")]
    assert mark_of(dead.sent[0])["reason"] == "failed"
    assert mark_of(dead.sent[0])["consumer"].endswith(".fail")
    assert mark_of(dead.sent[0])["error"] == r"ValueError('no\nway')"
    assert engine.stats.of("topic")["dead"] == 2
    assert "failed on event a" in caplog.text


def test_without_a_dead_letter_queue_a_failed_event_stays_in_the_queue(queues: Queues) -> None:
    """Without a dead-letter queue the message of a failed event expires: it is neither deleted nor released."""
    queue = queues["topic"]
    queue.put(event_text())
    engine = Engine(hub_of(Recorder().fail), queues.__getitem__, linger=0.0)
    with running(engine):
        wait_until(lambda: engine.stats.of("topic").get("failed") == 1)
        wait_until(lambda: engine.status()["topics"]["topic"]["in_flight"] == 0)
    assert not queue.deleted
    assert not queue.released


@pytest.mark.parametrize("body", [" ", "not json", "[1]", "null", '{"a": 1}', "[" * 100_000, '{"schema": NaN}'])
def test_a_bad_body_becomes_a_dead_letter_and_the_others_are_processed(queues: Queues, body: str) -> None:
    """A bad body becomes a dead letter unchanged, with the reason, and the other messages are processed."""
    recorder = Recorder()
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.put(*[body, event_text("good")])
    with running(Engine(hub_of(recorder.process), queues.__getitem__, linger=0.0)):
        queue.wait_for(lambda: sorted(queue.deleted) == ["m1", "m2"])
    assert recorder.ids == ["good"]
    assert [letter.body for letter in dead.sent] == [body]
    assert mark_of(dead.sent[0])["reason"] == "undecodable"
    assert mark_of(dead.sent[0])["receive_count"] == 1


def test_without_a_dead_letter_queue_a_bad_body_is_left_to_sqs(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a dead-letter queue a message with a bad body expires, so its redrive policy counts the receives."""
    recorder = Recorder()
    queue = queues["topic"]
    queue.put(*["bad", event_text("good")])
    with running(Engine(hub_of(recorder.process), queues.__getitem__, linger=0.0)):
        queue.wait_for(lambda: queue.deleted == ["m2"])
    assert not queue.released
    assert "has no dead-letter queue 'topic-dead'" in caplog.text
    assert re.search(r"message \S+ of topic cannot be decoded", caplog.text)


def test_an_event_that_nobody_wants_is_counted_logged_and_deleted(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that matches no consumer is counted, logged and deleted."""
    caplog.set_level(logging.INFO)
    queue = queues["topic"]
    queue.put(event_text("evil\nid", "other"))
    with running(Engine(hub_of(Recorder().process, cls_type="log"), queues.__getitem__, linger=0.0)) as engine:
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert engine.stats.of("topic")["unwanted"] == 1
    assert r"event evil\nid of topic matches no consumer (cls_type other, schema 0.0.1): deleted" in caplog.text


def test_the_default_event_handler_gets_what_nobody_wants(queues: Queues) -> None:
    """The default event handler gets an unmatched event as the dict that consumers get."""
    events: list[dict[str, Any]] = []
    queue = queues["topic"]
    queue.put(event_text("a"))
    hub = hub_of(Recorder().process, cls_type="log")
    with running(Engine(hub, queues.__getitem__, linger=0.0, default_event_handler=events.append)):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert [event["header"]["id"] for event in events] == ["a"]


def test_a_failing_default_event_handler_loses_nothing(queues: Queues) -> None:
    """An event on which the default event handler fails becomes a dead letter."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.put(event_text())
    hub = hub_of(Recorder().process, cls_type="log")
    with running(Engine(hub, queues.__getitem__, linger=0.0, default_event_handler=Recorder().fail)):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert mark_of(dead.sent[0])["reason"] == "default_event_handler"


def test_an_unreadable_version_is_reported(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """An event with an unreadable version is logged, and matches no version condition."""
    recorder = Recorder()
    queue = queues["topic"]
    queue.put(event_text("a", schema="garbage"))
    with running(Engine(hub_of(recorder.process, version="<1.0"), queues.__getitem__, linger=0.0)) as engine:
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert recorder.ids == []
    assert engine.stats.of("topic")["unreadable_version"] == 1
    assert "event a of topic has schema garbage, which is not a version" in caplog.text


def test_trouble_with_sqs_does_not_end_the_loop(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """An outage of SQS does not end the loop; it is logged when it begins, changes and ends."""
    caplog.set_level(logging.INFO)
    queue = queues["topic"]
    problems: list[Exception] = [QueueError("down"), QueueError("still"), AccessDenied("no"), ValueError("a bug")]

    def receive(limit: int) -> None:
        if problems:
            raise problems.pop()

    queue.on["receive"] = receive
    queue.put(event_text())
    recorder = Recorder()
    engine = Engine(hub_of(recorder.process), queues.__getitem__, linger=0.0)
    with running(engine):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert recorder.ids == ["LG1"]
    messages = [record.message for record in caplog.records if "polling" in record.message]
    assert len([message for message in messages if "retrying" in message]) == 3
    assert len([message for message in messages if "works again" in message]) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_poller_is_replaced(queues: Queues) -> None:
    """A poller that a handler ended by SystemExit is replaced; its event is released, and processed in the end."""
    queue = queues["topic"]
    queue.put(event_text("a"))
    recorder = Recorder()
    leave_once = [recorder.leave]

    def process(event: dict[str, Any]) -> None:
        (leave_once.pop() if leave_once else recorder.process)(event)

    with running(Engine(hub_of(process), queues.__getitem__, linger=0.0)) as engine:
        # What was released comes again, to the new poller
        queue.wait_for(lambda: queue.deleted == ["m1"])
        queue.put(event_text("b"))
        queue.wait_for(lambda: queue.deleted == ["m1", "m2"])
    assert queue.released == ["m1"]
    assert recorder.ids == ["a", "b"]
    assert engine.stats.of("topic")["restarted"] == 1


def test_nothing_is_deleted_before_it_is_acknowledged(queues: Queues) -> None:
    """A message is deleted only after all its jobs are acknowledged, from any thread."""
    queue = queues["topic"]
    queue.put(event_text())
    dispatcher = ScriptedDispatcher()
    recorder = Recorder()
    with running(
        Engine(hub_of(recorder.process, recorder.fail), queues.__getitem__, linger=0.0, dispatcher=dispatcher, drain=1)
    ):
        queue.wait_for(lambda: len(dispatcher.taken) == 2)
        first, second = dispatcher.taken
        first.acknowledge()
        assert not queue.deleted
        second.acknowledge()
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert dispatcher.closed


def test_a_failed_dispatch_is_tried_again_and_nothing_more_is_received_meanwhile(queues: Queues) -> None:
    """A failed dispatch is retried with the same messages, and nothing is received meanwhile."""
    queue = queues["topic"]
    queue.put(event_text())
    received: list[int] = []

    class Counting(ScriptedDispatcher):
        def dispatch(self, jobs: Sequence[Job]) -> None:
            received.append(len(queue.calls_of("receive")))
            super().dispatch(jobs)

    dispatcher = Counting(failures=2)
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher)):
        queue.wait_for(lambda: len(dispatcher.taken) == 1)
        dispatcher.taken[0].acknowledge()
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert received == [1, 1, 1]
    assert not queue.released


def test_what_cannot_be_dispatched_is_given_back_at_a_stop(queues: Queues) -> None:
    """Messages that cannot be dispatched are released at a stop."""
    queue = queues["topic"]
    queue.put(event_text())
    dispatcher = ScriptedDispatcher(failures=1_000_000)
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher)):
        assert dispatcher.called.wait(60)
    assert queue.released == ["m1"]
    assert not queue.deleted


def test_messages_received_after_the_stop_are_released(queues: Queues) -> None:
    """Messages that arrive after the stop are released."""
    queue = queues["topic"]
    polling, stopped = threading.Event(), threading.Event()

    def receive(limit: int) -> None:
        polling.set()
        assert stopped.wait(60)
        # The pollers are stopped in order: when the next one has ended, this one's stop is set, too.
        wait_until(lambda: "poller-next" not in [thread.name for thread in threading.enumerate()])

    queue.on["receive"] = receive
    queue.put(event_text())
    recorder = Recorder()
    hub = hub_of(recorder.process)
    hub.add_consumer(Consumer(recorder.process, "next"))
    engine = Engine(hub, queues.__getitem__, linger=0.0)
    thread = threading.Thread(target=engine.run)
    thread.start()
    assert polling.wait(60)
    queues["next"].wait_for(lambda: ("receive", 10) in queues["next"].calls)
    engine.stop()
    stopped.set()
    thread.join(60)
    assert queue.released == ["m1"]
    assert recorder.ids == []


@pytest.mark.parametrize("failing", ["receive", "dispatch"])
def test_a_stop_ends_a_back_off(queues: Queues, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """A stop ends a back-off of any kind."""
    # Given a back-off of an hour, as no queue has failed for long enough here
    monkeypatch.setattr(Backoff, "failed", lambda self: 3600.0)
    queue = queues["topic"]
    queue.put(event_text())
    if failing == "receive":
        queue.on["receive"] = unreachable
    dispatcher = ScriptedDispatcher(failures=1)
    engine = Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher)
    with running(engine):
        doing = "failing" if failing == "receive" else "dispatching"
        wait_until(lambda: bool(engine.status()["topics"]) and engine.status()["topics"]["topic"]["doing"] == doing)
        assert failing == "receive" or dispatcher.called.wait(60)

        # When it stops
        begin = time.monotonic()

    # Then it does so at once
    assert time.monotonic() - begin < 10
    assert queue.released == ([] if failing == "receive" else ["m1"])


def unreachable(argument: object) -> None:
    raise QueueError("down")


def test_pending_deletes_are_made_after_the_drain_limit(queues: Queues) -> None:
    """Deletes that are pending at the drain limit are made, because their tasks have finished."""
    # Given deletes that are slow
    queue = queues["topic"]
    queue.on["delete"] = lambda handles: time.sleep(0.5)
    recorder = Recorder()
    engine = Engine(hub_of(recorder.process), queues.__getitem__, linger=3600.0, drain=0.0)

    # When the engine stops while one is pending, with no time to drain
    with running(engine):
        queue.put(event_text())
        wait_until(lambda: recorder.ids == ["LG1"])

    # Then the engine waits for it
    assert queue.deleted == ["m1"]


def test_what_does_not_finish_within_the_drain_limit_is_given_back(queues: Queues) -> None:
    """Messages in flight at the drain limit are released once, even if their tasks finish later."""
    queue = queues["topic"]
    queue.put(event_text())
    dispatcher = ScriptedDispatcher()
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0, dispatcher=dispatcher, drain=0.1)):
        queue.wait_for(lambda: len(dispatcher.taken) == 1)
    assert queue.released == ["m1"]
    dispatcher.taken[0].acknowledge()
    assert not queue.deleted


def missing(argument: object) -> None:
    raise QueueNotFound("there is no queue 'topic'")


def denied(argument: object) -> None:
    raise AccessDenied("no")


def test_a_missing_queue_is_an_error_at_start(queues: Queues) -> None:
    """A missing queue is an error at start, before anything is received."""
    queues["topic"].on["attributes"] = missing
    with pytest.raises(ConfigurationError, match="no queue 'topic'"):
        Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0).run()


def test_refused_access_is_an_error_at_start(queues: Queues) -> None:
    """Refused access is an error at start."""
    queues["topic"].on["attributes"] = denied
    with pytest.raises(AccessDenied):
        Engine(hub_of(Recorder().process), queues.__getitem__, linger=0.0).run()


def test_no_consumers_are_an_error_at_start() -> None:
    """An engine without consumers is an error at start."""
    with pytest.raises(ConfigurationError, match="no consumers"):
        Engine(ConsumerHub(), Queues().__getitem__).run()


def test_a_placeholder_left_in_a_topic_is_an_error_at_start(queues: Queues) -> None:
    """It is no queue's name."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(Recorder().process, "myproj-{env}"))
    with pytest.raises(ConfigurationError, match=r"myproj-\{env\}.*get_topic fills in the placeholders"):
        Engine(hub, queues.__getitem__, linger=0.0).run()


def test_a_failing_get_topic_is_an_error_that_names_the_consumer(queues: Queues) -> None:
    """A failing get_topic is an error that names the consumer and the cause."""

    class Operator(ConsumerOperator):
        def get_topic(self, consumer: Consumer) -> str:
            return consumer.topic.format()

    hub = ConsumerHub()
    hub.add_consumer(Consumer(Recorder().process, "myproj-{env}"))
    with pytest.raises(ConfigurationError, match=r"Operator\.get_topic failed for .*process"):
        Engine(hub, queues.__getitem__, linger=0.0, consumer_operator=Operator()).run()


def test_an_operator_must_have_both_methods() -> None:
    """An operator without one of its methods is refused when the engine is made."""
    with pytest.raises(ConfigurationError, match="has no method get_topic"):
        Engine(ConsumerHub(), Queues().__getitem__, consumer_operator=object())


def test_one_topics_trouble_does_not_slow_another(queues: Queues) -> None:
    """An outage of one topic does not delay another topic."""
    hub = ConsumerHub()
    recorder = Recorder()
    for number in range(20):
        hub.add_consumer(Consumer(recorder.fail, f"broken{number}", name=f"broken{number}"))
        queues[f"broken{number}"].on["receive"] = missing
    hub.add_consumer(Consumer(recorder.process, "topic"))
    queue = queues["topic"]
    queue.put(*(event_text(str(number)) for number in range(100)))
    with running(Engine(hub, queues.__getitem__, linger=0.0)):
        queue.wait_for(lambda: len(queue.deleted) == 100)
    assert len(recorder.ids) == 100


def test_several_receives_of_a_topic_are_under_way_at_a_time(queues: Queues) -> None:
    """Several pollers receive from a topic at a time.

    Each message is processed once, and the status has all pollers.
    """
    together, receives = threading.Barrier(3), iter(range(3))

    def receive(_limit: int) -> None:
        if next(receives, None) is not None:
            together.wait(60)  # until as many are here

    queue = queues["topic"]
    queue.put(*(event_text(f"e{number}") for number in range(3)))
    queue.on["receive"] = receive
    recorder = Recorder()
    engine = Engine(hub_of(recorder.process), queues.__getitem__, linger=0.0, pollers=3)
    with running(engine):
        queue.wait_for(lambda: len(queue.deleted) == 3)
        assert set(engine.status()["topics"]) == {"topic"}
        assert engine.status()["topics"]["topic"]["received"] == 3
    assert sorted(recorder.ids) == ["e0", "e1", "e2"]
    assert len({*queue.deleted}) == 3


def test_a_fifo_topic_has_one_poller(queues: Queues) -> None:
    """A FIFO topic has one poller, because two could receive messages of a group at the same time."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(Recorder().process, "topic.fifo"))
    queues["topic.fifo"] = ObservedQueue("topic.fifo")
    engine = Engine(hub, queues.__getitem__, linger=0.0, pollers=3)
    with running(engine):
        wait_until(lambda: any(name == "receive" for name, _ in queues["topic.fifo"].calls))
        names = [thread.name for thread in threading.enumerate()]
    assert names.count("poller-topic.fifo") == 1


def test_consumers_that_look_like_a_mistake_are_told_at_start(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """Likely mistakes in consumers are logged at start, and the engine runs."""
    one = Recorder()
    hub = hub_of(one.process, version=">2,<1")
    hub.add_consumer(Consumer(one.process, "topic", name="good"))
    queues["topic"].put(event_text("a"))
    with running(Engine(hub, queues.__getitem__, linger=0.0)):
        queues["topic"].wait_for(lambda: bool(queues["topic"].deleted))
    assert one.ids == ["a"]
    assert "process can never match: no version meets >2,<1" in caplog.text
