"""SQS's documented rules, checked on moto and on the scripted SQS through boto3.

Each rule has its source: the API reference ("API") or the developer guide ("guide"). Where moto does not keep a rule,
:data:`~sqs_accounts.MOTO_DIFFERS` says what it does instead.
"""

from __future__ import annotations

import hashlib
import json

import pytest
from sqs_accounts import Account, code_of

ATTRIBUTES = {
    "text": {"DataType": "String", "StringValue": "é"},
    "number": {"DataType": "Number.int", "StringValue": "1"},
    "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
}


def test_a_message_comes_back_as_it_was_sent(account: Account) -> None:
    """Body, attributes and their digests, which boto3 does not check, are those of the send (API, SendMessage)."""
    queue = account.queue()
    sent = queue.send("héllo 😀", MessageAttributes=ATTRIBUTES)
    (message,) = queue.receive(MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"])
    assert (message["Body"], message["MessageId"]) == ("héllo 😀", sent["MessageId"])
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"] == hashlib.md5("héllo 😀".encode()).hexdigest()
    assert message["MessageAttributes"] == ATTRIBUTES
    assert message["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


@pytest.mark.parametrize("member", ["AttributeNames", "MessageSystemAttributeNames"])
def test_system_attributes_come_if_asked_for_by_either_name(account: Account, member: str) -> None:
    """``AttributeNames`` is the former name, and still goes (API, ReceiveMessage)."""
    queue = account.queue()
    queue.send("a")
    (message,) = queue.receive(**{member: ["SentTimestamp"]})
    assert list(message["Attributes"]) == ["SentTimestamp"]


def test_a_received_message_is_invisible_until_it_is_released(account: Account) -> None:
    """A visibility of 0 makes it visible at once (API, ChangeMessageVisibility)."""
    queue = account.queue()
    queue.send("a")
    (message,) = queue.receive()
    assert queue.receive() == []
    queue.change(message, 0)
    assert queue.bodies(MessageSystemAttributeNames=["All"]) == ["a"]


def test_a_stale_handle_does_not_delete(account: Account) -> None:
    """A handle of an earlier receive is accepted but does not delete (API, DeleteMessage)."""
    queue = account.queue()
    queue.send("a")
    (first,) = queue.receive()
    queue.change(first, 0)
    (second,) = queue.receive()
    queue.delete(first)
    queue.change(second, 0)
    assert queue.bodies() == ["a"]


def test_a_second_delete_is_no_error(account: Account) -> None:
    """A delete may be repeated (API, DeleteMessage)."""
    queue = account.queue()
    queue.send("a")
    (message,) = queue.receive()
    queue.delete(message)
    queue.delete(message)
    assert queue.receive(VisibilityTimeout=0) == []


def test_the_latest_receive_reverts_to_the_visibility_of_the_queue(account: Account) -> None:
    """A changed visibility is of one receive only (API, ChangeMessageVisibility)."""
    queue = account.queue(VisibilityTimeout="60")
    queue.send("a")
    (message,) = queue.receive()
    queue.change(message, 1000)
    account.advance(999)
    assert queue.receive() == []
    account.advance(2)
    assert queue.bodies() == ["a"]
    account.advance(59)
    assert queue.receive() == []
    account.advance(2)
    assert queue.bodies() == ["a"]


def test_visibility_ends_twelve_hours_after_the_receive(account: Account) -> None:
    """Extending beyond twelve hours after the receive is an error without effect (API, ChangeMessageVisibility)."""
    queue = account.queue()
    queue.send("a")
    account.advance(50_000)
    (message,) = queue.receive(VisibilityTimeout=43_000)
    account.advance(42_000)
    assert code_of(lambda: queue.change(message, 1300)) == "InvalidParameterValue"
    queue.change(message, 1100)
    account.advance(1101)
    assert code_of(lambda: queue.change(message, 10)) == "MessageNotInflight"


def test_a_receive_with_no_visibility_leaves_the_message_visible(account: Account) -> None:
    """A receive with a visibility of 0 gives each message once, and leaves it visible (API, ReceiveMessage)."""
    queue = account.queue()
    queue.send("a")
    assert queue.bodies(VisibilityTimeout=0) == ["a"]
    assert queue.bodies() == ["a"]


def test_too_many_in_flight_is_an_error_of_a_standard_queue(account: Account) -> None:
    """``OverLimit`` (API, ChangeMessageVisibility and ReceiveMessage)."""
    queue = account.queue()
    account.script.store.queues[queue.name].in_flight_limit = 2
    for body in "abc":
        queue.send(body)
    first = queue.receive()
    assert len(first) == 2
    assert code_of(queue.receive) == "OverLimit"
    queue.delete(first[0])
    assert queue.bodies() == ["c"]


def test_a_message_received_too_often_is_moved(account: Account) -> None:
    """The receive after the last that the redrive policy allows gives it to the dead-letter queue (guide)."""
    dead = account.queue()
    policy = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 2})
    queue = account.queue(RedrivePolicy=policy)
    queue.send("a")
    for _ in range(2):
        (message,) = queue.receive()
        queue.change(message, 0)
    assert queue.receive() == []
    (message,) = dead.receive(MessageSystemAttributeNames=["All"])
    assert message["Attributes"]["ApproximateReceiveCount"] == "3"
    assert message["Attributes"]["DeadLetterQueueSourceArn"] == queue.arn


