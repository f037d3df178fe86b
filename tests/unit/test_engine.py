"""The engine over scripted queues: fates of events, trouble with the queue and with the dispatcher, stopping."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub, ConsumerOperator
from balog_celery.consumers.delivery import Job
from balog_celery.consumers.dispatcher import DispatchError
from balog_celery.consumers.engine import Engine
from balog_celery.errors import AccessDenied, ConfigurationError, QueueError, QueueNotFound
from balog_celery.queues import Message
from fakes import FakeQueue, event_text
from servers import wait_until


class Queues(dict[str, FakeQueue]):
    """The queues of an engine, by name; a dead-letter queue is missing unless it was put there."""

    def __missing__(self, name: str) -> FakeQueue:
        queue = self[name] = FakeQueue(name)
        queue.present = not name.endswith("-dead")
        return queue


@pytest.fixture
def queues() -> Queues:
    """The topic ``topic``, and no dead-letter queue."""
    return Queues(topic=FakeQueue())


def with_dead_letters(queues: Queues) -> FakeQueue:
    queues["topic-dead"] = FakeQueue("topic-dead")
    return queues["topic-dead"]


def hub_of(*functions: Callable[..., Any], **wanted: Any) -> ConsumerHub:
    hub = ConsumerHub()
    for func in functions:
        hub.add_consumer(Consumer(func, "topic", **wanted))
    return hub


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Run *engine* in a thread, and stop it in the end."""
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield engine
    finally:
        engine.stop()
        thread.join(60)
        assert not thread.is_alive()


class Recorder:
    """Consumer functions that remember what they were called with."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def process(self, event: dict[str, Any]) -> None:
        self.ids.append(event["header"]["id"])

    def fail(self, event: dict[str, Any]) -> None:
        raise ValueError("no\nway")

    def leave(self, event: dict[str, Any]) -> None:
        raise SystemExit(3)


def test_an_event_is_processed_and_its_message_deleted(queues: Queues) -> None:
    """By every consumer that wants it."""
    one, two = Recorder(), Recorder()
    hub = ConsumerHub()
    hub.add_consumer(Consumer(one.process, "topic", name="one"))
    hub.add_consumer(Consumer(two.process, "topic", name="two", cls_type="log"))
    queue = queues["topic"]
    queue.bodies.extend([event_text("a"), event_text("b", "log", message="m", severity="info")])
    with running(Engine(hub, queues.__getitem__)) as engine:
        queue.wait_for(lambda: sorted(queue.deleted) == ["h1", "h2"])
    assert (one.ids, two.ids) == (["a", "b"], ["b"])
    assert engine.stats.of("topic") == {"received": 2, "dispatched": 3, "deleted": 2}


def test_the_operator_names_the_topic_and_calls_the_function(queues: Queues) -> None:
    """With more arguments, as in the original README."""
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
    queue.bodies.append(event_text())
    with running(Engine(hub, queues.__getitem__, consumer_operator=Operator())):
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert called.is_set()


def test_a_failing_consumer_keeps_neither_the_others_nor_the_loop(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """Its event is a dead letter, with consumer and error; the message is done."""
    recorder = Recorder()
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.bodies.extend([event_text("a"), event_text("b")])
    with running(Engine(hub_of(recorder.fail, recorder.process), queues.__getitem__)) as engine:
        queue.wait_for(lambda: len(queue.deleted) == 2)
    assert recorder.ids == ["a", "b"]
    assert [letter.body for letter in dead.sent] == [event_text("a"), event_text("b")]
    assert dead.sent[0].attributes["reason"] == "failed"
    assert dead.sent[0].attributes["consumer"].endswith(".fail")
    assert dead.sent[0].attributes["error"] == r"ValueError('no\nway')"
    assert engine.stats.of("topic")["dead"] == 2
    assert "failed on event a" in caplog.text


def test_without_a_dead_letter_queue_a_failed_event_stays_in_the_queue(queues: Queues) -> None:
    """It is neither deleted nor given back, which would bring it again at once: its visibility timeout has it."""
    queue = queues["topic"]
    queue.bodies.append(event_text())
    engine = Engine(hub_of(Recorder().fail), queues.__getitem__)
    with running(engine):
        wait_until(lambda: engine.stats.of("topic").get("failed") == 1)
        wait_until(lambda: engine.status()["topics"]["topic"]["in_flight"] == 0)
    assert not queue.deleted
    assert not queue.returned


@pytest.mark.parametrize("body", ["", "not json", "[1]", "null", '{"a": 1}', "[" * 100_000, '{"schema": NaN}'])
def test_a_bad_body_becomes_a_dead_letter_and_the_others_are_processed(queues: Queues, body: str) -> None:
    """Its body as it was, and the reason."""
    recorder = Recorder()
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.bodies.extend([body, event_text("good")])
    with running(Engine(hub_of(recorder.process), queues.__getitem__)):
        queue.wait_for(lambda: sorted(queue.deleted) == ["h1", "h2"])
    assert recorder.ids == ["good"]
    assert [letter.body for letter in dead.sent] == [body]
    assert dead.sent[0].attributes["reason"] == "undecodable"
    assert dead.sent[0].attributes["receive_count"] == "1"


def test_without_a_dead_letter_queue_a_bad_body_is_left_to_sqs(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither deleted nor given back at once: its redrive policy counts its receives."""
    recorder = Recorder()
    queue = queues["topic"]
    queue.bodies.extend(["bad", event_text("good")])
    with running(Engine(hub_of(recorder.process), queues.__getitem__)):
        queue.wait_for(lambda: queue.deleted == ["h2"])
    assert not queue.returned
    assert "has no dead-letter queue 'topic-dead'" in caplog.text
    assert "message m1 of topic cannot be decoded" in caplog.text


