"""Decoders: samples of AWS's and CloudEvents' documentation (``tests/data``), and bodies of any kind."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import field_serializer

from balog_celery.errors import ConfigurationError, DecodeError
from balog_celery.events.decoders import DECODERS, At, Decoder, JSONMapping, auto, find_decoder, reader_of, s3, sns
from balog_celery.events.payloads import Payload
from balog_celery.events.records import FacilityRecord, as_event, decode
from engines import sample
from sample_events import event_text


def summary(event: FacilityRecord) -> tuple[str, str, str, str, str]:
    header = event.header
    return event.payload.cls_type, header.id, header.channel, header.timestamp.isoformat(), event.schema_version


#: Ids that are derived are what tasks are recognised by: no release may change them.
S3_EVENT = (
    "aws.s3.ObjectCreated:Put",
    "LGvvbTbE6ArWGr3SP3jaWAza",
    "amzn-s3-demo-bucket",
    "1970-01-01T00:00:00+00:00",
    "2.1",
)
TOPIC = "arn:aws:sns:us-west-2:123456789012:MyTopic"
KNOWN = {
    "cloudevent": [
        ("com.example.someevent", "/mycontext C234-1234-1234", "/mycontext", "2018-04-05T17:31:00+00:00", "1.0")
    ],
    "cloudevents-batch": [
        ("com.example.someevent", "/mycontext/4 B234-1234-1234", "/mycontext/4", "2018-04-05T17:31:00+00:00", "1.0"),
        (
            "com.example.someotherevent",
            "/mycontext/9 C234-1234-1234",
            "/mycontext/9",
            "2018-04-05T17:31:05+00:00",
            "1.0",
        ),
    ],
    "eventbridge-ec2": [
        (
            "aws.events.aws.ec2.EC2 Instance State-change Notification",
            "7bf73129-1428-4cd3-a780-95db273d1602",
            "aws.ec2",
            "2021-11-11T21:29:54+00:00",
            "0",
        )
    ],
    "eventbridge-s3": [
        (
            "aws.events.aws.s3.Object Created",
            "17793124-05d4-b198-2fde-7ededc63b103",
            "aws.s3",
            "2021-11-12T00:00:00+00:00",
            "0",
        )
    ],
    "s3": [S3_EVENT],
    "s3-test-event": [],
    "sns": [
        (
            "aws.sns.Notification",
            "63a3f6b6-d533-4a47-aef9-fcf5cf758c76",
            TOPIC,
            "2012-03-29T05:12:16.901000+00:00",
            "1",
        )
    ],
    "sns-s3": [S3_EVENT],
    "sns-subscription": [
        (
            "aws.sns.SubscriptionConfirmation",
            "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
            TOPIC,
            "2012-04-26T20:45:04.751000+00:00",
            "1",
        )
    ],
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_kind_is_known_by_its_shape(name: str) -> None:
    """A kind is recognised by its shape, and its named decoder reads it in the same way."""
    body = sample(name)
    assert [summary(event) for event in auto(body)] == KNOWN[name]
    named = find_decoder({"cloudevent": "cloudevents"}.get(name, name.partition("-")[0]))
    assert [summary(event) for event in named(body)] == KNOWN[name]


@pytest.mark.parametrize(
    ("name", "documents"),
    [
        ("s3", lambda body: body["Records"]),
        ("sns-s3", lambda body: json.loads(body["Message"])["Records"]),
        ("cloudevents-batch", lambda body: body),
        ("cloudevent", lambda body: [body]),
        ("eventbridge-ec2", lambda body: [body]),
        ("sns", lambda body: [body]),
    ],
)
def test_the_payload_is_the_sources_document(name: str, documents: Any) -> None:
    """The payload is the source's document with cls_type added, in the engine and in the task."""
    for event, text in reader_of(auto)(sample(name)):
        again = as_event(decode(text))
        assert again["payload"] == as_event(event)["payload"]
        assert again["payload"].pop("cls_type") == event.payload.cls_type
        assert again["payload"] in documents(json.loads(sample(name)))


