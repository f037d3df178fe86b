"""Payloads in S3: a message holds a pointer instead, in the form of the Amazon SQS Extended Client Library.

    ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "bucket", "s3Key": "key"}]

The message attribute ``ExtendedPayloadSize`` holds the payload's size in bytes. It is written, because the library
looks for it, but not read: the pointer is enough, also in a message that has lost its attributes.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

from ..errors import QueueError

#: The message attribute, a number, by which the library's clients recognise a pointer.
SIZE_ATTRIBUTE = "ExtendedPayloadSize"
#: The largest size of a message with a pointer, in bytes: a bucket's name has at most 63, our keys have 64.
POINTER_BYTES = 512

#: The longest key of S3, in bytes of UTF-8.
_LONGEST_KEY = 1024
#: S3's codes for an object that can never be read; the cause of other codes may be a missing permission.
_NEVER = {"InvalidObjectState", "InvalidURI", "KeyTooLong", "KeyTooLongError", "MethodNotAllowed", "NoSuchVersion"}
#: S3's codes, with a status of 4xx, that are not about the object.
_OF_OTHERS = {
    "AuthorizationHeaderMalformed",
    "InvalidToken",
    "KMS.ThrottlingException",
    "NoSuchBucket",
    "RequestTimeTooSkewed",
    "RequestTimeout",
}
#: Characters outside XML 1.0. SQS refuses them in a body, so it could not take the event as a dead letter.
_REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_POINTER = "software.amazon.payloadoffloading.PayloadS3Pointer"
_LEGACY_POINTER = "com.amazon.sqs.javamessaging.MessageS3Pointer"
#: How a pointer begins, however it is spaced.
_BEGINNING = re.compile(rf'\ufeff?\s*\[\s*"(?:{re.escape(_POINTER)}|{re.escape(_LEGACY_POINTER)})"')


class Pointer(NamedTuple):
    """The place of a payload in S3."""

    bucket: str
    key: str


class PayloadError(QueueError):
    """A payload cannot be read, for a reason that concerns this object alone.

    :param reason: the rest of a sentence about it, such as ``"is gone"``.
    :param final: whether it can never be read.
    """

    def __init__(self, reason: str, code: str = "", *, final: bool) -> None:
        self.final = final
        super().__init__(reason, code)


def check_key(key: str) -> None:
    """Check that *key* can be the key of an object: for an empty one, S3 would list the bucket.

    :raises PayloadError: it cannot.
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= _LONGEST_KEY:
        raise PayloadError(f"is not there: a key is a text of 1 to {_LONGEST_KEY} bytes", final=True)


def text_of(payload: bytes | bytearray, max_bytes: int) -> str:
    """Return the text of a payload.

    :raises PayloadError: it is not text, or cannot be the body of a message.
    """
    if len(payload) > max_bytes:
        raise PayloadError(f"is larger than {max_bytes} bytes (balog_max_body_bytes)", final=True)
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise PayloadError("is not UTF-8", final=True) from None
    if _REFUSED.search(text):
        raise PayloadError("has a character that SQS takes in no message", final=True)
    return text


def about_object(code: str, status: int | None) -> PayloadError | None:
    """Return the error of the object that S3's answer to a read reports; None if the answer is not about the object.

    :param code: S3's error code.
    :param status: the HTTP status.
    """
    if code == "NoSuchKey":
        return PayloadError("is gone", code, final=True)
    if status is None or not 400 <= status < 500 or status == 429 or code in _OF_OTHERS:
        return None
    return PayloadError(f"cannot be read ({code})", code, final=code in _NEVER)


def is_pointer(body: str) -> bool:
    """Return whether *body* looks like a pointer, or like an envelope of SNS that holds one."""
    if "S3Pointer" not in body:
        return False
    return _BEGINNING.match(body) is not None or _read_envelope(body) is not None


def read_pointer(body: str) -> Pointer | None:
    """Return the pointer that *body* is, or that the envelope of SNS in it holds; None if there is none."""
    envelope = _read_envelope(body)
    if envelope is not None:
        body = envelope["Message"]
    if not _BEGINNING.match(body):
        return None
    try:
        _, place = json.loads(body.removeprefix("\ufeff"))
        bucket, key = place["s3BucketName"], place["s3Key"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Pointer(bucket, key) if isinstance(bucket, str) and isinstance(key, str) else None


def replace_pointer(body: str, payload: str) -> str:
    """Return *body*, which :func:`read_pointer` read, with *payload* in the place of its pointer."""
    envelope = _read_envelope(body)
    return payload if envelope is None else json.dumps({**envelope, "Message": payload}, ensure_ascii=False)


def _read_envelope(body: str) -> dict[str, Any] | None:
    """Return the SNS envelope in *body* whose Message looks like a pointer, or None."""
    if "S3Pointer" not in body or not body.removeprefix("\ufeff").lstrip().startswith("{"):
        return None
    try:
        envelope = json.loads(body.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    message = envelope.get("Message") if "TopicArn" in envelope else None
    return envelope if isinstance(message, str) and _BEGINNING.match(message) else None


def write_pointer(pointer: Pointer) -> str:
    """Return the body of a message for *pointer*."""
    return json.dumps([_POINTER, {"s3BucketName": pointer.bucket, "s3Key": pointer.key}])


def key_of(payload: bytes, queue: str) -> str:
    """Return the key of a payload: the same for the same message, so that a repeated send stores nothing twice.

    :param queue: the queue's name. Queues must not share an object, because their readers may delete it.
    """
    return hashlib.sha256(queue.encode() + b"\0" + payload).hexdigest()
