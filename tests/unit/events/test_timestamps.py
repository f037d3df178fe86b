"""Timestamps of the original and of RFC 3339, and refused ones."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balog_celery.events.timestamps import parse_timestamp

UTC = timezone.utc


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2014", datetime(2014, 1, 1, tzinfo=UTC)),
        ("2014-10", datetime(2014, 10, 1, tzinfo=UTC)),
        ("2014-1-7", datetime(2014, 1, 7, tzinfo=UTC)),
        ("20141007", datetime(2014, 10, 7, tzinfo=UTC)),
        ("20141007T150651Z", datetime(2014, 10, 7, 15, 6, 51, tzinfo=UTC)),
        ("2014-10-07 15:06", datetime(2014, 10, 7, 15, 6, tzinfo=UTC)),
        ("2014-10-07T15", datetime(2014, 10, 7, 15, tzinfo=UTC)),
        ("2014-10-07T15:06:51,641Z", datetime(2014, 10, 7, 15, 6, 51, 641000, tzinfo=UTC)),
        ("2014-10-07T15:06:51.6410839999", datetime(2014, 10, 7, 15, 6, 51, 641083, tzinfo=UTC)),
        ("2014-10-07T15:06:51-08", datetime(2014, 10, 7, 23, 6, 51, tzinfo=UTC)),
        ("2014-10-07T15:06:51+0530", datetime(2014, 10, 7, 9, 36, 51, tzinfo=UTC)),
        ("2014-10-07T15:06:51.641083-08:00", datetime(2014, 10, 7, 23, 6, 51, 641083, tzinfo=UTC)),
        ("2014-10-07T15:06:51+00:00", datetime(2014, 10, 7, 15, 6, 51, tzinfo=UTC)),
        ("2018-04-05t17:31:00z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2016-12-31t23:59:60.5z", datetime(2017, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)),
        ("1990-12-31T15:59:60-08:00", datetime(1991, 1, 1, tzinfo=UTC)),
        (datetime(2014, 10, 7, 15), datetime(2014, 10, 7, 15, tzinfo=UTC)),
        (date(2014, 10, 7), datetime(2014, 10, 7, tzinfo=UTC)),
    ],
)
def test_timestamps_are_read_as_the_original_read_them(text: object, expected: datetime) -> None:
    """Timestamps are read as by the original, and are always aware, in UTC by default."""
    got = parse_timestamp(text)
    assert got == expected
    assert got.utcoffset() is not None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yesterday",
        "201410",
        "2014-W41-2T15:06:51.641083+00:00",
        "2014-10-07T24:00:00Z",
        "2014-10-07T24:00:00+00:00",
        "2014-10-07T24:00:00.000000+00:00",
        "2014-13-40T00:00:00Z",
        "0000-01-01T00:00:00+00:00",
        "2014-10-07T15:06:51+99:00",
        "2014-10-07T15:06:61Z",
        "9999-12-31T23:59:60Z",
        "2014-10-07T15:06:51Z\n",
        "２０１４",
        1412694411,
        1412694411.5,
        True,
        None,
        [1],
    ],
)
def test_what_is_no_timestamp_is_refused(value: object) -> None:
    """Texts and numbers that are not timestamps are refused on every Python version."""
    with pytest.raises(ValueError):
        parse_timestamp(value)


DAY = 24 * 60 * 60 - 1
OFFSETS = st.integers(-DAY, DAY).map(lambda seconds: timezone(timedelta(seconds=seconds)))


@given(st.datetimes(timezones=st.one_of(st.sampled_from([UTC, timezone(timedelta(hours=-8))]), OFFSETS)))
def test_timestamps_keep_their_value(parse_time: datetime) -> None:
    """Timestamps keep their value when written and read, also with the seconds in the offset of a local mean time."""
    assert parse_timestamp(parse_time.isoformat()) == parse_time


@given(
    moment=st.datetimes(max_value=datetime(9999, 12, 30)),
    separator=st.sampled_from("Tt "),
    zone=st.sampled_from(["Z", "z", "+00:00", "-00:00", "+14:00", "-12:30"]),
    leap=st.booleans(),
)
def test_rfc_3339_is_read_in_each_of_its_spellings(moment: datetime, separator: str, zone: str, leap: bool) -> None:
    """RFC 3339 is read with T and Z in either case, and with second 60."""
    moment = moment.replace(second=59, microsecond=0) if leap else moment
    written = moment.isoformat().replace("T", separator)
    written = f"{written[:-2]}60" if leap else written
    plain = parse_timestamp(moment.isoformat() + zone.upper())
    assert parse_timestamp(written + zone) == plain + timedelta(seconds=leap)
