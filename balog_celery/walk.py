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
from .queues import BATCH_SIZE, Message, Queue

logger = logging.getLogger(__name__)

#: How long what was received stays invisible if the walk is killed, in seconds.
LEASE = 900
#: How long a receive waits; one that brings nothing is the end of the queue. Long enough to ask all of SQS's servers.
_WAIT = 1.0


class Walk:
    """A context in which the messages of *queue* come, each once; iterate over it for batches of them.

    :param size: how many messages a batch has at most: 10 at most.
    """

    def __init__(self, queue: Queue, size: int = BATCH_SIZE) -> None:
        self._queue = queue
        self._size = size
        self._handles: dict[str, str] = {}  # by message id: the latest receipt handle is the one that counts
        self._deleted: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = iter(self._handles.values())
        while handles := list(islice(left, BATCH_SIZE)):
            try:
                self._queue.change_visibility(handles, 0)
            except QueueError as problem:
                logger.warning("some messages of %s come back only in %d s: %s", self._queue.name, LEASE, problem)
                return

    def __iter__(self) -> Iterator[list[Message]]:
        while received := self._queue.read(self._size, _WAIT, LEASE):
            # In a long walk leases end, and then some come again: only the latest handle counts.
            new = [message for message in received if message.message_id not in self._handles]
            self._handles |= {message.message_id: message.handle for message in received}
            # One that comes after it was deleted is a stray copy, of which SQS warns.
            self.delete([message for message in new if message.message_id in self._deleted])
            if fresh := [message for message in new if message.message_id not in self._deleted]:
                yield fresh

    def delete(self, messages: Sequence[Message]) -> int:
        """Delete some of the messages of one batch; return how many SQS did not delete: they come again.

        :raises QueueError: SQS could not be asked.
        """
        if not messages:
            return 0
        failed = {failure.index for failure in self._queue.delete([message.handle for message in messages])}
        for index, message in enumerate(messages):
            if index not in failed:
                self._handles.pop(message.message_id, None)
                self._deleted.add(message.message_id)
        return len(failed)
