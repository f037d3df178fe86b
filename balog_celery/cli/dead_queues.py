"""The dead-letter queues of an app, and the letters in them that options select."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import click
from celery import Celery

from ..dead_letters.original import pack
from ..dead_letters.reader import DeadLetter
from ..dead_letters.scan import QueueScan
from ..errors import BalogError, QueueNotFound
from ..events.conditions import may_match
from ..events.event_filter import EventFilter
from ..events.mark import text_in
from ..sqs.messages import Message
from ..sqs.protocols import ReadableQueue
from ..tasks.naming import task_id
from ..text import printable
from .events import hint_for, resolve_names


class DeadLetterQueue(NamedTuple):
    """A dead-letter queue, and which of its letters belong to the selected topics.

    :param topics: those of these topics; "" is for letters that do not name theirs.
    :param home: the topic of letters that do not name theirs; "" if that cannot be told.
    """

    queue: ReadableQueue
    topics: frozenset[str]
    home: str


@dataclass(frozen=True)
class LetterFilter:
    """The options with which ``dead list``, ``drop`` and ``replay`` select letters. All that are given must match.

    A letter of which an option cannot be told does not match it: one that does not name its consumer does not match
    ``--consumer``, and one without exactly one event does not match ``--cls-type`` or a time.

    :param topic: letters of this topic; None: of all topics.
    :param consumer: letters that failed for the task of this name; None: all letters.
    :param events: which events, and by which ids.
    """

    topic: str | None
    consumer: str | None
    events: EventFilter

    @classmethod
    def of(cls, app: Celery, topic: str | None, consumer: str | None, events: EventFilter) -> LetterFilter:
        """Return the filter for options as they are typed.

        :raises click.UsageError: there is no such topic or consumer.
        """
        return cls(*resolve_names(app, topic, consumer), events)

    @property
    def is_empty(self) -> bool:
        """True if it matches every letter of its topic."""
        return self.consumer is None and self.events == EventFilter()

    def matches(self, app: Celery, letter: DeadLetter, topics: frozenset[str] | None) -> bool:
        """Return True if *letter* is selected.

        :param topics: the topics of its queue that are selected; None: any.
        """
        consumers = None if self.consumer is None else {self.consumer}
        rest = replace(self.events, ids=frozenset())
        return letter.matches(rest, consumers, topics, app.balog.topics()) and (
            not self.events.ids or not self.events.ids.isdisjoint(letter_ids(letter))
        )


def letter_ids(letter: DeadLetter) -> set[str]:
    """Return the ids by which log lines and lists name a letter: its event, its messages, and its task."""
    ids = {letter.id, letter.message.message_id, letter.original_id}
    if letter.event is not None and letter.consumer:
        ids.add(task_id(letter.event.header.id, letter.consumer))
    return ids - {""}


def dead_letter_queues(app: Celery, topic: str | None) -> Iterator[DeadLetterQueue]:
    """Return the dead-letter queues that exist.

    :param topic: only that of this topic; None: those of all topics.
    :raises BalogError: there is none.
    """
    name_of = app.balog.dead_letters.name
    by_name: dict[str, list[str]] = {}
    for one in sorted(app.balog.topics()):
        if name := name_of(one):
            by_name.setdefault(name, []).append(one)
    wanted = {name: topics for name, topics in by_name.items() if topic is None or topic in topics}
    if not wanted:
        raise BalogError("there are no dead-letter queues: balog_dead_letter is None, or there are no consumers")
    found = [(queue, topics) for name, topics in wanted.items() if (queue := app.balog.connect(name)).exists()]
    if not found:
        raise QueueNotFound(f"there is no dead-letter queue: create {', '.join(sorted(wanted))}")
    # If the name does not depend on the topic, the queue may hold letters of any topic, also of other apps.
    shared = name_of("a") == name_of("b")
    for queue, topics in found:
        # The same holds if several topics have one name, in different accounts or regions.
        home = "" if shared or len(topics) > 1 else topics[0]
        yield DeadLetterQueue(queue, frozenset([*topics, ""] if topic is None else [topic]), home)


def selected_letters(
    app: Celery, letters: LetterFilter
) -> Generator[tuple[QueueScan, list[DeadLetter], int], None, None]:
    """Yield batches of the selected letters, each with its scan and the number of other letters in it."""
    for source in dead_letter_queues(app, letters.topic):
        with QueueScan(source.queue) as scan:
            for messages in scan:
                found = [read_letter(app, message, source.home) for message in messages]
                matching = [letter for letter in found if letters.matches(app, letter, source.topics)]
                yield scan, matching, len(found) - len(matching)


def read_letter(app: Celery, message: Message, home: str) -> DeadLetter:
    """Return the dead letter in *message*, read by the decoder of its topic.

    :param home: the topic of letters that do not name theirs.
    """
    topic = DeadLetter(message, None, home=home).topic
    return DeadLetter.read(message, app.balog.reader(topic), home)


def describe(letter: DeadLetter) -> dict[str, Any]:
    """Return what is known of a letter, for people and as JSON."""
    event, failure = letter.event, letter.failure
    return {
        "id": letter.id,
        "cls_type": event.payload.cls_type if event is not None else None,
        "schema": event.schema_version if event is not None else None,
        "timestamp": event.header.timestamp.isoformat() if event is not None else None,
        "died": letter.died.isoformat() if letter.died else None,
        "topic": letter.topic,
        "reason": letter.reason,
        "consumer": letter.consumer,
        "error": letter.error,
        "first_received": text_in(failure, "first_received"),
        "receive_count": str(failure.get("receive_count", "")),
        "message_id": letter.message.message_id,
        "original_message_id": letter.original_id,
        "attributes": pack(letter.attributes),
    }


def note_unknown_cls_types(app: Celery, events: EventFilter) -> None:
    """Print a note on stderr for each ``--cls-type`` that no consumer asks for: it may be misspelt."""
    consumers = list(app.balog.hub)
    if any(not consumer.cls_types for consumer in consumers):
        return  # this consumer takes every type
    known = {cls_type for consumer in consumers for cls_type in consumer.cls_types}
    for cls_type in sorted(events.cls_types):
        if not any(may_match(cls_type, one) for one in known):
            hint = hint_for(cls_type, {one: one for one in known})
            click.echo(f"note: no consumer asks for cls_type {printable(cls_type)}: {hint}", err=True)


def others_text(count: int) -> str:
    """Return the end of a line that says how many letters the options do not select."""
    if not count:
        return ""
    return "; 1 other is not selected" if count == 1 else f"; {count} others are not selected"
