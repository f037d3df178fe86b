"""A message as SQS keeps it: what it may hold, its size, its digests."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ApiError, invalid

#: The longest that a message stays invisible after its receive, in seconds.
MAX_VISIBILITY = 43_200
#: The most message attributes.
MAX_ATTRIBUTES = 10

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Real receipt handles have several hundred characters, which are signed, sent and parsed.
_HANDLE_START = "AQEB" + "x" * 360
_HANDLE_LENGTH = len(_HANDLE_START) + 12 + 8


@dataclass(slots=True, eq=False)
class StoredMessage:
    """A message from its send to its delete. Times are the clock's, except those in milliseconds of Unix time."""

    number: int
    body: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    deduplication_id: str = ""
    sent: int = 0
    kept_until: float = 0.0
    visible_at: float = 0.0
    received_at: float = 0.0
    first_received: int = 0
    receive_count: int = 0
    #: Whether the fault "delivered twice" gives it to a second receiver.
    exposed: bool = False
    dead_letter_source: str = ""

    @property
    def message_id(self) -> str:
        """The message's id, the same on every receive."""
        return f"00000000-0000-4000-8000-{self.number:012d}"

    @property
    def handle(self) -> str:
        """The receipt handle of its latest receive: each receive makes the one before stale."""
        return f"{_HANDLE_START}{self.number:012d}{self.receive_count:08d}"

    def in_flight(self, now: float) -> bool:
        """Whether a receiver holds it."""
        return self.receive_count > 0 and self.visible_at > now


def read_handle(handle: str) -> tuple[int, int] | None:
    """The message's number and the count of the receive that a receipt handle is of; None if it is malformed."""
    digits = handle[len(_HANDLE_START) :]
    if len(handle) != _HANDLE_LENGTH or not handle.startswith(_HANDLE_START) or not digits.isdecimal():
        return None
    return int(digits[:12]), int(digits[12:])


def size_of(body: str, attributes: Mapping[str, Any]) -> int:
    """The size as SQS counts it, in bytes: the body, and each attribute's name, type and value."""
    size = len(body.encode("utf-8", "surrogatepass"))
    for name, value in attributes.items():
        size += len(name.encode()) + len(value["DataType"].encode()) + len(_value(value)[1])
    return size


def check_content(body: str, attributes: Mapping[str, Any]) -> None:
    """Check the characters of a body, and the number and values of attributes.

    :raises ApiError: SQS does not take them.
    """
    if _FORBIDDEN.search(body):
        raise ApiError("InvalidMessageContents", "Invalid characters found.")
    if len(attributes) > MAX_ATTRIBUTES:
        raise invalid(f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [10].")
    for name, value in attributes.items():
        if not value.get("DataType"):
            raise invalid(f"The message attribute '{name}' must contain a non-empty message attribute type.")
        if not _value(value)[1]:
            raise invalid(f"The message attribute '{name}' must contain a non-empty message attribute value.")
        if _FORBIDDEN.search(value.get("StringValue") or ""):
            raise invalid(f"The message attribute '{name}' holds invalid characters.")


def md5_of_body(body: str) -> str:
    """The value of ``MD5OfMessageBody`` and ``MD5OfBody``."""
    return hashlib.md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def md5_of_attributes(attributes: Mapping[str, Any]) -> str:
    """Return ``MD5OfMessageAttributes``, calculated as the developer guide describes."""
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(attributes):
        transport, value = _value(attributes[name])
        for part in (name.encode(), attributes[name]["DataType"].encode()):
            digest.update(struct.pack("!I", len(part)) + part)
        digest.update(bytes([transport]) + struct.pack("!I", len(value)) + value)
    return digest.hexdigest()


def _value(attribute: Mapping[str, Any]) -> tuple[int, bytes]:
    """An attribute's transport type (1: text, 2: binary) and its value."""
    if attribute.get("BinaryValue") is not None:
        return 2, base64.b64decode(attribute["BinaryValue"])
    return 1, (attribute.get("StringValue") or "").encode("utf-8", "surrogatepass")
