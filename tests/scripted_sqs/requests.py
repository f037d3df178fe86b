"""Reads and checks requests, and writes received messages."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ApiError, invalid, missing
from .message import StoredMessage, md5_of_attributes, md5_of_body, size_of
from .queue import StoredQueue

#: The largest message, and the largest sum of a batch, in bytes.
MAX_BYTES = 1_048_576
_QUEUE_NAME = re.compile(r"[\w-]{1,80}|(?=.{1,80}$)[\w-]+\.fifo", re.ASCII)
_ENTRY_ID = re.compile(r"[\w-]{1,80}", re.ASCII)
#: Of message groups, deduplication ids and receive attempts.
_FIFO_ID = re.compile(r"[!-~]{1,128}")
#: The numbers that the attributes of a queue may be.
_RANGES = {
    "DelaySeconds": (0, 900),
    "MaximumMessageSize": (1024, 1_048_576),
    "MessageRetentionPeriod": (60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, 20),
    "VisibilityTimeout": (0, 43_200),
}


def check_queue(name: str, attributes: Mapping[str, str]) -> None:
    """Check the name and the attributes of a queue. :raises ApiError: SQS does not take them."""
    if not _QUEUE_NAME.fullmatch(name):
        raise invalid("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
    if name.endswith(".fifo") != (attributes.get("FifoQueue", "true" if name.endswith(".fifo") else "") == "true"):
        raise invalid("The name of a FIFO queue can only include alphanumeric characters and must end with .fifo")
    for attribute, (least, most) in _RANGES.items():
        value = attributes.get(attribute, str(least))
        if not (value.isdigit() and least <= int(value) <= most):
            raise ApiError("InvalidAttributeValue", f"Invalid value for the parameter {attribute}.")


def number_of(asked: Any, name: str, least: int, most: int, default: int) -> int:
    """A member of a request that is a number. :raises ApiError: it is out of range."""
    value = asked.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise invalid(f"Value {value} for parameter {name} is invalid. Reason: Must be {least} to {most}.")
    return value


def entries_of(asked: Any) -> list[Any]:
    """The entries of a batch. :raises ApiError: they are too many, none, or their ids are wrong."""
    entries = asked.get("Entries") or []
    if not entries:
        raise ApiError("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > 10:
        raise ApiError(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are 10. You have sent {len(entries)}.",
        )
    ids = [entry.get("Id") or "" for entry in entries]
    if not all(_ENTRY_ID.fullmatch(one) for one in ids):
        raise ApiError(
            "InvalidBatchEntryId", "A batch entry id can only contain alphanumeric characters, hyphens and underscores."
        )
    if len(set(ids)) < len(ids):
        raise ApiError("BatchEntryIdsNotDistinct", f"Id {max(ids, key=ids.count)} repeated.")
    return list(entries)


def check_sizes(entries: list[Any]) -> None:
    """Check the size of a batch of sends. :raises ApiError: it is too large."""
    size = sum(size_of(one.get("MessageBody") or "", one.get("MessageAttributes") or {}) for one in entries)
    if size > MAX_BYTES:
        raise ApiError(
            "BatchRequestTooLong",
            f"Batch requests cannot be longer than {MAX_BYTES} bytes. You have sent {size} bytes.",
        )


def fifo_ids(queue: StoredQueue, asked: Any) -> tuple[str, str]:
    """Return the message group and the deduplication id of a send. :raises ApiError: the queue's type forbids them."""
    group, deduplication_id = asked.get("MessageGroupId") or "", asked.get("MessageDeduplicationId") or ""
    for name, value in (("MessageGroupId", group), ("MessageDeduplicationId", deduplication_id)):
        if value and not _FIFO_ID.fullmatch(value):
            raise invalid(f"Value {value} for parameter {name} is invalid.")
    if not queue.is_fifo:
        if deduplication_id:
            raise invalid(
                "The request includes a parameter that is not valid for this queue type: MessageDeduplicationId"
            )
        return group, ""  # a fair queue's tenant
    if not group:
        raise missing("MessageGroupId")
    if asked.get("DelaySeconds"):
        raise invalid("The request includes a parameter that is not valid for this queue type: DelaySeconds")
    if not deduplication_id:
        if queue.attributes.get("ContentBasedDeduplication") != "true":
            either = "have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly"
            raise invalid(f"The queue should either {either}")
        deduplication_id = hashlib.sha256(asked["MessageBody"].encode()).hexdigest()
    return group, deduplication_id


def attempt_id(queue: StoredQueue, asked: Any) -> str:
    """The id of a receive attempt. :raises ApiError: the queue is no FIFO queue, or the id is malformed."""
    value = asked.get("ReceiveRequestAttemptId") or ""
    if value and not queue.is_fifo:
        raise invalid("The request includes a parameter that is not valid for this queue type: ReceiveRequestAttemptId")
    if value and not _FIFO_ID.fullmatch(value):
        raise invalid(f"Value {value} for parameter ReceiveRequestAttemptId is invalid.")
    return str(value)


def redrive_of(queue: StoredQueue) -> tuple[str, int]:
    """The name of a queue's dead-letter queue ("" if none), and how often a message may be received before."""
    if "RedrivePolicy" not in queue.attributes:
        return "", 0
    policy = json.loads(queue.attributes["RedrivePolicy"] or "{}")
    return str(policy.get("deadLetterTargetArn", "")).rpartition(":")[2], int(policy.get("maxReceiveCount", 10))


def received(queue: StoredQueue, messages: Sequence[StoredMessage], asked: Any) -> list[dict[str, Any]]:
    """Messages as an answer to a receive holds them, with the attributes that were asked for."""
    names = {*(asked.get("AttributeNames") or ()), *(asked.get("MessageSystemAttributeNames") or ())}
    wanted = asked.get("MessageAttributeNames") or ()
    answers = []
    for message in messages:
        answer: dict[str, Any] = {
            "MessageId": message.message_id,
            "ReceiptHandle": message.handle,
            "MD5OfBody": md5_of_body(message.body),
            "Body": message.body,
        }
        if names:
            system = _system_attributes(queue, message)
            answer["Attributes"] = {name: value for name, value in system.items() if name in names or "All" in names}
        if message.attributes:
            chosen = {name: value for name, value in message.attributes.items() if _is_wanted(name, wanted)}
            if chosen:
                answer["MessageAttributes"] = chosen
                answer["MD5OfMessageAttributes"] = md5_of_attributes(chosen)
        answers.append(answer)
    return answers


def _system_attributes(queue: StoredQueue, message: StoredMessage) -> dict[str, str]:
    attributes = {
        "SenderId": "AIDAEXAMPLE",
        "SentTimestamp": str(message.sent),
        "ApproximateReceiveCount": str(message.receive_count),
        "ApproximateFirstReceiveTimestamp": str(message.first_received),
    }
    for name, value in message.system.items():
        attributes[name] = value["StringValue"]  # type: ignore[index]
    if message.group:
        attributes["MessageGroupId"] = message.group
    if queue.is_fifo:
        attributes["MessageDeduplicationId"] = message.deduplication_id
        attributes["SequenceNumber"] = f"{message.number:020d}"
    if message.dead_letter_source:
        attributes["DeadLetterQueueSourceArn"] = message.dead_letter_source
    return attributes


def _is_wanted(name: str, wanted: Any) -> bool:
    return any(
        one in ("All", ".*", name) or (one.endswith(".*") and name.startswith(one.removesuffix("*"))) for one in wanted
    )
