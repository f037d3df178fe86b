"""The engine and messages that are no balog records: several events in one, decoders by topic, their fates."""

from __future__ import annotations

import gc
import json
import logging
from typing import Any

import pytest
from test_decoders import sample
from test_engine import Queues, Recorder, ScriptedDispatcher, running, with_dead_letters

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.engine import Engine
from balog_celery.decoders import At, JSONMapping
from balog_celery.errors import ConfigurationError
from balog_celery.queues import Message
from balog_celery.records import decode
from fakes import FakeQueue, event_text


@pytest.fixture
def queues() -> Queues:
    """The topic ``topic``, and no dead-letter queue."""
    return Queues(topic=FakeQueue())


def hub_of(**wanted: Any) -> ConsumerHub:
    """A consumer for each name, which wants that cls_type."""
    hub = ConsumerHub()
    for name, (func, cls_type) in wanted.items():
        hub.add_consumer(Consumer(func, "topic", cls_type, name=name))
    return hub


def notification(*names: str) -> str:
    """An S3 notification of events of these names."""
    (entry,) = json.loads(sample("s3"))["Records"]
    return json.dumps({"Records": [{**entry, "eventName": name} for name in names]})


def test_the_events_of_a_message_are_settled_together(queues: Queues) -> None:
    """Each is a job of those who want it; the message is deleted when all are acknowledged, and given back if not."""
    dispatcher = ScriptedDispatcher()
    queue = queues["topic"]
    queue.bodies.extend([notification("ObjectCreated:Put", "ObjectRemoved:Delete")] * 2)
    hub = hub_of(any=(print, "aws.s3.*"), created=(print, "aws.s3.ObjectCreated:*"))
    with running(Engine(hub, queues.__getitem__, dispatcher=dispatcher, drain=0.1)):
        queue.wait_for(lambda: len(dispatcher.taken) == 6)
        taken = dispatcher.taken
        names = [(job.consumer.name, job.event.payload.cls_type) for job in taken[:3]]
        assert names == [
            ("any", "aws.s3.ObjectCreated:Put"),
            ("created", "aws.s3.ObjectCreated:Put"),
            ("any", "aws.s3.ObjectRemoved:Delete"),
        ]
        assert len({job.delivery for job in taken}) == 2
        assert all(decode(job.text) == job.event for job in taken)
        for job in taken[:2]:
            job.acknowledge()
        for job in taken[3:]:
            (job.refuse if job is taken[3] else job.acknowledge)()
        queue.wait_for(lambda: queue.returned == ["h2"])
        assert queue.deleted == []
        taken[2].acknowledge()
        queue.wait_for(lambda: queue.deleted == ["h1"])


def test_no_event_leaves_a_reference_cycle_behind(queues: Queues) -> None:
    """The engine's process looks for those but rarely, and such a one would keep all that was received with it."""
    with_dead_letters(queues)
    hub = hub_of(created=(print, "aws.s3.ObjectCreated:*"), failing=(Recorder().fail, "metrics"))
    engine = Engine(hub, queues.__getitem__)
    bodies = [
        notification("ObjectCreated:Put", "ObjectRemoved:Delete"),
        event_text(),
        event_text(cls_type="unwanted"),
        "{",
        '{"schema": 1, "header": {}, "payload": {}}',
        "[" * 1000,
    ]

    def take() -> None:
        for number, body in enumerate(bodies):
            engine.take("topic", Message(body, f"h{number}", f"m{number}", 0.0))

    def left_behind() -> int:
        take()
        return gc.collect()

    take()
    gc.collect()
    gc.disable()
    try:
        # What other threads of this process leave is found as well, but not each time.
        assert 0 in (left_behind() for _ in range(5))
    finally:
        gc.enable()


