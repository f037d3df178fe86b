"""Scans the messages of a queue without other readers, such as a dead-letter queue.

SQS has no peek: reading a message means receiving it. The messages received here stay invisible until the scan ends,
so that each comes once, and are then released unless they were deleted. This costs each of them one receive. A scan
sees at most ten messages of a FIFO queue's message group, because SQS sends no others while those are not deleted.
Other brokers keep received messages in the same way, but do not count receives.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from types import TracebackType

from typing_extensions import Self

from ..errors import QueueError
from ..sqs.messages import BATCH_SIZE, Message
from ..sqs.protocols import ReadableQueue

logger = logging.getLogger(__name__)

#: The visibility timeout of received messages, in seconds: the time until they come back if the scan is killed.
VISIBILITY = 900
#: How long a receive waits, in seconds; an empty one ends the scan. Any wait makes SQS ask all of its servers.
_WAIT = 1.0


class QueueScan:
    """A context that reads the messages of *queue*, each once; iterate over it for batches of them.

    :param size: the most messages in a batch, at most 10.
    """

    def __init__(self, queue: ReadableQueue, size: int = BATCH_SIZE) -> None:
        self._queue = queue
        self._size = size
        self._held: dict[str, None] = {}  # receipt handles, in their order
        self._seen: set[str] = set()  # message ids

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handles_left = iter(self._held)
        while handles := list(islice(handles_left, BATCH_SIZE)):
            try:
                self._queue.change_visibility(handles, 0)
            except QueueError as problem:
                logger.warning("some messages of %s come back only in %d s: %s", self._queue.name, VISIBILITY, problem)
                return

    def __iter__(self) -> Iterator[list[Message]]:
        while received := self._queue.read(self._size, _WAIT, VISIBILITY):
            self._held |= dict.fromkeys(message.handle for message in received)
            # Some may come again: visibility timeouts end in a long scan, and SQS may deliver a deleted message.
            if new := [message for message in received if message.message_id not in self._seen]:
                self._seen |= {message.message_id for message in new}
                yield new

    def delete(self, messages: Sequence[Message]) -> int:
        """Delete some of the messages of one batch; return how many SQS did not delete.

        :raises QueueError: SQS could not be asked.
        """
        if not messages:
            return 0
        failed = {failure.index for failure in self._queue.delete([message.handle for message in messages])}
        for index, message in enumerate(messages):
            if index not in failed:
                self._held.pop(message.handle, None)
        return len(failed)
