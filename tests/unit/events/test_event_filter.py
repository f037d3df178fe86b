"""The events that the options of commands select."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from balog_celery.errors import ConfigurationError, VersionConditionError
from balog_celery.events.event_filter import EventFilter, parse_time
from balog_celery.events.records import decode
from sample_events import event_text

#: Its timestamp is 2014-10-07T15:06:51.641083+00:00.
EVENT = decode(event_text("LG1", "metrics", "1.2"))


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({}, True),
        ({"cls_types": ["log", "metrics"]}, True),
        ({"cls_types": ["log"]}, False),
        ({"cls_types": ["log", "met*"]}, True),
        ({"cls_types": ["metrics*"]}, True),
        ({"cls_types": ["*"]}, True),
        ({"cls_types": ["log*"]}, False),
        ({"version": ">=1.0,<2.0"}, True),
        ({"version": "<1.0"}, False),
        ({"since": "2014-10-07T15:06:51.641083Z"}, True),
        ({"since": "2014-10-08"}, False),
        ({"until": "2014-10-08"}, True),
        ({"until": "2014-10-07T15:06:51.641083Z"}, False),
        ({"since": "1d"}, False),
        ({"until": "1d"}, True),
        ({"ids": ["LG0", "LG1"]}, True),
        ({"ids": ["LG0"]}, False),
        ({"ids": ["LG1"], "cls_types": ["log"]}, False),
    ],
)
def test_an_event_is_meant_if_all_that_is_said_holds(options: dict[str, Any], meant: bool) -> None:
    """An event is selected if all conditions hold; the time range includes since and excludes until."""
    assert EventFilter.of(**options)(EVENT) is meant


@pytest.mark.parametrize("cls_type", ["a*b", "", "**"])
def test_a_type_is_written_as_consumers_have_it(cls_type: str) -> None:
    """A `*` stands at its end."""
    with pytest.raises(ConfigurationError, match="bad cls_type"):
        EventFilter.of(cls_types=[cls_type])


def test_a_schema_that_is_no_version_meets_no_condition() -> None:
    """A schema that is not a version meets no version condition."""
    assert not EventFilter.of(version="<1.0")(decode(event_text(schema="garbage")))


def test_what_cannot_be_decoded_is_meant_by_everything_or_by_its_message() -> None:
    """An undecodable body is selected by no condition but its message id."""
    assert EventFilter()(None)
    assert not EventFilter.of(cls_types=["metrics"])(None, "m1")
    assert EventFilter.of(ids=["m1"])(None, "m1")
    assert not EventFilter.of(ids=["m1"])(None, "m2")


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=timezone.utc)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=timezone.utc)),
        ("90s", datetime(2026, 1, 31, 11, 58, 30, tzinfo=timezone.utc)),
        ("2h", datetime(2026, 1, 31, 10, tzinfo=timezone.utc)),
        ("7d", datetime(2026, 1, 24, 12, tzinfo=timezone.utc)),
    ],
)
def test_a_time_is_iso_8601_or_how_long_ago(text: str, time: datetime) -> None:
    """A time is ISO 8601, in UTC by default, or an age."""
    assert parse_time(text, datetime(2026, 1, 31, 12, tzinfo=timezone.utc)) == time


def test_what_cannot_be_read_is_an_error() -> None:
    """An unreadable option is an error that says how to write it."""
    with pytest.raises(ValueError, match="'yesterday' is no time: write 2026-01-31T12:00:00Z"):
        EventFilter.of(since="yesterday")
    with pytest.raises(ValueError, match="is no time"):
        EventFilter.of(until="99999999999d")
    with pytest.raises(VersionConditionError):
        EventFilter.of(version="one")


@pytest.mark.parametrize("nothing", ["version", "since", "until"])
def test_an_empty_text_is_an_error(nothing: str) -> None:
    """An empty text is an error: it may be an unset variable."""
    with pytest.raises(ValueError, match=r"''"):
        EventFilter.of(**{nothing: ""})  # type: ignore[arg-type]


@pytest.mark.parametrize(("since", "until"), [("1d", "2d"), ("1h", "1h"), ("2026-01-02", "2026-01-01")])
def test_an_empty_range_is_an_error(since: str, until: str) -> None:
    """An empty time range is an error instead of selecting nothing."""
    with pytest.raises(ValueError, match=f"no event is of {since} or later and before {until}"):
        EventFilter.of(since=since, until=until)
    EventFilter.of(since=until if since != until else "2h", until=since)


def test_what_is_not_one_event_is_meant_by_nothing_that_cannot_be_told_of_it() -> None:
    """A body that is not one event fails each condition on an unknown property."""
    options: dict[str, Any] = {"cls_types": ["metrics"], "version": ">=0", "since": "2000-01-01", "until": "2100-01-01"}
    for name, value in options.items():
        assert EventFilter.of(**{name: value})(EVENT)
        assert not EventFilter.of(**{name: value})(None, "m1")
        assert not EventFilter.of(**{name: value}, ids=["m1"])(None, "m1")
