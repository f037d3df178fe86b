"""The bounded buffer between the threads that log and the thread that sends."""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from typing import NamedTuple

from ..sqs.messages import BATCH_SIZE, MAX_MESSAGE_BYTES, OutgoingMessage, size_in_batch
from .tally import Tally

#: The most that a buffer holds besides its capacity, in bytes.
MAX_BUFFERED_BYTES = 64 * 1_048_576


class Entry(NamedTuple):
    """A buffered message.

    :param message: the message to send.
    :param size: its size in bytes.
    :param accepted: when it was accepted, by ``time.monotonic()``.
    :param refusals: how often SQS blamed it with an unknown error code.
    """

    message: OutgoingMessage
    size: int
    accepted: float
    refusals: int = 0


class State(enum.Enum):
    """What a buffer still does."""

    OPEN = "takes messages and gives batches"
    CLOSED = "gives batches until it is empty"
    ABANDONED = "does nothing: what it held is counted as dropped"


class Buffer:
    """Holds messages until they are sent. Its methods may be called from any thread.

    :param capacity: the most messages that it holds.
    :param linger: how long a message waits for others to fill its batch, in seconds.
    :param tally: counts the messages' outcomes.
    """

    def __init__(self, capacity: int, linger: float, tally: Tally) -> None:
        self._capacity = capacity
        self._linger = linger
        self._tally = tally
        self._changed = threading.Condition()
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._accepted = 0
        self._settled = 0
        self._urgent = 0  # messages accepted up to this number are due at once
        self._hurries = 0
        self._in_vain = 0  # the last wait that timed out waited for this number
        self._state = State.OPEN

    @property
    def state(self) -> State:
        """What the buffer still does."""
        return self._state

    @property
    def hurries(self) -> int:
        """How often :meth:`hurry` was called."""
        return self._hurries

    def put(self, message: OutgoingMessage, size: int) -> bool:
        """Add a message, already counted as accepted; return False if there is no room for it.

        :raises ValueError: the buffer is closed.
        """
        with self._changed:
            if self._state is not State.OPEN:
                raise ValueError("the buffer is closed")
            if len(self._entries) >= self._capacity or self._bytes + size > MAX_BUFFERED_BYTES:
                return False
            self._entries.append(Entry(message, size, time.monotonic()))
            self._bytes += size
            self._accepted += 1
            if len(self._entries) == 1 or self._is_due():
                self._changed.notify_all()
            return True

    def take(self) -> list[Entry]:
        """Wait for a batch that is due, and return it; an empty one means that the buffer is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._state is not State.OPEN)
            while self._entries and not self._is_due():
                self._changed.wait(self._entries[0].accepted + self._linger - time.monotonic())
            batch: list[Entry] = []
            room = MAX_MESSAGE_BYTES
            while self._entries and len(batch) < BATCH_SIZE and size_in_batch(self._entries[0].size) <= room:
                entry = self._entries.popleft()
                batch.append(entry)
                room -= size_in_batch(entry.size)
                self._bytes -= entry.size
            return batch

    def settle_sent(self, count: int) -> None:
        """Count messages that were taken as sent, unless :meth:`abandon` has counted them as dropped."""
        with self._changed:
            if self._state is not State.ABANDONED:
                self._settled += count
                self._tally.settle(sent=count)
                self._changed.notify_all()

    def settle_refused(self, reason: str) -> None:
        """Count a taken message as refused, unless :meth:`abandon` has counted it as dropped, and report it."""
        with self._changed:
            if self._state is not State.ABANDONED:
                self._settled += 1
                self._tally.lose("refused", reason)
                self._changed.notify_all()

    def hurry(self) -> int:
        """Make all that was accepted due at once; return how many messages that is."""
        with self._changed:
            self._urgent = self._accepted
            self._hurries += 1
            self._changed.notify_all()
            return self._accepted

    def was_in_vain(self, target: int) -> bool:
        """Return whether a wait for the first *target* messages, or more, has timed out."""
        return self._in_vain >= target > self._settled

    def wait(self, target: int, timeout: float) -> bool:
        """Wait until the first *target* messages have their outcomes; return whether they do.

        :param timeout: how long to wait, in seconds.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._settled >= target, timeout):
                return True
            if timeout:
                self._in_vain = target
            return False

    def pause(self, seconds: float, hurries: int) -> None:
        """Wait, but not beyond the end or the next call of :meth:`hurry` after *hurries* calls."""
        with self._changed:
            self._changed.wait_for(lambda: self._state is State.ABANDONED or self._hurries != hurries, seconds)

    def close(self) -> int:
        """Take no more messages, and make the rest due at once; return how many were accepted."""
        with self._changed:
            if self._state is State.OPEN:
                self._state = State.CLOSED
            return self.hurry()

    def abandon(self) -> int:
        """Drop what has no outcome yet; return how many messages that is."""
        with self._changed:
            self._state = State.ABANDONED
            dropped = self._accepted - self._settled
            self._settled = self._accepted
            self._tally.settle(dropped=dropped)
            self._entries.clear()
            self._changed.notify_all()
            return dropped

    def _is_due(self) -> bool:
        return (
            len(self._entries) >= BATCH_SIZE
            or self._bytes >= MAX_MESSAGE_BYTES
            or self._settled < self._urgent
            or self._state is not State.OPEN
            or time.monotonic() >= self._entries[0].accepted + self._linger
        )
