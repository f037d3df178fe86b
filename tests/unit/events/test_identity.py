"""What identifies an event: the source's id, else the message's; never the same for two events."""

from __future__ import annotations

import functools
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.errors import DecodeError
from balog_celery.events.decoders import At, Decoder, JSONMapping, auto, cloudevents, reader_of, sns
from balog_celery.events.decoders import json as json_decoder
from balog_celery.events.message import Message, derived_id, join_id
from balog_celery.events.records import decode
from balog_celery.sqs import queues
from decoder_cases import CASES
from engines import DATA, sample
from sample_events import event_text


def received(body: str, message_id: str = "m-1", **more: Any) -> queues.Message:
    """A message as the queue hands it over."""
    return queues.Message(body, "handle", message_id, 0.0, **more)


def ids(decoder: Decoder, *messages: queues.Message | str) -> list[str]:
    """The ids of all events of *messages*."""
    read = reader_of(decoder, "topic")
    return [event.header.id for message in messages for event, _ in read(message)]


def envelope(message: str, message_id: str = "sns-1", **more: Any) -> str:
    return json.dumps({**json.loads(sample("sns")), "Message": message, "MessageId": message_id, **more})


PLACED = json.dumps({"kind": "placed", "order": {"id": 7}})
CANCELLED = json.dumps({"kind": "cancelled", "order": {"id": 7}})


def test_what_happened_to_one_order_are_two_events() -> None:
    """Two types of event of one order have different ids, because a mapped id is joined with its type."""
    mapping = JSONMapping(cls_type=At("kind"), id=At("order.id"))
    assert ids(mapping, received(PLACED), received(CANCELLED)) == ["placed 7", "cancelled 7"]


def test_a_unique_id_is_taken_as_it_is() -> None:
    """A unique id is used unchanged, if the mapping says that it is one."""
    mapping = JSONMapping(cls_type=At("kind"), id=At("order.id"), unique_id=True)
    assert ids(mapping, received(PLACED)) == ["7"]


@pytest.mark.parametrize("decoder", [JSONMapping(cls_type="order"), json_decoder])
def test_equal_bodies_of_two_messages_are_two_events(decoder: Decoder) -> None:
    """Equal bodies in two messages are two events, and a redelivery keeps its id."""
    one, again, other = received('{"n": 1}', "m-1"), received('{"n": 1}', "m-1", receive_count=2), received('{"n": 1}')
    assert ids(decoder, one, again, other._replace(message_id="m-2")) == ["m-1", "m-1", "m-2"]


def test_what_sns_forwards_has_the_id_that_sns_gave_it() -> None:
    """An event from SNS has SNS's id, so two publishes are two events and a duplicate is one."""
    decoder = functools.partial(sns, inner=JSONMapping(cls_type=At("kind")))
    bodies = [envelope('{"kind": "ping"}', message_id) for message_id in ("p-1", "p-2", "p-1")]
    assert ids(decoder, *(received(body, f"m-{place}") for place, body in enumerate(bodies))) == ["p-1", "p-2", "p-1"]


def test_an_envelope_without_a_message_id_has_that_of_its_message() -> None:
    """The events of an envelope without a MessageId get the id of their message."""
    document = {key: value for key, value in json.loads(envelope('{"kind": "ping"}')).items() if key != "MessageId"}
    decoder = functools.partial(sns, inner=JSONMapping(cls_type=At("kind")))
    assert (
        ids(decoder, received(json.dumps(document)), received(json.dumps({**document, "MessageId": 3}))) == ["m-1"] * 2
    )


def test_events_of_one_message_are_told_apart_by_their_position() -> None:
    """Equal events of one message without ids of their own are told apart by their positions."""
    mapping = JSONMapping(cls_type="line", each=At("lines"))
    body = json.dumps({"lines": [{"n": 1}, {"n": 1}, {"n": 2}]})
    assert ids(mapping, received(body)) == ["m-1 0", "m-1 1", "m-1 2"]
    assert ids(mapping, received('{"lines": [{"n": 1}]}')) == ["m-1"]


