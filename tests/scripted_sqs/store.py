"""The queues of a scripted SQS, and what each action of its API does with them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Any

from . import requests
from .calls import EntryFault
from .clock import Clock
from .errors import ApiError, denied, invalid, missing, no_queue
from .message import StoredMessage, check_content, md5_of_attributes, md5_of_body, size_of
from .moves import Moves
from .queue import StoredQueue

Answer = dict[str, Any]

ACCOUNT, REGION = "000000000000", "us-east-1"
#: The actions that may make a message visible. A delete may free a group: whether it did is seen.
_WAKING = {"SendMessage", "ChangeMessageVisibility", "StartMessageMoveTask", "ListMessageMoveTasks"}


def arn_of(name: str, account: str = ACCOUNT) -> str:
    """The ARN of a queue."""
    return f"arn:aws:sqs:{REGION}:{account}:{name}"


class SqsStore:
    """The queues, and the actions of the API. Threads may share it. No call waits; long polls wait outside.

    :param keep_deleted: whether to keep what was deleted, to be looked at.
    :param clock: its time; real time if None.
    """

    def __init__(self, *, keep_deleted: bool = True, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        #: Whose queues they are, as their attributes say.
        self.account = ACCOUNT
        self.queues: dict[str, StoredQueue] = {}
        #: What was deleted by a consumer, by queue, in that order.
        self.deleted: dict[str, list[StoredMessage]] = {}
        #: The permissions that the caller lacks, such as ``("DeleteMessage", "topic")``; None is every queue.
        self.denied: set[tuple[str, str | None]] = set()
        #: Members of requests that this server does not know, as older servers do not.
        self.ignored: set[str] = set()
        #: Called with the name of a queue that does not exist; it may create it.
        self.on_missing: Callable[[str], None] = lambda _name: None
        #: Called in place of doing nothing when a stale receipt handle deletes or changes a message.
        self.on_stale: Callable[[str], None] = lambda _what: None
        #: The longest that a receive waits for a message, in seconds.
        self.longest_poll = 20.0
        #: Called after each delete and each receive, with the queue and the message.
        self.on_deleted: list[Callable[[StoredQueue, StoredMessage], None]] = []
        self.on_received: list[Callable[[StoredQueue, StoredMessage], None]] = []
        #: Called after each send and each change of a visibility, with the queue and what was asked.
        self.on_sent: list[Callable[[StoredQueue, Any], None]] = []
        self.on_changed: list[Callable[[StoredQueue, Any], None]] = []
        self._keep_deleted = keep_deleted
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._listeners: list[Callable[[], None]] = []
        self._moves = Moves(self.queues, self.clock, self._new)
        self._actions: dict[str, Callable[[Any], Answer]] = {
            "CreateQueue": self._create,
            "DeleteQueue": self._delete_queue,
            "GetQueueUrl": self._url,
            "ListQueues": self._list,
            "GetQueueAttributes": self._attributes,
            "SetQueueAttributes": self._set_attributes,
            "PurgeQueue": self._purge,
            "SendMessage": lambda asked: self._send(self.queue(asked), asked),
            "ReceiveMessage": self._receive,
            "DeleteMessage": lambda asked: self._delete(self.queue(asked), asked),
            "ChangeMessageVisibility": lambda asked: self._change(self.queue(asked), asked),
            "StartMessageMoveTask": self._moves.start,
            "ListMessageMoveTasks": self._moves.list,
            "CancelMessageMoveTask": self._moves.cancel,
            "ListDeadLetterSourceQueues": self._sources,
        }
        # What is done with each entry of a batch.
        self._entries: dict[str, Callable[[StoredQueue, Any], Answer]] = {
            "SendMessageBatch": self._send,
            "DeleteMessageBatch": self._delete,
            "ChangeMessageVisibilityBatch": self._change,
        }

    def listen(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever something may have become visible."""
        self._listeners.append(listener)

    def advance(self, seconds: float) -> None:
        """Move the clock on, and wake waiting polls."""
        self.clock.advance(seconds)
        self._wake()

    def call(self, action: str, asked: Any, entry_fault: EntryFault | None = None) -> Answer:
        """Answer one call; a receive returns the messages that are visible now.

        :param entry_fault: gives for each entry of a batch the error to answer with, if any, and whether to carry it
            out all the same.
        :raises ApiError: SQS says no.
        """
        with self._lock:
            asked = {name: value for name, value in asked.items() if name not in self.ignored}
            moving = self._moves.go_on()
            single = action.removesuffix("Batch")
            if action in self._entries:
                self._allow(single, asked)
                answer = self._batch(action, asked, entry_fault)
            elif action in self._actions:
                self._allow(action, asked)
                answer = self._actions[action](asked)
            else:
                raise ApiError("UnknownOperationException", f"no action {action}")
            wakes = single in _WAKING or (single == "DeleteMessage" and (moving or self.queue(asked).is_ready()))
        if wakes:
            self._wake()
        return answer

    def put(self, queue: StoredQueue, body: str, group: str = "") -> StoredMessage:
        """Add a message to a queue, without any check."""
        return self.put_all(queue, [body], group)[0]

    def put_all(self, queue: StoredQueue, bodies: Iterable[str], group: str = "") -> list[StoredMessage]:
        """Add messages to a queue, without any check."""
        with self._lock:
            sent = self.clock.milliseconds()
            messages = [StoredMessage(next(self._numbers), body, group=group, sent=sent) for body in bodies]
            queue.add(*messages)
        return messages

    def hand_over(self, queue: StoredQueue, message: StoredMessage, visibility: float) -> Any:
        """Receive this one message, whether or not it is its turn; return it as an answer holds it."""
        with self._lock:
            queue.hand_over(message, visibility)
            asked = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]}
            return requests.received(queue, [message], asked)[0]

    def lapse(self, queue: StoredQueue, message: StoredMessage) -> None:
        """Let the visibility timeout of a message end now."""
        with self._lock:
            queue.lapse(message)
        self._wake()

    def wait_until(self, asked: Any) -> float:
        """The time until which a receive waits for a first message."""
        wait = asked.get("WaitTimeSeconds")
        if wait is None:
            wait = self.queue(asked).number("ReceiveMessageWaitTimeSeconds")
        return self.clock.now() + min(float(wait), self.longest_poll)

    def next_visible(self, asked: Any) -> float | None:
        """The time at which a receive may find something next; None if it takes another call first."""
        with self._lock:
            return self.queue(asked).next_visible()

    def queue(self, asked: Any) -> StoredQueue:
        """The queue that a call names. :raises ApiError: there is none."""
        if not asked.get("QueueUrl"):
            raise missing("QueueUrl")
        return self.named(asked["QueueUrl"].rpartition("/")[2])

    def named(self, name: str) -> StoredQueue:
        """The queue of that name. :raises ApiError: there is none."""
        if name not in self.queues:
            self.on_missing(name)
        if name not in self.queues:
            raise no_queue()
        return self.queues[name]

    def _wake(self) -> None:
        for listener in self._listeners:
            listener()

    def _allow(self, permission: str, asked: Any) -> None:
        name = asked.get("QueueName") or asked.get("QueueUrl", "").rpartition("/")[2]
        name = name or asked.get("SourceArn", "").rpartition(":")[2]
        if self.denied & {(permission, name), (permission, None)}:
            raise denied(permission, arn_of(name))

    def _create(self, asked: Any) -> Answer:
        name, attributes = asked["QueueName"], asked.get("Attributes") or {}
        requests.check_queue(name, attributes)
        existing = self.queues.get(name)
        if existing is None:
            self.queues[name] = StoredQueue(name, attributes, self.clock, self._dead_letter)
        elif any(existing.attributes.get(key) != value for key, value in attributes.items()):
            raise ApiError("QueueNameExists", "A queue already exists with the same name and other attributes.")
        return {"QueueUrl": self._url_of(name)}

    def _delete_queue(self, asked: Any) -> Answer:
        del self.queues[self.queue(asked).name]
        return {}

    def _url(self, asked: Any) -> Answer:
        return {"QueueUrl": self._url_of(self.named(asked["QueueName"]).name)}

    def _url_of(self, name: str) -> str:
        return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"

    def _list(self, asked: Any) -> Answer:
        prefix = asked.get("QueueNamePrefix") or ""
        return {"QueueUrls": [self._url_of(name) for name in sorted(self.queues) if name.startswith(prefix)]}

    def _attributes(self, asked: Any) -> Answer:
        queue = self.queue(asked)
        visible, flying, delayed = queue.counts()
        known = {
            **queue.attributes,
            "QueueArn": arn_of(queue.name, self.account),
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(flying),
            "ApproximateNumberOfMessagesDelayed": str(delayed),
        }
        names = asked.get("AttributeNames") or []
        return {"Attributes": {name: value for name, value in known.items() if "All" in names or name in names}}

    def _set_attributes(self, asked: Any) -> Answer:
        queue = self.queue(asked)
        requests.check_queue(queue.name, asked["Attributes"])
        queue.attributes.update(asked["Attributes"])
        return {}

    def _purge(self, asked: Any) -> Answer:
        self.queue(asked).purge()
        return {}

    def _send(self, queue: StoredQueue, asked: Any) -> Answer:
        body, attributes = asked.get("MessageBody"), asked.get("MessageAttributes") or {}
        if not body:
            raise missing("MessageBody")
        check_content(body, attributes)
        most = queue.number("MaximumMessageSize")
        if size_of(body, attributes) > most:
            raise invalid(f"One or more parameters are invalid. Reason: Message must be shorter than {most} bytes.")
        group, deduplication_id = requests.fifo_ids(queue, asked)
        delay = requests.number_of(asked, "DelaySeconds", 0, 900, default=queue.number("DelaySeconds"))
        system, sent = asked.get("MessageSystemAttributes") or {}, self.clock.milliseconds()
        message = StoredMessage(next(self._numbers), body, attributes, system, group, deduplication_id, sent)
        earlier = queue.duplicate_of(message)
        if earlier is None:
            queue.add(message, delay=delay)
            for note in self.on_sent:
                note(queue, asked)
        answer = {"MessageId": (earlier or message).message_id, "MD5OfMessageBody": md5_of_body(body)}
        if attributes:
            answer["MD5OfMessageAttributes"] = md5_of_attributes(attributes)
        if queue.is_fifo:
            answer["SequenceNumber"] = f"{(earlier or message).number:020d}"
        return answer

    def _receive(self, asked: Any) -> Answer:
        queue = self.queue(asked)
        limit = requests.number_of(asked, "MaxNumberOfMessages", 1, 10, default=1)
        requests.number_of(asked, "WaitTimeSeconds", 0, 20, default=0)
        usual = queue.number("VisibilityTimeout")
        visibility = requests.number_of(asked, "VisibilityTimeout", 0, 43_200, default=usual)
        attempt_id = requests.attempt_id(queue, asked)
        taken = queue.take(limit, visibility, attempt_id)
        answer = requests.received(queue, taken, asked)
        for message in taken:
            for note in self.on_received:
                note(queue, message)
        return {"Messages": answer} if answer else {}

    def _delete(self, queue: StoredQueue, asked: Any) -> Answer:
        if not asked.get("ReceiptHandle"):
            raise missing("ReceiptHandle")
        message, deleted = queue.delete(asked["ReceiptHandle"])
        if message is not None and not deleted:
            self.on_stale("delete")
        elif message is not None:
            if self._keep_deleted:
                self.deleted.setdefault(queue.name, []).append(message)
            for note in self.on_deleted:
                note(queue, message)
        return {}

    def _change(self, queue: StoredQueue, asked: Any) -> Answer:
        if not asked.get("ReceiptHandle"):
            raise missing("ReceiptHandle")
        if asked.get("VisibilityTimeout") is None:
            raise missing("VisibilityTimeout")
        queue.change(asked["ReceiptHandle"], requests.number_of(asked, "VisibilityTimeout", 0, 43_200, default=0))
        for note in self.on_changed:
            note(queue, asked)
        return {}

    def _batch(self, action: str, asked: Any, entry_fault: EntryFault | None) -> Answer:
        queue, entries = self.queue(asked), requests.entries_of(asked)
        if action == "SendMessageBatch":
            requests.check_sizes(entries)
        answer: Answer = {"Successful": [], "Failed": []}
        for entry in entries:
            error, carry_out = entry_fault(entry) if entry_fault else (None, True)
            try:
                done = self._entries[action](queue, entry) if carry_out else {}
                if error is not None:
                    raise error
            except ApiError as failure:
                answer["Failed"].append(failure.entry(entry["Id"]))
            else:
                answer["Successful"].append({"Id": entry["Id"], **done})
        return answer

    def _dead_letter(self, queue: StoredQueue, message: StoredMessage) -> bool:
        """Move a message that was received as often as its redrive policy allows; whether it was."""
        target, most = requests.redrive_of(queue)
        if target not in self.queues or message.receive_count < most:
            return False
        queue.remove(message)
        message.dead_letter_source = arn_of(queue.name)
        self.queues[target].add(message)
        return True

    def _sources(self, asked: Any) -> Answer:
        return {"queueUrls": [self._url_of(name) for name in self._moves.sources(self.queue(asked))]}

    def _new(self, message: StoredMessage) -> StoredMessage:
        """A message that a task moves is a new one in its queue."""
        kept = (message.body, message.attributes, message.system, message.group, message.deduplication_id)
        return StoredMessage(next(self._numbers), *kept, self.clock.milliseconds())
