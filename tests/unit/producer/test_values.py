"""Values and keys that JSON does not have cost no event, in the logger and in the formatter."""

from __future__ import annotations

import enum
import json
import logging
import math
import pickle
import uuid
from collections import OrderedDict, UserList, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from fractions import Fraction
from logging.handlers import MemoryHandler, QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, SecretStr

from balog_celery import (
    ConfigurationError,
    Payload,
    RecordError,
    SchemaFormatter,
    caused_by,
    configure,
    get_logger,
    send,
)
from balog_celery.events.records import decode
from balog_celery.producer.state import stats
from balog_celery.producer.values import REPR_LIMIT, converter
from balog_celery.testing import capture_records

numpy = pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """Start and leave each test with the default configuration."""
    configure()
    yield
    configure()


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: Any
    y: Any


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("broken")


class Money:
    def __init__(self, euro: int) -> None:
        self.euro = euro

    def __repr__(self) -> str:
        return f"Money({self.euro})"


class Long:
    def __repr__(self) -> str:
        return "x" * 100_000


class Lazy:
    """An object that stands for a text, like Django's lazy texts."""

    def __str__(self) -> str:
        return "text"

    def __repr__(self) -> str:
        return repr(str(self))


ID = uuid.UUID(int=1)


def through_the_logger(value: Any) -> Any:
    """Return what a consumer gets for *value* in a payload of get_logger."""
    with capture_records(strict=False) as records:
        get_logger("a").info("done", payload={"cls_type": "test-value", "value": value})
    return records.events[0]["payload"].get("value", records.events[0]["payload"])


def through_logging(value: Any) -> Any:
    """Return what a consumer gets for *value* in a dict that is logged as a message."""
    message = {"cls_type": "test-value", "value": value}
    line = SchemaFormatter().format(logging.LogRecord("a", logging.INFO, __file__, 1, message, (), None))
    return json.loads(line)["payload"].get("value", json.loads(line)["payload"])


WAYS = pytest.mark.parametrize("way", [through_the_logger, through_logging])


@WAYS
@pytest.mark.parametrize(
    ("value", "written", "converted"),
    [
        (numpy.int64(5), 5, 1),
        (numpy.float32(0.5), 0.5, 1),
        (numpy.float64(0.5), 0.5, 0),
        (numpy.bool_(True), True, 1),
        (numpy.longdouble(0.5), 0.5, 1),
        (numpy.complex64(1j), "1j", 1),
        (numpy.datetime64("2026-01-02T03:04:05", "ns"), "2026-01-02T03:04:05.000000000", 1),
        (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]], 1),
        (Lazy(), "text", 1),
        (AnyUrl("https://a.example/"), "https://a.example/", 0),
        ([SecretStr("secret")], ["**********"], 0),
        (Mock(name="m"), "<Mock name='m' id=", 1),
        (ValueError("why"), "ValueError('why')", 1),
        (Fraction(1, 3), "1/3", 0),
        (Money(3), "Money(3)", 1),
        (Broken(), "<Broken instance", 1),
        (Long(), "x" * (REPR_LIMIT - 3) + "...", 1),
        (b"\xff", "b'\\xff'", 1),
        (Point(1, numpy.int8(2)), {"x": 1, "y": 2}, 1),
        (Colour.RED, "red", 0),
        (ID, str(ID), 0),
        (Decimal("12.10"), "12.10", 0),
        (Path("/a"), "/a", 0),
        (date(2026, 1, 2), "2026-01-02", 0),
        ({1, 2}, [1, 2], 0),
        (deque([1]), [1], 0),
        (UserList([1, numpy.int8(2)]), [1, 2], 1),
        ({1: 2}.values(), [2], 0),
        (range(10**12), "range(0, 1000000000000)", 1),
        ((number for number in (1, numpy.int8(2))), [1, 2], 1),
        ({Colour.RED: 1}, {"red": 1}, 1),
        ({ID: 1}, {str(ID): 1}, 1),
        ({date(2026, 1, 2): 1}, {"2026-01-02": 1}, 1),
        ({numpy.int64(5): 1}, {"5": 1}, 1),
        ({(1, 2): 1}, {"(1, 2)": 1}, 1),
        ({Lazy(): 1}, {"text": 1}, 1),
        ({5: [{Colour.RED: {None: Lazy()}}]}, {"5": [{"red": {"null": "text"}}]}, 2),
        (OrderedDict(a=Lazy()), {"a": "text"}, 1),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, (int, dict)) else None,
)
def test_what_json_does_not_know(way: Callable[[Any], Any], value: Any, written: Any, converted: int) -> None:
    """A value that JSON does not have is written as the nearest one, and counted if that is not exact."""
    before = stats()
    if isinstance(value, Iterator):
        value = (number for number in (1, numpy.int8(2)))  # the other way has used the first one up
    found = way(value)
    assert found[: len(written)] == written if isinstance(written, str) and written[0] == "<" else found == written
    assert stats()["converted"] - before["converted"] == converted
    assert stats()["invalid"] == before["invalid"]


