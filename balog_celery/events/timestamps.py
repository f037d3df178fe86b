"""Timestamps: every form of ISO 8601 that the original read, and all of RFC 3339."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone

from .serialization import InvalidValue

# What iso8601, the library of the original, accepts; in RFC 3339 "t" and "z" may be lower case. isoformat() writes the
# seconds of an offset, which local mean times have.
_TIMESTAMP = re.compile(
    r"(?P<year>[0-9]{4})"
    r"(?:(?:-(?P<dash_month>[0-9]{1,2})|(?P<month>[0-9]{2})(?!$))"
    r"(?:(?:-(?P<dash_day>[0-9]{1,2})|(?P<day>[0-9]{2}))"
    r"(?:[ Tt](?P<hour>[0-9]{2})(?::?(?P<minute>[0-9]{2}))?(?::?(?P<second>[0-9]{1,2})(?:[.,](?P<fraction>[0-9]+))?)?"
    r"(?P<zone>[Zz]|(?P<sign>[-+])(?P<zone_hour>[0-9]{2}):?(?P<zone_minute>[0-9]{2})?"
    r"(?::(?P<zone_second>[0-9]{2}))?)?)?)?)?"
)
# What isoformat() writes for an aware datetime; every Python's fromisoformat() reads it, and it is fast.
_ISOFORMAT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-5][0-9](?:\.[0-9]{6})?[-+][0-9]{2}:[0-9]{2}"
)


def parse_timestamp(value: object) -> datetime:
    """Return *value* as an aware datetime.

    :param value: ISO 8601 text: ``"2014"``, ``"2014-10"``, ``"20141007T150651Z"``, ``"2014-10-07T15:06:51,641Z"``.
        Without a zone it is UTC; digits beyond microseconds are cut; second 60, a leap second, is the second after it.
        Or a datetime (naive: UTC), or a date (midnight, UTC).
    :raises ValueError: it is none of these; a number is not.
    """
    if isinstance(value, str):
        if _ISOFORMAT.fullmatch(value):
            return datetime.fromisoformat(value)
        return _from_iso8601(value)
    if isinstance(value, datetime):
        return value if value.utcoffset() is not None else value.replace(tzinfo=timezone.utc)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc)
    raise InvalidValue("a timestamp is a text in ISO 8601")


def _from_iso8601(text: str) -> datetime:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise InvalidValue("a timestamp is a text in ISO 8601")
    part = match.groupdict()
    zone = timezone.utc
    if part["sign"]:
        hours, minutes, seconds = (int(part[f"zone_{unit}"] or 0) for unit in ("hour", "minute", "second"))
        offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        zone = timezone(-offset if part["sign"] == "-" else offset)
    second = int(part["second"] or 0)
    found = datetime(
        int(part["year"]),
        int(part["dash_month"] or part["month"] or 1),
        int(part["dash_day"] or part["day"] or 1),
        int(part["hour"] or 0),
        int(part["minute"] or 0),
        min(second, 59) if second <= 60 else second,
        int((part["fraction"] or "0")[:6].ljust(6, "0")),
        zone,
    )
    if second < 60:
        return found
    try:
        return found + timedelta(seconds=1)
    except OverflowError:
        raise InvalidValue("a timestamp is in the years 1 to 9999") from None
