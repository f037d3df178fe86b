"""Makes messages of events: their topic, group, attributes and trace context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..arguments import check_whole, shown
from ..errors import ConfigurationError, RecordError
from ..signatures import why_not
from ..sqs.messages import DEFAULT_GROUP, MAX_ATTRIBUTES, OutgoingMessage
from ..telemetry import find

#: The longest delay that SQS takes, in seconds.
MAX_DELAY = 900


@dataclass(frozen=True)
class MessageMaker:
    """Makes the message of each record of one handler; the fields are the arguments of its ``SQSHandler``.

    :raises ConfigurationError: an argument is wrong, or *delay* is given for a FIFO queue.
    """

    queue: str
    group: str | Callable[[logging.LogRecord], str]
    deduplication_id: Callable[[logging.LogRecord], str] | None
    delay: int | None
    attributes: Mapping[str, str] | Callable[[logging.LogRecord], Mapping[str, str]] | None
    telemetry: bool | None

    def __post_init__(self) -> None:
        check_delay(self.delay, self.queue)
        check_attributes(self.attributes, or_function=True)
        check_function("deduplication_id", self.deduplication_id)
        for name in ("group", "deduplication_id", "attributes"):
            choice = getattr(self, name)
            if callable(choice) and (wrong := why_not(choice, "record")):
                raise ConfigurationError(f"bad {name}{shown(choice)}: {wrong}")

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


def check_delay(delay: object, queue: str) -> None:
    """Check that a message to the queue named *queue* can have this delay.

    :raises ConfigurationError: it cannot.
    """
    if delay is None:
        return
    check_whole("delay", delay, f"0 to {MAX_DELAY} seconds", most=MAX_DELAY)
    if queue.endswith(".fifo"):
        raise ConfigurationError(f"delay={delay!r} for {queue!r}: leave it out for a FIFO queue")


def check_attributes(attributes: object, *, or_function: bool = False) -> None:
    """Check that *attributes* are message attributes, by their names. An error does not show them.

    :raises ConfigurationError: they are not.
    """
    if not (attributes is None or isinstance(attributes, Mapping) or (or_function and callable(attributes))):
        raise ConfigurationError(f"bad attributes, a {type(attributes).__name__}: give a dict of texts by name")


def check_function(name: str, value: object) -> None:
    """Check that *value* of the argument *name* is None or a function: one text would be that of all messages.

    :raises ConfigurationError: it is something else.
    """
    if value is not None and not callable(value):
        raise ConfigurationError(f"bad {name}{shown(value)}: give a function that returns one for each message")


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