def test_a_balog_record_is_what_tasks_are_given() -> None:
    """Tasks get the original text of a balog record."""
    body = " " + event_text("e")
    for decoder in ("auto", "balog"):
        ((event, text),) = reader_of(find_decoder(decoder))(body)
        assert text is body
        assert event == decode(body)
    with pytest.raises(DecodeError, match=r"^it has schema and header, but no payload.*balog_decoders"):
        auto(json.dumps({"schema": "1", "header": json.loads(body)["header"]}))


def test_each_record_of_an_s3_notification_is_an_event() -> None:
    """Each record of an S3 notification is one event with an id of its own; a repeated one counts once."""
    entry = json.loads(sample("s3"))["Records"][0]
    other = json.loads(sample("s3"))["Records"][0]
    other["s3"]["object"]["key"] = "red+flower.jpg"
    removed = {**entry, "eventName": "ObjectRemoved:Delete"}
    events = reader_of(s3)(json.dumps({"Records": [entry, other, removed, entry]}))
    assert [event.payload.cls_type for event, _ in events] == [
        "aws.s3.ObjectCreated:Put",
        "aws.s3.ObjectCreated:Put",
        "aws.s3.ObjectRemoved:Delete",
    ]
    assert len({event.header.id for event, _ in events}) == 3


def test_one_bad_record_makes_the_message_undecodable() -> None:
    """One bad record makes the whole message undecodable."""
    entry = json.loads(sample("s3"))["Records"][0]
    bad = {key: value for key, value in entry.items() if key != "eventName"}
    with pytest.raises(DecodeError, match="it has no text at eventName"):
        auto(json.dumps({"Records": [entry, bad]}))


@pytest.mark.parametrize("held", ["cloudevents-batch", "eventbridge-ec2", "s3-test-event", "sns-s3"])
def test_what_sns_holds_is_known_as_well(held: str) -> None:
    """The kind of an event inside SNS envelopes is recognised at any depth."""
    body = sample(held)
    for _ in range(3):
        body = json.dumps({**json.loads(sample("sns")), "Message": body})
        assert [summary(event) for event in auto(body)] == KNOWN[held]


def test_a_balog_record_comes_through_sns() -> None:
    """A balog record in an SNS envelope keeps its id."""
    body = json.dumps({**json.loads(sample("sns")), "Message": event_text("e")})
    ((event, text),) = reader_of(auto)(body)
    assert event == decode(event_text("e")) == decode(text)


@pytest.mark.parametrize("message", ["Hello world!", "{", "3", "null", '{"order": 1}', "[]", '["a"]'])
def test_what_is_of_no_known_kind_in_sns_is_an_event_of_sns(message: str) -> None:
    """An SNS message of unknown kind is an event with the whole envelope as its payload."""
    (event,) = auto(json.dumps({**json.loads(sample("sns")), "Message": message}))
    assert event.payload.cls_type == "aws.sns.Notification"
    assert as_event(event)["payload"]["Message"] == message


def test_plain_json_comes_through_sns() -> None:
    """Plain JSON in an SNS envelope is decoded with an inner decoder."""
    decoder = functools.partial(sns, inner=JSONMapping(cls_type="order", id=At("order")))
    ((event, _),) = reader_of(decoder)(json.dumps({**json.loads(sample("sns")), "Message": '{"order": 1}'}))
    assert (event.payload.cls_type, event.header.id) == ("order", "order 1")


def test_a_cloudevent_without_a_time_has_that_of_its_reading() -> None:
    """A CloudEvent without a time gets one; two equal ones are still one event."""
    event = {key: value for key, value in json.loads(sample("cloudevent")).items() if key != "time"}
    ((read, _),) = reader_of(auto)(json.dumps([event, {**event, "time": None}, event][::2]))
    assert abs((datetime.now(timezone.utc) - read.header.timestamp).total_seconds()) < 60


