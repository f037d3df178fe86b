"""The interface between a queue and its users: an engine needs a :class:`Queue`, the commands a readable one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from .messages import EntryFailure, Message, OutgoingMessage


class Queue(Protocol):
    """A queue that an engine can poll. :class:`~.queues.SQSQueue` is the implementation for SQS."""

    @property
    def name(self) -> str: ...

    @property
    def is_fifo(self) -> bool: ...

    @property
    def has_unique_ids(self) -> bool:
        """Whether two messages with the same ``message_id`` are one message that came twice."""

    @property
    def max_message_bytes(self) -> int:
        """The largest message that it takes, in bytes."""

    def receive(self, limit: int, wait: float, visibility: int) -> list[Message]: ...

    def stop_polling(self) -> None:
        """End the receives that wait for messages, if that is possible: they raise QueueError."""

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]: ...

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]: ...

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]: ...

    def attributes(self) -> Mapping[str, str]: ...

    def exists(self) -> bool: ...

    def create(self) -> None: ...


class ReadableQueue(Queue, Protocol):
    """A queue whose messages can be read with all their attributes."""

    def read(self, limit: int, wait: float, visibility: int) -> list[Message]: ...


class StartedDelete(Protocol):
    """A delete whose request has been sent. Any thread may finish it, once."""

    def is_answered(self) -> bool:
        """Whether :meth:`finish` need not wait for the answer to begin."""

    def finish(self) -> list[EntryFailure] | None:
        """Wait for the answer; return the failures by position, or None if the delete must be made again."""


@runtime_checkable
class DeleteStarter(Protocol):
    """A queue that can send the request of a delete before its answer is waited for."""

    def start_delete(self, handles: Sequence[str]) -> StartedDelete | None:
        """Send the request; return None if that is not possible now."""


#: Returns the queue of a topic.
Connect = Callable[[str], Queue]