def test_without_a_message_the_id_is_derived_from_the_body() -> None:
    """Without a message the id is derived from the body, so equal texts have equal ids."""
    mapping = JSONMapping(cls_type="order")
    assert ids(mapping, '{"n": 1}', '{"n": 1}') == [derived_id('{"n": 1}')] * 2
    assert ids(mapping, '{"n": 2}') != ids(mapping, '{"n": 1}')


def test_cloudevents_with_spaces_are_not_mixed_up() -> None:
    """CloudEvents whose source or id contains spaces keep different ids."""
    event = json.loads(sample("cloudevent"))
    one, other = ({**event, "source": source, "id": of} for source, of in (("a b", "c"), ("a", "b c")))
    first, second = ids(cloudevents, json.dumps(one), json.dumps(other))
    assert first != second
    assert second == "a b c"


@given(one=st.lists(st.text(" ab", max_size=3), min_size=2, max_size=3), data=st.data())
def test_joined_ids_are_the_same_for_the_same_parts_only(one: list[str], data: st.DataObject) -> None:
    """Joined ids are equal for equal parts only, whatever the parts contain."""
    parts = st.text(" ab", max_size=3)
    other = data.draw(st.lists(parts, min_size=len(one), max_size=len(one)))
    assert (join_id(*one) == join_id(*other)) == (one == other)


def test_a_path_that_finds_nothing_is_logged_once_for_each_topic(caplog: pytest.LogCaptureFixture) -> None:
    """A path without a value is logged once per topic; null and "" are no ids."""
    mapping = JSONMapping(cls_type="order", id=At("oder.id"))
    caplog.set_level(logging.WARNING)
    for topic in ("one", "two", "one"):
        ((event, _),) = reader_of(mapping, topic)(received('{"order": {"id": 1}, "oder": {"id": ""}}'))
        assert event.header.id == "m-1"
    assert [record.getMessage() for record in caplog.records] == [
        f"an event of {topic} has no id for its JSONMapping at oder.id: such an event is identified by its message"
        for topic in ("one", "two")
    ]


def test_ids_of_balog_records_are_their_own() -> None:
    """A balog record keeps its own id, whatever its message is."""
    assert ids(auto, received(event_text("LGx")), received(envelope(event_text("LGx")))) == ["LGx", "LGx"]


#: Bodies whose source guarantees no id.
ANONYMOUS = {
    "mapping": (JSONMapping(cls_type="x"), '{"n": 1}'),
    "json": (json_decoder, '{"n": 1}'),
    "sns, mapped": (functools.partial(sns, inner=JSONMapping(cls_type="x")), None),
    **{
        name: (auto, sample(name))
        for name in ("config", "codecommit", "ses-event-open", "debezium", "r2", "stepfunctions", "cloudwatch-alarm")
        if (DATA / f"{name}.json").exists()
    },
}


@pytest.mark.parametrize("name", ANONYMOUS)
def test_messages_that_differ_are_events_that_differ(name: str) -> None:
    """Events without a unique id are identified by SNS's or SQS's MessageId, which a redelivery has as well."""
    decoder, body = ANONYMOUS[name]
    messages = [received(body or envelope('{"n": 1}', of), of) for of in ("a", "b", "a")]
    one, other, again = ids(decoder, *messages)
    assert one == again != other


def test_an_s3_event_without_sequencer_and_request_id_is_told_by_its_message() -> None:
    """An S3 event without sequencer and request id is identified by its message."""
    document = json.loads(sample("s3"))
    (entry,) = document["Records"]
    entry["s3"]["object"].pop("sequencer", None)
    entry.pop("responseElements", None)
    body = json.dumps(document)
    assert ids(auto, received(body, "m-1"), received(body, "m-2"), received(body, "m-1")) == ["m-1", "m-2", "m-1"]


@given(
    bodies=st.lists(
        st.dictionaries(st.sampled_from(["id", "kind"]), st.text(" ab", max_size=2) | st.integers(0, 2)), min_size=2
    )
)
def test_two_messages_never_have_the_id_and_type_of_one(bodies: list[dict[str, Any]]) -> None:
    """Two messages never share id and type, unless their source gave them the same."""
    read = reader_of(JSONMapping(cls_type=At("kind"), id=At("id")), "topic")
    found: dict[tuple[str, str], Any] = {}
    for place, body in enumerate(bodies):
        try:
            ((event, _),) = read(received(json.dumps(body), f"m-{place}"))
        except DecodeError:
            continue
        key = str(body["kind"]), str(body.get("id", ""))
        assert found.setdefault((event.header.id, event.payload.cls_type), key) == key
        if key[1] == "":
            assert event.header.id == f"m-{place}"