def test_an_event_that_nobody_wants_is_counted_logged_and_deleted(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """Never silently."""
    caplog.set_level(logging.INFO)
    queue = queues["topic"]
    queue.bodies.append(event_text("evil\nid", "other"))
    with running(Engine(hub_of(Recorder().process, cls_type="log"), queues.__getitem__)) as engine:
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert engine.stats.of("topic")["unwanted"] == 1
    assert r"wants event evil\nid (cls_type other, schema 0.0.1)" in caplog.text


def test_the_default_event_handler_gets_what_nobody_wants(queues: Queues) -> None:
    """As the dict that consumers get."""
    events: list[dict[str, Any]] = []
    queue = queues["topic"]
    queue.bodies.append(event_text("a"))
    hub = hub_of(Recorder().process, cls_type="log")
    with running(Engine(hub, queues.__getitem__, default_event_handler=events.append)):
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert [event["header"]["id"] for event in events] == ["a"]


def test_a_failing_default_event_handler_loses_nothing(queues: Queues) -> None:
    """Its event is a dead letter."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.bodies.append(event_text())
    hub = hub_of(Recorder().process, cls_type="log")
    with running(Engine(hub, queues.__getitem__, default_event_handler=Recorder().fail)):
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert dead.sent[0].attributes["reason"] == "default_event_handler"


def test_an_unreadable_version_is_reported(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """It matches no condition."""
    recorder = Recorder()
    queue = queues["topic"]
    queue.bodies.append(event_text("a", schema="garbage"))
    with running(Engine(hub_of(recorder.process, version="<1.0"), queues.__getitem__)) as engine:
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert recorder.ids == []
    assert engine.stats.of("topic")["unreadable_version"] == 1
    assert "event a of topic has schema garbage, which is no version" in caplog.text


def test_trouble_with_sqs_does_not_end_the_loop(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once when it starts or becomes another one, and once when it is over."""
    caplog.set_level(logging.INFO)
    queue = queues["topic"]
    problems: list[Exception] = [QueueError("down"), QueueError("still"), AccessDenied("no"), ValueError("a bug")]

    def receive(limit: int) -> None:
        if problems:
            raise problems.pop()

    queue.on["receive"] = receive
    queue.bodies.append(event_text())
    recorder = Recorder()
    engine = Engine(hub_of(recorder.process), queues.__getitem__)
    with running(engine):
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert recorder.ids == ["LG1"]
    messages = [record.message for record in caplog.records if "polling" in record.message]
    assert len([message for message in messages if "trying again" in message]) == 3
    assert len([message for message in messages if "works again" in message]) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_poller_is_replaced(queues: Queues) -> None:
    """Even if a handler leaves the thread by SystemExit; its event is given back."""
    queue = queues["topic"]
    queue.bodies.append(event_text("a"))
    recorder = Recorder()
    leave_once = [recorder.leave]

    def process(event: dict[str, Any]) -> None:
        (leave_once.pop() if leave_once else recorder.process)(event)

    with running(Engine(hub_of(process), queues.__getitem__)) as engine:
        queue.wait_for(lambda: queue.returned == ["h1"])
        queue.bodies.append(event_text("b"))
        queue.wait_for(lambda: queue.deleted == ["h2"])
    assert recorder.ids == ["b"]
    assert engine.stats.of("topic")["restarted"] == 1


class ScriptedDispatcher:
    """A dispatcher that fails as often as it is told, and acknowledges when it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.taken: list[Job] = []
        self.called = threading.Event()
        self.closed = False

    def dispatch(self, jobs: Sequence[Job]) -> None:
        self.called.set()
        if self.failures:
            self.failures -= 1
            raise DispatchError("the broker is down")
        self.taken += jobs

    def queues_of(self, consumers: Sequence[Consumer]) -> frozenset[str]:
        return frozenset()

    def check_order(self, consumers: Sequence[Consumer]) -> None:
        pass

    def ready(self, queues: frozenset[str], timeout: float) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


def test_nothing_is_deleted_before_it_is_acknowledged(queues: Queues) -> None:
    """From whatever thread, and only when all of a message's jobs are."""
    queue = queues["topic"]
    queue.bodies.append(event_text())
    dispatcher = ScriptedDispatcher()
    recorder = Recorder()
    with running(Engine(hub_of(recorder.process, recorder.fail), queues.__getitem__, dispatcher=dispatcher, drain=1)):
        queue.wait_for(lambda: len(dispatcher.taken) == 2)
        first, second = dispatcher.taken
        first.acknowledge()
        assert not queue.deleted
        second.acknowledge()
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert dispatcher.closed


def test_a_failed_dispatch_is_tried_again_and_nothing_more_is_received_meanwhile(queues: Queues) -> None:
    """The messages are kept, not given back: that would count as receives."""
    queue = queues["topic"]
    queue.bodies.append(event_text())
    received: list[int] = []

    class Counting(ScriptedDispatcher):
        def dispatch(self, jobs: Sequence[Job]) -> None:
            received.append(sum(what == "receive" for what, _ in queue.calls))
            super().dispatch(jobs)

    dispatcher = Counting(failures=2)
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, dispatcher=dispatcher)):
        queue.wait_for(lambda: len(dispatcher.taken) == 1)
        dispatcher.taken[0].acknowledge()
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert received == [1, 1, 1]
    assert not queue.returned


