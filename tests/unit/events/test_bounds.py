"""Limits: no sender can make caches, spans, logs or an engine grow, and no reason shows content."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from balog_celery import get_logger
from balog_celery.consumers import Consumer
from balog_celery.errors import DecodeError, RecordError
from balog_celery.events.decoders import At, JSONMapping, auto, reader_of
from balog_celery.events.decoders.documents import MAX_EVENTS
from balog_celery.events.payloads import Payload
from balog_celery.events.records import decode
from balog_celery.events.serialization import MAX_NAME
from balog_celery.sqs.messages import Message
from balog_celery.testing import capture_records
from cpu_time import cpu_within
from sample_events import EVENT, event_text

SNS = {"Type": "Notification", "TopicArn": "a", "MessageId": "m"}
SECRET = "4111 1111 1111 1111 Alice"


class Card(Payload):
    """A payload with a part of any JSON."""

    kind: Literal["card"]
    number: int


class Cash(Payload):
    """One alternative of the union."""

    kind: Literal["cash"]


class Many(Payload):
    """A payload with a list."""

    items: list[int]


class Contents(Payload):
    """A payload with unions and mappings."""

    scores: dict[str, int] = Field(default_factory=dict)
    content: list[Card | Cash] = Field(default_factory=list, discriminator=None)
    first: Card | Cash | None = Field(None, discriminator="kind")
    amount: int = 0


class Wallet(Contents):
    """The same, for its type."""

    cls_type: Literal["test.wallet"] = "test.wallet"


def wants_contents(event: Contents) -> None: ...


def wants_many(event: Many) -> None: ...


@pytest.mark.parametrize(
    "payload",
    [
        {"amount": SECRET},
        {"scores": {SECRET: "x"}},
        {"first": {"kind": SECRET}},
        {"content": [{"kind": SECRET}]},
        {"content": [{"kind": "card", "number": SECRET}]},
        {"amount": {SECRET: SECRET}},
    ],
)
def test_a_reason_holds_nothing_of_the_event(payload: dict[str, Any]) -> None:
    """The reason of a DecodeError or RecordError holds no value and no undeclared key of the event."""

    with pytest.raises(DecodeError) as caught:
        reader_of(auto)(event_text(cls_type="test.wallet", **payload))
    with pytest.raises(RecordError) as refused:
        Consumer(wants_contents, "topic").argument(decode(event_text(cls_type="other", **payload)))
    for reason in (caught.value.reason, str(refused.value)):
        assert "4111" not in reason
        assert "Alice" not in reason
        assert next(iter(payload)) in reason
        assert reason.isprintable()


WRONG = st.text("0123456789abcdef", min_size=6) | st.dictionaries(
    st.text("xyz", min_size=6), st.just("qqqqqq"), min_size=1
)


def reason_of(body: str) -> str:
    """Why *body* cannot be decoded; "" if it can."""
    try:
        reader_of(auto)(body)
    except DecodeError as error:
        return error.reason
    return ""


@given(value=WRONG, place=st.sampled_from(["schema", "header", "payload"]))
def test_no_part_of_a_record_shows_in_its_reason(value: Any, place: str) -> None:
    """No part of a record appears in the reason, wherever the error is."""
    for wrong in (value, [value], {"id": value, "channel": value, "cls_type": [value]}):
        reason = reason_of(json.dumps({**EVENT, place: wrong}))
        assert not any(part in reason for part in ([value] if isinstance(value, str) else value))


def test_an_argument_that_does_not_fit_is_one_short_line() -> None:
    """An error about a function's argument is one short line, however many items are wrong."""

    record = decode(event_text(cls_type="other", items=["x"] * 100_000))
    consumer = Consumer(wants_many, "topic")
    with pytest.raises(RecordError) as caught:
        consumer.argument(record)
    assert str(caught.value) == (
        f"the event is not what {consumer.task_name} asks for, Many: "
        "items.0: Input should be a valid integer, unable to parse string as an integer (and 99999 more)"
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["schema", "header.id", "header.channel", "payload.cls_type"])
def test_names_are_bounded(name: str) -> None:
    """Names have a length limit, because caches and spans are keyed by them."""
    for length in (MAX_NAME, MAX_NAME + 1):
        record = json.loads(event_text(cls_type="x"))
        place, key = record, name
        if "." in name:
            part, key = name.split(".")
            place = record[part]
        place[key] = "x" * length
        if length == MAX_NAME:
            assert reader_of(auto)(json.dumps(record))
        else:
            with pytest.raises(DecodeError, match=f"^{name}: it has more than {MAX_NAME} characters$"):
                reader_of(auto)(json.dumps(record))


