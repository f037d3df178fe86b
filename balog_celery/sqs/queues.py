"""Amazon SQS queues."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..arguments import check_whole
from ..errors import AccessDenied, QueueNotFound
from ..text import printable
from .addresses import is_url, queue_address
from .answers import UnexpectedResponse, read_attributes, read_failures, read_message_ids, read_url
from .clients import SQS
from .endpoints import connections_of
from .entries import delete_entries, send_entry
from .messages import BATCH_SIZE, MAX_BODY_BYTES, MAX_MESSAGE_BYTES, EntryFailure, Message, OutgoingMessage
from .payload_store import PayloadStore
from .polls import Polls
from .queue_names import checked_topic
from .received import read_messages
from .started_delete import StartedDelete, start_delete
from .translation import calling_sqs

logger = logging.getLogger(__name__)

_SYSTEM_ATTRIBUTES = ["ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SentTimestamp"]
_FIFO_ATTRIBUTES = [*_SYSTEM_ATTRIBUTES, "MessageGroupId"]
#: The system attribute of a message that a redrive policy moved.
_MOVED = ["DeadLetterQueueSourceArn"]
#: No queue can be told to take less than this, in bytes.
_LEAST_LIMIT = 1024
#: The visibility timeout of a message counts from this many seconds before its answer began to arrive.
_ANSWER_MARGIN = 1.0


class SQSQueue:
    """One Amazon SQS queue.

    Threads may share it. It makes a boto3 client at the first call, anew in a forked child. An empty text is none.

    :param topic: the queue's name, or its URL.
    :param region: its AWS region; default: that of its URL, else boto3's own chain.
    :param endpoint_url: where SQS is; default: ``AWS_ENDPOINT_URL_SQS``, ``AWS_ENDPOINT_URL``, else AWS.
    :param aws_access_key_id: with *aws_secret_access_key* (and *aws_session_token*), credentials; default: boto3's own
        chain, which also renews them.
    :param visibility_timeout: seconds for which a received message stays invisible unless a receive asks for another
        time; default: the queue's own setting.
    :param payload_buckets: the S3 buckets from which bodies are read that messages point to; a body that is too large
        for SQS is put into the first.
    :param s3_endpoint_url: where S3 is; default: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, else AWS.
    :param max_body_bytes: the largest body that is read from S3.
    :param payload_threshold: larger messages are put into the payload bucket, as are those that the queue does not
        take; in bytes.
    """

    #: SQS gives a message the same id on every receive, and no other message that id.
    has_unique_ids = True

    def __init__(
        self,
        topic: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        visibility_timeout: int | None = None,
        payload_buckets: Sequence[str] = (),
        s3_endpoint_url: str | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        payload_threshold: int = MAX_MESSAGE_BYTES,
    ) -> None:
        check_whole("payload_threshold", payload_threshold, "a number of bytes, 1 or more", least=1)
        address = queue_address(topic := checked_topic(topic))
        self.name = address.name
        self._given_url = topic if is_url(topic) else None
        self._url = self._given_url
        self._account = address.account
        self._visibility_timeout = visibility_timeout
        self._payload_threshold = payload_threshold
        self._max_message_bytes: int | None = None
        credentials = (aws_access_key_id, aws_secret_access_key, aws_session_token)
        #: How SQS is reached.
        self.connection, to_s3 = connections_of(region, address.region, endpoint_url, s3_endpoint_url, credentials)
        #: Where bodies are that are too large for SQS.
        self.payloads = PayloadStore(
            self.name,
            is_fifo=self.is_fifo,
            buckets=payload_buckets,
            connection=to_s3,
            max_body_bytes=max_body_bytes,
        )
        self._polls = Polls(is_fifo=self.is_fifo)

    def __repr__(self) -> str:
        return f"<SQSQueue {self.name}>"

    @property
    def is_fifo(self) -> bool:
        """Whether this is a FIFO queue, as the suffix ``.fifo`` says."""
        return self.name.endswith(".fifo")

    @property
    def url(self) -> str:
        """The queue's URL, requested once.

        :raises QueueNotFound: there is no such queue.
        :raises AccessDenied: the credentials do not allow ``sqs:GetQueueUrl``.
        :raises QueueError: SQS could not be asked.
        """
        if self._url is None:
            self._url = self._find()
        return self._url

    def exists(self) -> bool:
        """Return whether there is such a queue.

        :raises AccessDenied: the credentials do not allow ``sqs:GetQueueUrl``.
        :raises QueueError: SQS could not be asked.
        """
        try:
            if self._given_url is not None:
                self._find()
            return bool(self.url)
        except QueueNotFound:
            return False

    def create(self, attributes: Mapping[str, str] | None = None) -> None:
        """Create the queue and its payload buckets. An existing queue with these attributes stays unchanged.

        :param attributes: default: SQS's own defaults.
        :raises QueueError: as for :attr:`url`; the permissions are ``sqs:CreateQueue`` and ``s3:CreateBucket``.
        """
        self.payloads.create_buckets()
        fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if self.is_fifo else {}
        asked = {"QueueName": self.name, "Attributes": {**fifo, **(attributes or {})}}
        with self._calling("CreateQueue") as sqs:
            self._url = read_url(sqs.call("CreateQueue", asked))

    def attributes(self) -> Mapping[str, str]:
        """Return all the queue's attributes, by SQS's names.

        :raises QueueError: as for :attr:`url`; the permission is ``sqs:GetQueueAttributes``.
        """
        url = self.url
        with self._calling("GetQueueAttributes") as sqs:
            return read_attributes(sqs.call("GetQueueAttributes", {"QueueUrl": url, "AttributeNames": ["All"]}))

    @property
    def max_message_bytes(self) -> int:
        """The largest message that the queue takes, in bytes, requested once; SQS's own limit if that is not allowed.

        :raises QueueError: as for :attr:`url`; the permission is ``sqs:GetQueueAttributes``.
        """
        if self._max_message_bytes is None:
            try:
                attributes = self.attributes()
            except AccessDenied:
                attributes = {}
            # Newer than some servers.
            self._max_message_bytes = int(attributes.get("MaximumMessageSize") or MAX_MESSAGE_BYTES)
        return self._max_message_bytes

    def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
        """Receive up to *limit* messages (at most 10), waiting up to *wait* seconds (at most 20) for the first.

        A body in S3 is read from there. A message whose body cannot be read now, or not while it surely stays
        invisible, is left out, to be received again, and so are, on a FIFO queue, the messages behind it in its group.

        :param visibility: seconds for which they stay invisible; default: see :class:`SQSQueue`.
        :raises QueueError: as for :attr:`url`; the permission is ``sqs:ReceiveMessage``. Or S3 has an outage, and no
            message is left; the permission is ``s3:GetObject``.
        """
        request: dict[str, Any] = {}
        if visibility is None:
            visibility = self._visibility_timeout
        if visibility is not None:
            request["VisibilityTimeout"] = visibility
        return self.payloads.fetch(self._receive(limit, wait, request), visibility, omit_failures=True)

    def stop_polling(self) -> None:
        """End the receives that wait for messages: they raise QueueError, as do later ones that would wait.

        What SQS was just about to send is invisible until its visibility timeout ends; on a FIFO queue the next
        receive without a wait returns it.
        """
        self._polls.stop()

    def read(self, limit: int, wait: float, visibility: int) -> list[Message]:
        """Receive messages of a dead-letter queue; a body that cannot be read now is a ``problem`` of its message.

        The arguments and errors are those of :meth:`receive`.
        """
        request = {"VisibilityTimeout": visibility}
        return self.payloads.fetch(self._receive(limit, wait, request, _MOVED), visibility, omit_failures=False)

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        """Delete up to 10 messages by their receipt handles; return those that SQS did not delete.

        :raises QueueError: as for :attr:`url`; the permission is ``sqs:DeleteMessage``.
        """
        return self._batch("DeleteMessage", delete_entries(handles))

    def start_delete(self, handles: Sequence[str]) -> StartedDelete | None:
        """Send the request of :meth:`delete`, whose answer is read later; None if it cannot be sent."""
        return None if self._url is None else start_delete(self.connection, self._url, handles)

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        """Keep up to 10 messages invisible for *seconds* from now (0 releases them); return the failures.

        :raises QueueError: as for :attr:`url`; the permission is ``sqs:ChangeMessageVisibility``.
        """
        entries = [{**entry, "VisibilityTimeout": seconds} for entry in delete_entries(handles)]
        return self._batch("ChangeMessageVisibility", entries)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        """Send up to 10 messages, 1 MiB together; return those that SQS did not take.

        With a payload bucket, the body of a message that is too large for the queue is put there.

        :raises QueueError: as for :attr:`url`; the permissions are ``sqs:SendMessage`` and ``s3:PutObject``.
        """
        return self.send_for_ids(messages)[0]

    def send_for_ids(self, messages: Sequence[OutgoingMessage]) -> tuple[list[EntryFailure], dict[int, str]]:
        """Send messages like :meth:`send`; return the failures, and the others' message ids by their positions."""
        messages = [self._fitting(message) for message in messages]
        entries = [send_entry(index, message, fifo=self.is_fifo) for index, message in enumerate(messages)]
        url = self.url
        with self._calling("SendMessage") as sqs:
            answer = sqs.call("SendMessageBatch", {"QueueUrl": url, "Entries": entries})
            failures = read_failures(answer, len(entries), [message.body for message in messages])
            return failures, read_message_ids(answer, {failure.index for failure in failures})

    def _fitting(self, message: OutgoingMessage) -> OutgoingMessage:
        """Return *message*, or the pointer to its body in S3 if it is too large for the queue or beyond the threshold.

        :raises QueueError: S3 did not take the body, or SQS cannot be asked.
        """
        size = message.size() if self.payloads.writes else 0
        if size > self._payload_threshold or (size > _LEAST_LIMIT and size > self.max_message_bytes):
            return self.payloads.offload(message)
        return message

    def _find(self) -> str:
        """Ask SQS for the queue's URL."""
        owner = {} if self._account is None else {"QueueOwnerAWSAccountId": self._account}
        with self._calling("GetQueueUrl") as sqs:
            return read_url(sqs.call("GetQueueUrl", {"QueueName": self.name, **owner}))

    def _receive(self, limit: int, wait: float, request: dict[str, Any], more: Sequence[str] = ()) -> list[Message]:
        """Receive messages with all their attributes, and with *more* system attributes than an engine needs."""
        url = self.url
        before = time.monotonic()
        request |= {
            "QueueUrl": url,
            "MaxNumberOfMessages": min(limit, BATCH_SIZE),
            "WaitTimeSeconds": int(wait),
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": [*(_FIFO_ATTRIBUTES if self.is_fifo else _SYSTEM_ATTRIBUTES), *more],
        }
        with self._calling("ReceiveMessage") as sqs:
            answer, began = self._polls.receive(sqs, request)
            raw_messages = answer.get("Messages", ())
            # The visibility timeout began when SQS took the message, somewhere in a poll of up to 20 s; the answer
            # follows at once, but may be large.
            received = max(before, began - _ANSWER_MARGIN)
            # TLS ensures by itself that bodies are as SQS sent them, and MD5s would take 2 to 15 % of the engine's CPU.
            compare = sqs.client.meta.endpoint_url.startswith("http:")
            messages = read_messages(raw_messages, received, compare=compare, in_order=self.is_fifo)
            if raw_messages and not messages:
                raise UnexpectedResponse("it holds no readable message")
        if len(messages) < len(raw_messages):
            logger.warning(
                "%d of %d messages of %s stay in the queue: body, receipt handle, id or attributes cannot be read, or "
                "the body does not match its MD5%s",
                len(raw_messages) - len(messages),
                len(raw_messages),
                printable(self.name),
                "; or this is so for an earlier message of their group" if self.is_fifo else "",
            )
        return messages

    def _batch(self, permission: str, entries: list[dict[str, Any]]) -> list[EntryFailure]:
        """Make the batch call that takes *permission*; return the entries that SQS does not report as successful."""
        url = self.url
        with self._calling(permission) as sqs:
            answer = sqs.call(f"{permission}Batch", {"QueueUrl": url, "Entries": entries})
            return read_failures(answer, len(entries))

    def _calling(self, permission: str) -> AbstractContextManager[SQS]:
        return calling_sqs(self.connection, self.name, permission, self._forget)

    def _forget(self) -> None:
        """Forget what may be another queue's: one that is deleted and created again may have another URL."""
        self._max_message_bytes, self._url = None, self._given_url