def test_two_events_with_one_id_are_not_mixed_up() -> None:
    """Two different events with one id make the message undecodable, so neither is dropped."""
    event = json.loads(sample("cloudevent"))
    with pytest.raises(DecodeError, match="two of its events have the same id"):
        reader_of(auto)(json.dumps([event, {**event, "data": {}}]))


@pytest.mark.parametrize("body", ['{"a": 1}', "[]", "3", "null", '{"Records": []}', '{"Type": "Notification"}', "[{}]"])
def test_what_is_of_no_known_kind_says_what_to_do(body: str) -> None:
    """The error for a document of unknown kind says to name a decoder."""
    with pytest.raises(DecodeError, match=r"of no kind that is recognised.*balog_decoders"):
        auto(body)


@pytest.mark.parametrize("name", [name for name in DECODERS if name not in ("auto", "json")])
@pytest.mark.parametrize("body", ["3", "[3]", "{}", '"text"', "{", "null", '{"Type": "Notification"}'])
def test_a_named_decoder_refuses_what_is_not_of_its_kind(name: str, body: str) -> None:
    """A named decoder refuses other kinds with a DecodeError."""
    with pytest.raises(DecodeError) as caught:
        DECODERS[name](body)
    assert caught.value.reason.isprintable()


MAPPING = JSONMapping(
    cls_type=At("kind"),
    id=At("order.lines.0.id"),
    timestamp=lambda document: datetime.fromtimestamp(document["at"], timezone.utc),
    channel="shop",
    schema=At("v"),
)


def test_plain_json_is_mapped() -> None:
    """Constants, paths and functions map plain JSON; numbers become texts where needed."""
    document = {"kind": "order", "order": {"lines": [{"id": 7}]}, "at": 86_400, "v": 2.1}
    (event,) = MAPPING(json.dumps(document))
    assert summary(event) == ("order", "order 7", "shop", "1970-01-02T00:00:00+00:00", "2.1")
    assert as_event(event)["payload"] == {**document, "cls_type": "order"}


def test_a_missing_id_is_derived_from_the_body() -> None:
    """A missing id is derived from the body, the same for the same body only."""
    mapping = JSONMapping(cls_type="order")
    ids = [mapping(body)[0].header.id for body in ('{"n": 1}', '{"n": 1}', '{"n": 2}')]
    assert ids == ["LGe8Ab96YRUrWUg3xjAvAAdJ", "LGe8Ab96YRUrWUg3xjAvAAdJ", ids[2]]
    assert ids[2] != ids[0]
    assert JSONMapping(cls_type="order", id=At("id"))('{"n": 1, "id": null}')[0].header.id.startswith("LG")


