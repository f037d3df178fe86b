"""Payloads that need no model are checked without it, and records are written with one header for many."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel

from balog_celery.errors import RecordError
from balog_celery.producer import payload_check
from balog_celery.producer.payload_check import checked, plain_payload
from balog_celery.producer.processors import BuildRecord, render_record, write
from balog_celery.producer.record_writer import RecordWriter

NAMES = st.text() | st.sampled_from(["", "n", "é", "\ud800"])
NUMBERS = st.floats() | st.integers() | st.booleans() | st.sampled_from(["1.5", "nan", None, 10**400])
ITEMS = st.fixed_dictionaries({"name": NAMES | st.just(b"n"), "value": NUMBERS}, optional={"unit": st.just("s")})
METRICS = st.fixed_dictionaries(
    {"cls_type": st.just("metrics"), "values": st.lists(ITEMS, max_size=3) | st.tuples(ITEMS)},
    optional={"more": st.just(1)},
)
PLAIN_ITEMS = st.fixed_dictionaries(
    {"value": st.floats(allow_nan=False, allow_infinity=False), "name": st.text(st.characters(codec="ascii"))}
)
PLAIN = st.fixed_dictionaries({"values": st.lists(PLAIN_ITEMS), "cls_type": st.just("metrics")})

NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)


class Item(BaseModel):
    price: Decimal = Decimal("12.10")
    sold: datetime = Field(NOON, alias="soldAt")


class Items(RootModel[list[Item]]):
    pass


@dataclasses.dataclass
class Basket:
    made: datetime
    items: Any


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4)
    | st.sampled_from([NOON, NOON.date(), Decimal("1.10"), Item(), Items([Item()]), Basket(NOON, [Item()]), {1, 2}])
)  # fmt: skip
KEYS = st.text(max_size=5) | st.integers() | st.none() | st.sampled_from([1, "1"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
ANY = st.builds(
    lambda cls_type, others: {"cls_type": cls_type, **others},
    st.sampled_from(["order", "é", "\ud800", "", None, 7, "log", "null"]),
    st.dictionaries(KEYS, VALUES, max_size=4),
)


def outcome(payload: dict[str, Any]) -> str:
    """Return the payload as it is written, or why it is refused."""
    try:
        return write(checked(payload, "info"))
    except RecordError as error:
        return str(error)


@example({"cls_type": "order", 1: "a", "1": "b"})
@given(METRICS | PLAIN | ANY)
def test_the_short_cut_ends_where_the_long_way_does(payload: dict[str, Any]) -> None:
    """Without the model a payload is written, or refused, as with it."""
    short = outcome(payload)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload_check, "plain_payload", lambda _: None)
        assert outcome(payload) == short


@given(PLAIN)
def test_the_short_cut_is_taken_by_plain_metrics(payload: dict[str, Any]) -> None:
    """Plain metrics take the short cut, and the record shares no objects with the caller."""
    plain = plain_payload(payload)
    assert plain == payload
    assert plain["values"] is not payload["values"]
    assert all(ours is not given for ours, given in zip(plain["values"], payload["values"], strict=True))


@given(ANY, st.none() | st.just({"request_id": 'r"1', "at": NOON}))
def test_records_with_one_header_are_those_of_single_headers(payload: dict[str, Any], given: Any) -> None:
    """A record of a writer differs from a logger's in the time only, and is refused for the same reasons."""
    build = BuildRecord({"fqdn": "höst", "application": "shop"})

    def one_by_one() -> str:
        header = build.header("chännel", NOON, "id", given)
        return render_record(None, "send", build.record(header, payload, "info", None))

    def together() -> str:
        line = RecordWriter(build, "chännel", given).write("id", payload)
        return line.replace(json.loads(line)["header"]["timestamp"], NOON.isoformat(), 1)

    def ends(make: Any) -> str:
        try:
            return str(make())
        except RecordError as error:
            return str(error)

    assert ends(together) == ends(one_by_one)


@pytest.mark.parametrize("levels", [98, 99, 100])
def test_both_ways_to_write_a_record_allow_the_same_depth(levels: int) -> None:
    """A record may have 100 levels, its own included, however it is written."""
    nested: Any = "x"
    for _ in range(levels - 1):
        nested = [nested]
    payload, build = {"cls_type": "order", "nested": nested}, BuildRecord()
    single = build.record(build.header("c", NOON, "id"), payload, "info", None)
    if levels < 100:
        assert len(RecordWriter(build, "c", None).write("id", payload)) > levels
        assert len(render_record(None, "send", single)) > levels
    else:
        for call in (lambda: RecordWriter(build, "c", None).write("id", payload), lambda: render_record(0, "", single)):
            with pytest.raises(RecordError, match="nested deeper than 100"):
                call()


def test_a_dataclass_and_a_model_are_written_with_all_their_values() -> None:
    """Dates in models and dataclasses are written as everywhere else, and aliases are used."""
    content = json.loads(write(checked({"cls_type": "order", "basket": Basket(NOON, Items([Item()]))}, None)))
    item = {"price": "12.10", "soldAt": NOON.isoformat()}
    assert content["basket"] == {"made": NOON.isoformat(), "items": [item]}
