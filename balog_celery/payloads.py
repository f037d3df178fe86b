"""Payloads in S3: the pointer that a message holds in their place, as the Amazon SQS Extended Client Library writes it.

    ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "bucket", "s3Key": "key"}]

The message attribute ``ExtendedPayloadSize`` holds the payload's size in bytes. It is written, for the library goes by
it, but not asked for: the pointer says it all, also in a message whose attributes were lost on the way.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

#: The message attribute that tells the library's clients of a pointer; a number.
SIZE_ATTRIBUTE = "ExtendedPayloadSize"
#: More than a message takes that holds a pointer, in bytes: a bucket's name has 63 at most, a key of ours 64.
POINTER_BYTES = 512

_POINTER = "software.amazon.payloadoffloading.PayloadS3Pointer"
_LEGACY_POINTER = "com.amazon.sqs.javamessaging.MessageS3Pointer"
_BEGINNINGS = (f'["{_POINTER}"', f'["{_LEGACY_POINTER}"')


class Pointer(NamedTuple):
    """Where in S3 a payload is."""

    bucket: str
    key: str


def is_pointer(body: str) -> bool:
    """Whether *body* looks like a pointer."""
    return body.startswith(_BEGINNINGS)


def read_pointer(body: str) -> Pointer | None:
    """The pointer that *body* is, or None."""
    if not is_pointer(body):
        return None
    try:
        _, place = json.loads(body)
        bucket, key = place["s3BucketName"], place["s3Key"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Pointer(bucket, key) if isinstance(bucket, str) and isinstance(key, str) else None


def write_pointer(pointer: Pointer) -> str:
    """The body of a message that holds *pointer*."""
    return json.dumps([_POINTER, {"s3BucketName": pointer.bucket, "s3Key": pointer.key}])


def key_of(payload: bytes, queue: str) -> str:
    """The key of a payload: the same for the same message, so that sending it again leaves nothing behind.

    :param queue: the queue's name: others must not share the object, for their readers may delete it.
    """
    return hashlib.sha256(queue.encode() + b"\0" + payload).hexdigest()