def test_a_cls_type_of_the_documents_own_is_kept() -> None:
    """A document's own, different cls_type is kept under another name."""
    (event,) = JSONMapping(cls_type="order")('{"cls_type": "theirs"}')
    assert as_event(event)["payload"] == {"cls_type": "order", "document_cls_type": "theirs"}
    (event,) = JSONMapping(cls_type=At("cls_type"))('{"cls_type": "theirs"}')
    assert as_event(event)["payload"] == {"cls_type": "theirs"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("[]", "it is no JSON object, but list"),
        ("{", "it is not JSON"),
        ("{}", "it has no cls_type for its JSONMapping at kind"),
        ('{"kind": true, "v": 1, "at": 1}', "payload.cls_type: Input should be a valid string"),
        ('{"kind": "k", "v": 1}', "its decoder balog_celery.events.decoders.mapping.JSONMapping failed: KeyError"),
    ],
)
def test_what_cannot_be_mapped_says_why(body: str, reason: str) -> None:
    """The error of a mapping says why, also if a user's function fails."""
    with pytest.raises(DecodeError) as caught:
        reader_of(MAPPING)(body)
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"cls_type": ""}, "bad cls_type=''"),
        ({"cls_type": None}, "bad cls_type=None"),
        ({"cls_type": "a", "id": "constant"}, r"bad id='constant'.*give At\('path'\) or a function$"),
        ({"cls_type": "a", "timestamp": 3}, "bad timestamp=3"),
        ({"cls_type": "a", "timestamp": "yesterday"}, "bad timestamp='yesterday' .*ISO 8601"),
        ({"cls_type": "a", "timestamp": "9" * 20}, "bad timestamp='9.* beyond the years"),
        ({"cls_type": "a", "schema": "x y"}, "bad schema='x y' .*it is no version"),
        ({"cls_type": "a*"}, r"bad cls_type='a\*' .*is a prefix"),
        ({"cls_type": "a", "channel": "c" * 1025}, r"bad channel='c+\.\.\. .*more than 1024 characters"),
        ({"cls_type": lambda: "a"}, r"bad cls_type=<function .*cannot be called with \(document\)"),
        ({"cls_type": "a", "each": lambda one, two: []}, "bad each=<function .*missing a required argument: 'two'"),
    ],
)
def test_a_bad_mapping_is_an_error_where_it_is_made(arguments: dict[str, Any], text: str) -> None:
    """A bad mapping is an error where it is made, and names the argument."""
    with pytest.raises(ConfigurationError, match=text):
        JSONMapping(**arguments)


@given(
    timestamp=st.sampled_from(["2014", "2014-10-07T15:06:51Z", "1700000000", "1700000000000"]),
    schema=st.sampled_from(["1", "1.0", "0.0.1a1"]),
    name=st.text(min_size=1, max_size=1024).filter(lambda name: "*" not in name),
)
def test_an_event_can_have_the_constants_of_a_mapping(timestamp: str, schema: str, name: str) -> None:
    """What is taken where it is made is no reason for a dead letter."""
    mapping = JSONMapping(cls_type=name, channel=name, timestamp=timestamp, schema=schema)
    ((event, _),) = reader_of(mapping)("{}")
    assert (event.schema_version, event.header.channel) == (schema, event.payload.cls_type)


@pytest.mark.parametrize("path", ["", ".", "a..b", 3])
def test_a_bad_path_is_an_error(path: Any) -> None:
    """A path with an empty key is an error."""
    with pytest.raises(ConfigurationError, match="bad path"):
        At(path)


def no_sequence(body: str) -> Any:
    """A decoder that is none."""
    return 3


def dicts(body: str) -> Any:
    """A decoder that returns something else."""
    return [json.loads(body)]


def fails(body: str) -> Any:
    """Raise an error."""
    raise KeyError(body)


