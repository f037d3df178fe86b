"""A dead letter is the message as it came, and every way back gives the consumer the same event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.consumers.context import EventContext
from balog_celery.dead_letters.original import OriginalMessage
from balog_celery.dead_letters.reader import DeadLetter
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.errors import DecodeError
from balog_celery.events.decoders import JSONMapping, auto, reader_of, s3
from balog_celery.events.decoders import json as any_json
from balog_celery.events.mark import MARK, write_mark
from balog_celery.events.records import FacilityRecord
from balog_celery.sqs.messages import Message, OutgoingMessage, TypedValue
from decoder_cases import CASES
from engines import sample
from sample_events import event_text
from scripted_sqs.in_process import InProcessQueue
from scripted_sqs.store import SqsStore, arn_of


class Stage:
    """A topic and its dead-letter queue on one scripted SQS."""

    def __init__(self) -> None:
        self.store = SqsStore()
        self.topic, self.dead = (InProcessQueue(name, self.store) for name in ("events", "events-dead"))
        self.dead.create()
        policy = json.dumps({"deadLetterTargetArn": arn_of("events-dead"), "maxReceiveCount": 1})
        self.store.call("CreateQueue", {"QueueName": "events", "Attributes": {"RedrivePolicy": policy}})
        self.letters = DeadLetters(lambda _name: self.dead, "{topic}-dead")

    def send(self, body: str, attributes: dict[str, Any]) -> Message:
        """Send a message to the topic, and receive it."""
        assert self.topic.send([OutgoingMessage(body, attributes)]) == []
        (message,) = self.topic.receive(10, 0, 0)
        return message

    def fail(self, message: Message, event: FacilityRecord, text: str, events: int) -> None:
        """An event fails in a worker: only its text and the headers of its task have travelled there."""
        context = EventContext(event.header.id, "", {}, original=OriginalMessage.of(message, text, events))
        headers = json.loads(json.dumps(context.to_headers()))
        original = EventContext.from_headers(headers).original
        assert self.letters.send(text, "events", "failed", consumer="f", event_id=event.header.id, original=original)
        self.topic.delete([message.handle])

    def redrive_policy(self) -> None:
        """The topic's only message was received too often."""
        assert self.topic.receive(10, 0, 0) == []

    def move_back(self) -> Message:
        """What the console's button does: all dead letters are new messages of the topic."""
        task = {"SourceArn": arn_of("events-dead"), "DestinationArn": arn_of("events")}
        self.store.call("StartMessageMoveTask", task)
        (message,) = self.topic.receive(10, 0, 0)
        return message

    def dead_letter(self, reader: Any) -> DeadLetter:
        (message,) = self.dead.read(10, 0, 0)
        return DeadLetter.read(message, reader, "events")


def same(events: Sequence[tuple[FacilityRecord, str]], event: FacilityRecord) -> bool:
    """Whether *event* is among *events*, with its id, its times and its payload."""
    return any(one == event for one, _ in events)


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_way_back_gives_the_same_event(case: str) -> None:
    """Given an event that failed, when its dead letter is replayed or moved back by SQS, then it is the same event."""
    decoder, body, attributes = CASES[case]
    reader, given_attributes = reader_of(decoder, "events"), {"mine": "1", "n": TypedValue("Number", "1"), **attributes}
    events = reader(Stage().send(body, dict(given_attributes)))
    for position in range(len(events)):
        stage = Stage()
        message = stage.send(body, dict(given_attributes))
        event, text = reader(message)[position]
        stage.fail(message, event, text, len(events))
        letter = stage.dead_letter(reader)
        assert (letter.message.body, letter.attributes) == (body, given_attributes)
        assert (letter.event, letter.text, letter.consumer) == (event, text, "f")
        assert letter.original_id == message.message_id
        assert same(reader(stage.move_back()), event)
        again = Stage()
        assert same(reader(again.send(body, letter.attributes_again())), event)
        again.redrive_policy()
        (moved,) = again.dead.read(10, 0, 0)
        assert same(reader(moved), event)
        assert DeadLetter.read(moved, reader, "events").consumer == ""


