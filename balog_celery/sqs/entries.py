"""The entries of batch calls: messages as SQS is given them, and their receipt handles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from .messages import OutgoingMessage, TypedValue


def _attribute(value: str | TypedValue) -> dict[str, Any]:
    if isinstance(value, str):
        return {"DataType": "String", "StringValue": value}
    if isinstance(value.value, str):
        return {"DataType": value.type, "StringValue": value.value}
    # Not as bytes, which the fast path would write as a text: it refuses a view, so boto3's client encodes it.
    return {"DataType": value.type, "BinaryValue": memoryview(value.value)}


def send_entry(index: int, message: OutgoingMessage, *, fifo: bool) -> dict[str, Any]:
    """Return the entry of *message*, whose id is *index*.

    :param fifo: whether the queue is one.
    """
    entry: dict[str, Any] = {"Id": str(index), "MessageBody": message.body}
    if message.attributes:
        entry["MessageAttributes"] = {name: _attribute(value) for name, value in message.attributes.items()}
    if message.delay is not None:
        entry["DelaySeconds"] = message.delay
    if fifo:
        entry["MessageGroupId"] = message.group
        # By default, the id that a queue with content-based deduplication would use.
        entry["MessageDeduplicationId"] = (
            message.deduplication_id or hashlib.sha256(message.body.encode("utf-8", "replace")).hexdigest()
        )
    return entry


def delete_entries(handles: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries that delete messages by their receipt handles; their ids are positions."""
    return [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(handles)]
