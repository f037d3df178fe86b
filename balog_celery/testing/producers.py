"""Collects the records that producers log, and makes events."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from ..events.ids import new_id
from ..events.payloads import Payload
from ..events.records import FacilityRecord, as_event, decode
from ..events.serialization import SCHEMA_VERSION
from ..producer.lineage import cause_of
from ..producer.state import capture


class Records(list[FacilityRecord]):
    """The records that were logged, in order."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The records as dicts, as consumers get them."""
        return [as_event(record) for record in self]

    def caused_by(self, event: FacilityRecord | Mapping[str, Any] | str) -> list[FacilityRecord]:
        """Return the records that consumers of an event logged or sent.

        :param event: the event, as a record or a dict, or its id.
        """
        if isinstance(event, FacilityRecord):
            event = event.header.id
        event_id = event if isinstance(event, str) else event["header"]["id"]
        return [record for record in self if cause_of(record) == event_id]


@contextmanager
def capture_records(level: int | str = logging.DEBUG, strict: bool = True) -> Iterator[Records]:
    """Collect the records that loggers of this package write in the block. They are not written elsewhere.

        with capture_records() as records:
            process_results()
        assert records[0].payload.cls_type == "metrics"

    Records of all threads are collected, as soon as they are logged; lines of the standard library's loggers are not.

    :param level: the lowest level to collect; a logger with its own level keeps that.
    :param strict: raise :exc:`~balog_celery.RecordError` in the caller if an argument does not make a record. False:
        log a ``log`` record that describes the error instead, as in production.
    """
    records = Records()
    with capture(lambda line: records.append(decode(line)), level, strict):
        yield records


def make_event(
    payload: Payload | Mapping[str, Any],
    *,
    event_id: str | None = None,
    channel: str = "test",
    schema: str = SCHEMA_VERSION,
    timestamp: datetime | None = None,
) -> FacilityRecord:
    """Return a new event with *payload*.

    :param event_id: its id; default: a new one.
    :param schema: the schema version.
    :param timestamp: when it was logged; default: now.
    :raises pydantic.ValidationError: the payload does not match the class declared for its ``cls_type``.
    """
    header = {
        "id": new_id() if event_id is None else event_id,
        "channel": channel,
        "timestamp": timestamp or datetime.now(timezone.utc),
        "context": {},
    }
    return FacilityRecord.model_validate({"schema": schema, "header": header, "payload": payload})
