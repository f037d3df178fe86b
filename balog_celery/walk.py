"""Goes once through the messages of a queue that nobody else reads, such as a dead-letter queue.

SQS has no peek: to see a message is to receive it. What is received here stays invisible until the walk ends, so that
each comes once, and goes back then unless it was deleted. A receive costs a message one receive count, no more. Of a
FIFO queue's message group no more than ten are seen, as SQS hands out no others while those are not deleted. Other
brokers keep what was received in the same way, but do not count.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from types import TracebackType

from typing_extensions import Self

from .errors import QueueError
from .queues import BATCH_SIZE, Message, ReadableQueue

logger = logging.getLogger(__name__)

#: How long what was received stays invisible if the walk is killed, in seconds.
LEASE = 900
#: How long a receive waits; one that brings nothing is the end of the queue. Long enough to ask all of SQS's servers.
_WAIT = 1.0


class Walk:
    """A context in which the messages of *queue* come, each once; iterate over it for batches of them.

    :param size: how many messages a batch has at most: 10 at most.
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
        left = iter(self._held)
        while handles := list(islice(left, BATCH_SIZE)):
            try:
                self._queue.change_visibility(handles, 0)
            except QueueError as problem:
                logger.warning("some messages of %s come back only in %d s: %s", self._queue.name, LEASE, problem)
                return

    def __iter__(self) -> Iterator[list[Message]]:
        while received := self._queue.read(self._size, _WAIT, LEASE):
            self._held |= dict.fromkeys(message.handle for message in received)
            # Some may come again: leases end in a long walk, and SQS may deliver what was deleted.
            if new := [message for message in received if message.message_id not in self._seen]:
                self._seen |= {message.message_id for message in new}
                yield new

    def delete(self, messages: Sequence[Message]) -> int:
        """Delete some of the messages of one batch; return how many SQS did not delete: they come again.

        :raises QueueError: SQS could not be asked.
        """
        if not messages:
            return 0
        failed = {failure.index for failure in self._queue.delete([message.handle for message in messages])}
        for index, message in enumerate(messages):
            if index not in failed:
                self._held.pop(message.handle, None)
        return len(failed)
