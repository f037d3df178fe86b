"""The structlog processors that make records out of event dicts."""

from __future__ import annotations

import json
import logging
import math
from datetime import datetime, timezone
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.errors import ConfigurationError, RecordError
from balog_celery.events.ids import decode_id
from balog_celery.events.payloads import LogPayload, MetricsPayload, MetricValue, NullPayload
from balog_celery.events.records import decode
from balog_celery.producer.processors import GIVEN_LIMIT, BuildRecord, Line, describe, render_record, shown

LOGGER = logging.getLogger("test.processors")
METRICS = {"cls_type": "metrics", "values": [{"name": "n", "value": 1.5}]}


def build(name: str = "info", config: dict[str, Any] | None = None, **event_dict: Any) -> dict[str, Any]:
    """Return the record of BuildRecord as it is on the wire."""
    record = BuildRecord(**(config or {}))(LOGGER, name, event_dict)
    return json.loads(render_record(LOGGER, name, record))  # type: ignore[no-any-return]


def test_a_record_has_header_and_payload() -> None:
    """A record has a header and a payload, and can be decoded."""
    before = datetime.now(timezone.utc)
    record = build(event="done", payload=METRICS)
    assert record.keys() == {"schema", "header", "payload"}
    assert record["header"].keys() == {"id", "channel", "timestamp", "context"}
    assert record["header"]["channel"] == "test.processors.done"
    assert record["header"]["context"] == {}
    assert record["payload"] == METRICS
    assert before <= datetime.fromisoformat(record["header"]["timestamp"]) <= datetime.now(timezone.utc)
    assert decode_id(record["header"]["id"])
    assert decode(json.dumps(record)).payload == MetricsPayload(values=[MetricValue(name="n", value=1.5)])


def test_they_work_in_any_structlog_chain() -> None:
    """The processors work as the last two of any structlog chain."""
    logger = structlog.wrap_logger(
        LOGGER,
        processors=[BuildRecord(), render_record],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    LOGGER.addHandler(handler)
    try:
        logger.error("done", payload={"cls_type": "log", "message": "m"})
    finally:
        LOGGER.removeHandler(handler)
    assert json.loads(records[0].getMessage())["payload"]["severity"] == "error"


@pytest.mark.parametrize(
    ("event_dict", "channel"),
    [
        ({"event": "a.b"}, "test.processors.a.b"),
        ({"event": ""}, "test.processors."),
        ({"event": 5}, "test.processors.5"),
        ({"event": "e", "channel": "x"}, "x"),
        ({"event": "e", "channel": ""}, ""),
        ({"event": "e", "channel": 5}, "5"),
        ({"event": "e", "channel": None}, "test.processors.e"),
        ({"channel": "x"}, "x"),
        ({"channel": "x", "raw_event": None}, "x"),
    ],
)
def test_channel(event_dict: dict[str, Any], channel: str) -> None:
    """The channel is the logger's name and the event, unless one is given."""
    record = build(payload=METRICS, **event_dict)
    assert record["header"]["channel"] == channel
    assert record["header"]["context"] == {}


def test_context_is_merged() -> None:
    """The context merges configured values, other values and the call's own, of which the later win."""
    config = {"context": {"fqdn": "h", "application": "a", "rack": None}}
    record = build(config=config, event="e", payload=METRICS, context={"application": "b"}, user=1, application="c")
    assert record["header"]["context"] == {"fqdn": "h", "application": "b", "user": 1}
    assert build(config=config, event="e", payload=METRICS)["header"]["context"] == {"fqdn": "h", "application": "a"}


def test_composition() -> None:
    """The composition is the configured one, or the call's, as a JSON boolean."""
    assert "composition" not in build(event="e", payload=METRICS)["header"]
    assert build(config={"composition": False}, event="e", payload=METRICS)["header"]["composition"] is False
    record = build(config={"composition": False}, event="e", payload=METRICS, composition=True)
    assert record["header"]["composition"] is True


@pytest.mark.parametrize("config", [{"context": {"fqdn": 5}}, {"context": {"a": object()}}, {"composition": "false"}])
def test_a_bad_configuration_is_refused(config: dict[str, Any]) -> None:
    """A bad configuration is refused when the processor is made."""
    with pytest.raises(ConfigurationError):
        BuildRecord(**config)


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("debug", "debug"),
        ("info", "info"),
        ("warn", "warning"),
        ("warning", "warning"),
        ("error", "error"),
        ("exception", "error"),
        ("critical", "critical"),
        ("fatal", "critical"),
    ],
)
def test_a_missing_severity_is_the_method_s(name: str, severity: str) -> None:
    """A log payload without a severity gets the method's, in a copy of the caller's dict."""
    payload = {"cls_type": "log", "message": "m"}
    assert build(name, event="e", payload=payload)["payload"]["severity"] == severity
    assert "severity" not in payload
    assert "severity" not in build(name, event="e", payload=METRICS)["payload"]