def test_a_logger_keeps_to_the_bound() -> None:
    """A logger cuts a long event text in the channel, so that the record can be read."""
    with capture_records() as records:
        get_logger("app").info("x" * 5_000, payload={"cls_type": "x"})
    assert records[0].header.channel == f"app.{'x' * 5_000}"[:MAX_NAME]
    assert records[0].payload.cls_type == "x"


def test_names_of_other_sources_are_bounded_too() -> None:
    """Names from other sources have the length limit, too."""
    event = {"specversion": "1.0", "type": "t", "source": "s", "id": "1"}
    for key in ("type", "source", "id", "specversion"):
        with pytest.raises(DecodeError, match="more than"):
            reader_of(auto)(json.dumps({**event, key: "x" * 1_000_000}))
    with pytest.raises(DecodeError, match="more than"):
        reader_of(JSONMapping(cls_type=At("kind")))(json.dumps({"kind": "x" * 1_000_000}))


def test_the_events_of_a_message_are_bounded() -> None:
    """The number of events in a message is limited, so that one topic cannot fill the engine."""
    event = {"specversion": "1.0", "type": "t", "source": "s"}
    for count in (MAX_EVENTS, MAX_EVENTS + 1):
        batch = json.dumps([{**event, "id": str(number)} for number in range(count)])
        lines = json.dumps({"lines": [{"n": number} for number in range(count)]})
        for decoder, body in ((auto, batch), (JSONMapping(cls_type="x", each=At("lines")), lines)):
            read = reader_of(decoder)
            if count == MAX_EVENTS:
                assert len(read(Message(body, "h", "m", 0.0))) == MAX_EVENTS
            else:
                with pytest.raises(DecodeError, match=f"it holds {count} events, more than {MAX_EVENTS}"):
                    read(Message(body, "h", "m", 0.0))


def test_the_events_of_a_message_are_bounded_whatever_reads_them() -> None:
    """The limit also holds for a user's decoder, and for many envelopes of SNS in one message."""
    count = MAX_EVENTS // 2 + 1
    batch = json.dumps([{"specversion": "1.0", "type": "t", "source": "s", "id": str(n)} for n in range(count)])
    records = {"Records": [{"Sns": {**SNS, "Message": batch.replace('"s"', f'"{n}"')}} for n in range(2)]}

    def of_a_user(body: str) -> list[Any]:
        return [decode(event_text(str(number))) for number in range(2 * count)]

    for decoder in (auto, of_a_user):
        with pytest.raises(DecodeError, match=f"it holds {2 * count} events, more than {MAX_EVENTS}"):
            reader_of(decoder)(Message(json.dumps(records), "h", "m", 0.0))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"Records": [{"s3": {}}] * 100_000}),
        json.dumps({"Records": [{"eventSource": ["aws:sqs"]}] * 100_000}),
        json.dumps([{"eventType": 1, "eventTime": 1, "subject": 1, "id": 1, "data": 1}] * 20_000),
        json.dumps({**SNS, "Message": "StackId='" + "a='" * 300_000}),
        json.dumps({**SNS, "Message": "StackId='\n" * 100_000}),
        json.dumps({"source": {}, "op": "c", "ts_ms": 10**4000}),
        json.dumps({"source": {}, "op": "c", "ts_ms": 1e308}),
        json.dumps({"source": {}, "op": "c", "ts_ms": -(10**14)}),
        json.dumps({"mail": {"messageId": {}}, "eventType": "x" * 1_000_000}),
    ],
)
def test_a_hostile_body_is_a_dead_letter_within_a_second(body: str) -> None:
    """A hostile body of any kind becomes a dead letter within a second."""
    with cpu_within(1.0), pytest.raises(DecodeError):
        reader_of(auto)(body)


HOSTILE = " " * 1000 + "/" * 1000 + "+" * 1000


@pytest.mark.parametrize("name", ["content-type", "ce-datacontenttype"])
def test_a_content_type_takes_no_time(name: str) -> None:
    """Of any length, and whatever it repeats."""
    attributes = {"ce-specversion": "1.0", "ce-type": "t", "ce-source": "/", "ce-id": "1", name: HOSTILE * 80}
    with cpu_within(1):
        ((event, _),) = reader_of(auto)(Message("{}", "h", "m", 0.0, attributes=attributes))
    assert event.payload.cls_type == "t"


def test_a_decoder_s_error_shows_no_content(caplog: pytest.LogCaptureFixture) -> None:
    """Neither that of pydantic, nor that of the event's own."""

    def decode_card(body: str) -> Any:
        return Card.model_validate_json(body)

    with pytest.raises(DecodeError) as raised:
        reader_of(decode_card)(json.dumps({"cls_type": "card", "kind": "card", "number": SECRET}))
    assert "Alice" not in caplog.text + str(raised.value)
    assert "failed: ValidationError" in str(raised.value)
