"""Writes the records of one call."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..events.serialization import SCHEMA_VERSION
from .payload_check import checked
from .processors import BuildRecord, Line, write
from .values import MAX_DEPTH


class RecordWriter:
    """Writes records whose headers differ only in their ids: the rest of the header is written once.

    The lines are those that :func:`~.processors.render_record` writes of *build*'s records.

    :param build: makes the header, with the current time.
    :param channel: the header's channel.
    :param context: added to the configured context.
    :raises RecordError: *context* is not valid.
    """

    def __init__(self, build: BuildRecord, channel: str, context: Mapping[str, Any] | None) -> None:
        header = build.header(channel, datetime.now(timezone.utc), "", context)
        del header["id"]
        rest = write(header, MAX_DEPTH - 1)
        self._before = f'{{"schema": "{SCHEMA_VERSION}", "header": {{"id": "'
        self._between = f'", {rest[1:]}, "payload": '

    def write(self, event_id: str, payload: object) -> Line:
        """Return the record of an event.

        :raises RecordError: *payload* is not valid.
        """
        content = write(checked(payload, "info"), MAX_DEPTH - 1)
        return Line(f"{self._before}{event_id}{self._between}{content}}}")
