"""A queue of a scripted SQS whose messages have short names, for tests that look at what becomes of each."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from balog_celery.sqs.messages import DEFAULT_GROUP, Message, OutgoingMessage, TypedValue
from balog_celery.sqs.received import read_message

from .clock import Clock
from .errors import ApiError
from .in_process import InProcessQueue
from .message import StoredMessage, read_handle
from .queue import StoredQueue
from .script import Fault
from .store import SqsStore

#: How long a receive waits for a message, in seconds: an engine that stops sits out its poll.
LONGEST_POLL = 0.02


class ObservedQueue(InProcessQueue):
    """A queue in a scripted SQS of its own.

    A message's name is ``m1`` for the first one of the queue, and so on, unless the test names it. The lists hold what
    SQS has done, not what it was asked for: a stale handle deletes nothing.

    ``on`` maps an operation (``receive``, ``delete``, ``extend``, ``release``, ``send``, ``attributes``) to a function
    that is called before it is carried out, with the names of its messages (``send``: the messages; ``receive``: the
    limit). The function may wait, or raise what the call is to raise; the failures that it returns befall the entries
    of a batch.

    :param bodies: messages that are in the queue.
    :param exists: whether the queue is there.
    :param store: the SQS; a new one if None.
    :param clock: the time of the SQS and of receives; real time if None.
    """

    def __init__(
        self,
        name: str = "topic",
        bodies: Iterable[str] = (),
        *,
        exists: bool = True,
        store: SqsStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name, store or SqsStore(clock=clock), clock=time.monotonic if clock is None else clock.now)
        self.deleted: list[str] = []
        self.released: list[str] = []
        self.extended: list[str] = []
        self.sent: list[OutgoingMessage] = []
        self.on: dict[str, Callable[[Any], Any]] = {}
        self.store.longest_poll = LONGEST_POLL
        self.store.on_deleted.append(self._note_deleted)
        self.store.on_changed.append(self._note_changed)
        self.store.on_sent.append(self._note_sent)
        self.script.otherwise = self._react
        self._names: dict[int, str] = {}
        self._put: dict[str, StoredMessage] = {}
        if exists and name not in self.store.queues:
            self.create()
            self.script.calls.clear()
        self.put(*bodies)

    @property
    def calls(self) -> list[tuple[str, Any]]:
        """The operations so far, each with its messages as functions in ``on`` get them."""
        return [self._described(call.action, call.asked) for call in list(self.script.calls)]

    def calls_of(self, operation: str) -> list[Any]:
        """Return the messages of each call of an operation."""
        return [messages for called, messages in self.calls if called == operation]

    @property
    def visibility(self) -> int | None:
        """The visibility timeout of the latest receive."""
        received = self.script.calls_of("ReceiveMessage")
        return received[-1].get("VisibilityTimeout") if received else None

    def put(
        self,
        *bodies: str,
        name: str = "",
        group: str = DEFAULT_GROUP,
        attributes: Mapping[str, Any] | None = None,
        sent: int = 0,
        receives: int = 0,
    ) -> None:
        """Put messages into the queue, past the checks of a send.

        :param name: what the test calls them.
        :param attributes: their message attributes: texts, or values of another type.
        :param sent: when they were sent, in milliseconds of Unix time; 0 is now.
        :param receives: how often they were received before.
        """
        for body in bodies:
            message = self.store.put(self.store.named(self.name), body, group if self.is_fifo else "")
            message.attributes = {key: _attribute(value) for key, value in (attributes or {}).items()}
            message.sent = sent or message.sent
            message.receive_count = receives
            if name:
                self._names[message.number] = name
            self._put[self.name_of(message.handle)] = message
        self._wake()

    def configure(self, **attributes: str) -> None:
        """Set attributes of the queue, such as ``VisibilityTimeout``."""
        self.store.call("SetQueueAttributes", {"QueueUrl": self.name, "Attributes": attributes})

    def drop(self) -> None:
        """Delete the queue."""
        self.store.call("DeleteQueue", {"QueueUrl": self.name})

    def lapse(self, name: str) -> None:
        """Let the visibility timeout of a message end now, so that it is received again."""
        self.store.lapse(self.store.named(self.name), self._stored(name))

    def take(self, name: str, visibility: int = 30) -> Message:
        """Receive this one message, whether or not it is visible: the handles that it had before become stale."""
        raw = self.store.hand_over(self.store.named(self.name), self._stored(name), visibility)
        message = read_message(raw, self._clock())
        assert message is not None
        return message

    def visible_at(self, name: str) -> float:
        """Return when a message becomes visible, by the clock of the SQS."""
        return self._stored(name).visible_at

    def in_flight(self) -> list[str]:
        """Return the names of the messages that are invisible after a receive."""
        now = self.store.clock.now()
        return [self.name_of(one.handle) for one in self.store.named(self.name) if one.in_flight(now)]

    def holds(self, name: str) -> bool:
        """Return whether a message that was put into the queue is still in it."""
        message = self._put.get(name)
        return message is not None and self.store.named(self.name).find(message.handle)[0] is not None

    def remaining(self) -> list[str]:
        """Return the names of the messages that are in the queue."""
        return [self.name_of(message.handle) for message in self.store.named(self.name)]

    def id_of(self, name: str) -> str:
        """Return the message id of a message."""
        return self._stored(name).message_id

    def name_of(self, handle: str) -> str:
        """Return the name of the message of a receipt handle; a handle that SQS never gave is its own name."""
        read = read_handle(handle)
        return handle if read is None else self._names.get(read[0], f"m{read[0]}")

    def wait_for(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until *condition* holds, checking it after each call."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not in {timeout} s: {self.calls[-5:]}"
            with self._changed:
                self._changed.wait(0.01)

    def _stored(self, name: str) -> StoredMessage:
        sent = (one for one in self.store.named(self.name) if self.name_of(one.handle) == name)
        return self._put[name] if name in self._put else next(sent)

    def _described(self, action: str, asked: Any) -> tuple[str, Any]:
        entries = asked.get("Entries") or ()
        if action == "ReceiveMessage":
            return "receive", asked["MaxNumberOfMessages"]
        if action == "SendMessageBatch":
            return "send", [_outgoing(entry) for entry in entries]
        names = [self.name_of(entry["ReceiptHandle"]) for entry in entries]
        if action == "ChangeMessageVisibilityBatch":
            return "extend" if entries[0]["VisibilityTimeout"] else "release", names
        return {"DeleteMessageBatch": "delete", "GetQueueAttributes": "attributes"}.get(action, action), names

    def _react(self, action: str, asked: Any, _headers: Mapping[str, str]) -> Fault | None:
        operation, messages = self._described(action, asked)
        reaction = self.on.get(operation)
        with self._changed:
            self._changed.notify_all()
        failures = reaction(messages) if reaction is not None else None
        if not failures:
            return None
        errors = {one.index: ApiError(one.code, one.message, sender_fault=one.sender_fault) for one in failures}
        return Fault(action, entries=errors)

    def _note_deleted(self, queue: StoredQueue, message: StoredMessage) -> None:
        if queue.name == self.name:
            self.deleted.append(self.name_of(message.handle))

    def _note_changed(self, queue: StoredQueue, asked: Any) -> None:
        if queue.name == self.name:
            done = self.extended if asked["VisibilityTimeout"] else self.released
            done.append(self.name_of(asked["ReceiptHandle"]))

    def _note_sent(self, queue: StoredQueue, asked: Any) -> None:
        if queue.name == self.name:
            self.sent.append(_outgoing(asked))


def _attribute(value: str | TypedValue) -> dict[str, str]:
    if isinstance(value, str):
        return {"DataType": "String", "StringValue": value}
    if isinstance(value.value, bytes):
        return {"DataType": value.type, "BinaryValue": base64.b64encode(value.value).decode()}
    return {"DataType": value.type, "StringValue": value.value}


def _outgoing(entry: Mapping[str, Any]) -> OutgoingMessage:
    """Return the message of an entry of a send."""
    attributes: dict[str, str | TypedValue] = {}
    for name, attribute in (entry.get("MessageAttributes") or {}).items():
        kind, text = attribute["DataType"], attribute.get("StringValue")
        value = base64.b64decode(attribute["BinaryValue"]) if text is None else text
        attributes[name] = text if kind == "String" and text is not None else TypedValue(kind, value)
    group = {"group": entry["MessageGroupId"]} if entry.get("MessageGroupId") else {}
    return OutgoingMessage(
        entry["MessageBody"],
        attributes,
        deduplication_id=entry.get("MessageDeduplicationId") or "",
        delay=entry.get("DelaySeconds"),
        **group,
    )
