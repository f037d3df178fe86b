"""Reading and writing records, compared with the original on the same texts."""

from __future__ import annotations

import json
import math
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from balog_celery.errors import ConfigurationError, DecodeError, RecordError
from balog_celery.events.payloads import LogPayload, MetricsPayload, NullPayload, Payload
from balog_celery.events.records import FacilityRecord, as_event, decode, encode
from balog_celery.events.serialization import SCHEMA_VERSION, dumps

GOLDEN = Path(__file__).parents[2] / "golden"
UTC = timezone.utc

#: Inputs of deserialize.jsonl that the original judged otherwise: refused here, accepted here, or read differently.
REFUSED = {
    "composition=[]": "a list says neither true nor false; the original took it for true",
}
ACCEPTED = {
    "composition=u'\\xe9'": "any text but false and 0 is true; this one the original could not compare",
    "context.fqdn=None": "a null means that the key is absent",
    "context.application_version=None": "a null means that the key is absent",
    "context.application=u''": "the original wrote empty texts but could not read them",
    "log message=u''": "the original wrote empty texts but could not read them",
    "log exc_text=u''": "the original wrote empty texts but could not read them",
    "payload.cls_type=u'nope'": "payloads of unknown types are passed on",
}
CHANGED = {
    "log severity=u'INFO'": "severities have one spelling",
    "top extra": "unknown keys are kept",
    "metric item extra": "unknown keys are kept",
    "payload.cls_type=u'null'": "unknown keys are kept",
}


def _original(value: Any) -> Any:
    if isinstance(value, dict):
        if "__datetime__" in value:
            return datetime.fromisoformat(value["__datetime__"])
        return {key: _original(item) for key, item in value.items()}
    return [_original(item) for item in value] if isinstance(value, list) else value


def _lines(name: str) -> list[Any]:
    return [json.loads(line) for line in (GOLDEN / name).read_text().splitlines()]


DESERIALIZE = _lines("deserialize.jsonl")
EVENTS = [
    pytest.param(line, meta, id=f"{number}-{meta['tag']}")
    for number, (line, meta) in enumerate(
        zip((GOLDEN / "events.jsonl").read_text().splitlines(), _lines("events.meta.jsonl"), strict=True), 1
    )
]


def record_text(payload: Any = None, **header: Any) -> str:
    """The JSON text of a record."""
    head = {"id": "LG1", "channel": "a.done", "timestamp": "2014-10-07T15:06:51.641083+00:00", "context": {}, **header}
    return json.dumps({"schema": "0.0.1", "header": head, "payload": payload or {"cls_type": "null"}})


def metric(value: Any) -> str:
    """The JSON text of a record with one metric."""
    return record_text({"cls_type": "metrics", "values": [{"name": "n", "value": value}]})


@pytest.mark.parametrize(("line", "meta"), EVENTS)
def test_the_original_s_lines_are_read(line: str, meta: dict[str, Any]) -> None:
    """The original's lines are read with the same values, with normalised severities, and with empty texts."""
    if meta["consume"]["ok"]:
        expected = _original(meta["consume"]["event"])
        if expected["payload"].get("severity") in ("INFO", "fatal"):
            expected["payload"]["severity"] = {"INFO": "info", "fatal": "critical"}[expected["payload"]["severity"]]
        assert _comparable(as_event(decode(line))) == _comparable(expected)
    elif meta["tag"] == "log-exc_text" or '"fqdn": ""' in line:
        assert as_event(decode(line))["schema"] == "0.0.1"
    else:
        with pytest.raises(DecodeError):
            decode(line)


@pytest.mark.parametrize("case", DESERIALIZE, ids=[case["label"][:40] for case in DESERIALIZE])
def test_verdicts_are_the_original_s_but_for_a_list(case: dict[str, Any]) -> None:
    """Records are accepted and refused as by the original, except for the listed inputs."""
    label = case["label"]
    assert case["ok"] or label not in REFUSED | CHANGED
    if label in REFUSED or not (case["ok"] or label in ACCEPTED):
        with pytest.raises(DecodeError):
            decode(case["input"])
        return
    event = _comparable(as_event(decode(case["input"])))
    if label in ACCEPTED:
        assert not case["ok"]
    else:
        assert (event == _comparable(_original(case["event"]))) is (label not in CHANGED)


def test_every_documented_difference_is_one() -> None:
    """Each documented difference from the original exists."""
    assert REFUSED.keys() | ACCEPTED.keys() | CHANGED.keys() <= {case["label"] for case in DESERIALIZE}


def _comparable(event: dict[str, Any]) -> dict[str, Any]:
    """NaN is not equal to itself, but its text is."""
    for item in event["payload"].get("values", ()):
        if isinstance(item, dict) and isinstance(item["value"], float) and math.isnan(item["value"]):
            item["value"] = "nan"
    return event


