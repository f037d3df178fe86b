"""A queue of a scripted SQS without HTTP, for the engine's tests."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balog_celery.errors import AccessDenied, QueueError, QueueNotFound
from balog_celery.sqs import codes
from balog_celery.sqs.answers import UnexpectedResponse, read_answer, read_attributes, read_failures
from balog_celery.sqs.entries import send_entry
from balog_celery.sqs.messages import EntryFailure, Message, OutgoingMessage
from balog_celery.sqs.received import read_messages

from .calls import Foreign, HungUp, Steps, in_bytes, steps
from .errors import ApiError
from .script import Script
from .store import SqsStore

_SYSTEM = ["ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SentTimestamp", "MessageGroupId"]
_MOVED = "DeadLetterQueueSourceArn"


class InProcessQueue:
    """A queue of a scripted SQS for an engine; it raises the errors of :class:`balog_celery.sqs.queues.SQSQueue`.

    :param name: the queue's name.
    :param store: the SQS; a new one if None.
    :param clock: the time of receives, as in ``Message.received``.
    """

    has_unique_ids = True

    def __init__(
        self,
        name: str,
        store: SqsStore | None = None,
        script: Script | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.is_fifo = name.endswith(".fifo")
        self.store = store or SqsStore()
        self.script = script or Script()
        self._clock = clock
        self._max_message_bytes: int | None = None
        self._changed = threading.Condition()
        self._changes = 0
        self.store.listen(self._wake)

    @property
    def max_message_bytes(self) -> int:
        """The largest message that it takes, in bytes, requested once."""
        if self._max_message_bytes is None:
            self._max_message_bytes = int(self.attributes()["MaximumMessageSize"])
        return self._max_message_bytes

    def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
        """Receive up to *limit* messages."""
        asked: dict[str, Any] = {"MaxNumberOfMessages": min(limit, 10), "WaitTimeSeconds": int(wait)}
        if visibility is not None:
            asked["VisibilityTimeout"] = visibility
        asked |= {"MessageSystemAttributeNames": [*_SYSTEM, _MOVED], "MessageAttributeNames": ["All"]}
        raw = self._call("ReceiveMessage", asked).get("Messages", ())
        received = self._clock()
        return read_messages(raw, received, compare=True, in_order=self.is_fifo)

    def stop_polling(self) -> None:
        """Do nothing: the store's own longest poll is the longest wait."""

    def read(self, limit: int, wait: float, visibility: int) -> list[Message]:
        """Receive up to *limit* messages."""
        return self.receive(limit, wait, visibility)

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        """Delete messages by their handles; return the failures."""
        return self._batch("DeleteMessageBatch", [{"ReceiptHandle": handle} for handle in handles])

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        """Keep messages invisible for *seconds* from now; return the failures."""
        entries = [{"ReceiptHandle": handle, "VisibilityTimeout": seconds} for handle in handles]
        return self._batch("ChangeMessageVisibilityBatch", entries)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        """Send messages; return the failures."""
        return self._batch("SendMessageBatch", [self._entry(message) for message in messages], messages)

    def attributes(self) -> Mapping[str, str]:
        """Return all attributes of the queue."""
        return read_attributes(self._call("GetQueueAttributes", {"AttributeNames": ["All"]}))

    def exists(self) -> bool:
        """Whether there is such a queue."""
        return self.name in self.store.queues

    def create(self) -> None:
        """Create the queue."""
        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if self.is_fifo else {}
        self._call("CreateQueue", {"QueueName": self.name, "Attributes": attributes})

    def _entry(self, message: OutgoingMessage) -> dict[str, Any]:
        entry = send_entry(0, message, fifo=self.is_fifo)
        for attribute in entry.get("MessageAttributes", {}).values():
            if "BinaryValue" in attribute:
                attribute["BinaryValue"] = base64.b64encode(attribute["BinaryValue"]).decode()
        return {name: value for name, value in entry.items() if name != "Id"}

    def _batch(
        self, action: str, entries: list[dict[str, Any]], messages: Sequence[OutgoingMessage] | None = None
    ) -> list[EntryFailure]:
        numbered = [{"Id": str(index), **entry} for index, entry in enumerate(entries)]
        bodies = None if messages is None else [message.body for message in messages]
        return read_failures(self._call(action, {"Entries": numbered}), len(entries), bodies)

    def _call(self, action: str, asked: dict[str, Any]) -> dict[str, Any]:
        running = steps(self.store, self.script, action, {"QueueUrl": self.name, **asked})
        try:
            return read_answer(action, in_bytes(self._finish(running)))
        except Foreign as foreign:
            try:
                return read_answer(action, foreign.content)
            except UnexpectedResponse as error:
                raise QueueError(
                    f"the answer to {action} is not SQS's: {error}", UnexpectedResponse.__name__
                ) from error
        except HungUp as error:
            raise QueueError(
                f"{action} on {self.name}: the connection was closed", "EndpointConnectionError"
            ) from error
        except ApiError as error:
            kind: type[QueueError] = QueueError
            if codes.is_missing(error.code):
                kind = QueueNotFound
            elif codes.is_denied(error.code, error.status):
                kind = AccessDenied
            raise kind(f"{action} on {self.name}: {error}", error.code) from error

    def _finish(self, running: Steps) -> dict[str, Any]:
        while True:
            seen = self._changes
            try:
                wait = next(running)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            with self._changed:
                if self._changes == seen:
                    self._changed.wait(wait)

    def _wake(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()
