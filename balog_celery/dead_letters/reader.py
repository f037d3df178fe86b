"""Reads the messages of a dead-letter queue: the event, and what is known of its failure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from ..errors import DecodeError
from ..events.decoders import DECODERS, Reader, reader_of
from ..events.event_filter import EventFilter
from ..events.mark import MARK, identity, read_mark, text_in
from ..events.records import FacilityRecord
from ..sqs.addresses import queue_name, topics_named
from ..sqs.messages import Message, TypedValue
from ..text import printable
from .original import marked, unmarked
from .writer import REASONS

#: The attributes of dead letters of earlier releases, which kept none of the message's own.
_OF_EARLIER_RELEASES = frozenset(
    {"reason", "topic", "consumer", "error", "first_received", "receive_count", "group", "message_id"}
)


@dataclass(frozen=True)
class DeadLetter:
    """A message of a dead-letter queue.

    :param message: the message.
    :param event: the event, or None if the body cannot be decoded, or does not hold exactly one event.
    :param text: the event's record.
    :param problem: why there is no event.
    :param home: the topic of its queue; "": the queue is for several, or its topic is not known.
    """

    message: Message
    event: FacilityRecord | None
    text: str = ""
    problem: str = ""
    home: str = ""

    @classmethod
    def read(cls, message: Message, reader: Reader, home: str = "") -> DeadLetter:
        """Return *message* as a dead letter. This never raises: one bad message must not hide the others.

        :param reader: reads the bodies of its topic.
        :param home: the topic of its dead-letter queue.
        """
        dead = cls(message, None, home=home)
        if message.problem:
            return replace(dead, problem=message.problem)
        if dead.is_record:
            reader = reader_of(DECODERS["balog"])
        try:
            readings = reader(message._replace(message_id=dead.original_id or message.message_id))
        except DecodeError as error:
            return replace(dead, problem=error.reason)
        except Exception as error:
            return replace(dead, problem=f"it cannot be read: {type(error).__name__}")
        event_id = text_in(dead.failure, "event")
        if len(readings) > 1 and event_id:
            readings = [reading for reading in readings if reading[0].header.id == event_id]
            if not readings:
                return replace(dead, problem=f"its decoder finds no event {printable(event_id)} in it now")
        if len(readings) != 1:
            return replace(dead, problem=f"it holds {len(readings)} events")
        ((event, text),) = readings
        return replace(dead, event=event, text=text)

    @cached_property
    def failure(self) -> Mapping[str, Any]:
        """What this package wrote of the failure; empty for a message that the broker's redrive policy moved.

        Anyone who may send to the topic can forge a mark, and a redrive policy carries it along. So a mark is not
        believed in a message that the broker moved, nor if it names another topic than the queue's.
        """
        if self.message.moved_from:
            return {}
        attributes = self.message.attributes
        found = read_mark(attributes)
        if not found and "topic" in attributes and attributes.get("reason") in REASONS:
            found = attributes  # of an earlier release
        if text_in(found, "reason") not in REASONS:
            return {}
        topic = queue_name(text_in(found, "topic"))
        return found if not self.home or topic == queue_name(self.home) else {}

    @property
    def is_record(self) -> bool:
        """Whether the body is the record of its event, and not the body of a message."""
        if MARK in self.message.attributes:
            return self.failure.get("record") is True
        return self.reason in ("failed", "default_event_handler")

    @property
    def attributes(self) -> dict[str, str | TypedValue]:
        """The message attributes that the message had in its topic."""
        found = unmarked(self.message, self.failure)
        if self.failure is self.message.attributes:
            return {name: value for name, value in found.items() if name not in _OF_EARLIER_RELEASES}
        return found

    def attributes_again(self) -> dict[str, str | TypedValue]:
        """Return the attributes with which it is sent to its topic again, where its events are the same as before."""
        message_id, sent = identity(self.message.message_id, self.message.sent, self.message.attributes)
        mark = {"message_id": self.original_id or message_id, "sent": sent, "record": self.is_record}
        return marked(self.attributes, mark)

    @property
    def original_id(self) -> str:
        """The id of the message in its topic; "" if that is not known."""
        return text_in(self.failure, "message_id")

    def matches(
        self,
        selection: EventFilter,
        consumers: Set[str] | None,
        topics: Set[str] | None,
        known: Collection[str],
    ) -> bool:
        """Return whether this dead letter meets all conditions. An unknown property meets no condition on it.

        :param consumers: it failed for one of these; "" matches one that failed for none, or does not say.
        :param topics: it came from one of these; "" matches one whose topic is not known.
        :param known: all topics that consumers listen to. A name that several of them share means all of those.
        """
        sources = set(topics_named(self.topic, known)) if self.topic else {""}
        return (
            selection(self.event, self.message.message_id)
            and (consumers is None or self.consumer in consumers)
            and (topics is None or (bool(sources) and sources <= topics))
        )

    @property
    def id(self) -> str:
        """The event's id; if there is no event, the message's."""
        return self.event.header.id if self.event is not None else self.message.message_id

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the event and consumer: the same for all dead letters of both."""
        return (self.event.header.id if self.event is not None else self.message.body, self.consumer)

    @property
    def reason(self) -> str:
        """One of :data:`~.writer.REASONS`; "" if it does not say."""
        return text_in(self.failure, "reason")

    @property
    def topic(self) -> str:
        """The topic that it came from: that of its queue, if that has only one; "" if it is not known."""
        return self.home or text_in(self.failure, "topic") or self.message.moved_from.rpartition(":")[2]

    @property
    def consumer(self) -> str:
        """The name of the task that failed; "" if none did."""
        return text_in(self.failure, "consumer")

    @property
    def error(self) -> str:
        """The exception in one line, or why the body cannot be decoded."""
        return text_in(self.failure, "error") or self.problem

    @property
    def died(self) -> datetime | None:
        """When it became a dead letter, or None if the queue does not say."""
        return datetime.fromtimestamp(self.message.sent / 1000, timezone.utc) if self.message.sent else None
