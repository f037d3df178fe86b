"""The pointer of the Amazon SQS Extended Client Library."""

from __future__ import annotations

import json

import pytest

from balog_celery.payloads import POINTER_BYTES, Pointer, is_pointer, key_of, read_pointer, write_pointer
from balog_celery.queues import MAX_MESSAGE_BYTES, OutgoingMessage, size_in_batch

#: As amazon-sqs-python-extended-client-lib 1.0 and the Java library write it; the third is what Java wrote before.
WRITTEN = [
    '["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "b", "s3Key": "k"}]',
    '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"b","s3Key":"k"}]',
    '["com.amazon.sqs.javamessaging.MessageS3Pointer",{"s3BucketName":"b","s3Key":"k"}]',
]


@pytest.mark.parametrize("body", WRITTEN)
def test_a_pointer_is_read(body: str) -> None:
    """In Python's spelling and in Java's."""
    assert is_pointer(body)
    assert read_pointer(body) == ("b", "k")


def test_a_pointer_is_written_as_the_python_library_does() -> None:
    """To the letter; there is room for it in a batch."""
    assert write_pointer(Pointer("b", "k")) == WRITTEN[0]
    longest = OutgoingMessage(
        write_pointer(Pointer("b" * 63, key_of(b"x", "q"))), {"ExtendedPayloadSize": "5000000000000"}
    )
    assert longest.size() <= POINTER_BYTES
    assert size_in_batch(MAX_MESSAGE_BYTES) == MAX_MESSAGE_BYTES
    assert size_in_batch(MAX_MESSAGE_BYTES + 1) == POINTER_BYTES


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "",
        WRITTEN[0][:-1],
        WRITTEN[0].replace('"k"', "3"),
        WRITTEN[0].replace("s3Key", "key"),
        WRITTEN[0].replace("{", "[{").replace("}", "}]"),
        json.dumps([*json.loads(WRITTEN[0]), 3]),
        '["software.amazon.payloadoffloading.PayloadS3Pointer", ' + "[" * 100_000,
    ],
)
def test_what_is_no_pointer_is_a_body(body: str) -> None:
    """It is left as it is."""
    assert read_pointer(body) is None


def test_a_key_is_of_the_payload_and_its_queue() -> None:
    """Sent again it is put where it was; another queue's readers may delete their object."""
    assert key_of(b"x", "q") == key_of(b"x", "q")
    assert len({key_of(b"x", "q"), key_of(b"y", "q"), key_of(b"x", "p")}) == 3
