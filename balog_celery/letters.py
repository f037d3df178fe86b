"""Dead letters as they are read: what is in the queue, and what is known of the failure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timezone

from .decoders import DECODERS, Reader, reader_of
from .errors import DecodeError
from .queues import Message
from .records import FacilityRecord
from .selection import Selection
from .settings import queue_name


@dataclass(frozen=True)
class Letter:
    """A message of a dead-letter queue.

    :param message: the message; its body is that of the event.
    :param event: the event, or None where the body cannot be decoded, or is not one event.
    :param text: the event's record.
    :param trouble: why there is no event.
    """

    message: Message
    event: FacilityRecord | None
    text: str = ""
    trouble: str = ""

    @classmethod
    def read(cls, message: Message, reader: Reader) -> Letter:
        """What *message* is.

        :param reader: reads the bodies of its topic. What failed after it was read is a record, whatever it came as.
        """
        if message.problem:
            return cls(message, None, trouble=message.problem)
        if message.attributes.get("reason") in ("failed", "default_event_handler"):
            reader = reader_of(DECODERS["balog"])
        try:
            events = reader(message.body)
        except DecodeError as error:
            return cls(message, None, trouble=error.reason)
        if len(events) != 1:
            return cls(message, None, trouble=f"it holds {len(events)} events")
        ((event, text),) = events
        return cls(message, event, text)

    def is_meant(self, selection: Selection, consumer: str | None, topics: Collection[str] | None) -> bool:
        """Whether options mean this letter.

        :param consumer: not if it failed for another consumer than this.
        :param topics: not if it came from another topic than these.
        """
        return (
            selection(self.event, self.message.message_id)
            and (not consumer or self.consumer in ("", consumer))
            and (topics is None or not self.topic or queue_name(self.topic) in map(queue_name, topics))
        )

    @property
    def id(self) -> str:
        """The event's id; the message's, where there is no event."""
        return self.event.header.id if self.event is not None else self.message.message_id

    @property
    def key(self) -> tuple[str, str]:
        """The same for every letter of one event and consumer."""
        return (self.event.header.id if self.event is not None else self.message.body, self.consumer)

    @property
    def reason(self) -> str:
        """Why it is dead: ``undecodable``, ``failed`` or ``default_event_handler``; "" if nobody said."""
        return self.message.attributes.get("reason", "")

    @property
    def topic(self) -> str:
        """The topic that it came from; "" if nobody said."""
        return self.message.attributes.get("topic", "")

    @property
    def consumer(self) -> str:
        """The name of the consumer's task that failed; "" if none did."""
        return self.message.attributes.get("consumer", "")

    @property
    def error(self) -> str:
        """The exception in one line, or why the body cannot be decoded."""
        return self.message.attributes.get("error", "") or self.trouble

    @property
    def died(self) -> datetime | None:
        """When it became a dead letter, or None if the queue does not say."""
        return datetime.fromtimestamp(self.message.sent / 1000, timezone.utc) if self.message.sent else None
