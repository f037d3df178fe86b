"""A queue as SQS keeps it: visibility, order in a message group, deduplication, receive counts, limits."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .clock import Clock
from .errors import ApiError, bad_handle, invalid
from .message import MAX_VISIBILITY, StoredMessage, read_handle

#: The attributes of a new queue, with SQS's own defaults.
DEFAULTS = {
    "DelaySeconds": "0",
    "MaximumMessageSize": "1048576",
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "VisibilityTimeout": "30",
}
#: Seconds for which a deduplication id, and an id of a receive attempt, counts.
REPEAT_SECONDS = 300.0
#: The most messages of one receive, so the most of a group that are in flight at once.
BATCH = 10


class Attempt(NamedTuple):
    """A receive of a FIFO queue that may be asked for again: when it was made first, and the handles it gave."""

    time: float
    handles: list[str]
    messages: list[StoredMessage]


class StoredQueue:
    """One queue. The cost of an operation does not depend on the number of messages.

    :param name: its name.
    :param attributes: those that were given when it was made.
    :param dead_letter: moves a message that was received too often; returns False if there is no such queue.
    """

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, str],
        clock: Clock,
        dead_letter: Callable[[StoredQueue, StoredMessage], bool],
    ) -> None:
        self.name = name
        self.attributes = {**DEFAULTS, **attributes}
        self.is_fifo = name.endswith(".fifo")
        #: The most messages that may be in flight.
        self.in_flight_limit = 120_000
        #: Called before a receive with the most that it takes, and may add messages.
        self.supply: Callable[[int], None] = lambda _limit: None
        self._clock = clock
        self._dead_letter = dead_letter
        self._messages: dict[int, StoredMessage] = {}
        self._groups: dict[str, deque[StoredMessage]] = {}
        # What may be received: messages by number, of a FIFO queue groups by name.
        self._ready: OrderedDict[int | str, None] = OrderedDict()
        # Which message becomes visible when; an entry counts only if the message still says the same time.
        self._hidden: list[tuple[float, int]] = []
        self._seen: dict[tuple[str, str], tuple[float, StoredMessage]] = {}
        self._attempts: dict[str, Attempt] = {}
        self._attempt_of: dict[int, str] = {}

    def now(self) -> float:
        """The time on its clock."""
        return self._clock.now()

    def number(self, attribute: str) -> int:
        """The value of an attribute that is a number."""
        return int(self.attributes[attribute])

    def duplicate_of(self, message: StoredMessage) -> StoredMessage | None:
        """The message of the last five minutes that *message* repeats; None if there is none."""
        if not message.deduplication_id:
            return None
        per_group = self.attributes.get("DeduplicationScope") == "messageGroup"
        key = (message.group if per_group else "", message.deduplication_id)
        now = self._clock.now()
        when, earlier = self._seen.get(key, (0.0, message))
        if earlier is not message and now < when + REPEAT_SECONDS:
            return earlier
        self._seen[key] = (now, message)
        return None

    def add(self, *messages: StoredMessage, delay: float = 0.0) -> None:
        """Keep messages, visible after *delay* seconds."""
        now = self._clock.now()
        kept_until = now + self.number("MessageRetentionPeriod")
        for message in messages:
            message.kept_until = kept_until
            self._messages[message.number] = message
            if self.is_fifo:
                self._groups.setdefault(message.group, deque()).append(message)
        self._hide(messages, now + delay, now)

    def take(self, limit: int, visibility: float, attempt_id: str = "") -> list[StoredMessage]:
        """Receive up to *limit* messages; they stay invisible for *visibility* seconds.

        :raises ApiError: as many are in flight as may be; of a FIFO queue it then gives none, without an error.
        """
        room = self.in_flight_limit - self.in_flight()
        limit = min(limit, room)
        self.supply(limit - len(self._ready))
        now = self._clock.now()
        if room <= 0 and not self.is_fifo:
            raise ApiError("OverLimit", "Too many messages are in flight.", 403)
        if attempt_id and (again := self._again(attempt_id, visibility, now)):
            return again
        taken: list[StoredMessage] = []
        while self._ready and len(taken) < limit:
            key, _ = self._ready.popitem(last=False)
            for message in self._visible(key, limit - len(taken), now):
                if self._receive(message, now):
                    taken.append(message)
        self._hide(taken, now + visibility, now)
        if attempt_id and taken:
            self._attempt_of.update((message.number, attempt_id) for message in taken)
            self._attempts[attempt_id] = Attempt(now, [message.handle for message in taken], taken)
        return taken

    def delete(self, handle: str) -> tuple[StoredMessage | None, bool]:
        """Delete the message of a receipt handle; return it, None if it is gone, and whether it was deleted.

        A stale handle deletes nothing, and SQS does not say so.

        :raises ApiError: the handle is malformed, or of a FIFO queue has expired.
        """
        message, latest = self.find(handle)
        if message is None:
            return None, False
        if self.is_fifo and not (latest and message.in_flight(self._clock.now())):
            raise bad_handle(handle, "The receipt handle has expired.")
        if latest:
            self.remove(message)
        return message, latest

    def change(self, handle: str, seconds: float) -> None:
        """Keep the message of a receipt handle invisible for *seconds* from now.

        :raises ApiError: the handle is not its latest, it is not in flight, or that is beyond 12 hours.
        """
        message, latest = self.find(handle)
        now = self._clock.now()
        if message is None or not latest:
            raise bad_handle(handle, "Message does not exist or is not available for visibility timeout change.")
        if not message.in_flight(now):
            raise ApiError("MessageNotInflight", "The specified message isn't in flight.")
        if now + seconds > message.received_at + MAX_VISIBILITY:
            raise invalid("Total VisibilityTimeout for the message is beyond the limit [43200 seconds]")
        self._hide([message], now + seconds, now)
        self._forget_attempts(message)

    def find(self, handle: str) -> tuple[StoredMessage | None, bool]:
        """The message of a receipt handle, None if it is gone; and whether the handle is its latest.

        :raises ApiError: it is malformed.
        """
        read = read_handle(handle)
        if read is None:
            raise ApiError("ReceiptHandleIsInvalid", f'The input receipt handle "{handle}" is not valid.')
        message = self._messages.get(read[0])
        return message, message is not None and message.receive_count == read[1]

    def remove(self, message: StoredMessage) -> None:
        """Remove a message, which unblocks the next ones of its group."""
        if self._messages.pop(message.number, None) is None:
            return
        self._ready.pop(message.number, None)
        self._forget_attempts(message)
        if self.is_fifo:
            group = self._groups[message.group]
            group.remove(message)
            if group:
                self._ready[message.group] = None
            else:
                del self._groups[message.group]
                self._ready.pop(message.group, None)

    def restore(self, message: StoredMessage) -> None:
        """Bring a deleted message back: a standard queue may deliver it once more."""
        self._messages[message.number] = message
        self.lapse(message)

    def expose(self, message: StoredMessage) -> None:
        """Let the next receive have a message that was just received: it makes this receive's handle stale."""
        message.exposed = True
        message.visible_at = self._clock.now()
        self._ready[message.number] = None
        self._ready.move_to_end(message.number, last=False)

    def lapse(self, message: StoredMessage) -> None:
        """Let the visibility timeout of a message end now."""
        now = self._clock.now()
        self._hide([message], now, now)

    def hand_over(self, message: StoredMessage, visibility: float) -> None:
        """Receive this one message, whether or not it is its turn."""
        self._ready.pop(message.number, None)
        now = self._clock.now()
        self._receive(message, now)
        self._hide([message], now + visibility, now)

    def purge(self) -> None:
        """Delete all messages."""
        for message in list(self._messages.values()):
            self.remove(message)

    def next_visible(self) -> float | None:
        """The time at which something may be received next; None if it takes another call first."""
        self._reveal(self._clock.now())
        if self._ready:
            return self._clock.now()
        return self._hidden[0][0] if self._hidden else None

    def is_ready(self) -> bool:
        """Whether something may be received now."""
        return bool(self._ready or (self._hidden and self._hidden[0][0] <= self._clock.now()))

    def in_flight(self) -> int:
        """How many messages are in flight."""
        now = self._clock.now()
        self._reveal(now)
        return len(self._hidden) if len(self._hidden) < self.in_flight_limit else self._count(now)

    def counts(self) -> tuple[int, int, int]:
        """How many messages are visible, in flight and delayed."""
        now = self._clock.now()
        flying = self._count(now)
        delayed = sum(not message.receive_count and message.visible_at > now for message in self)
        return len(self._messages) - flying - delayed, flying, delayed

    def __iter__(self) -> Iterator[StoredMessage]:
        return iter(list(self._messages.values()))

    def __len__(self) -> int:
        return len(self._messages)

    def _count(self, now: float) -> int:
        return sum(message.in_flight(now) for message in self._messages.values())

    def _visible(self, key: int | str, limit: int, now: float) -> list[StoredMessage]:
        """The messages behind an entry of what may be received: none if a group has one in flight."""
        if isinstance(key, int):
            message = self._messages.get(key)
            return [message] if message is not None and message.visible_at <= now else []
        first = list(itertools.islice(self._groups.get(key, ()), BATCH))
        if any(message.in_flight(now) for message in first):
            return []
        return list(itertools.takewhile(lambda message: message.visible_at <= now, first[:limit]))

    def _receive(self, message: StoredMessage, now: float) -> bool:
        """Hand a message over, unless it is too old or was received too often."""
        if now > message.kept_until:
            self.remove(message)
            return False
        if "RedrivePolicy" in self.attributes and self._dead_letter(self, message):
            return False
        message.receive_count += 1
        message.first_received = message.first_received or self._clock.milliseconds()
        message.received_at = now
        return True

    def _again(self, attempt_id: str, visibility: float, now: float) -> list[StoredMessage]:
        """Return the result of a receive attempt of the last five minutes, if its messages are unchanged."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None or now > attempt.time + REPEAT_SECONDS:
            return []
        handles = [message.handle for message in attempt.messages if message.in_flight(now)]
        if handles != attempt.handles:
            return []
        self._hide(attempt.messages, now + visibility, now)
        return attempt.messages

    def _forget_attempts(self, message: StoredMessage) -> None:
        if attempt_id := self._attempt_of.pop(message.number, None):
            self._attempts.pop(attempt_id, None)

    def _hide(self, messages: Sequence[StoredMessage], until: float, now: float) -> None:
        if len(self._hidden) > 2 * len(self._messages) + 1000:
            self._hidden = [entry for entry in self._hidden if entry[1] in self._messages]
            heapq.heapify(self._hidden)
        for message in messages:
            message.visible_at = until
            if until > now or (self._hidden and self._hidden[0][0] <= now):
                heapq.heappush(self._hidden, (until, message.number))
                self._reveal(now)
            elif message.number in self._messages:
                self._ready[message.group if self.is_fifo else message.number] = None

    def _reveal(self, now: float) -> None:
        while self._hidden and self._hidden[0][0] <= now:
            when, number = heapq.heappop(self._hidden)
            message = self._messages.get(number)
            if message is not None and message.visible_at == when:
                self._ready[message.group if self.is_fifo else number] = None
