"""Reads received messages: one that cannot be read stays in the queue, and the others are processed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from .answers import is_corrupted, read_number
from .messages import NO_ATTRIBUTES, NO_TYPED, Message, TypedValue


def read_messages(raw_messages: Sequence[Any], received: float, *, compare: bool, in_order: bool) -> list[Message]:
    """Return the messages of an answer that can be read.

    :param received: see :class:`Message`.
    :param compare: leave out those whose body is not that of their MD5.
    :param in_order: leave out those that are behind one in their group that is left out.
    """
    messages = [read_message(raw, received) for raw in raw_messages]
    if compare:
        pairs = zip(raw_messages, messages, strict=True)
        messages = [None if _is_another(raw, message) else message for raw, message in pairs]
    if None not in messages:
        return messages  # type: ignore[return-value]
    kept: list[Message] = []
    blocked: set[str | None] = set()
    for raw, message in zip(raw_messages, messages, strict=True):
        if message is None:
            blocked.add(_group_of(raw))
        elif not in_order or blocked.isdisjoint({None, message.group}):
            kept.append(message)
    return kept


def _is_another(raw: Any, message: Message | None) -> bool:
    return message is not None and is_corrupted(message.body, raw.get("MD5OfBody"))


def _group_of(raw: Any) -> str | None:
    """Return the message group of a message that cannot be read; None if it may be any."""
    try:
        group = raw["Attributes"]["MessageGroupId"]
    except (KeyError, TypeError):
        return None
    return group if isinstance(group, str) else None


def read_message(raw: Any, received: float) -> Message | None:
    """Return a received message; None if it has no body, receipt handle or id, or a member of the wrong type.

    :param received: see :class:`Message`.
    """
    try:
        body, handle, message_id = raw["Body"], raw["ReceiptHandle"], raw["MessageId"]
        system, given = raw.get("Attributes") or NO_ATTRIBUTES, raw.get("MessageAttributes")
        group = system.get("MessageGroupId") or ""
        attributes = _texts(given) if given else NO_ATTRIBUTES
        typed = _typed(given) if given else NO_TYPED
        moved_from = system.get("DeadLetterQueueSourceArn") or ""
        count, first = system.get("ApproximateReceiveCount"), system.get("ApproximateFirstReceiveTimestamp")
        sent = system.get("SentTimestamp")
    except (AttributeError, KeyError, TypeError):
        return None
    texts = isinstance(body, str) and isinstance(handle, str) and isinstance(message_id, str) and isinstance(group, str)
    if not (texts and handle and message_id):
        return None
    # By position: this runs for every message, and keywords take half as long again.
    return Message(
        body,
        handle,
        message_id,
        received,
        read_number(count, 1),
        read_number(first, 0),
        "",
        read_number(sent, 0),
        attributes,
        group,
        typed,
        moved_from if isinstance(moved_from, str) else "",
    )


def _texts(given: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name, value in given.items() if value and isinstance(text := value.get("StringValue"), str)}


def _typed(given: Mapping[str, Any]) -> Mapping[str, TypedValue]:
    found = {}
    for name, attribute in given.items():
        if not attribute:
            continue
        kind, value = attribute.get("DataType"), attribute.get("StringValue") or attribute.get("BinaryValue")
        if not isinstance(kind, str) or kind == "String" or not isinstance(value, (str, bytes)) or not value:
            continue
        if kind.partition(".")[0] == "Binary" and isinstance(value, str):  # boto3 decodes it, the fast path does not
            try:
                value = base64.b64decode(value, validate=True)
            except ValueError:
                continue
        found[name] = TypedValue(kind, value)
    return found
