"""Messages as they are sent and received, and the limits that SQS puts on them.

Limits from the SQS API reference: a batch has at most 10 entries; a message, and all messages of one send batch
together, have at most 1 MiB; a message stays invisible for at most 12 hours after its receive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from .payloads import POINTER_BYTES

#: The most entries that one receive, delete, change or send call takes.
BATCH_SIZE = 10
#: The message group of a message to a FIFO queue, unless the sender names one.
DEFAULT_GROUP = "balog"
#: The largest message, and the largest sum of one send batch, in bytes.
MAX_MESSAGE_BYTES = 1_048_576
#: The default limit for a body that is read from S3, in bytes. Tasks carry the body, and brokers have limits too:
#: RabbitMQ's is 16 MiB, for text that is escaped twice by then.
MAX_BODY_BYTES = 4_194_304
#: The longest a message can stay invisible after its receive, in seconds.
MAX_VISIBILITY = 43_200

#: How often a send may be refused with a doubtful failure before the message counts as refused permanently.
MAX_DOUBTFUL = 20

NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})
#: The most message attributes that SQS takes.
MAX_ATTRIBUTES = 10


class TypedValue(NamedTuple):
    """The value of a message attribute of another type than ``String``.

    :param type: SQS's name of the type, such as ``Number`` or ``Binary.png``.
    """

    type: str
    value: str | bytes

    @property
    def size(self) -> int:
        """Its size as SQS counts it, in bytes."""
        return _bytes_of(self.type) + (len(self.value) if isinstance(self.value, bytes) else _bytes_of(self.value))


NO_TYPED: Mapping[str, TypedValue] = MappingProxyType({})


class Message(NamedTuple):
    """A received message, before its body is decoded.

    :param body: the text that was sent.
    :param handle: the receipt handle, which deletes, extends or releases this one receive.
    :param message_id: the queue's id for the message; the same on every receive.
    :param received: ``time.monotonic()`` of the receive, from which its visibility timeout counts.
    :param receive_count: how often the message was received, this time included.
    :param first_received: the time of its first receive, in milliseconds of Unix time; 0 if the queue does not say.
    :param problem: why the body in S3 can never be read; *body* is then the pointer to it.
    :param sent: the time when it was sent, in milliseconds of Unix time; 0 if the queue does not say.
    :param attributes: its message attributes that are texts, numbers included.
    :param group: its message group, for a FIFO queue; otherwise "".
    :param typed: its message attributes of other types than ``String``, with these.
    :param moved_from: the ARN of the queue, or its name, from which the broker itself moved it to this dead-letter
        queue; "" if it was sent here.
    """

    body: str
    handle: str
    message_id: str
    received: float
    receive_count: int = 1
    first_received: int = 0
    problem: str = ""
    sent: int = 0
    attributes: Mapping[str, str] = NO_ATTRIBUTES
    group: str = ""
    typed: Mapping[str, TypedValue] = NO_TYPED
    moved_from: str = ""

    @property
    def all_attributes(self) -> dict[str, str | TypedValue]:
        """All message attributes, as they can be sent again."""
        return {**self.attributes, **self.typed}


class OutgoingMessage(NamedTuple):
    """A message to send: its body, and its message attributes (not empty, and texts unless they have a type).

    :param group: its message group, for a FIFO queue.
    :param deduplication_id: its deduplication id, for a FIFO queue; default: a hash of its body. SQS accepts and drops
        a second message with the same id within five minutes.
    :param delay: how long it stays invisible at first, in seconds; not for a FIFO queue. None: the queue's own setting.
    """

    body: str
    attributes: Mapping[str, str | TypedValue] = NO_ATTRIBUTES
    group: str = DEFAULT_GROUP
    deduplication_id: str = ""
    delay: int | None = None

    def size(self) -> int:
        """Return its size as SQS counts it, in bytes: body, and names, types and values of the attributes."""
        return _bytes_of(self.body) + sum(
            _bytes_of(name) + (len("String") + _bytes_of(value) if isinstance(value, str) else value.size)
            for name, value in self.attributes.items()
        )


@dataclass(frozen=True, slots=True)
class EntryFailure:
    """A batch entry that SQS did not carry out.

    :param index: the entry's position in the request.
    :param code: the service's code, such as ``"ReceiptHandleIsInvalid"`` or ``"InternalError"``.
    :param message: the service's text.
    :param sender_fault: True if trying again cannot help. Also True for a delete or an extension with an unknown code
        that blames the caller: giving it up loses nothing, since the message comes again.
    :param doubtful: True if a send must be tried again, but only :data:`MAX_DOUBTFUL` times. SQS blames the message
        with an unknown code, which may be a new kind of throttling or of bad message; or SQS has it with another body.
    """

    index: int
    code: str
    message: str
    sender_fault: bool
    doubtful: bool = False


def _bytes_of(text: str) -> int:
    # SQS takes no lone surrogates, but messages of brokers and of other servers may hold some.
    return len(text.encode("utf-8", "surrogatepass"))


def size_in_batch(size: int) -> int:
    """Return how much of a batch's 1 MiB a message of *size* bytes takes: a larger one travels as a pointer into S3."""
    return size if size <= MAX_MESSAGE_BYTES else POINTER_BYTES


def send_batches(messages: Iterable[OutgoingMessage]) -> Iterator[list[OutgoingMessage]]:
    """Group *messages* into batches for one send call: up to 10 messages, 1 MiB together."""
    batch: list[OutgoingMessage] = []
    size = 0
    for message in messages:
        taken = size_in_batch(message.size())
        if batch and (len(batch) == BATCH_SIZE or size + taken > MAX_MESSAGE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += taken
    if batch:
        yield batch