@pytest.mark.parametrize(
    ("given_text", "written"), [("WARN", "warning"), ("Fatal", "critical"), ("debug", "debug"), ("INFO", "info")]
)
def test_a_given_severity_is_kept_in_its_one_spelling(given_text: str, written: str) -> None:
    """A given severity is normalised and kept, whatever the method."""
    payload = {"cls_type": "log", "message": "m", "severity": given_text}
    assert build("error", event="e", payload=payload)["payload"]["severity"] == written


@pytest.mark.parametrize(
    "payload",
    [
        MetricsPayload(values=[MetricValue(name="n", value=1.5)]),
        {"cls_type": "metrics", "values": ({"name": "n", "value": v} for v in ["1.5"])},
        {"cls_type": "metrics", "values": ({"name": "n", "value": 1.5},)},
    ],
)
def test_payloads_of_other_shapes(payload: Any) -> None:
    """Models, generators and tuples in payloads are written as JSON."""
    assert build(event="e", payload=payload)["payload"] == METRICS


def test_unknown_payloads_are_written_whole() -> None:
    """Unknown payloads and unknown keys of known ones are written."""
    payload = {"cls_type": "test-unknown", "a": {"b": [1, None, "é"]}}
    assert build(event="e", payload=payload)["payload"] == payload
    assert build(event="e", payload={**METRICS, "host": "h"})["payload"] == {**METRICS, "host": "h"}


def test_lone_surrogates_are_replaced() -> None:
    """Lone surrogates are replaced everywhere, also in payloads that pydantic checks."""
    assert build(event="e", payload={"cls_type": "log", "message": "\ud800"})["payload"]["message"] == "\ufffd"
    assert build(event="\ud800", payload={"cls_type": "test-x", "\ud800": 1})["payload"]["\ufffd"] == 1


CIRCULAR: dict[str, Any] = {"cls_type": "test-circular"}
CIRCULAR["self"] = CIRCULAR
DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "event_dict",
    [
        {"event": "e"},
        {"event": "e", "payload": None},
        {"payload": METRICS},
        {"event": "e", "payload": "text"},
        {"event": "e", "payload": []},
        {"event": "e", "payload": {}},
        {"event": "e", "payload": {"cls_type": 5}},
        {"event": "e", "payload": {"cls_type": ["metrics"]}},
        {"event": "e", "payload": {"cls_type": "metrics"}},
        {"event": "e", "payload": {"cls_type": "metrics", "values": [{"name": 5, "value": 1}]}},
        {"event": "e", "payload": {"cls_type": "metrics", "values": [{"name": "n", "value": math.nan}]}},
        {"event": "e", "payload": {"cls_type": "metrics", "values": [{"name": "n", "value": "nan"}]}},
        {"event": "e", "payload": {"cls_type": "metrics", "values": [{"name": "n", "value": 10**400}]}},
        {"event": "e", "payload": {"cls_type": "log", "message": "m", "severity": "level 25"}},
        {"event": "e", "payload": {"cls_type": "log", "message": "\ud800", "severity": object()}},
        {"event": "e", "payload": {"cls_type": "test-x", "a": [math.inf]}},
        {"event": "e", "payload": {"cls_type": "test-x", "a": {math.nan: 1}}},
        {"event": "e", "payload": {"cls_type": "test-x", "a": 10**5000}},
        {"event": "e", "payload": {"cls_type": "test-x", "a": DEEP}},
        {"event": "e", "payload": CIRCULAR},
        {"event": "e", "payload": METRICS, "context": {"fqdn": 5}},
        {"event": "e", "payload": METRICS, "context": "h"},
        {"event": "e", "payload": METRICS, "context": {"a": math.nan}},
        {"event": "e", "payload": METRICS, "composition": "false"},
        {"raw_event": {"a": math.nan}},
    ],
)
def test_what_cannot_be_a_record_is_refused(event_dict: dict[str, Any]) -> None:
    """Arguments that do not make a record raise RecordError in one of the two processors."""
    with pytest.raises((RecordError, ValueError)):
        build(**event_dict)


