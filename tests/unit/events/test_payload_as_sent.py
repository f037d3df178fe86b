"""The payload is the source's document: models validate it and make arguments, and never change it."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.consumers import Consumer
from balog_celery.errors import DecodeError
from balog_celery.events.decoders import At, JSONMapping, auto, reader_of
from balog_celery.events.payloads import LogPayload, Payload
from balog_celery.events.records import FacilityRecord, as_event, decode, read_event
from sample_events import event_text


class Invoice(Payload):
    """A payload that its model would write in another way."""

    cls_type: Literal["test.invoice"] = "test.invoice"
    amount: Decimal
    due: date | None = None
    note: str | None = None


def cloudevent(cls_type: str, **more: Any) -> str:
    return json.dumps({"specversion": "1.0", "type": cls_type, "source": "/s", "id": "1", **more})


def what_consumers_get(body: str, decoder: Any = auto) -> tuple[dict[str, Any], dict[str, Any]]:
    """The payload that a task's consumer gets, and that of one in the engine's process."""
    ((event, text),) = reader_of(decoder)(body)
    assert event == read_event(text)
    return as_event(read_event(text))["payload"], as_event(event)["payload"]


FOREIGN = {
    "a log that is none of ours": cloudevent("log"),
    "metrics that are none of ours": cloudevent("metrics", values=[{"name": "bytes", "value": 9007199254740993}]),
    "null": cloudevent("null", message=None),
    "a number that a float cannot be": cloudevent("x", data=9007199254740993),
    "absent and null keys": cloudevent("log", exc_text=None),
    "a user's model": cloudevent("test.invoice", amount=12.10, due="2024-01-01"),
    "a user's model and an unknown key": cloudevent("test.invoice", amount="12.10", new=2),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_document_stays_as_it_is(name: str) -> None:
    """A foreign document is passed on unchanged, whatever its type, by the engine and the task."""
    document = json.loads(FOREIGN[name])
    expected = {"cls_type": document["type"], **document}
    by_task, by_engine = what_consumers_get(FOREIGN[name])
    assert json.dumps(by_task) == json.dumps(by_engine) == json.dumps(expected)


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "log", "message": "x", "severity": "WARN"},
        {"kind": "log"},
        {"kind": "metrics", "values": [{"name": "bytes", "value": 9007199254740993}]},
        {"kind": "test.invoice", "amount": 12.10},
    ],
)
def test_a_mapped_document_stays_as_it_is(document: dict[str, Any]) -> None:
    """A mapped document is passed on unchanged."""
    mapping = JSONMapping(cls_type=At("kind"))
    for payload in what_consumers_get(json.dumps(document), mapping):
        assert payload == {**document, "cls_type": document["kind"]}


@given(
    document=st.dictionaries(
        st.sampled_from(["message", "severity", "values", "exc_text", "amount", "due", "other"]),
        st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["WARN", "nan", "12.10"]) | st.booleans(),
    ),
    cls_type=st.sampled_from(["log", "metrics", "null", "other"]),
)
def test_no_type_of_the_originals_changes_a_foreign_document(document: dict[str, Any], cls_type: str) -> None:
    """The original's payload types neither change nor refuse a foreign document."""
    for payload in what_consumers_get(cloudevent(cls_type, **document)):
        event = json.loads(cloudevent(cls_type, **document))
        assert json.dumps(payload) == json.dumps({"cls_type": cls_type, **event})


def test_a_document_that_a_users_model_refuses_is_a_dead_letter() -> None:
    """A document that a user's model refuses becomes a dead letter, whatever its source."""
    for body in (cloudevent("test.invoice", amount="much"), event_text(cls_type="test.invoice", amount="much")):
        with pytest.raises(DecodeError, match="amount"):
            reader_of(auto)(body)


@pytest.mark.parametrize(
    "body", [cloudevent("test.invoice", amount=12.10), event_text(cls_type="test.invoice", amount=12.10)]
)
def test_a_function_that_asks_gets_the_model(body: str) -> None:
    """A function that asks for a model gets the record's payload, or the payload, as that model."""

    def as_record(event: FacilityRecord) -> None: ...
    def as_payload(event: Invoice) -> None: ...
    def as_any_payload(event: Payload) -> None: ...
    def as_dict(event: dict[str, Any]) -> None: ...

    ((event, text),) = reader_of(auto)(body)
    for record in (event, read_event(text)):
        found = Consumer(as_record, "topic").argument(record).payload
        assert isinstance(found, Invoice)
        assert found.amount == Decimal("12.1")
        for func in (as_payload, as_any_payload):
            assert isinstance(Consumer(func, "topic").argument(record), Invoice)
        assert Consumer(as_dict, "topic").argument(record)["payload"]["amount"] == 12.1


def test_a_foreign_log_is_none_of_the_originals() -> None:
    """A function that asks for LogPayload gets an error for a foreign log document that does not fit it."""

    def as_log(event: LogPayload) -> None: ...

    record, other = (
        read_event(reader_of(auto)(body)[0][1])
        for body in (cloudevent("log"), cloudevent("log", message="m", severity="WARN"))
    )
    with pytest.raises(ValueError, match="message"):
        Consumer(as_log, "topic").argument(record)
    assert Consumer(as_log, "topic").argument(other).severity == "warning"


def test_balogs_own_kinds_are_given_as_the_original_gave_them() -> None:
    """The original's kinds have float values and normalised severities, and their text is not rewritten."""
    body = event_text(cls_type="metrics", values=[{"name": "n", "value": "1"}])
    by_task, by_engine = what_consumers_get(body)
    assert by_task == by_engine
    assert isinstance(by_task["values"][0]["value"], float)
    assert reader_of(auto)(body)[0][1] is body
    with pytest.raises(DecodeError, match="message"):
        decode(event_text(cls_type="log"))


@pytest.mark.parametrize("more", [{}, {"new": 2}, {"new": 2, "newer": 3, "newest": 4}])
def test_unknown_keys_bring_no_absent_ones_back(more: dict[str, int]) -> None:
    """An absent optional key stays absent, also in a user's model that is written again."""
    log = event_text(cls_type="log", message="m", severity="info", **more)
    assert set(as_event(decode(log))["payload"]) == {"cls_type", "message", "severity", *more}
    invoice = event_text(cls_type="test.invoice", amount=1, **more)
    assert set(as_event(decode(invoice))["payload"]) == {"cls_type", "amount", *more}


def test_a_record_of_balog_comes_through_sns_as_it_is() -> None:
    """The task of a balog record in SNS gets the Message unchanged."""
    message = event_text(cls_type="log", message="m", severity="WARN")
    envelope = {"Type": "Notification", "MessageId": "m", "TopicArn": "arn", "Message": message, "Timestamp": "2014"}
    ((_, text),) = reader_of(auto)(json.dumps(envelope))
    assert text == message


@pytest.mark.parametrize("body", ["\ufeff" + cloudevent("x"), "\ufeff" + event_text("e"), "\ufeff " + event_text("e")])
def test_a_byte_order_mark_is_skipped(body: str) -> None:
    """A byte order mark is skipped, also by the task."""
    ((event, text),) = reader_of(auto)(body)
    assert read_event(text) == event


def test_line_separators_are_text() -> None:
    """U+2028, U+2029 and U+0085 in strings are kept."""
    text = "a\u2028b\u2029c\u0085d"
    assert (
        what_consumers_get(json.dumps({**json.loads(cloudevent("x")), "data": text}, ensure_ascii=False))[0]["data"]
        == text
    )
