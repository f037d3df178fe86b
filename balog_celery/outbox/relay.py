"""Sends the rows of an outbox to their topics, and deletes those that SQS has confirmed."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any

from ..backoff import Backoff
from ..engine.outage import Outage
from ..errors import QueueNotFound
from ..sqs.messages import BATCH_SIZE, MAX_DOUBTFUL, MAX_MESSAGE_BYTES, EntryFailure
from ..sqs.protocols import Connect, Queue
from ..sqs.translation import is_bad_message
from ..text import printable
from ..threads import StopFlag
from .store import Batch, LockedRow, PendingRow, Store

logger = logging.getLogger(__name__)

#: How many rows are read together. Only their ids, topics and groups are in memory.
_WINDOW = 1000
#: How many topics are remembered from one pass over the table to the next.
_MAX_TOPICS = 1000


class _Topic:
    """One topic, and whether sending to it works."""

    def __init__(self, name: str) -> None:
        self.queue: Queue | None = None
        self.due = 0.0
        self.outage = Outage(f"relaying to {name}")

    def failed(self, problem: object) -> None:
        """Send nothing for a while."""
        self.due = time.monotonic() + self.outage.failed(problem)

    def succeeded(self) -> None:
        """SQS took something."""
        self.due = 0.0
        self.outage.succeeded()

    @property
    def is_due(self) -> bool:
        """Return whether sending may be tried now."""
        return time.monotonic() >= self.due


class Relay:
    """Sends the rows of an outbox. Several may do so at once, in any processes.

    A transaction locks up to ten rows (``FOR UPDATE SKIP LOCKED``), sends them, deletes those that SQS lists as sent,
    and commits. A crash at any instant leaves a row where it is, to be sent again. One call sends all the rows for a
    standard topic. For a FIFO topic a call sends one row of each message group, and the next call the next ones, but
    none of a group whose row was not sent: SQS may refuse one entry of a call and take a later one.

    A topic that cannot be sent to now is tried again with back-off, and the others go on meanwhile. A row that SQS can
    never take is marked as failed, with the reason; the later rows of its group wait behind it.

    :param store: the outbox.
    :param connect: returns the queue of a topic.
    :param interval: how long to wait when there is nothing to send, in seconds.
    """

    def __init__(self, store: Store, connect: Connect, *, interval: float = 1.0) -> None:
        self._store = store
        self._connect = connect
        self._interval = interval
        self._stopping = StopFlag()
        self._topics: dict[str, _Topic] = {}
        self._database = Outage("relaying the outbox", Backoff(cap=30.0))
        self._sent = 0
        #: When the current step began, by ``time.monotonic()``; 0 between sweeps.
        self._step_began = 0.0

    def run(self) -> None:
        """Send rows until :meth:`stop` is called.

        :raises ConfigurationError: the outbox cannot be relayed.
        """
        self._store.check()
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                sent = self.sweep()
            except Exception as error:
                pause = self._database.failed(error, type(error))
                logger.debug("relaying the outbox failed", exc_info=True)
            else:
                self._database.succeeded()
                pause = 0.0 if sent else self._interval
            self._step_began = 0.0

    def status(self, topics: Collection[str]) -> dict[str, Any]:
        """Return for how long the current step has taken, how many rows were sent, and what fails. Any thread may ask.

        :param topics: those that have rows; failures of others have nothing to hold up.
        """
        began = self._step_began
        outages = [self._database, *(topic.outage for name, topic in list(self._topics.items()) if name in topics)]
        return {
            "busy_for": time.monotonic() - began if began else 0.0,
            "sent": self._sent,
            "outages": {str(outage): found for outage in outages if (found := outage.status())},
        }

    def stop(self) -> None:
        """Return from :meth:`run` after the call to SQS that is under way; a signal handler may call this."""
        self._stopping.set()

    def sweep(self) -> int:
        """Go once through the rows that there are now; return how many were sent."""
        after = sent = 0
        self._step_began = time.monotonic()
        last = self._store.last_id()
        while not self._stopping.wait(0):
            paused = [name for name, topic in self._topics.items() if not topic.is_due]
            window = self._store.pending(after, last, _WINDOW, without=paused)
            if not window:
                break
            after = window[-1].id
            sent += self._send_window(window)
        if len(self._topics) > _MAX_TOPICS:
            self._topics.clear()
        return sent

    def _send_window(self, waiting: list[PendingRow]) -> int:
        sent = 0
        while waiting and not self._stopping.wait(0):
            self._step_began = time.monotonic()
            topic = self._topics.setdefault(waiting[0].topic, _Topic(waiting[0].topic))
            batch = _next_batch(waiting) if topic.is_due else []
            gone = self._send(batch, topic) if batch else set()
            sent += len(gone)
            waiting = _still_waiting(waiting, batch, gone, topic.is_due)
        return sent

    def _send(self, batch: Sequence[PendingRow], topic: _Topic) -> set[int]:
        """Send rows of one topic in one transaction; return the ids of those that SQS has confirmed."""
        if topic.queue is None and not self._find(topic, batch[0].topic):
            return set()
        sent: set[int] = set()
        with self._store.locked(batch) as locked:
            rows = locked.rows
            while rows and topic.is_due:
                first, rows = _first_of_groups(rows) if topic.queue.is_fifo else (rows, [])  # type: ignore[union-attr]
                sent |= self._call(locked, first, topic, batch[0].topic)
                held = {row.message.group for row in first if row.id not in sent}
                rows = [row for row in rows if row.message.group not in held]
        return sent

    def _call(self, locked: Batch, rows: Sequence[LockedRow], topic: _Topic, name: str) -> set[int]:
        """Send rows in one call; return the ids of those that SQS has confirmed."""
        self._step_began = time.monotonic()
        try:
            failures = topic.queue.send([row.message for row in rows])  # type: ignore[union-attr]
        except Exception as error:
            if not is_bad_message(error):
                topic.failed(error)
                return set()
            if len(rows) == 1:
                _fail(locked, rows[0], name, str(error))
                return set()
            # One of them is at fault: SQS tells which when each is sent by itself.
            return {sent for row in rows if topic.is_due for sent in self._call(locked, [row], topic, name)}
        return self._settle(locked, rows, failures, topic, name)

    def _find(self, topic: _Topic, name: str) -> bool:
        """Look up the topic's queue before any row is locked; return whether it exists."""
        try:
            queue = self._connect(name)
            if not queue.exists():
                raise QueueNotFound(f"there is no queue {printable(name)!r}: create it, or correct the row's topic")
        except Exception as error:
            topic.failed(error)
            return False
        topic.queue = queue
        return True

    def _settle(
        self,
        locked: Batch,
        rows: Sequence[LockedRow],
        failures: Sequence[EntryFailure],
        topic: _Topic,
        name: str,
    ) -> set[int]:
        """Delete what was sent, and mark what SQS can never take."""
        refused = {failure.index for failure in failures}
        sent = [row.id for index, row in enumerate(rows) if index not in refused]
        locked.delete(sent)
        self._sent += len(sent)
        problem = ""
        for failure in failures:
            row = rows[failure.index]
            reason = f"{failure.code}: {failure.message}"
            if failure.sender_fault or (failure.doubtful and row.attempts + 1 >= MAX_DOUBTFUL):
                _fail(locked, row, name, reason)
                continue
            if failure.doubtful:
                locked.count_attempt(row.id)
            if not failure.doubtful or not sent:
                problem = reason
        if problem:
            topic.failed(problem)
        else:
            topic.succeeded()
        return set(sent)