@pytest.mark.parametrize(("decoder", "error"), [(no_sequence, "TypeError"), (dicts, "TypeError"), (fails, "KeyError")])
def test_a_decoder_that_fails_makes_a_body_undecodable(
    decoder: Decoder, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception of a decoder makes the body undecodable; the log says where, and nothing of the body."""
    with pytest.raises(DecodeError, match=rf"^its decoder {__name__}.{decoder.__name__} failed: {error}$"):
        reader_of(decoder)('{"a": "4111"}')
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(rf"failed: {error} in .*\.py, line \d+$", record.getMessage())
    assert "4111" not in caplog.text


def generates(body: str) -> Iterator[FacilityRecord]:
    """A decoder that yields its events."""
    yield from auto(body)


def test_a_decoder_may_be_a_generator() -> None:
    """Its events are those that it yields."""
    body = event_text("LG1")
    assert reader_of(find_decoder(generates))(body) == reader_of(auto)(body)


def test_names_of_a_decoder_s_events_are_limited() -> None:
    """Routing remembers them, so that long ones are refused as in records that were sent."""

    def decode_all(body: str) -> list[FacilityRecord]:
        header = {"id": "1", "channel": "c", "timestamp": "2026-01-01T00:00:00Z"}
        return [FacilityRecord(schema="1", header=header, payload={"cls_type": body})]  # type: ignore[arg-type]

    assert len(reader_of(decode_all)("x" * 1024)) == 1
    with pytest.raises(DecodeError, match=r"^payload.cls_type: it has more than 1024 characters$"):
        reader_of(decode_all)("x" * 1025)


def test_a_decoder_has_a_name() -> None:
    """A decoder is named by its own name or a dotted one, or given itself."""
    assert find_decoder("auto") is auto
    assert find_decoder("balog_celery.decoders:s3") is find_decoder("balog_celery.decoders.s3") is s3
    assert find_decoder(MAPPING) is MAPPING


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("cloudevent", "unknown decoder 'cloudevent': did you mean 'cloudevents'"),
        ("nonsense", "unknown decoder 'nonsense': there are auto, balog, cloudevents, eventbridge, json, s3, sns"),
        ("no.such.module", "'no.such.module' cannot be imported"),
        ("json:nothing", "'json:nothing' cannot be imported"),
        ("balog_celery.decoders.JSONMapping", "is not a decoder"),
        (3, "3 is not a decoder"),
    ],
)
def test_an_unknown_decoder_is_an_error(value: object, text: str) -> None:
    """An unknown decoder is an error that lists the known ones."""
    with pytest.raises(ConfigurationError, match=text):
        find_decoder(value)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1.0", "2014-10-07", "s3:TestEvent", "Notification", "aws:s3", "{}", "[3]", '{"Records": [{}]}'])
)
KEYS = st.sampled_from(
    "schema header payload id channel timestamp cls_type specversion type source time detail detail-type version Type "  # noqa: SIM905
    "TopicArn Message MessageId Timestamp Records Event eventName eventTime eventVersion s3 bucket name object".split()
)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=6),
    max_leaves=12,
)


@st.composite
def near_samples(draw: st.DrawFn) -> Any:
    """A sample, with some of it gone and some of it another."""
    document = json.loads(sample(draw(st.sampled_from(sorted(KNOWN)))))
    for _ in range(draw(st.integers(0, 3))):
        place = document
        while isinstance(place, (dict, list)) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if draw(st.booleans()):
                place[key] = draw(DOCUMENTS)
                break
            place = place[key]
    if draw(st.booleans()):
        document = {**json.loads(sample("sns")), "Message": json.dumps(document)}
    return document


@settings(max_examples=1000, deadline=None)
@given(document=DOCUMENTS | near_samples(), cut=st.none() | st.integers(1, 50))
def test_any_body_is_events_or_undecodable(document: Any, cut: int | None) -> None:
    """Any body gives events with stable ids that tasks can read, or a DecodeError."""
    body = json.dumps(document)[:cut]
    try:
        events = reader_of(auto)(body)
    except DecodeError:
        return
    again = reader_of(auto)(body)
    assert [event.header.id for event, _ in events] == [event.header.id for event, _ in again]
    assert len({event.header.id for event, _ in events}) == len(events)
    for event, text in events:
        assert decode(text) == event


class Unwritable(Payload):
    """A payload that cannot be written again."""

    cls_type: Literal["test.unwritable"] = "test.unwritable"

    @field_serializer("cls_type")
    def _fail(self, value: str) -> str:
        raise KeyError(value)


def unwritable(body: str) -> list[FacilityRecord]:
    """A decoder whose record is none that can be written."""
    header = {"id": "1", "channel": "c", "timestamp": "2014"}
    return [FacilityRecord.model_validate({"schema": "1", "header": header, "payload": Unwritable()})]


def test_what_cannot_be_written_as_a_record_is_no_event() -> None:
    """A reader raises nothing but DecodeError, whatever a user's payload class does."""
    with pytest.raises(DecodeError, match=r"the record cannot be written as JSON: .*KeyError"):
        reader_of(unwritable)("{}")
