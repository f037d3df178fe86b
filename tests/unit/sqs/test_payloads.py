"""The pointer of the Amazon SQS Extended Client Library."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, OutgoingMessage, size_in_batch
from balog_celery.sqs.payloads import (
    POINTER_BYTES,
    Pointer,
    is_pointer,
    key_of,
    read_pointer,
    replace_pointer,
    write_pointer,
)

#: As amazon-sqs-python-extended-client-lib 1.0 and the Java library write it; the third is what Java wrote before.
WRITTEN = [
    '["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": "b", "s3Key": "k"}]',
    '["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"b","s3Key":"k"}]',
    '["com.amazon.sqs.javamessaging.MessageS3Pointer",{"s3BucketName":"b","s3Key":"k"}]',
]
#: However it is spaced.
SPACED = [
    json.dumps(json.loads(WRITTEN[0]), indent=2),
    json.dumps(json.loads(WRITTEN[2]), indent="\t"),
    f" \r\n{WRITTEN[1]}\n",
    f"\ufeff{WRITTEN[0]}",
]


def envelope(message: str, **more: object) -> str:
    """Return an SNS notification."""
    return json.dumps({"Type": "Notification", "TopicArn": "arn", "MessageId": "m", "Message": message, **more})


@pytest.mark.parametrize("body", WRITTEN + SPACED)
@pytest.mark.parametrize("wrap", [str, envelope, lambda body: json.dumps(json.loads(envelope(body)), indent=1)])
def test_a_pointer_is_read(body: str, wrap: Callable[[str], str]) -> None:
    """A pointer is read in Python's and Java's spelling, pretty-printed, and in an SNS envelope."""
    assert is_pointer(wrap(body))
    assert read_pointer(wrap(body)) == ("b", "k")


@pytest.mark.parametrize("body", WRITTEN + SPACED)
def test_the_payload_takes_the_place_of_its_pointer(body: str) -> None:
    """The payload replaces the pointer, as the body or as the Message of an otherwise unchanged envelope."""
    assert replace_pointer(body, "the payload") == "the payload"
    found = json.loads(replace_pointer(envelope(body, Subject="s"), "the payload"))
    assert found == json.loads(envelope("the payload", Subject="s"))
    assert len(replace_pointer(envelope(body), "é" * 1000).encode()) < 2500  # the limits are the payload's


@pytest.mark.parametrize(
    "body",
    [envelope("S3Pointer"), json.dumps({"Message": WRITTEN[0]}), json.dumps([WRITTEN[0]]), "{S3Pointer", "[" * 9],
)
def test_what_only_mentions_a_pointer_is_none(body: str) -> None:
    """A body that only mentions a pointer is not one."""
    assert not is_pointer(body)


def test_a_pointer_is_written_as_the_python_library_does() -> None:
    """A pointer is written as by the Python library, and fits into the size that a batch reserves."""
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
    """A body that is not a pointer is not changed."""
    assert read_pointer(body) is None


def test_a_key_is_of_the_payload_and_its_queue() -> None:
    """A key depends on the payload and the queue, so a repeated send stores nothing twice."""
    assert key_of(b"x", "q") == key_of(b"x", "q")
    assert len({key_of(b"x", "q"), key_of(b"y", "q"), key_of(b"x", "p")}) == 3
