"""Records that a user writes with pydantic's own methods. Warnings are errors in these tests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from balog_celery.errors import DecodeError
from balog_celery.events.payloads import LogPayload, MetricsPayload, Payload
from balog_celery.events.records import FacilityRecord, Header, decode, encode
from balog_celery.settings import Settings
from balog_celery.topic_settings import TopicSettings

LINES = (Path(__file__).parents[2] / "golden" / "events.jsonl").read_text().splitlines()


class Named(Payload):
    """A key has another name on the wire."""

    cls_type: Literal["dumps.named"] = "dumps.named"
    order_id: int = Field(alias="orderId")


def _dumps(model: BaseModel) -> list[BaseModel]:
    """*model*, read from each way to write it."""
    cls = type(model)
    return [
        cls.model_validate_json(model.model_dump_json()),
        cls.model_validate(model.model_dump()),
        cls.model_validate(model.model_dump(mode="json")),
        cls.model_validate_json(json.dumps(model.model_dump(mode="json"))),
    ]


@pytest.mark.parametrize("line", LINES)
def test_a_record_is_read_from_its_dumps(line: str) -> None:
    """Every line that can be read is written by pydantic's methods, and read again as the same record."""
    try:
        record = decode(line)
    except DecodeError:
        return
    if not math.isfinite(sum(metric.value for metric in getattr(record.payload, "values", []))):
        # In Python such a metric is a float, which is refused as 1e999 is; nan equals nothing.
        for text in (record.model_dump_json(), json.dumps(record.model_dump(mode="json"))):
            assert encode(FacilityRecord.model_validate_json(text)) == encode(record)
        return
    assert _dumps(record) == [record] * 4
    assert _dumps(record.header) == [record.header] * 4
    assert decode(record.model_dump_json()) == record


_payloads = st.one_of(
    st.builds(Named, orderId=st.integers()),
    st.builds(LogPayload, message=st.text(), severity=st.sampled_from(["info", "odd"]), exc_text=st.none() | st.text()),
    st.builds(
        lambda values: MetricsPayload(values=[{"name": "n", "value": value} for value in values]),  # type: ignore[list-item]
        st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    ),
    st.builds(lambda cls_type, more: Payload(cls_type=cls_type, more=more), st.just("dumps-x"), st.integers()),  # type: ignore[call-arg]
)
_headers = st.builds(
    lambda moment, composition, extra: Header(
        id="LG1", channel="c", timestamp=moment, composition=composition, **extra
    ),
    st.datetimes() | st.datetimes(timezones=st.timezones()),
    st.none() | st.booleans(),
    st.sampled_from([{}, {"trace": {"a": [1]}}]),
)


@given(_headers, _payloads)
def test_any_record_is_read_from_its_dumps(header: Header, payload: Payload) -> None:
    """Whatever its moment, zone, marks and payload."""
    record = FacilityRecord(schema="0.0.1", header=header, payload=payload)  # type: ignore[call-arg]
    assert _dumps(record) == [record] * 4


@pytest.mark.parametrize("value", ["inf", "-inf"])
def test_a_metric_without_a_number_is_written_as_text(value: str) -> None:
    """As `encode` does, in every way to write JSON."""
    metrics = MetricsPayload(values=[{"name": "n", "value": value}])  # type: ignore[list-item]
    assert MetricsPayload.model_validate_json(metrics.model_dump_json()) == metrics
    assert json.loads(metrics.model_dump_json()) == metrics.model_dump(mode="json")
    assert metrics.model_dump(mode="json")["values"][0]["value"] == value


def test_another_source_s_record_stays_one() -> None:
    """The type of its payload may be one of the original's, of which it is none."""
    header: dict[str, Any] = {"id": "1", "channel": "c", "timestamp": "2026-01-01", "decoder": "json"}
    record = decode(json.dumps({"schema": "0.0.1", "header": header, "payload": {"cls_type": "log"}}))
    assert _dumps(record) == [record] * 4


@pytest.mark.parametrize("model", [Settings(), TopicSettings()])
def test_settings_are_read_from_their_dumps(model: BaseModel) -> None:
    """They neither warn nor fail."""
    assert _dumps(model) == [model] * 4