def test_what_nobody_wants_of_a_message_does_not_hold_up_the_rest(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and logged as if it were alone."""
    caplog.set_level(logging.INFO)
    recorder = Recorder()
    queue = queues["topic"]
    queue.bodies.append(notification("ObjectCreated:Put", "ObjectRemoved:Delete"))
    hub = hub_of(created=(recorder.process, "aws.s3.ObjectCreated:*"))
    with running(Engine(hub, queues.__getitem__)) as engine:
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert len(recorder.ids) == 1
    assert engine.stats.of("topic") == {"received": 1, "dispatched": 1, "unwanted": 1, "deleted": 1}
    assert "(cls_type aws.s3.ObjectRemoved:Delete, schema 2.1): it is deleted" in caplog.text


def test_the_default_event_handler_gets_what_nobody_wants_of_a_message(queues: Queues) -> None:
    """Where it fails, that event alone is a dead letter."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.bodies.append(notification("ObjectCreated:Put", "ObjectRemoved:Delete", "ObjectRestore:Post"))
    hub = hub_of(created=(print, "aws.s3.ObjectCreated:*"))

    def handler(event: dict[str, Any]) -> None:
        if event["payload"]["eventName"] == "ObjectRemoved:Delete":
            raise ValueError("no")

    with running(Engine(hub, queues.__getitem__, default_event_handler=handler)):
        queue.wait_for(lambda: queue.deleted == ["h1"])
    (letter,) = dead.sent
    assert decode(letter.body).payload.cls_type == "aws.s3.ObjectRemoved:Delete"
    assert letter.attributes["reason"] == "default_event_handler"


def test_a_failing_default_event_handler_lets_the_whole_message_come_again(queues: Queues) -> None:
    """Without a dead-letter queue nothing of it may be deleted; the wanted events are not kept from it."""
    recorder = Recorder()
    queue = queues["topic"]
    queue.bodies.append(notification("ObjectCreated:Put", "ObjectRemoved:Delete"))
    hub = hub_of(created=(recorder.process, "aws.s3.ObjectCreated:*"))
    with running(Engine(hub, queues.__getitem__, default_event_handler=Recorder().fail)):
        queue.wait_for(lambda: queue.returned == ["h1"])
    assert len(recorder.ids) == 1
    assert not queue.deleted


def test_an_event_that_fails_is_a_dead_letter_by_itself(queues: Queues) -> None:
    """Its record, which can be replayed: the other events of its message are done."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.bodies.append(notification("ObjectCreated:Put", "ObjectRemoved:Delete"))
    recorder = Recorder()
    hub = hub_of(
        created=(recorder.process, "aws.s3.ObjectCreated:*"), removed=(recorder.fail, "aws.s3.ObjectRemoved:*")
    )
    with running(Engine(hub, queues.__getitem__)):
        queue.wait_for(lambda: queue.deleted == ["h1"])
        queue.bodies.append(dead.sent[0].body)
        queue.wait_for(lambda: queue.deleted == ["h1", "h2"])
    assert len(dead.sent) == 2
    assert dead.sent[0].body == dead.sent[1].body


def test_a_message_without_an_event_is_done(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """S3 sends one where a notification is configured."""
    caplog.set_level(logging.INFO)
    queue = queues["topic"]
    queue.bodies.append(sample("s3-test-event"))
    with running(Engine(hub_of(any=(print, None)), queues.__getitem__)) as engine:
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert engine.stats.of("topic") == {"received": 1, "empty": 1, "deleted": 1}
    assert "message m1 of topic holds no event: it is deleted" in caplog.text


def test_a_topic_has_the_decoder_that_was_named_for_it(queues: Queues) -> None:
    """By its resolved name, or as the consumer has it; what it cannot read is a dead letter."""

    class Operator:
        def get_topic(self, consumer: Consumer) -> str:
            return consumer.topic.format(env="test")

        def process_event(self, consumer: Consumer, event: Any) -> Any:
            return consumer.func(event)

    recorder = Recorder()
    hub = ConsumerHub()
    for topic in ("a-{env}", "b-{env}", "c-{env}"):
        hub.add_consumer(Consumer(recorder.process, topic, name=topic[0]))
        queues[topic.format(env="test")].bodies.extend(['{"n": 1}', event_text("e")])
        queues[f"{topic.format(env='test')}-dead"] = FakeQueue(f"{topic.format(env='test')}-dead")
    decoders = {"a-{env}": JSONMapping(cls_type="order", id=At("n")), "b-test": "balog"}
    with running(Engine(hub, queues.__getitem__, consumer_operator=Operator(), decoders=decoders)):
        for name in "abc":
            queues[f"{name}-test"].wait_for(lambda name=name: len(queues[f"{name}-test"].deleted) == 2)
    assert "1" in recorder.ids
    assert [letter.body for letter in queues["b-test-dead"].sent] == ['{"n": 1}']
    assert [letter.body for letter in queues["c-test-dead"].sent] == ['{"n": 1}']
    assert not queues["a-test-dead"].sent


def test_a_decoder_for_no_topic_is_an_error_at_start(queues: Queues) -> None:
    """It is misspelt, and its topic would go on without it."""
    engine = Engine(hub_of(any=(print, None)), queues.__getitem__, decoders={"topics": "s3"})
    with pytest.raises(
        ConfigurationError, match="a decoder for 'topics', which is no consumer's topic: did you mean 'to"
    ):
        engine.run()


def test_an_unknown_decoder_is_an_error_at_once(queues: Queues) -> None:
    """Before anything is connected to."""
    with pytest.raises(ConfigurationError, match="unknown decoder 'event-bridge': did you mean 'eventbridge'"):
        Engine(hub_of(any=(print, None)), queues.__getitem__, decoders={"topic": "event-bridge"})


def test_what_sns_holds_may_not_be_deeper_than_a_body(queues: Queues) -> None:
    """It is a text there, and no text when a task reads it."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    deep = json.dumps({**json.loads(sample("cloudevent")), "data": 0}).replace("0}", "[" * 120 + "]" * 120 + "}")
    queue.bodies.append(json.dumps({**json.loads(sample("sns")), "Message": deep}))
    with running(Engine(hub_of(any=(print, None)), queues.__getitem__)):
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert dead.sent[0].attributes["error"] == "it is nested deeper than 100 (balog_max_depth)"


def test_a_body_that_can_never_be_had_is_a_dead_letter(queues: Queues) -> None:
    """The pointer to it is, with the reason."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    messages = [[Message("pointer", "h1", "m1", 0.0, problem="it is gone")]]
    queue.on["receive"] = lambda limit: messages.pop() if messages else None
    with running(Engine(hub_of(any=(print, None)), queues.__getitem__)):
        queue.wait_for(lambda: queue.deleted == ["h1"])
    assert (dead.sent[0].body, dead.sent[0].attributes["error"]) == ("pointer", "it is gone")
