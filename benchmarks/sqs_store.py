"""Queues as SQS keeps them: visibility, receive counts, and only the latest receipt handle being worth anything.

Only the data and its rules; ``fake_sqs.py`` serves it over HTTP. Times are ``time.monotonic()``, given by the caller.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class StoredMessage:
    """One message, from its send to its delete."""

    message_id: str
    body: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    receive_count: int = 0
    first_received: int = 0
    visible_at: float = 0.0
    exposed: bool = False

    @property
    def handle(self) -> str:
        """The latest receipt handle: each receive makes the one before stale."""
        return f"{self.message_id}.{self.receive_count}"


class StoredQueue:
    """One queue. Every operation costs the same however many messages there are.

    :param name: its name; also the start of its messages' ids.
    :param visibility: for how long a received message stays invisible where a receive does not say, in seconds.
    """

    def __init__(self, name: str, visibility: float = 30.0) -> None:
        self.name = name
        self.visibility = visibility
        self._messages: dict[str, StoredMessage] = {}
        self._ready: deque[str] = deque()
        # Who becomes visible when; an entry counts only if the message still says the same time.
        self._hidden: list[tuple[float, str]] = []
        self._number = 0

    def send(self, body: str, attributes: Mapping[str, Any] | None = None) -> StoredMessage:
        """Keep a new message, visible at once."""
        self._number += 1
        message = StoredMessage(f"{self.name}-{self._number}", body, attributes or {})
        self._messages[message.message_id] = message
        self._ready.append(message.message_id)
        return message

    def take(self, limit: int, visibility: float | None, now: float) -> list[StoredMessage]:
        """Receive up to *limit* messages; they are invisible from now on."""
        self._reveal(now)
        taken: list[StoredMessage] = []
        while self._ready and len(taken) < limit:
            message = self._messages.get(self._ready.popleft())
            if message is None or message.visible_at > now:
                continue
            message.receive_count += 1
            message.first_received = message.first_received or int(time.time() * 1000)
            self.hide(message, now + (self.visibility if visibility is None else visibility))
            taken.append(message)
        return taken

    def find(self, handle: str) -> tuple[StoredMessage | None, bool]:
        """The message of a receipt handle, None if it is gone; and whether the handle is the latest."""
        message = self._messages.get(handle.rpartition(".")[0])
        return message, message is not None and message.handle == handle

    def delete(self, message: StoredMessage) -> None:
        """Forget a message."""
        self._messages.pop(message.message_id, None)

    def restore(self, message: StoredMessage) -> None:
        """Bring a deleted message back: a standard queue may deliver it once more."""
        self._messages[message.message_id] = message
        self.hide(message, 0.0)

    def expose(self, message: StoredMessage) -> None:
        """Let the next receive have a message that was just received: it makes this receive's handle stale."""
        message.visible_at = 0.0
        message.exposed = True
        self._ready.appendleft(message.message_id)

    def hide(self, message: StoredMessage, until: float) -> None:
        """Keep a message invisible until then; a time that has passed makes it visible."""
        message.visible_at = until
        heapq.heappush(self._hidden, (until, message.message_id))

    def next_visible(self, now: float) -> float | None:
        """When a message becomes visible next; None while there is none."""
        self._reveal(now)
        if self._ready:
            return now
        return self._hidden[0][0] if self._hidden else None

    def counts(self, now: float) -> tuple[int, int]:
        """How many messages are visible, and how many are not."""
        hidden = sum(message.visible_at > now for message in self._messages.values())
        return len(self._messages) - hidden, hidden

    def __iter__(self) -> Iterator[StoredMessage]:
        return iter(list(self._messages.values()))

    def __len__(self) -> int:
        return len(self._messages)

    def _reveal(self, now: float) -> None:
        while self._hidden and self._hidden[0][0] <= now:
            when, message_id = heapq.heappop(self._hidden)
            message = self._messages.get(message_id)
            if message is not None and message.visible_at == when:
                self._ready.append(message_id)
