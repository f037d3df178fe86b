"""Sends messages again and again, until SQS has them or cannot take them."""

from __future__ import annotations

import time
from typing import Any

from ..backoff import Backoff
from ..errors import AccessDenied, QueueError, QueueNotFound
from ..sqs.codes import MISCONFIGURED
from ..sqs.messages import OutgoingMessage, send_batches
from ..sqs.protocols import Queue
from ..sqs.queues import SQSQueue
from ..sqs.translation import is_bad_message
from ..text import printable


class Attempts:
    """Messages on their way to a queue: each ends in :attr:`message_ids` or in :attr:`failures`, by its position."""

    def __init__(self, queue: Queue, messages: list[OutgoingMessage]) -> None:
        self.message_ids: dict[int, str] = {}
        #: Error code and reason.
        self.failures: dict[int, tuple[str, str]] = {}
        self._queue = queue
        self._messages = messages
        self._pending = list(range(len(messages)))
        #: Why the pending ones are so.
        self._reasons: dict[int, tuple[str, str]] = {}

    def until(self, deadline: float) -> None:
        """Send what is pending, again and again until nothing is, or until *deadline*, by ``time.monotonic()``."""
        backoff = Backoff(0.1, 5.0)
        while True:
            self._attempt()
            pause = backoff.failed()
            if not self._pending:
                return
            if time.monotonic() + pause >= deadline:
                self.failures.update({index: self._reasons[index] for index in self._pending})
                return
            time.sleep(pause)

    def _attempt(self) -> None:
        """Send the pending messages once."""
        pending, self._pending = self._pending, []
        done = 0
        for batch in send_batches(self._messages[index] for index in pending):
            self._call(pending[done : done + len(batch)])
            done += len(batch)
            if self._pending and self._queue.is_fifo:  # the rest must not overtake it
                self._reasons.update(dict.fromkeys(pending[done:], self._reasons[self._pending[0]]))
                self._pending += pending[done:]
                return

    def _call(self, indexes: list[int]) -> None:
        try:
            failures, message_ids = _send_for_ids(self._queue, [self._messages[index] for index in indexes])
        except QueueError as error:
            self._failed(indexes, error)
            return
        self.message_ids.update({indexes[position]: message_id for position, message_id in message_ids.items()})
        for failure in failures:
            index, why = indexes[failure.index], (failure.code, printable(failure.message, 500))
            if failure.sender_fault:
                self.failures[index] = why
            else:
                self._reasons[index] = why
                self._pending.append(index)

    def _failed(self, indexes: list[int], error: QueueError) -> None:
        """Note that a whole call failed."""
        if is_bad_message(error) and len(indexes) > 1:
            for index in indexes:
                self._call([index])
            return
        why = dict.fromkeys(indexes, (error.code, printable(error, 500)))
        hopeless = isinstance(error, (AccessDenied, QueueNotFound)) or error.code in MISCONFIGURED
        if hopeless or is_bad_message(error):
            self.failures.update(why)
        else:
            self._reasons.update(why)
            self._pending += indexes


def _send_for_ids(queue: Queue, messages: list[OutgoingMessage]) -> Any:
    if isinstance(queue, SQSQueue):
        return queue.send_for_ids(messages)
    failures = queue.send(messages)
    failed = {failure.index for failure in failures}
    return failures, {position: "" for position in range(len(messages)) if position not in failed}