@pytest.mark.parametrize(("line", "meta"), EVENTS)
def test_what_was_read_is_written_and_read_again(line: str, meta: dict[str, Any]) -> None:
    """decode(encode(r)) == r for every line that can be read."""
    try:
        record = decode(line)
    except DecodeError:
        assert not meta["consume"]["ok"]
        return
    text = encode(record)
    assert text.isascii()
    assert "\n" not in text
    if "nan" in line:
        assert encode(decode(text)) == text
    else:
        assert decode(text) == record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), json_values, max_size=5), st.text(min_size=1))
@example({"model_dump": 1, "__class__": [], "schema": {}}, "dict")
def test_unknown_payloads_pass_through(content: dict[str, Any], cls_type: str) -> None:
    """Unknown payloads keep all keys and values in both directions."""
    payload = {**content, "cls_type": "test-" + cls_type}
    record = decode(record_text(payload))
    assert as_event(record)["payload"] == payload
    assert decode(encode(record)) == record


def test_unknown_keys_are_kept_everywhere() -> None:
    """Unknown keys are kept in the record, header, context, payload and metrics."""
    document = {
        "schema": "0.0.1",
        "header": {
            "id": "LG1",
            "channel": "c",
            "timestamp": "2014-10-07T15:06:51+00:00",
            "context": {"fqdn": "h", "rack": None},
            "trace": {"a": [1]},
        },
        "payload": {"cls_type": "metrics", "values": [{"name": "n", "value": 1.5, "unit": "s"}], "host": "h"},
        "schema_version": "not the schema",
        "tags": ["x"],
    }
    record = decode(json.dumps(document))
    event = as_event(record)
    assert event["header"].pop("timestamp") == datetime(2014, 10, 7, 15, 6, 51, tzinfo=UTC)
    document["header"].pop("timestamp")  # type: ignore[attr-defined]
    assert event == document
    assert decode(encode(record)) == record


def test_an_event_is_the_caller_s_own() -> None:
    """Changing an event's dict does not change another's."""
    record = decode(record_text({"cls_type": "test-own", "list": [1]}, trace=[1]))
    event = as_event(record)
    event["payload"]["list"].append(2)
    event["header"]["trace"].append(2)
    again = as_event(record)
    assert again["payload"]["list"] == [1]
    assert again["header"]["trace"] == [1]


def test_optional_keys_that_are_absent_stay_absent() -> None:
    """Absent optional keys stay absent, and null counts as absent."""
    text = record_text({"cls_type": "log", "message": "m", "severity": "info"}, composition=None)
    event = as_event(decode(text.replace('"context": {}, ', "")))
    assert event["header"].keys() == {"id", "channel", "timestamp"}
    assert event["payload"].keys() == {"cls_type", "message", "severity"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1234.0", 1234.0),
        (" 7 ", 7.0),
        ("1e+11", 1e11),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        (True, 1.0),
        (3, 3.0),
        (2**63, 2.0**63),
        (0.1, 0.1),
    ],
)
def test_a_metric_s_value_is_a_float(value: Any, expected: float) -> None:
    """A metric's value is read as a float in each of the original's spellings."""
    got = as_event(decode(metric(value)))["payload"]["values"][0]["value"]
    assert got == expected
    assert type(got) is float


def test_values_that_are_not_finite_are_written_as_text() -> None:
    """Values that are not finite are written as text, as the original did, because JSON has none."""
    record = decode(record_text({"cls_type": "metrics", "values": [{"name": "n", "value": v} for v in ("nan", "inf")]}))
    written = json.loads(encode(record), parse_constant=pytest.fail)
    assert [value["value"] for value in written["payload"]["values"]] == ["nan", "inf"]


@pytest.mark.parametrize("value", [None, "", "abc", "1_0", "0x10", [], {}, 10**400])
def test_what_is_no_number_is_refused(value: Any) -> None:
    """A metric's value that is not a number is refused."""
    with pytest.raises(DecodeError, match=r"payload\.values\.0\.value: "):
        decode(metric(value))


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400 + ".0"])
@pytest.mark.parametrize("where", ["metric", "payload", "header"])
def test_numbers_that_are_not_finite_are_refused(literal: str, where: str) -> None:
    """Numbers that are not finite are refused everywhere."""
    text = {
        "metric": metric("@"),
        "payload": record_text({"cls_type": "test-open", "a": [{"b": "@"}]}),
        "header": record_text(extra="@"),
    }[where]
    with pytest.raises(DecodeError):
        decode(text.replace('"@"', literal))


