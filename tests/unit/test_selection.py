"""Which events are meant by options."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from balog_celery.errors import VersionConditionError
from balog_celery.records import decode
from balog_celery.selection import Selection, moment
from fakes import event_text

#: Its timestamp is 2014-10-07T15:06:51.641083+00:00.
EVENT = decode(event_text("LG1", "metrics", "1.2"))


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({}, True),
        ({"cls_types": ["log", "metrics"]}, True),
        ({"cls_types": ["log"]}, False),
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
    """A time begins at since, and ends before until."""
    assert Selection.of(**options)(EVENT) is meant


def test_a_schema_that_is_no_version_meets_no_condition() -> None:
    """As for a consumer."""
    assert not Selection.of(version="<1.0")(decode(event_text(schema="garbage")))


def test_what_cannot_be_decoded_is_meant_by_everything_or_by_its_message() -> None:
    """It has neither type nor time."""
    assert Selection()(None)
    assert not Selection.of(cls_types=["metrics"])(None, "m1")
    assert Selection.of(ids=["m1"])(None, "m1")
    assert not Selection.of(ids=["m1"])(None, "m2")


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
    """Without a zone it is UTC."""
    assert moment(text, datetime(2026, 1, 31, 12, tzinfo=timezone.utc)) == time


def test_what_cannot_be_read_is_an_error() -> None:
    """That says how it is written."""
    with pytest.raises(ValueError, match="'yesterday' is no time: write 2026-01-31T12:00:00Z"):
        Selection.of(since="yesterday")
    with pytest.raises(ValueError, match="is no time"):
        Selection.of(until="99999999999d")
    with pytest.raises(VersionConditionError):
        Selection.of(version="one")
