"""Makes messages of events: their topic, group, attributes and trace context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError, RecordError
from ..signatures import why_not
from ..sqs.messages import DEFAULT_GROUP, MAX_ATTRIBUTES, OutgoingMessage
from ..telemetry import find
from ..text import plain_topic


@dataclass(frozen=True)
class MessageMaker:
    """Makes the message of each record of one handler; the fields are the arguments of its ``SQSHandler``.

    :raises ConfigurationError: *delay* is given for a FIFO queue, or a function does not take a record.
    """

    queue: str
    group: str | Callable[[logging.LogRecord], str]
    deduplication_id: Callable[[logging.LogRecord], str] | None
    delay: int | None
    attributes: Mapping[str, str] | Callable[[logging.LogRecord], Mapping[str, str]] | None
    telemetry: bool | None

    def __post_init__(self) -> None:
        if self.delay is not None and self.queue.endswith(".fifo"):
            raise ConfigurationError(f"delay={self.delay!r} for {self.queue!r}: leave it out for a FIFO queue")
        for name in ("group", "deduplication_id", "attributes"):
            choice = getattr(self, name)
            if callable(choice) and (wrong := why_not(choice, "record")):
                raise ConfigurationError(f"{name}={choice!r} for {self.queue!r}: {wrong}")

    def __call__(self, line: str, record: logging.LogRecord) -> OutgoingMessage:
        """Return the message for *record*, in the thread that logs it: its trace goes on there."""
        trace = find(self.telemetry).created(self.queue, record.name)
        return OutgoingMessage(
            line,
            attributes(self.attributes(record) if callable(self.attributes) else self.attributes, trace),
            chosen(self.group, record) or DEFAULT_GROUP,
            chosen(self.deduplication_id, record),
            self.delay,
        )


def checked_topic(topic: object) -> str:
    """Return *topic*, a queue's name or URL, without the secrets of a URL.

    :raises ConfigurationError: it is none.
    """
    if not isinstance(topic, str) or not topic.strip():
        raise ConfigurationError(f"bad topic {topic!r}: give the name or the URL of a queue")
    return plain_topic(topic)


def chosen(choice: Any, given: object) -> str:
    """Return what the producer chose for an event, as a text: *choice*, or what it returns for *given*; "": nothing."""
    value = choice(given) if callable(choice) else choice
    return "" if value is None else str(value)


def attributes(given: Mapping[str, Any] | None, trace: Mapping[str, str]) -> dict[str, str]:
    """Return message attributes as SQS takes them: texts that are not empty.

    :param given: the producer's.
    :param trace: those of the trace, which are left out where SQS has no room for them.
    :raises RecordError: one is bytes.
    """
    for name, value in (given or {}).items():
        if isinstance(value, bytes):
            raise RecordError(f"message attribute {name!r} is bytes: give a text, such as its base64")
    own = {name: text for name, value in (given or {}).items() if (text := chosen(value, None))}
    both = {**trace, **own}
    return both if len(both) <= MAX_ATTRIBUTES else own