@pytest.mark.parametrize("raw_event", [{"foo": "é"}, {}, [], "text", 5, 0, False, {"a": [None, 1.5, {"b": ""}]}])
def test_a_raw_event_passes_as_it_is(raw_event: Any) -> None:
    """A raw event is returned unchanged, whatever else is given."""
    assert build(raw_event=raw_event, event="e", payload="bad") == raw_event


def test_a_traceback_goes_into_a_log_payload_or_the_header() -> None:
    """A traceback goes into a log payload's exc_text, or into the header if there is none or it is taken."""
    try:
        raise ValueError("the cause")
    except ValueError as error:
        log = build(event="e", payload={"cls_type": "log", "message": "m"}, exc_info=True)
        model = build(event="e", payload=LogPayload(message="m", severity="info"), exc_info=error)
        null = build(event="e", payload=NullPayload(), exc_info=True)
        taken = build(event="e", payload={"cls_type": "log", "message": "m", "exc_text": "x"}, exc_info=error)
    for text in [
        log["payload"]["exc_text"],
        model["payload"]["exc_text"],
        null["header"]["exc_text"],
        taken["header"]["exc_text"],
    ]:
        assert text.startswith("Traceback")
        assert text.endswith("ValueError: the cause")
    assert "exc_text" not in log["header"]
    assert taken["payload"]["exc_text"] == "x"


@pytest.mark.parametrize("exc_info", [True, False, None, (None, None, None)])
def test_no_exception_no_traceback(exc_info: Any) -> None:
    """Without an exception there is no traceback, and no text "None"."""
    record = build(event="e", payload={"cls_type": "log", "message": "m"}, exc_info=exc_info)
    assert "exc_text" not in record["payload"]
    assert "exc_text" not in record["header"]
    assert record["header"]["context"] == {}


def test_a_traceback_of_another_processor_is_kept() -> None:
    """The traceback of another processor is kept, as text or as JSON text."""
    assert build(event="e", payload=METRICS, exception="Traceback")["header"]["exc_text"] == "Traceback"
    assert build(event="e", payload=METRICS, exception=[{"a": 1}])["header"]["exc_text"] == '[{"a": 1}]'


class Broken:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


class BrokenError(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value", [Broken(), {"a": 1, "b": [Broken()]}, CIRCULAR, DEEP, [10**5000], ["x" * 100_000] * 9]
)
def test_anything_can_be_shown(value: Any) -> None:
    """Any value is shown in a bounded text."""
    text = shown(value)
    assert 0 < len(text) <= GIVEN_LIMIT
    if isinstance(value, dict) and "b" in value:
        assert "'a': 1" in text
        assert "<Broken" in text


@given(st.recursive(st.text() | st.integers() | st.builds(Broken), st.lists))
def test_showing_never_raises(value: Any) -> None:
    """Showing a value never raises, however it is nested."""
    assert len(shown(value)) <= GIVEN_LIMIT


def test_describing_never_raises() -> None:
    """Describing an exception never raises, even if its str() does."""
    assert describe(BrokenError()) == "BrokenError"
    assert describe(KeyError("a\n")) == "KeyError: 'a\\n'"
    assert describe(RecordError("reason")) == "reason"


def test_a_line_is_a_text() -> None:
    """A line is marked as a record, on one line, in ASCII."""
    line = render_record(LOGGER, "info", {"a": "é\n"})
    assert type(line) is Line
    assert line == '{"a": "\\u00e9\\n"}'