@pytest.mark.parametrize(
    ("given_text", "read"),
    [("WARN", "warning"), ("fatal", "critical"), ("Error", "error"), ("level 25", "level 25"), ("", "")],
)
def test_severities_have_one_spelling(given_text: str, read: str) -> None:
    """Known severities are normalised, and others are kept."""
    text = record_text({"cls_type": "log", "message": "m", "severity": given_text})
    assert as_event(decode(text))["payload"]["severity"] == read


@pytest.mark.parametrize(
    "body",
    [
        "",
        " ",
        "null",
        "[]",
        "5",
        '"x"',
        "{}",
        "{",
        "[" * 1_048_576,
        '{"a":' * 200_000,
        "1" * 5000,
        record_text() + "x",
        "\ufeff\ufeff" + record_text(),
        '{"schema": "\\ud800',
        "\ud800",
        record_text({"cls_type": "test-deep", "a": "@"}).replace('"@"', "[" * 500 + "]" * 500),
        record_text({"cls_type": "test-long", "a": "@"}).replace('"@"', "1" * 5000),
        record_text({"cls_type": ""}),
        record_text({"cls_type": 5}),
        record_text({"cls_type": ["metrics"]}),
        record_text(id=""),
        record_text(id=5),
        record_text(composition={}),
        record_text(context=None),
        record_text().replace('"schema"', '"schema_version"'),
        record_text().replace('"0.0.1"', '""'),
        record_text(channel="\x00").replace("\\u0000", "\x00"),
    ],
)
def test_what_is_no_record_is_refused_with_a_reason(body: str) -> None:
    """Text that is not a record is refused with one short line."""
    with pytest.raises(DecodeError) as caught:
        decode(body)
    assert caught.value.reason.isprintable()
    assert 0 < len(caught.value.reason) < 300


@given(json_values)
def test_values_of_wrong_types_never_raise_anything_else(value: Any) -> None:
    """A value of a wrong type anywhere in a record raises nothing but DecodeError."""
    for place in [(), ("header",), ("header", "context"), ("payload",), ("payload", "values"), ("schema",)]:
        document = json.loads(metric(1))
        if place:
            inner = document
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
        else:
            document = value
        try:
            record = decode(json.dumps(document))
        except DecodeError:
            continue
        assert decode(encode(record)) == record


def test_the_reason_does_not_show_the_body() -> None:
    """The reason shows nothing of the body, because it goes into logs and message attributes."""
    with pytest.raises(DecodeError) as caught:
        decode(metric("my secret\n"))
    assert "secret" not in caught.value.reason
    with pytest.raises(DecodeError) as caught:
        decode('{"secret\n": secret}')
    assert "secret" not in caught.value.reason


def test_a_bad_metric_among_many_is_found_at_once() -> None:
    """A body full of faults is refused at the first one."""
    with pytest.raises(DecodeError) as caught:
        decode(record_text({"cls_type": "metrics", "values": [{}] * 10_000}))
    assert caught.value.reason == "payload.values.0.name: Field required (and 1 more)"


def test_lone_surrogates_are_read_as_replacement_characters() -> None:
    """Lone surrogates are read as U+FFFD; whole pairs and escaped backslashes are kept."""
    text = record_text({"cls_type": "log", "message": "@", "severity": "info"})
    record = decode(text.replace("@", r"\ud800 \ude00x \ud83d\ude00 \\ud800"))
    assert as_event(record)["payload"]["message"] == "\ufffd \ufffdx \U0001f600 \\ud800"
    assert as_event(decode(text.replace("@", "\ud800é")))["payload"]["message"] == "\ufffdé"


def test_lone_surrogates_are_written_as_replacement_characters() -> None:
    """Lone surrogates are written as U+FFFD, and all other characters escaped to ASCII."""
    assert dumps(["\ud800", "\U0001f600", "\\ud800", "é"]) == r'["\ufffd", "\ud83d\ude00", "\\ud800", "\u00e9"]'


def test_what_json_does_not_know_is_written_as_text_or_list() -> None:
    """Values that JSON does not know are written as text or lists where this loses nothing."""
    document = {
        "tuple": (1,),
        "set": {1},
        "generator": (n for n in "ab"),
        "time": datetime(2014, 10, 7, tzinfo=UTC),
        "date": date(2014, 10, 7),
        "decimal": Decimal("1.10"),
        "path": Path("/a"),
        "bytes": b"abc",
        5: "a key",
    }
    assert json.loads(dumps(document)) == {
        "tuple": [1],
        "set": [1],
        "generator": ["a", "b"],
        "time": "2014-10-07T00:00:00+00:00",
        "date": "2014-10-07",
        "decimal": "1.10",
        "path": "/a",
        "bytes": "abc",
        "5": "a key",
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}, {math.nan}, object(), b"\xff", {(1,): 2}])
def test_what_cannot_be_written_is_refused(value: Any) -> None:
    """A record that JSON cannot express is refused when it is written."""
    header = decode(record_text()).header
    record = FacilityRecord(schema=SCHEMA_VERSION, header=header, payload=Payload(cls_type="test-odd", a=value))  # type: ignore[call-arg]
    with pytest.raises(RecordError):
        encode(record)


