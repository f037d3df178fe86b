"""Makes messages of log records: their group, attributes and trace context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..sqs.messages import OutgoingMessage
from ..telemetry import find


@dataclass(frozen=True)
class MessageMaker:
    """Makes the message of each record of one handler; the fields are the arguments of its ``SQSHandler``.

    :raises ConfigurationError: *delay* is given for a FIFO queue.
    """

    queue: str
    group: str | Callable[[logging.LogRecord], str]
    deduplication_id: Callable[[logging.LogRecord], str] | None
    delay: int | None
    attributes: Mapping[str, str] | Callable[[logging.LogRecord], Mapping[str, str]] | None
    telemetry: bool | None

    def __post_init__(self) -> None:
        if self.delay is not None and self.queue.endswith(".fifo"):
            raise ConfigurationError(f"delay={self.delay!r} for {self.queue!r}: SQS takes none for a FIFO queue")

    def __call__(self, line: str, record: logging.LogRecord) -> OutgoingMessage:
        """Return the message for *record*, in the thread that logs it: its trace goes on there."""
        given = self.attributes(record) if callable(self.attributes) else self.attributes or {}
        trace = find(self.telemetry).created(self.queue, record.name)
        return OutgoingMessage(
            line,
            {**trace, **{name: value for name, value in given.items() if value}},  # SQS takes no empty ones
            self.group(record) if callable(self.group) else self.group,
            self.deduplication_id(record) if self.deduplication_id is not None else "",
            self.delay,
        )