def test_what_cannot_be_dispatched_is_given_back_at_a_stop(queues: Queues) -> None:
    """The broker may be down for longer than the engine lives."""
    queue = queues["topic"]
    queue.bodies.append(event_text())
    dispatcher = ScriptedDispatcher(failures=1_000_000)
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, dispatcher=dispatcher)):
        assert dispatcher.called.wait(60)
    assert queue.returned == ["h1"]
    assert not queue.deleted


def test_a_poll_that_ends_after_the_stop_gives_back_what_it_got(queues: Queues) -> None:
    """Nobody would process it."""
    queue = queues["topic"]
    polling = threading.Event()

    def receive(limit: int) -> None:
        polling.set()
        # The engine waits for the poll; it must have told the poller by then.
        wait_until(lambda: all(listener._stop.is_set() for listener in engine._listeners))

    queue.on["receive"] = receive
    queue.bodies.append(event_text())
    recorder = Recorder()
    engine = Engine(hub_of(recorder.process), queues.__getitem__)
    thread = threading.Thread(target=engine.run)
    thread.start()
    assert polling.wait(60)
    engine.stop()
    thread.join(60)
    assert queue.returned == ["h1"]
    assert recorder.ids == []


def test_what_does_not_finish_within_the_drain_limit_is_given_back(queues: Queues) -> None:
    """And not a second time when it finishes after all."""
    queue = queues["topic"]
    queue.bodies.append(event_text())
    dispatcher = ScriptedDispatcher()
    with running(Engine(hub_of(Recorder().process), queues.__getitem__, dispatcher=dispatcher, drain=0.1)):
        queue.wait_for(lambda: len(dispatcher.taken) == 1)
    assert queue.returned == ["h1"]
    dispatcher.taken[0].acknowledge()
    assert not queue.deleted


def missing(argument: object) -> None:
    raise QueueNotFound("there is no queue 'topic'")


def denied(argument: object) -> None:
    raise AccessDenied("no")


def test_a_missing_queue_is_an_error_at_start(queues: Queues) -> None:
    """Before anything is received."""
    queues["topic"].on["attributes"] = missing
    with pytest.raises(ConfigurationError, match="no queue 'topic'"):
        Engine(hub_of(Recorder().process), queues.__getitem__).run()


def test_refused_access_is_an_error_at_start(queues: Queues) -> None:
    """Bad credentials are told at once."""
    queues["topic"].on["attributes"] = denied
    with pytest.raises(AccessDenied):
        Engine(hub_of(Recorder().process), queues.__getitem__).run()


def test_no_consumers_are_an_error_at_start() -> None:
    """The original slept for ever."""
    with pytest.raises(ConfigurationError, match="no consumers"):
        Engine(ConsumerHub(), Queues().__getitem__).run()