@WAYS
@pytest.mark.parametrize("value", [math.nan, math.inf, numpy.float64("nan"), numpy.array([1.0, math.inf])])
def test_a_float_that_is_not_finite_is_not_written(way: Callable[[Any], Any], value: Any) -> None:
    """A float that is not finite is reported in a log record instead of being written."""
    assert "cannot be written as JSON" in way(value)["message"]


@WAYS
@pytest.mark.parametrize("depth", [98, 99, 150, 5000])
def test_a_payload_that_consumers_would_refuse_is_reported_where_it_is_made(
    way: Callable[[Any], Any], depth: int
) -> None:
    """A payload of more than a hundred levels is reported by the producer, because consumers would refuse it."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    found = way(value)
    assert (
        isinstance(found, list) if depth <= 98 else "deeper than 100" in found["message"] or "Recursion" in str(found)
    )


@WAYS
def test_two_keys_that_are_one_text(way: Callable[[Any], Any]) -> None:
    """Two keys with the same text are reported, so that neither value is silently lost."""
    assert "two keys" in way({Colour.RED: 1, "red": 2})["message"]


def test_the_application_s_own_default_comes_first() -> None:
    """The application's ``default`` is called first for unknown values, until it raises TypeError."""

    def default(value: Any) -> Any:
        if isinstance(value, Money):
            return {"euro": numpy.int8(value.euro)}
        raise TypeError

    configure(default=default)
    assert through_the_logger(Money(3)) == {"euro": 3}
    assert through_the_logger(Lazy()) == "text"
    assert through_the_logger(date(2026, 1, 2)) == "2026-01-02"
    configure()
    assert through_the_logger(Money(3)) == "Money(3)"


def test_a_default_that_fails_does_not_fail_the_application() -> None:
    """A ``default`` that raises, or returns its argument, does not fail the application."""

    def broken(value: Any) -> Any:
        raise RuntimeError

    for default in (broken, lambda value: value):
        configure(default=default)
        found = through_the_logger(Lazy())
        assert found == "text" or "deeper than 100" in found["message"]
    with pytest.raises(ConfigurationError, match="default"):
        configure(default=5)  # type: ignore[arg-type]


class Strict(Payload):
    cls_type: Literal["test-strict"] = "test-strict"
    amount: int
    text: str
    when: datetime
    counts: list[int]


def test_values_for_a_payload_s_own_model() -> None:
    """A payload model accepts numpy numbers for numbers and lazy texts for texts."""
    when = datetime(2026, 1, 2, tzinfo=timezone.utc)
    payload = {"cls_type": "test-strict", "amount": numpy.int64(5), "text": Lazy(), "when": when, "counts": (1, 2)}
    with capture_records() as records:
        get_logger("a").info("done", payload=payload)
    assert records[0].payload == Strict(amount=5, text="text", when=when, counts=[1, 2])


