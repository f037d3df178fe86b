"""The engine with messages of other sources: several events in one message, decoders by topic, their outcomes."""

from __future__ import annotations

import gc
import json
import logging
import re
from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.dead_letters.reader import DeadLetter
from balog_celery.engine.engine import Engine
from balog_celery.errors import ConfigurationError
from balog_celery.events.decoders import At, JSONMapping, auto, reader_of
from balog_celery.events.mark import MARK
from balog_celery.events.records import decode
from balog_celery.sqs.messages import Message
from engines import Queues, Recorder, ScriptedDispatcher, running, sample, with_dead_letters
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue
from servers import wait_until


@pytest.fixture
def queues() -> Queues:
    """The topic ``topic``, and no dead-letter queue."""
    return Queues(topic=ObservedQueue())


def hub_of(**wanted: Any) -> ConsumerHub:
    """Return a hub with a consumer for each name, which is also its cls_type."""
    hub = ConsumerHub()
    for name, (func, cls_type) in wanted.items():
        hub.add_consumer(Consumer(func, "topic", cls_type, name=name))
    return hub


def notification(*names: str) -> str:
    """An S3 notification of events of these names."""
    (entry,) = json.loads(sample("s3"))["Records"]
    return json.dumps({"Records": [{**entry, "eventName": name} for name in names]})


def test_the_events_of_a_message_are_settled_together(queues: Queues) -> None:
    """A message with several events is deleted when all jobs are acknowledged, and released if one is released."""
    dispatcher = ScriptedDispatcher()
    queue = queues["topic"]
    queue.put(*[notification("ObjectCreated:Put", "ObjectRemoved:Delete")] * 2)
    hub = hub_of(any=(print, "aws.s3.*"), created=(print, "aws.s3.ObjectCreated:*"))
    with running(Engine(hub, queues.__getitem__, linger=0.0, dispatcher=dispatcher, drain=0.1)):
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
            (job.release if job is taken[3] else job.acknowledge)()
        queue.wait_for(lambda: queue.released == ["m2"])
        assert queue.deleted == []
        taken[2].acknowledge()
        queue.wait_for(lambda: queue.deleted == ["m1"])


def test_no_event_leaves_a_reference_cycle_behind(queues: Queues) -> None:
    """No event leaves a reference cycle behind, because the engine's process rarely collects them."""
    with_dead_letters(queues)
    hub = hub_of(created=(print, "aws.s3.ObjectCreated:*"), failing=(Recorder().fail, "metrics"))
    engine = Engine(hub, queues.__getitem__, linger=0.0)
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
    """Unmatched events of a message are counted and logged without delaying the others."""
    caplog.set_level(logging.INFO)
    recorder = Recorder()
    queue = queues["topic"]
    queue.put(notification("ObjectCreated:Put", "ObjectRemoved:Delete"))
    hub = hub_of(created=(recorder.process, "aws.s3.ObjectCreated:*"))
    with running(Engine(hub, queues.__getitem__, linger=0.0)) as engine:
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert len(recorder.ids) == 1
    assert engine.stats.of("topic") == {"received": 1, "dispatched": 1, "unwanted": 1, "deleted": 1}
    assert "(cls_type aws.s3.ObjectRemoved:Delete, schema 2.1): deleted" in caplog.text


def test_the_default_event_handler_gets_what_nobody_wants_of_a_message(queues: Queues) -> None:
    """The default event handler gets each unmatched event; if it fails, that event alone becomes a dead letter."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.put(notification("ObjectCreated:Put", "ObjectRemoved:Delete", "ObjectRestore:Post"))
    hub = hub_of(created=(print, "aws.s3.ObjectCreated:*"))

    def handler(event: dict[str, Any]) -> None:
        if event["payload"]["eventName"] == "ObjectRemoved:Delete":
            raise ValueError("no")

    with running(Engine(hub, queues.__getitem__, linger=0.0, default_event_handler=handler)):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    (letter,) = dead.sent
    assert letter.body == notification("ObjectCreated:Put", "ObjectRemoved:Delete", "ObjectRestore:Post")
    kept = Message(letter.body, "", "m", 0.0, attributes={MARK: str(letter.attributes[MARK])})
    read = DeadLetter.read(kept, reader_of(auto), "topic")
    assert read.event is not None
    assert read.event.payload.cls_type == "aws.s3.ObjectRemoved:Delete"
    assert mark_of(letter)["reason"] == "default_event_handler"


def test_a_default_event_handler_of_which_nothing_has_run_has_failed(queues: Queues) -> None:
    """A plain function that returns a coroutine: the event would be deleted, and nobody had seen it."""

    async def keep(event: Any) -> None: ...

    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.put(event_text("LG1"))
    hub = hub_of(created=(print, "aws.s3.ObjectCreated:*"))
    with running(Engine(hub, queues.__getitem__, linger=0.0, default_event_handler=lambda event: keep(event))):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    (letter,) = dead.sent
    assert "it returned a coroutine" in mark_of(letter)["error"]


def test_a_failing_default_event_handler_lets_the_whole_message_come_again(queues: Queues) -> None:
    """If the default handler fails without a dead-letter queue, the message comes again; other events are processed."""
    recorder = Recorder()
    queue = queues["topic"]
    queue.put(notification("ObjectCreated:Put", "ObjectRemoved:Delete"))
    hub = hub_of(created=(recorder.process, "aws.s3.ObjectCreated:*"))
    with running(Engine(hub, queues.__getitem__, linger=0.0, default_event_handler=Recorder().fail)) as engine:
        wait_until(lambda: engine.stats.of("topic").get("failed") == 1)
        wait_until(lambda: engine.status()["topics"]["topic"]["in_flight"] == 0)
    assert len(recorder.ids) == 1
    assert not queue.deleted
    assert not queue.released  # released at once, it would fail again at once


def test_an_event_that_fails_is_a_dead_letter_by_itself(queues: Queues) -> None:
    """A failed event of several becomes a dead letter as a record, which can be replayed."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    queue.put(notification("ObjectCreated:Put", "ObjectRemoved:Delete"))
    recorder = Recorder()
    hub = hub_of(
        created=(recorder.process, "aws.s3.ObjectCreated:*"), removed=(recorder.fail, "aws.s3.ObjectRemoved:*")
    )
    with running(Engine(hub, queues.__getitem__, linger=0.0)):
        queue.wait_for(lambda: queue.deleted == ["m1"])
        queue.put(dead.sent[0].body)
        queue.wait_for(lambda: queue.deleted == ["m1", "m2"])
    assert len(dead.sent) == 2
    assert dead.sent[0].body == dead.sent[1].body


