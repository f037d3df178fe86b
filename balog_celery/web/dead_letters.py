"""Calls the code of ``celery balog dead`` for the pages: scan, group, replay, delete, export."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, cast

from celery import Celery

from ..cli.dead_queues import LetterFilter, dead_letter_queues, letter_ids, read_letter
from ..cli.export import write_letter
from ..cli.replay import replay_queue
from ..cli.tally import Tally
from ..dead_letters.grouping import error_kind
from ..dead_letters.reader import DeadLetter
from ..dead_letters.scan import QueueScan
from ..events.event_filter import EventFilter
from ..sqs.messages import Message
from ..sqs.protocols import ReadableQueue

#: The most dead letters that one scan reads, and the most bytes of their bodies.
MAX_SCANNED, MAX_BYTES = 1_000, 33_554_432
#: How long a scan may take, in seconds.
_SCAN_TIME = 10.0
#: The most dead letters that are looked at to find some again, and for how long: less than they stay invisible.
_MAX_SEARCHED, _SEARCH_TIME = 20_000, 600.0


class Budget:
    """How much may be read, over several queues.

    :param limit: the most messages.
    :param seconds: the time.
    :param wanted: the ids of messages; when all were read, reading ends. Empty: it does not.
    """

    def __init__(self, limit: int, seconds: float, wanted: frozenset[str] = frozenset()) -> None:
        self._limit = limit
        self._ends = time.monotonic() + seconds
        self._missing = set(wanted)
        self._searches = bool(wanted)
        self._bytes = 0 if wanted else MAX_BYTES
        #: How many messages were read.
        self.looked = 0
        #: Set to end the reading.
        self.stopped = False

    @property
    def left(self) -> int:
        """How many messages may still be read."""
        is_over = self.stopped or time.monotonic() > self._ends or (self._searches and not self._missing)
        if is_over or (not self._searches and self._bytes <= 0):
            return 0
        return max(0, self._limit - self.looked)

    def spend(self, messages: Sequence[Message]) -> None:
        """Count messages that were read."""
        self.looked += len(messages)
        self._missing -= {message.message_id for message in messages}
        self._bytes -= sum(len(message.body) for message in messages)


class BoundedQueue:
    """A queue that seems to end when a budget is spent; it passes all calls but two on to *queue*."""

    def __init__(self, queue: ReadableQueue, budget: Budget) -> None:
        self._queue = queue
        self._budget = budget
        #: Whether the queue had no more messages.
        self.is_empty = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def read(self, limit: int, wait: float, visibility: int) -> list[Message]:
        """Read messages as the queue does, while the budget lasts."""
        if not (left := self._budget.left):
            return []
        messages = self._queue.read(min(limit, left), wait, visibility)
        self._budget.spend(messages)
        self.is_empty = not messages
        return messages

    def attributes(self) -> Mapping[str, str]:
        """Return none: a replay that knows the number of messages draws a progress bar in the terminal."""
        return {}


@dataclass(frozen=True)
class Group:
    """Dead letters of one consumer with the same error.

    :param key: names the group in addresses.
    :param error: the error, without values.
    """

    key: str
    consumer: str
    error: str
    members: list[DeadLetter] = field(default_factory=list)

    @property
    def times(self) -> list[datetime]:
        """When they died, as far as it is known, in order."""
        return sorted(died for one in self.members if (died := one.died))


class Scan:
    """The dead letters that one scan has read. They are in their queues, visible to all.

    :param found: the dead letters.
    :param is_complete: whether the queues had no others.
    """

    def __init__(self, found: Sequence[DeadLetter], is_complete: bool) -> None:
        self.at = datetime.now(timezone.utc)
        self.found = list(found)
        self.is_complete = is_complete

    def without(self, message_ids: frozenset[str]) -> Scan:
        """Return the scan without some of its dead letters."""
        rest = Scan([one for one in self.found if one.message.message_id not in message_ids], self.is_complete)
        rest.at = self.at
        return rest

    def groups(self, text: str = "", *, with_bodies: bool = False) -> list[Group]:
        """Return the groups, the largest first.

        :param text: only of dead letters in which this occurs: in an id, the consumer, the topic or the error.
        :param with_bodies: whether to search bodies, too.
        """
        groups: dict[str, Group] = {}
        for one in self.found:
            if text and not _contains(one, text, with_bodies=with_bodies):
                continue
            consumer, error = one.consumer, error_kind(one.error)
            key = hashlib.sha256(f"{consumer}\0{error}".encode()).hexdigest()[:16]
            groups.setdefault(key, Group(key, consumer, error)).members.append(one)
        return sorted(groups.values(), key=lambda group: (-len(group.members), group.consumer, group.error))

    def group(self, key: str) -> Group | None:
        """Return the group of that key."""
        return next((group for group in self.groups() if group.key == key), None)

    def by_message(self, message_id: str) -> DeadLetter | None:
        """Return the dead letter in that message."""
        return next((one for one in self.found if one.message.message_id == message_id), None)

    def of_event(self, event_id: str) -> list[DeadLetter]:
        """Return the dead letters of an event, by the id of the event, a message or a task."""
        return [one for one in self.found if event_id in letter_ids(one)]


def _contains(one: DeadLetter, text: str, *, with_bodies: bool) -> bool:
    places = [*letter_ids(one), one.consumer, one.topic, error_kind(one.error)]
    places += [one.message.body, one.error] if with_bodies else []
    return any(text.lower() in place.lower() for place in places)


def scan(app: Celery, limit: int = MAX_SCANNED) -> Scan:
    """Read the dead letters of all topics, at most *limit*, and release them at once.

    :raises BalogError: a queue cannot be read.
    """
    found, is_complete = [], True
    with closing(_scans(app, Budget(limit, _SCAN_TIME))) as scans:
        for queue, scanner, home in scans:
            for messages in scanner:
                found += [read_letter(app, message, home) for message in messages]
            is_complete = is_complete and queue.is_empty
    return Scan(found, is_complete)


def replay(app: Celery, message_ids: frozenset[str], tally: Tally, budget: Budget, rate: float | None) -> None:
    """Replay the dead letters in some messages, as ``balog dead replay`` does.

    :raises BalogError: an event could not be delivered; *tally* has the others.
    """
    selected = LetterFilter(None, None, EventFilter.of(ids=sorted(message_ids)))
    for source in dead_letter_queues(app, None):
        queue = cast(ReadableQueue, BoundedQueue(source.queue, budget))
        replay_queue(app, queue, source.home, source.topics, selected, tally, rate=rate, all_consumers=False)


def search_budget(message_ids: frozenset[str]) -> Budget:
    """Return the budget for finding messages again."""
    return Budget(_MAX_SEARCHED, _SEARCH_TIME, message_ids)


def delete(app: Celery, message_ids: frozenset[str]) -> int:
    """Delete the dead letters in some messages permanently. Return how many SQS deleted.

    :raises BalogError: a queue cannot be read, or SQS could not be asked.
    """
    deleted = 0
    with closing(_scans(app, search_budget(message_ids))) as scans:
        for _, scanner, _ in scans:
            for messages in scanner:
                batch = [message for message in messages if message.message_id in message_ids]
                deleted += len(batch) - scanner.delete(batch)
    return deleted


def export(found: Sequence[DeadLetter]) -> str:
    """Return dead letters as the lines of a file that ``balog replay`` takes."""
    file = io.StringIO()
    for one in found:
        write_letter(one, file)
    return file.getvalue()


def _scans(app: Celery, budget: Budget) -> Generator[tuple[BoundedQueue, QueueScan, str], None, None]:
    for source in dead_letter_queues(app, None):
        queue = BoundedQueue(source.queue, budget)
        with QueueScan(cast(ReadableQueue, queue)) as scanner:
            yield queue, scanner, source.home
