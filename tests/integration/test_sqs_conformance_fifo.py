"""SQS's documented rules for FIFO queues; see ``test_sqs_conformance.py``."""

from __future__ import annotations

from sqs_accounts import Account, code_of


def test_a_group_blocks_while_one_of_its_messages_is_in_flight(account: Account) -> None:
    """Other groups do not (API, ReceiveMessage)."""
    queue = account.queue(".fifo")
    queue.send_in("a", "a1", "a2", "a3")
    queue.send_in("b", "b1")
    first = queue.receive(2)
    assert [message["Body"] for message in first] == ["a1", "a2"]
    assert queue.bodies() == ["b1"]
    queue.delete(first[0])
    assert queue.bodies() == []
    queue.delete(first[1])
    assert queue.bodies() == ["a3"]


def test_a_released_message_of_a_group_comes_first(account: Account) -> None:
    """Order is kept (guide, FIFO delivery logic)."""
    queue = account.queue(".fifo")
    queue.send_in("a", "a1", "a2")
    (first,) = queue.receive(1)
    queue.change(first, 0)
    assert queue.bodies() == ["a1", "a2"]


def test_a_group_waits_for_its_expired_message(account: Account) -> None:
    """An expired message comes again before those behind it in its group."""
    queue = account.queue(".fifo")
    queue.send_in("a", "a1", "a2", "a3")
    first, second = queue.receive(2)
    queue.change(second, 100)
    account.advance(31)
    assert queue.bodies() == []
    account.advance(100)
    assert queue.bodies() == ["a1", "a2", "a3"]
    assert first["Body"] == "a1"


def test_an_expired_handle_of_a_fifo_message_is_refused(account: Account) -> None:
    """A delete with an expired handle is an error on FIFO queues only (API, ReceiveRequestAttemptId)."""
    fifo, standard = account.queue(".fifo"), account.queue()
    fifo.send_in("a", "a1")
    standard.send("b")
    (late,), (other,) = fifo.receive(), standard.receive()
    account.advance(31)
    assert code_of(lambda: fifo.delete(late)) == "InvalidParameterValue"
    assert fifo.bodies() == ["a1"]
    standard.delete(other)
    assert standard.bodies() == []


def test_a_duplicate_is_accepted_and_not_delivered(account: Account) -> None:
    """A duplicate by id, or by content if the queue asks for that, is accepted and not delivered (guide)."""
    queue = account.queue(".fifo", ContentBasedDeduplication="true")
    for _ in range(2):
        queue.send("same", MessageGroupId="a")
    assert queue.bodies() == ["same"]


def test_a_deduplication_id_counts_for_five_minutes(account: Account) -> None:
    """A deduplication id holds for five minutes from the first send, even if that message was deleted (guide)."""
    queue = account.queue(".fifo")
    queue.send("a", MessageGroupId="g", MessageDeduplicationId="1")
    (message,) = queue.receive()
    queue.delete(message)
    account.advance(299)
    queue.send("b", MessageGroupId="g", MessageDeduplicationId="1")
    assert queue.bodies() == []
    account.advance(2)
    queue.send("c", MessageGroupId="g", MessageDeduplicationId="1")
    assert queue.bodies() == ["c"]


def test_a_receive_attempt_may_be_repeated(account: Account) -> None:
    """The same messages and handles come, until one was changed or five minutes have passed (API)."""
    queue = account.queue(".fifo", VisibilityTimeout="100")
    queue.send_in("a", "a1", "a2")
    first = queue.receive(ReceiveRequestAttemptId="x")
    account.advance(99)
    again = queue.receive(ReceiveRequestAttemptId="x")
    assert [one["ReceiptHandle"] for one in again] == [one["ReceiptHandle"] for one in first]
    account.advance(99)  # the repeated receive began the visibility anew
    assert queue.bodies() == []
    queue.change(first[0], 50)
    assert queue.bodies(ReceiveRequestAttemptId="x") == []


def test_too_many_in_flight_is_no_error_of_a_fifo_queue(account: Account) -> None:
    """Over the in-flight limit a FIFO queue returns no messages and no error (API, ChangeMessageVisibility)."""
    queue = account.queue(".fifo")
    account.script.store.queues[queue.name].in_flight_limit = 1
    queue.send_in("a", "a1")
    queue.send_in("b", "b1")
    assert queue.bodies() == ["a1"]
    assert queue.bodies() == []


def test_a_fifo_queue_wants_a_group(account: Account) -> None:
    """``MessageGroupId`` is required of it (API, SendMessage)."""
    assert code_of(lambda: account.queue(".fifo").send("a", MessageDeduplicationId="1")) == "MissingParameter"
