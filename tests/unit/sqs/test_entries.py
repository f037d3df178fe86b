"""The entries of a send: each field of a message has its place in the request."""

from __future__ import annotations

import pytest

from balog_celery.sqs.entries import send_entry
from balog_celery.sqs.messages import OutgoingMessage


@pytest.mark.parametrize(
    ("field", "value", "fifo", "member", "given"),
    [
        ("body", "text", False, "MessageBody", "text"),
        ("attributes", {"a": "b"}, False, "MessageAttributes", {"a": {"DataType": "String", "StringValue": "b"}}),
        ("group", "g", True, "MessageGroupId", "g"),
        ("deduplication_id", "d", True, "MessageDeduplicationId", "d"),
        ("delay", 600, False, "DelaySeconds", 600),
        ("delay", 0, False, "DelaySeconds", 0),
    ],
)
def test_each_field_of_a_message_is_sent(field: str, value: object, fifo: bool, member: str, given: object) -> None:
    """The entry has each field of the message under SQS's name."""
    message = OutgoingMessage(**{"body": "", field: value})  # type: ignore[arg-type]
    assert send_entry(0, message, fifo=fifo)[member] == given


def test_no_field_is_forgotten() -> None:
    """A new field of a message needs a row in the test above."""
    (mark,) = [one for one in test_each_field_of_a_message_is_sent.pytestmark if one.name == "parametrize"]  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == set(OutgoingMessage._fields)


def test_a_message_without_a_delay_leaves_it_to_the_queue() -> None:
    """Without a delay the queue's own setting applies."""
    assert "DelaySeconds" not in send_entry(0, OutgoingMessage("text"), fifo=False)