def test_dead_letters_move_back(account: Account) -> None:
    """A redrive moves dead letters back to their source queues, as new messages (guide, dead-letter queue redrive)."""
    dead = account.queue()
    queue = account.queue(RedrivePolicy=json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 1}))
    queue.send("a")
    queue.change(queue.receive()[0], 0)
    assert queue.receive() == []
    account.client.start_message_move_task(SourceArn=dead.arn)
    assert dead.receive() == []
    assert queue.bodies(VisibilityTimeout=0) == ["a"]


def test_a_move_task_keeps_to_its_rate_and_runs_alone(account: Account) -> None:
    """One task for each queue, at its rate; what was moved stays moved when it is cancelled (API)."""
    dead = account.queue()
    queue = account.queue(RedrivePolicy=json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 1}))
    for number in range(50):
        queue.send(str(number))
    for _ in range(11):
        for message in queue.receive(10):
            queue.change(message, 0)
    asked = {"SourceArn": dead.arn, "MaxNumberOfMessagesPerSecond": 1}
    handle = account.client.start_message_move_task(**asked)["TaskHandle"]
    assert code_of(lambda: account.client.start_message_move_task(**asked)) == "UnsupportedOperation"
    (task,) = account.client.list_message_move_tasks(SourceArn=dead.arn)["Results"]
    assert (task["Status"], task["TaskHandle"], task["ApproximateNumberOfMessagesToMove"]) == ("RUNNING", handle, 50)
    assert task["ApproximateNumberOfMessagesMoved"] < 50
    assert account.client.cancel_message_move_task(TaskHandle=handle)["ApproximateNumberOfMessagesMoved"] < 50
    (task,) = account.client.list_message_move_tasks(SourceArn=dead.arn)["Results"]
    assert task["Status"] == "CANCELLED"
    assert "TaskHandle" not in task


def test_only_what_a_redrive_policy_moved_has_a_way_back(account: Account) -> None:
    """Only redrive targets can be moved; a message that was sent there ends a task without a destination (guide)."""
    dead = account.queue()
    assert code_of(lambda: account.client.start_message_move_task(SourceArn=dead.arn)) == "InvalidParameterValue"
    queue = account.queue(RedrivePolicy=json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 1}))
    assert account.client.list_dead_letter_source_queues(QueueUrl=dead.url)["queueUrls"] == [queue.url]
    dead.send("a")
    account.client.start_message_move_task(SourceArn=dead.arn)
    (task,) = account.client.list_message_move_tasks(SourceArn=dead.arn)["Results"]
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
    assert dead.bodies() == ["a"]