def test_what_is_read_but_once_is_not_read_twice() -> None:
    """An iterator in an invalid payload is not read twice: it would look empty the second time."""
    values = ({"name": name, "value": 1} for name in (numpy.int64(5), "a", "b"))
    with capture_records(strict=False) as records:
        get_logger("a").info("done", payload={"cls_type": "metrics", "values": values})
    assert records[0].payload.cls_type == "log"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(JSON)
def test_what_json_knows_is_written_by_both_ways_alike(document: Any) -> None:
    """The fast and the converting way write the values that JSON has alike."""
    assert converter.write(document) == converter.write(converter.plain(document))


# extra= and dict messages


def record(message: Any = "m", **extra: Any) -> logging.LogRecord:
    """Return a record as ``logger.info(message, extra=extra)`` makes it."""
    return record_of(extra, message)


def record_of(extra: dict[Any, Any], message: Any = "m") -> logging.LogRecord:
    """The same, with keys of any type."""
    return logging.getLogger("a").makeRecord("a", logging.INFO, __file__, 1, message, (), None, extra=extra)


def test_extra_goes_to_the_context() -> None:
    """``extra`` goes to the context, beside the configured one, in logging and get_logger."""
    configure(context={"application": "shop"})
    extra = {"request_id": "r-1", "user": Lazy(), "n": numpy.int8(1)}
    expected = {"application": "shop", "request_id": "r-1", "user": "text", "n": 1}
    assert json.loads(SchemaFormatter().format(record(**extra)))["header"]["context"] == expected
    with capture_records() as records:
        get_logger("a").info("done", payload={"cls_type": "null"}, extra=extra)
        get_logger("a").info("done", payload={"cls_type": "null"}, **extra)
    assert [event["header"]["context"] for event in records.events] == [expected, expected]


@pytest.mark.parametrize("key", [1, None, 1.5, True, (1, 2), date(2026, 1, 2), Decimal("1.5"), numpy.float64(0.5)])
def test_a_key_of_extra_is_written_as_a_text(key: Any) -> None:
    """As any key of a document, whatever it is."""
    with capture_records() as records:
        get_logger("a").info("done", payload={"cls_type": "null"}, extra={key: {key: 1}})
    for found in (records.events[0], json.loads(SchemaFormatter().format(record_of({key: 1}, {"cls_type": "null"})))):
        assert found["payload"] == {"cls_type": "null"}
        ((name, value),) = found["header"]["context"].items()
        assert type(name) is str
        assert value in (1, {name: 1})


@pytest.mark.parametrize(
    ("extra", "context"),
    [
        ({"fqdn": 5, "application": Lazy(), "application_version": None}, {"fqdn": "5", "application": "text"}),
        ({"channel": "web", "context": "checkout", "composition": "x", "exception": "e", "event": 1}, None),
        ({"array": numpy.array([1, 2]), "topic": numpy.array([1])}, {"array": [1, 2], "topic": [1]}),
    ],
    ids=["texts", "options", "arrays"],
)
def test_extra_never_costs_the_event(extra: dict[str, Any], context: dict[str, Any] | None) -> None:
    """Any ``extra`` goes to the context alike, named as an option of the logger or as a text key of a context."""
    with capture_records() as records:
        get_logger("a").info("done", payload={"cls_type": "null"}, extra=extra)
    for found in (records.events[0], json.loads(SchemaFormatter().format(record({"cls_type": "null"}, **extra)))):
        assert found["header"]["context"] == (extra if context is None else context)
        assert found["payload"] == {"cls_type": "null"}
    assert records[0].header.channel == "a.done"