def test_one_event_out_of_a_large_message_is_kept_as_its_record() -> None:
    """Otherwise a thousand events of a message that fail would be kept as a thousand copies of it."""
    reader = reader_of(s3, "events")
    notification = json.loads(sample("s3"))
    entry = notification["Records"][0]
    names = [{**entry, "pad": "x" * 400_000, "eventTime": f"2024-01-01T00:00:0{n}Z"} for n in range(2)]
    stage = Stage()
    message = stage.send(json.dumps({"Records": names}), {"mine": "1"})
    events = reader(message)
    event, text = events[1]
    stage.fail(message, event, text, len(events))
    letter = stage.dead_letter(reader)
    assert (letter.message.body, letter.is_record, letter.event) == (text, True, event)
    assert letter.attributes == {"mine": "1"}
    # Moved back by SQS, it is no notification of S3: its decoder says what to do, and makes no other event of it.
    moved = stage.move_back()
    with pytest.raises(DecodeError, match="replay it with `balog dead replay`"):
        reader(moved)
    assert same(reader_of(auto)(moved), event)


FORGED = [
    {"topic": "news"},
    {"consumer": "crm"},
    {"reason": "failed"},
    {"reason": "failed", "topic": "news", "consumer": "crm"},
    {"reason": "failed", "topic": "events", "consumer": "consumers.refund"},
    {MARK: write_mark({"reason": "failed", "topic": "events", "consumer": "consumers.refund"})},
    {MARK: write_mark({"reason": "failed", "topic": "billing", "consumer": "consumers.refund", "record": True})},
    {MARK: "not json"},
    {MARK: "[1]"},
    {MARK: '{"reason": 1, "topic": [], "consumer": {}, "message_id": 2, "sent": "x", "attributes": [1]}'},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
@pytest.mark.parametrize("decoder", [auto, any_json, JSONMapping(cls_type="thing")], ids=["auto", "json", "mapping"])
def test_a_senders_attributes_steer_nothing(forged: dict[str, str], decoder: Any) -> None:
    """Given attributes that look like those of a dead letter, when SQS moves the message, then it is of no consumer."""
    stage = Stage()
    body, reader = event_text("LG7", "order"), reader_of(decoder, "events")
    message = stage.send(body, dict(forged))
    stage.redrive_policy()
    letter = stage.dead_letter(reader)
    assert (letter.reason, letter.topic, letter.consumer, letter.is_record) == ("", "events", "", False)
    assert (letter.message.body, letter.message.message_id) == (body, message.message_id)
    if not letter.problem:
        assert letter.event is not None
        assert letter.event.payload.cls_type == {auto: "order", any_json: "events"}.get(decoder, "thing")


@pytest.mark.parametrize("home", ["events", ""])
def test_a_mark_of_another_topic_is_not_believed(home: str) -> None:
    """A server that does not say which messages it has moved: the queue's own topic decides."""
    mark = {MARK: write_mark({"reason": "failed", "topic": "billing", "consumer": "consumers.refund"})}
    letter = DeadLetter.read(Message(event_text(), "", "m", 0.0, attributes=mark), reader_of(auto), home)
    assert (letter.topic, letter.consumer) == (("events", "") if home else ("billing", "consumers.refund"))


NAMES = st.text("abcdefgh", min_size=1, max_size=8)
VALUES = st.text("abc é", min_size=1, max_size=5)
TYPED = st.builds(TypedValue, st.just("Number"), st.just("1")) | st.builds(
    TypedValue, st.sampled_from(["Binary", "Binary.gzip"]), st.binary(min_size=1, max_size=9)
)


@given(st.dictionaries(NAMES, VALUES | TYPED, max_size=10), st.sampled_from([event_text(), '{"not": "json"', "é"]))
def test_body_and_attributes_of_any_message_stay(attributes: dict[str, Any], body: str) -> None:
    """SQS takes ten attributes, and a message may have as many already."""
    stage = Stage()
    message = stage.send(body, attributes)
    assert stage.letters.send_received(message, body, "events", "undecodable", error="no")
    stage.topic.delete([message.handle])
    letter = stage.dead_letter(reader_of(auto))
    assert (letter.message.body, letter.attributes, letter.reason) == (body, attributes, "undecodable")
    stage.letters.send_received(stage.move_back(), body, "events", "undecodable")


def test_a_body_stays_as_it_came() -> None:
    """800 kB of "é" are not 2.4 MB of escapes."""
    document = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": "é" * 400_000}
    body, stage = json.dumps(document, ensure_ascii=False), Stage()
    message = stage.send(body, {})
    ((event, text),) = reader_of(auto)(message)
    assert len(text) > 2_000_000
    stage.fail(message, event, text, 1)
    letter = stage.dead_letter(reader_of(auto))
    assert (letter.message.body, letter.event) == (body, event)