def test_a_size_counts_attributes(account: Account) -> None:
    """Names, types and values (guide, quotas); ``MaximumMessageSize`` is of the queue."""
    queue = account.queue(MaximumMessageSize="1024")
    attributes = {"four": {"DataType": "String", "StringValue": "x" * 14}}  # 4 + 6 + 14
    queue.send("x" * 1000, MessageAttributes=attributes)
    assert code_of(lambda: queue.send("x" * 1001, MessageAttributes=attributes)) == "InvalidParameterValue"


@pytest.mark.parametrize("body", ["\x00", "\ufffe", "a\x1fb"])
def test_a_body_holds_only_characters_of_xml(account: Account, body: str) -> None:
    """A body with characters outside XML 1.0 is refused (API, SendMessage)."""
    assert code_of(lambda: account.queue().send(body)) == "InvalidMessageContents"


def test_entries_of_a_batch_fail_alone(account: Account) -> None:
    """The answer is 200 and names each entry (API, SendMessageBatch)."""
    queue = account.queue(MaximumMessageSize="1024")
    entries = [{"Id": "good", "MessageBody": "a"}, {"Id": "bad", "MessageBody": "x" * 2000}]
    answer = account.client.send_message_batch(QueueUrl=queue.url, Entries=entries)
    assert [one["Id"] for one in answer["Successful"]] == ["good"]
    assert [(one["Id"], one["SenderFault"]) for one in answer["Failed"]] == [("bad", True)]


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        ([], "EmptyBatchRequest"),
        ([str(number) for number in range(11)], "TooManyEntriesInBatchRequest"),
        (["a", "a"], "BatchEntryIdsNotDistinct"),
        (["a b"], "InvalidBatchEntryId"),
        (["x" * 81], "InvalidBatchEntryId"),
    ],
)
def test_a_malformed_batch_is_refused(account: Account, ids: list[str], code: str) -> None:
    """A malformed batch is refused as a whole (API, SendMessageBatch)."""
    queue = account.queue()
    entries = [{"Id": one, "MessageBody": "a"} for one in ids]
    assert code_of(lambda: account.client.send_message_batch(QueueUrl=queue.url, Entries=entries)) == code


def test_a_batch_is_at_most_one_mebibyte(account: Account) -> None:
    """A batch over 1 MiB in sum is refused (API, SendMessageBatch)."""
    queue = account.queue()
    entries = [{"Id": str(number), "MessageBody": "x" * 600_000} for number in range(2)]
    assert (
        code_of(lambda: account.client.send_message_batch(QueueUrl=queue.url, Entries=entries)) == "BatchRequestTooLong"
    )


def test_a_queue_that_does_not_exist_is_named_so(account: Account) -> None:
    """The error for a missing queue has the query-compatible code, which boto3 shows."""
    assert code_of(lambda: account.client.get_queue_url(QueueName="none")) in ("QueueDoesNotExist", "NonExistentQueue")


def test_a_permission_may_be_missing(account: Account) -> None:
    """A denied permission concerns one action on one queue; a batch needs the permission of the single action."""
    queue, other = account.queue(), account.queue()
    account.script.store.denied.add(("DeleteMessage", queue.name))
    queue.send("a")
    other.send("b")
    (message,) = queue.receive()
    assert code_of(lambda: queue.delete(message)).startswith("AccessDenied")
    entries = [{"Id": "0", "ReceiptHandle": message["ReceiptHandle"]}]
    refused = code_of(lambda: account.client.delete_message_batch(QueueUrl=queue.url, Entries=entries))
    assert refused.startswith("AccessDenied")
    other.delete(other.receive()[0])


def test_a_long_poll_ends_with_the_first_message(account: Account) -> None:
    """A long poll returns with the first message (API, ReceiveMessage)."""
    queue = account.queue()
    queue.send("a", DelaySeconds=1)
    assert queue.receive() == []
    assert queue.bodies(WaitTimeSeconds=20) == ["a"]
