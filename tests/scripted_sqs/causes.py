"""Why messages came more than once: what SQS knows of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .message import StoredMessage, read_handle
from .store import SqsStore

_WORDS = {"DeleteMessageBatch": "a failed delete", "ChangeMessageVisibilityBatch": "a failed change of visibility"}


class Causes:
    """Notes of each message why it was delivered again. The latest cause of each delivery counts."""

    def __init__(self, store: SqsStore) -> None:
        self._store = store
        #: By the number of the message.
        self.by_message: dict[int, set[str]] = {}
        self._failed: dict[int, str] = {}
        self._restored: set[int] = set()
        self._sends: set[int] = set()

    def of(self, message: StoredMessage) -> list[str]:
        """Why a message, or one with the same body, came more than once."""
        failed = {"a failed send"} if hash(message.body) in self._sends else set()
        return sorted(self.by_message.get(message.number, set()) | failed)

    def went_wrong(self, action: str, asked: Any, positions: Collection[int] | None) -> None:
        """A fault befell a call, or some of its entries."""
        if action == "SendMessageBatch":
            self._sends.update(hash(entry.get("MessageBody")) for entry in asked.get("Entries") or ())
        if action not in _WORDS:
            return
        for position, entry in enumerate(asked.get("Entries") or ()):
            read = read_handle(entry.get("ReceiptHandle") or "")
            if read is not None and (positions is None or position in positions):
                self._failed[read[0]] = _WORDS[action]

    def restored(self, message: StoredMessage) -> None:
        """A message was brought back after its delete."""
        self._restored.add(message.number)

    def received(self, message: StoredMessage) -> None:
        """Record that a message was received."""
        if message.receive_count < 2:
            return
        if message.exposed:
            cause = "delivered twice by SQS"
        elif message.number in self._restored:
            cause = "delivered by SQS after its delete"
        else:
            cause = self._failed.pop(message.number, "") or "a lapsed or released visibility"
        self.by_message.setdefault(message.number, set()).add(cause)