def test_a_message_without_an_event_is_done(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """A message without an event, such as S3's test, is deleted."""
    caplog.set_level(logging.INFO)
    queue = queues["topic"]
    queue.put(sample("s3-test-event"))
    with running(Engine(hub_of(any=(print, None)), queues.__getitem__, linger=0.0)) as engine:
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert engine.stats.of("topic") == {"received": 1, "empty": 1, "deleted": 1}
    assert re.search(r"message \S+ of topic has no events: deleted", caplog.text)


def test_a_topic_has_the_decoder_that_was_named_for_it(queues: Queues) -> None:
    """A topic's decoder is found by the resolved or the declared name; a body that it refuses becomes a dead letter."""

    class Operator:
        def get_topic(self, consumer: Consumer) -> str:
            return consumer.topic.format(env="test")

        def process_event(self, consumer: Consumer, event: Any) -> Any:
            return consumer.func(event)

    recorder = Recorder()
    hub = ConsumerHub()
    for topic in ("a-{env}", "b-{env}", "c-{env}"):
        hub.add_consumer(Consumer(recorder.process, topic, name=topic[0]))
        queues[topic.format(env="test")].put(*['{"n": 1}', event_text("e")])
        queues[f"{topic.format(env='test')}-dead"] = ObservedQueue(f"{topic.format(env='test')}-dead")
    decoders = {"a-{env}": JSONMapping(cls_type="order", id=At("n")), "b-test": "balog"}
    with running(Engine(hub, queues.__getitem__, linger=0.0, consumer_operator=Operator(), decoders=decoders)):
        for name in "abc":
            queues[f"{name}-test"].wait_for(lambda name=name: len(queues[f"{name}-test"].deleted) == 2)
    assert "order 1" in recorder.ids
    assert [letter.body for letter in queues["b-test-dead"].sent] == ['{"n": 1}']
    assert [letter.body for letter in queues["c-test-dead"].sent] == ['{"n": 1}']
    assert not queues["a-test-dead"].sent


def test_a_decoder_for_no_topic_is_an_error_at_start(queues: Queues) -> None:
    """A decoder for an unknown topic is an error at start."""
    engine = Engine(hub_of(any=(print, None)), queues.__getitem__, linger=0.0, decoders={"topics": "s3"})
    with pytest.raises(
        ConfigurationError, match="a decoder for 'topics', which is no consumer's topic: did you mean 'to"
    ):
        engine.run()


def test_an_unknown_decoder_is_an_error_at_once(queues: Queues) -> None:
    """An unknown decoder is an error before anything is connected to."""
    with pytest.raises(ConfigurationError, match="unknown decoder 'event-bridge': did you mean 'eventbridge'"):
        Engine(hub_of(any=(print, None)), queues.__getitem__, linger=0.0, decoders={"topic": "event-bridge"})


def test_what_sns_holds_may_not_be_deeper_than_a_body(queues: Queues) -> None:
    """An event inside an SNS envelope is subject to the depth limit."""
    dead = with_dead_letters(queues)
    queue = queues["topic"]
    deep = json.dumps({**json.loads(sample("cloudevent")), "data": 0}).replace("0}", "[" * 120 + "]" * 120 + "}")
    queue.put(json.dumps({**json.loads(sample("sns")), "Message": deep}))
    with running(Engine(hub_of(any=(print, None)), queues.__getitem__, linger=0.0)):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert mark_of(dead.sent[0])["error"] == "it is nested deeper than 100 (balog_max_depth)"


def test_a_body_that_can_never_be_had_is_a_dead_letter(queues: Queues) -> None:
    """A pointer to a body that can never be read becomes a dead letter with the reason."""
    dead = with_dead_letters(queues)

    class Pointing(ObservedQueue):
        """Its messages point to bodies in S3 that are gone."""

        def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
            return [one._replace(problem="it is gone") for one in super().receive(limit, wait, visibility)]

    queue = queues["topic"] = Pointing("topic", ["pointer"])
    with running(Engine(hub_of(any=(print, None)), queues.__getitem__, linger=0.0)):
        queue.wait_for(lambda: queue.deleted == ["m1"])
    assert (dead.sent[0].body, mark_of(dead.sent[0])["error"]) == ("pointer", "it is gone")