def test_a_placeholder_left_in_a_topic_is_an_error_at_start(queues: Queues) -> None:
    """It is no queue's name."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(Recorder().process, "myproj-{env}"))
    with pytest.raises(ConfigurationError, match=r"myproj-\{env\}.*get_topic fills in the placeholders"):
        Engine(hub, queues.__getitem__).run()


def test_a_failing_get_topic_is_an_error_that_names_the_consumer(queues: Queues) -> None:
    """With its cause."""

    class Operator(ConsumerOperator):
        def get_topic(self, consumer: Consumer) -> str:
            return consumer.topic.format()

    hub = ConsumerHub()
    hub.add_consumer(Consumer(Recorder().process, "myproj-{env}"))
    with pytest.raises(ConfigurationError, match=r"Operator\.get_topic failed for .*process"):
        Engine(hub, queues.__getitem__, consumer_operator=Operator()).run()


def test_an_operator_must_have_both_methods() -> None:
    """It is told when the engine is made."""
    with pytest.raises(ConfigurationError, match="has no method get_topic"):
        Engine(ConsumerHub(), Queues().__getitem__, consumer_operator=object())


def test_one_topics_trouble_does_not_slow_another(queues: Queues) -> None:
    """Each has threads of its own."""
    hub = ConsumerHub()
    recorder = Recorder()
    for number in range(20):
        hub.add_consumer(Consumer(recorder.fail, f"broken{number}", name=f"broken{number}"))
        queues[f"broken{number}"].on["receive"] = missing
    hub.add_consumer(Consumer(recorder.process, "topic"))
    queue = queues["topic"]
    queue.bodies.extend(event_text(str(number)) for number in range(100))
    with running(Engine(hub, queues.__getitem__)):
        queue.wait_for(lambda: len(queue.deleted) == 100)
    assert len(recorder.ids) == 100


def test_several_receives_of_a_topic_are_under_way_at_a_time(queues: Queues) -> None:
    """As many as the engine has pollers; what each gets is processed and deleted once, and the status is of all."""
    together = threading.Barrier(3)
    bodies = [event_text(f"e{number}") for number in range(3)]
    lock = threading.Lock()

    def receive(_limit: int) -> list[Message] | None:
        with lock:
            if not bodies:
                return None
            body = bodies.pop()
        together.wait(60)  # until as many are here
        return [Message(body, body, body, time.monotonic())]

    queue = queues["topic"]
    queue.on["receive"] = receive
    recorder = Recorder()
    engine = Engine(hub_of(recorder.process), queues.__getitem__, pollers=3)
    with running(engine):
        queue.wait_for(lambda: len(queue.deleted) == 3)
        assert set(engine.status()["topics"]) == {"topic"}
        assert engine.status()["topics"]["topic"]["received"] == 3
    assert sorted(recorder.ids) == ["e0", "e1", "e2"]
    assert len({*queue.deleted}) == 3


def test_a_fifo_topic_has_one_poller(queues: Queues) -> None:
    """What two of them receive of a group at the same time might overtake one another."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(Recorder().process, "topic.fifo"))
    queues["topic.fifo"] = FakeQueue("topic.fifo")
    engine = Engine(hub, queues.__getitem__, pollers=3)
    with running(engine):
        wait_until(lambda: any(name == "receive" for name, _ in queues["topic.fifo"].calls))
        names = [thread.name for thread in threading.enumerate()]
    assert names.count("poller-topic.fifo") == 1


def test_consumers_that_look_like_a_mistake_are_told_at_start(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """And the engine runs all the same."""
    one = Recorder()
    hub = hub_of(one.process, version=">2,<1")
    hub.add_consumer(Consumer(one.process, "topic", name="good"))
    queues["topic"].bodies.append(event_text("a"))
    with running(Engine(hub, queues.__getitem__)):
        queues["topic"].wait_for(lambda: bool(queues["topic"].deleted))
    assert one.ids == ["a"]
    assert "process can never match: no version meets >2,<1" in caplog.text


def test_a_status_that_cannot_be_written_is_said_once_and_tried_again(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full may have room again, and then `balog health` is to know."""

    class Disk:
        full = True
        written = 0

        def write(self, status: Any, *, now: bool = False) -> None:
            if self.full:
                raise OSError("no space left")
            self.written += 1

        def remove(self) -> None:
            """The engine has stopped."""

    disk: Any = Disk()
    engine = Engine(ConsumerHub(), queues.__getitem__, status_file=disk)
    for _ in range(3):
        engine._write_status()
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    disk.full = False
    engine._write_status()
    assert disk.written == 1