def test_a_producer_s_generator_that_fails_is_an_invalid_payload() -> None:
    """An exception of an iterator in a payload is reported as that of an invalid payload."""
    with capture_records(), pytest.raises(RecordError, match="ZeroDivisionError"):
        send({"cls_type": "test", "values": (1 // n for n in [0])}, topic="t")


def test_a_dict_with_a_cls_type_is_a_payload() -> None:
    """A dict message with a cls_type is the payload; another dict is a text."""
    payload = {"cls_type": "metrics", "values": [{"name": "n", "value": 1.0}]}
    with capture_records() as records:
        get_logger("a").info(payload)  # type: ignore[arg-type]
    line = json.loads(SchemaFormatter().format(record(payload)))
    for found in (records.events[0], line):
        assert found["payload"] == payload
        assert found["header"]["channel"] == "a"
    assert json.loads(SchemaFormatter().format(record({"a": 1})))["payload"]["message"] == "{'a': 1}"
    assert (
        "invalid record" in json.loads(SchemaFormatter().format(record({"cls_type": "metrics"})))["payload"]["message"]
    )


def test_a_dict_message_of_an_exception_has_its_traceback() -> None:
    """A dict message with an exception has its traceback in the payload, or else in the header."""
    try:
        raise ValueError("the cause")
    except ValueError as error:
        log, other = record({"cls_type": "log", "message": "m"}), record({"cls_type": "test-x"})
        for one in (log, other):
            one.exc_info = (ValueError, error, error.__traceback__)
    assert "the cause" in json.loads(SchemaFormatter().format(log))["payload"]["exc_text"]
    assert "the cause" in json.loads(SchemaFormatter().format(other))["header"]["exc_text"]


def test_one_record_is_one_event_for_all_handlers() -> None:
    """A record of several handlers is one event with one id, also behind other handlers."""
    first, second = SchemaFormatter(), SchemaFormatter()
    for message in ("m", {"cls_type": "test-x"}):
        one = record(message, request_id="r-1")
        assert first.format(one) == second.format(one)
        assert decode(first.format(one)).header.id != decode(first.format(record(message))).header.id


def test_records_behind_other_handlers_keep_what_they_have() -> None:
    """A MemoryHandler passes the record on, and a QueueHandler a copy, with all attributes."""
    lines: list[str] = []

    class Target(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    target = Target()
    target.setFormatter(SchemaFormatter())
    memory = MemoryHandler(10, target=target)
    one = record("m", request_id="r-1")
    memory.handle(one)
    memory.close()
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    QueueHandler(queue).handle(one)
    target.handle(queue.get())
    assert len({decode(line).header.id for line in lines}) == 1
    assert all(json.loads(line)["header"]["context"] == {"request_id": "r-1"} for line in lines)


def test_a_queue_handler_that_makes_the_record_keeps_the_event_and_its_cause() -> None:
    """With a SchemaFormatter a QueueHandler, which copies, has the event's id, context, traceback and cause."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(queue)
    handler.setFormatter(SchemaFormatter())
    for message in ("m", {"cls_type": "test-x"}):
        one = record(message, request_id="r-1")
        with caused_by({"header": {"id": "cause"}, "payload": {"cls_type": "c"}}):
            handler.handle(one)
            beside = SchemaFormatter().format(one)
        behind = SchemaFormatter().format(pickle.loads(pickle.dumps(queue.get())))
        assert behind == beside
        assert json.loads(behind)["header"]["context"]["causation_id"] == "cause"


class Unformattable(str):
    """A text that cannot be formatted."""

    def __format__(self, spec: str) -> str:
        raise RuntimeError


class Undecided:
    """What is neither true nor false, as an array."""

    def __bool__(self) -> bool:
        raise ValueError


@pytest.mark.parametrize(
    ("event", "fields"),
    [("done", {"exc_info": Undecided()}), (Unformattable("done"), {}), (Unformattable("done"), {"payload": 5})],
)
def test_odd_arguments_do_not_raise(event: str, fields: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """The logger says what is wrong with them."""
    caplog.set_level(logging.INFO)
    get_logger("a").info(event, **{"payload": {"cls_type": "null"}, **fields})
    (line,) = caplog.messages
    assert decode(line).payload.cls_type in ("log", "null")