def test_registered_payloads_are_read_as_their_class() -> None:
    """Payloads are read as their registered class, a user's as well, with their unknown keys."""

    class Dispute(Payload):
        cls_type: Literal["test-dispute"] = "test-dispute"
        amount: Decimal
        note: str | None = None
        currency: str = "USD"

    record = decode(record_text({"cls_type": "test-dispute", "amount": "1.10", "more": 1}))
    assert isinstance(record.payload, Dispute)
    assert as_event(record)["payload"] == {
        "cls_type": "test-dispute",
        "amount": Decimal("1.10"),
        "currency": "USD",
        "more": 1,
    }
    assert decode(encode(record)) == record
    with pytest.raises(DecodeError, match=r"payload\.amount"):
        decode(record_text({"cls_type": "test-dispute", "amount": "much"}))


def test_aliases_are_the_names_on_the_wire() -> None:
    """Aliases are the keys on the wire, for keys that are not Python names."""

    class Aliased(Payload):
        cls_type: Literal["test-aliased"] = "test-aliased"
        kind: str = Field(alias="class")
        note: str | None = Field(default=None, alias="my-note")

    record = decode(record_text({"cls_type": "test-aliased", "class": "a"}))
    assert isinstance(record.payload, Aliased)
    assert record.payload.kind == "a"
    assert as_event(record)["payload"] == {"cls_type": "test-aliased", "class": "a"}
    assert decode(encode(record)) == record


def test_a_validator_of_a_user_may_raise_anything() -> None:
    """Any exception of a user's validator becomes a DecodeError."""

    class Odd(Payload):
        cls_type: Literal["test-odd-validator"]

        def model_post_init(self, context: Any, /) -> None:
            raise KeyError("secret")

    with pytest.raises(DecodeError, match="KeyError") as caught:
        decode(record_text({"cls_type": "test-odd-validator"}))
    assert "secret" not in str(caught.value)


def test_a_type_has_one_class() -> None:
    """A second class for a type is an error; the same class after a reload is not."""

    def declare() -> type[Payload]:
        class Once(Payload):
            cls_type: Literal["test-once"] = "test-once"

        return Once

    declare()
    latest = declare()
    assert type(decode(record_text({"cls_type": "test-once"})).payload) is latest
    with pytest.raises(ConfigurationError, match="two classes declare cls_type 'test-once'"):

        class Twice(Payload):
            cls_type: Literal["test-once"] = "test-once"

    assert type(decode(record_text({"cls_type": "test-once"})).payload) is latest


def test_a_subclass_without_a_type_of_its_own_is_not_registered() -> None:
    """A subclass that declares no type of its own is not registered."""

    class Timings(MetricsPayload):
        unit: str

    assert type(decode(metric(1)).payload) is MetricsPayload
    assert Timings.model_validate({"values": [], "unit": "s"}).cls_type == "metrics"


def test_records_can_be_made_in_python() -> None:
    """Records are made in Python with payloads as objects or as dicts."""
    header = {"id": "LG1", "channel": "c", "timestamp": datetime(2014, 10, 7)}
    for payload in [NullPayload(), {"cls_type": "null"}, Payload(cls_type="null")]:
        record = FacilityRecord.model_validate({"schema": "0.0.1", "header": header, "payload": payload})
        assert type(record.payload) is NullPayload
        assert json.loads(encode(record))["header"] == {
            "id": "LG1",
            "channel": "c",
            "timestamp": "2014-10-07T00:00:00+00:00",
        }
    with pytest.raises(ValidationError):
        LogPayload(message=5, severity="info")  # type: ignore[arg-type]


def test_the_schema_version_is_the_original_s() -> None:
    """Written records have the original's schema version, so its consumers read them."""
    assert SCHEMA_VERSION == "0.0.1"


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="this Python has no such limit")
def test_integers_too_long_for_python_are_refused_when_written() -> None:
    """Writing an integer that is too long for Python's parser raises RecordError."""
    header = decode(record_text()).header
    record = FacilityRecord(schema="0.0.1", header=header, payload=Payload(cls_type="test-int", n=10**5000))  # type: ignore[call-arg]
    with pytest.raises(RecordError):
        encode(record)
