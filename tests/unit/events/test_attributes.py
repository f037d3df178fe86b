"""Message attributes of all types reach decoders, consumers and patterns, and survive a dead letter."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.dead_letters.original import OriginalMessage, marked
from balog_celery.engine.engine import Engine
from balog_celery.events.decoders import Message, reader_of, sns
from balog_celery.events.records import decode
from balog_celery.sqs.messages import Message as Received
from balog_celery.sqs.messages import OutgoingMessage, TypedValue
from engines import running, sample
from sample_events import event_text
from scripted_sqs.in_process import InProcessQueue
from scripted_sqs.store import SqsStore

SENT = {
    "text": "a",
    "number": TypedValue("Number", "12.50"),
    "bytes": TypedValue("Binary", b"\x00\xff"),
    "image": TypedValue("Binary.png", b"PNG"),
    "list": TypedValue("String.Array", '["a", 1, null]'),
    "no list": TypedValue("String.Array", "[" * 100_000),
    "label": TypedValue("Number.float", "1"),
}
SEEN = {
    "text": "a",
    "number": "12.50",
    "bytes": b"\x00\xff",
    "image": b"PNG",
    "list": ["a", 1, None],
    "no list": "[" * 100_000,
    "label": "1",
}


def test_attributes_of_all_types_reach_decoders_consumers_and_patterns() -> None:
    """Given a message with attributes of all types, then a decoder, a pattern and a consumer see each of them."""
    seen: list[Any] = []
    done = threading.Event()

    def read(message: Message) -> list[Any]:
        seen.append(message.attributes)
        return [decode(event_text())]

    def consume(event: Any, message: Message) -> None:
        seen.append(message.attributes)
        done.set()

    def never(event: Any) -> None:
        seen.append("never")

    hub = ConsumerHub()
    hub.add_consumer(Consumer(never, "events", where={"attributes.list": ["b"]}))
    hub.add_consumer(Consumer(consume, "events", where={"attributes.list": ["a"], "attributes.number": ["12.50"]}))
    queue = InProcessQueue("events", SqsStore())
    queue.create()
    queue.send([OutgoingMessage("{}", SENT)])
    engine = Engine(hub, lambda _: queue, wait_time=0, dead_letter=None, decoders={"events": read})
    with running(engine):
        assert done.wait(30)
    assert seen == [SEEN, SEEN]


def test_attributes_of_an_envelope_have_the_same_types() -> None:
    """Given the same attributes in an envelope of SNS, then a decoder sees the same values."""
    given = {
        "text": {"Type": "String", "Value": "a"},
        "bytes": {"Type": "Binary", "Value": "AP8="},
        "list": {"Type": "String.Array", "Value": '["a", 1, null]'},
        "number": {"Type": "Number", "Value": "12.50"},
    }
    body = json.dumps({**json.loads(sample("sns")), "Message": "{}", "MessageAttributes": given})
    seen: list[Any] = []

    def read(message: Message) -> list[Any]:
        seen.append(message.attributes)
        return []

    reader_of(partial(sns, inner=read))(Received(body, "h", "m", 0.0))
    assert seen == [{name: SEEN[name] for name in given}]


TYPED = st.one_of(
    st.builds(TypedValue, st.just("Number"), st.just("1")),
    st.builds(TypedValue, st.sampled_from(["Binary", "Binary.gzip"]), st.binary(min_size=1, max_size=9)),
    st.builds(TypedValue, st.just("String.Array"), st.sampled_from(['["a"]', "no"])),
)


@given(st.dictionaries(st.text("abcdefgh", min_size=1, max_size=8), st.just("x") | TYPED, max_size=10))
def test_a_replayed_message_has_the_same_attributes(attributes: dict[str, Any]) -> None:
    """Given up to ten attributes, of which one has no room beside the mark, then a decoder sees all of them again."""
    seen: list[Any] = []

    def read(message: Message) -> list[Any]:
        seen.append(message.attributes)
        return []

    queue = InProcessQueue("events", SqsStore())
    queue.create()
    for sent in (attributes, marked(attributes, {"reason": "failed"})):
        assert queue.send([OutgoingMessage("{}", sent)]) == []
        (message,) = queue.receive(10, 0)
        assert queue.delete([message.handle]) == []
        reader_of(read)(message)
        assert OriginalMessage.of(message, "{}", 1).attributes == attributes
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "held", [1, [1], {"a": 1}, {"a": ["Binary", "not base64"]}, {"a": ["Number"]}, {"a": [[], {}]}]
)
def test_a_forged_mark_harms_nothing(held: Any) -> None:
    """A mark whose attributes are nonsense is read as one without any."""
    mark = {"balog-dead-letter": json.dumps({"attributes": held})}
    assert Message.of(Received("{}", "h", "m", 0.0, attributes=mark)).attributes == {}
