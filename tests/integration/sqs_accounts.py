"""moto and the scripted SQS, as the tests of their conformance see them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from scripted_sqs.server import RunningSqs

#: What moto 5.2 does instead, by test: it must fail there.
MOTO_DIFFERS = {
    "test_a_stale_handle_does_not_delete": "moto takes any handle that a message ever had",
    "test_dead_letters_move_back": "moto does not know StartMessageMoveTask",
    "test_a_move_task_keeps_to_its_rate_and_runs_alone": "moto does not know StartMessageMoveTask",
    "test_only_what_a_redrive_policy_moved_has_a_way_back": "moto does not know StartMessageMoveTask",
    "test_a_message_received_too_often_is_moved": "moto gives no DeadLetterQueueSourceArn",
    "test_a_size_counts_attributes": "moto counts the body alone",
    "test_a_body_holds_only_characters_of_xml": "moto takes all characters",
    "test_entries_of_a_batch_fail_alone": "moto refuses the whole batch",
}


class Account:
    """An SQS, and its client. *scripted* is the scripted one, None of moto."""

    def __init__(self, client: Any, scripted: RunningSqs | None) -> None:
        self.client = client
        self.scripted = scripted

    def queue(self, suffix: str = "", **attributes: str) -> Queue:
        """Create a queue."""
        if suffix:
            attributes |= {"FifoQueue": "true"}
        name = f"q-{uuid.uuid4().hex[:12]}{suffix}"
        return Queue(self, name, self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    @property
    def script(self) -> RunningSqs:
        """The scripted SQS; the rest of the test goes without moto, which does nothing on demand."""
        if self.scripted is None:
            pytest.skip("moto's clock, limits and policies are not ours to set")
        return self.scripted

    def advance(self, seconds: float) -> None:
        """Move the server's clock on."""
        self.script.advance(seconds)


class Queue:
    """A queue of an account, with what the tests ask of it."""

    def __init__(self, account: Account, name: str, url: str) -> None:
        self._client = account.client
        self.name, self.url = name, url
        self.arn = f"arn:aws:sqs:us-east-1:{'000000000000' if account.scripted else '123456789012'}:{name}"

    def send(self, body: str, **more: Any) -> dict[str, Any]:
        return self._client.send_message(QueueUrl=self.url, MessageBody=body, **more)  # type: ignore[no-any-return]

    def send_in(self, group: str, *bodies: str) -> None:
        for body in bodies:
            self.send(body, MessageGroupId=group, MessageDeduplicationId=body)

    def receive(self, limit: int = 10, **more: Any) -> list[dict[str, Any]]:
        answer = self._client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=limit, **more)
        return answer.get("Messages", [])  # type: ignore[no-any-return]

    def bodies(self, limit: int = 10, **more: Any) -> list[str]:
        return [message["Body"] for message in self.receive(limit, **more)]

    def delete(self, message: dict[str, Any]) -> None:
        self._client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])

    def change(self, message: dict[str, Any], seconds: int) -> None:
        handle = message["ReceiptHandle"]
        self._client.change_message_visibility(QueueUrl=self.url, ReceiptHandle=handle, VisibilityTimeout=seconds)


def code_of(call: Callable[[], object]) -> str:
    """The code of the error that a call ends with, as the JSON protocol has it."""
    with pytest.raises(ClientError) as failure:
        call()
    return str(failure.value.response["Error"]["Code"]).rpartition(".")[2]