#: Bodies of every decoder whose source gives its events an id that is theirs, so that two messages may hold one event.
OF_SOURCE = {
    *(f"auto:{name}" for name in ("autoscaling-hook", "ceph", "cloudevent", "cloudevents-batch", "eventbridge-ec2")),
    *(f"auto:{name}" for name in ("eventbridge-s3", "eventgrid", "kinesis", "lambda-destination", "minio", "s3")),
    *(f"auto:{name}" for name in ("pipes-dynamodb", "pipes-kinesis", "pipes-sqs", "scheduler", "ses-bounce")),
    *(f"auto:{name}" for name in ("ses-complaint", "sns", "sns-budgets", "sns-cloudformation", "sns-record", "sns-s3")),
    *(f"auto:{name}" for name in ("sns-subscription", "sp-api", "record", "binary")),
    *("balog", "cloudevents", "constant", "eventbridge", "s3", "sns", "sns:json", "user's"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_two_messages_are_two_events_unless_their_source_says_so(case: str) -> None:
    """Given one body in two messages, then no event of them has the id and type of another, or its source gave both."""
    decoder, body, attributes = CASES[case]
    read = reader_of(decoder, "topic")
    found = [
        (event.header.id, event.payload.cls_type)
        for message_id in ("m-1", "m-2")
        for event, _ in read(received(body, message_id, attributes=attributes))
    ]
    half = len(found) // 2
    assert len(set(found[:half])) == half
    assert (found[:half] == found[half:]) is (case in OF_SOURCE or not found)
    if case not in OF_SOURCE:
        assert len(set(found)) == len(found)


@pytest.mark.parametrize(("one", "other"), [("1", "true"), ("1", "1.0"), ("0.0", "-0.0"), ("[0]", "[false]")])
def test_events_of_one_id_that_only_look_equal_are_not_taken_for_one(one: str, other: str) -> None:
    """Given two events of one message with one id, when their data differ only in JSON, then it is a dead letter."""
    event = '{"specversion": "1.0", "type": "t", "source": "s", "id": "1", "data": %s}'
    for more in (other, one):
        body = f"[{event % one}, {event % more}]"
        if more == one:
            assert ids(auto, received(body)) == ["s 1"]
        else:
            with pytest.raises(DecodeError, match="two of its events have the same id"):
                ids(auto, received(body))


def test_a_decoder_of_the_users_gets_the_message_if_it_asks() -> None:
    """A user's decoder gets the message if its parameter is annotated so, else the body."""
    asked: list[object] = []

    def with_message(message: Message) -> list[Any]:
        asked.append(message)
        return [decode(event_text(message.id))]

    def with_body(body: str) -> list[Any]:
        asked.append(body)
        return [decode(event_text("e"))]

    message = received("{}", attributes={"a": "b"}, sent=1000, group="g", receive_count=3)
    assert ids(with_message, message) == ["m-1"]
    assert ids(with_body, message) == ["e"]
    got = asked[0]
    assert isinstance(got, Message)
    assert (got.body, got.attributes, got.group, got.receive_count, got.topic) == ("{}", {"a": "b"}, "g", 3, "topic")
    assert got.sent is not None
    assert got.sent.timestamp() == 1
    assert asked[1] == "{}"


def test_the_time_of_an_event_without_one_is_that_of_its_message() -> None:
    """An event without a time has that of its message, the same on each receive."""
    event = {key: value for key, value in json.loads(sample("cloudevent")).items() if key != "time"}
    read = reader_of(auto)
    ((raw, _),) = read(received(json.dumps(event), sent=86_400_000))
    ((by_sns, _),) = read(received(envelope(json.dumps(event))))
    assert raw.header.timestamp.isoformat() == "1970-01-02T00:00:00+00:00"
    assert by_sns.header.timestamp.isoformat() == "2012-03-29T05:12:16.901000+00:00"
