"""Selects events by type, version, time and id, as the options of commands ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from .conditions import VersionCondition, matches, parse_version
from .conditions import cls_types as types_of
from .records import FacilityRecord
from .timestamps import parse_timestamp

_AGO = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class EventFilter:
    """Conditions that an event must meet; a condition that is not given is met by all events.

    :param cls_types: its payload's type is one of these; those that end in ``*`` are prefixes.
    :param version: its schema version meets this.
    :param since: its timestamp is not before this.
    :param until: its timestamp is before this.
    :param ids: its id is one of these.
    """

    cls_types: frozenset[str] = frozenset()
    version: VersionCondition | None = None
    since: datetime | None = None
    until: datetime | None = None
    ids: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        cls_types: Iterable[str] = (),
        version: str | None = None,
        since: str | None = None,
        until: str | None = None,
        ids: Iterable[str] = (),
    ) -> EventFilter:
        """Make a filter from texts as they are typed.

        :raises ConfigurationError: a type or the version condition cannot be read.
        :raises ValueError: a time cannot be read, or *since* is not before *until*.
        """
        now = datetime.now(timezone.utc)
        begin = None if since is None else parse_time(since, now)
        end = None if until is None else parse_time(until, now)
        if begin is not None and end is not None and begin >= end:
            raise ValueError(f"no event is of {since} or later and before {until}: since must be before until")
        condition = None if version is None else VersionCondition(version)
        return cls(types_of(tuple(cls_types) or None) or frozenset(), condition, begin, end, frozenset(ids))

    def __call__(self, event: FacilityRecord | None, message_id: str = "") -> bool:
        """Return whether *event* meets all conditions.

        :param event: the event; None for a body that is not one event. Only the id of its message is known, so any
            other condition excludes it.
        """
        if event is None:
            return replace(self, ids=frozenset()) == EventFilter() and (not self.ids or message_id in self.ids)
        version = parse_version(event.schema_version)
        timestamp = event.header.timestamp
        return (
            (not self.cls_types or any(matches(wanted, event.payload.cls_type) for wanted in self.cls_types))
            and (self.version is None or (version is not None and self.version(version)))
            and (self.since is None or timestamp >= self.since)
            and (self.until is None or timestamp < self.until)
            and (not self.ids or event.header.id in self.ids)
        )


def parse_time(text: str, now: datetime | None = None) -> datetime:
    """Read a time: ISO 8601 (UTC if it has no zone), or an age: ``90s``, ``30m``, ``2h``, ``7d``.

    :param now: what the latter counts from; default: now.
    :raises ValueError: it is neither.
    """
    try:
        if match := _AGO.fullmatch(text):
            return (now or datetime.now(timezone.utc)) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        return parse_timestamp(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time: write 2026-01-31T12:00:00Z, 2026-01-31, or how long ago: 2h, 7d"
        ) from None