def _fail(locked: Batch, row: LockedRow, topic: str, reason: str) -> None:
    reason = printable(reason, 500)
    locked.fail(row.id, reason)
    logger.error(
        "row %d of the outbox, for %s, has failed: SQS can never take it (%s); see balog outbox failed",
        row.id,
        printable(topic),
        reason,
    )


def _first_of_groups(rows: Sequence[LockedRow]) -> tuple[list[LockedRow], list[LockedRow]]:
    """Return the first row of each group, and the others."""
    first: dict[str, LockedRow] = {}
    others = []
    for row in rows:
        if first.setdefault(row.message.group, row) is not row:
            others.append(row)
    return list(first.values()), others


def _next_batch(waiting: Sequence[PendingRow]) -> list[PendingRow]:
    """Return up to ten rows for the topic of the first one, 1 MiB together: first those of different groups."""
    ahead: Counter[str] = Counter()
    ranked: list[tuple[int, PendingRow]] = []
    for row in waiting:
        if row.topic == waiting[0].topic:
            ranked.append((ahead[row.group], row))
            if row.group:
                ahead[row.group] += 1
    ranked.sort(key=itemgetter(0))
    batch: list[PendingRow] = []
    room = MAX_MESSAGE_BYTES
    for _, row in ranked[:BATCH_SIZE]:
        if batch and row.size > room:
            break
        batch.append(row)
        room -= row.size
    return batch


def _still_waiting(
    waiting: Sequence[PendingRow], batch: Sequence[PendingRow], gone: set[int], is_due: bool
) -> list[PendingRow]:
    """Return the rows of a window that may still be sent after a batch: none of a group with an earlier row."""
    done = {row.id for row in batch}
    held = {row.group for row in batch if row.id not in gone and row.group}
    topic = waiting[0].topic
    return [row for row in waiting if row.topic != topic or (is_due and row.id not in done and row.group not in held)]
