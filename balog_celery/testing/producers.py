"""What a test of a producer needs: to see the records, and to make some of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from ..ids import new_id
from ..logger import capture
from ..records import FacilityRecord, Payload, as_event, decode
from ..wire import SCHEMA_VERSION


class Records(list[FacilityRecord]):
    """The records that were logged, in order."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The same as dicts, as consumers get them."""
        return [as_event(record) for record in self]


@contextmanager
def capture_records(level: int | str = logging.DEBUG, strict: bool = True) -> Iterator[Records]:
    """Collect the records that loggers of this package write in the block; they go nowhere else meanwhile.

        with capture_records() as records:
            process_results()
        assert records[0].payload.cls_type == "metrics"

    They are there as soon as they are logged, from every thread. Lines of the standard library's own loggers are none
    of them.

    :param level: the lowest level to collect; a logger that was given a level of its own keeps to that.
    :param strict: raise :exc:`~balog_celery.RecordError` in the caller for what cannot be a record. False: as in
        production, a ``log`` record that says what is wrong is logged in its place.
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
    """Make an event that carries *payload*.

    :param event_id: default: a new one.
    :param schema: the schema version.
    :param timestamp: when it was logged; default: now.
    :raises pydantic.ValidationError: the payload is not what the class declared for its ``cls_type`` asks for.
    """
    header = {
        "id": new_id() if event_id is None else event_id,
        "channel": channel,
        "timestamp": timestamp or datetime.now(timezone.utc),
        "context": {},
    }
    return FacilityRecord.model_validate({"schema": schema, "header": header, "payload": payload})
