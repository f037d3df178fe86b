"""Amazon SQS, and S3 for bodies beyond its limit. The calls that are made all the time are ``direct.py``'s.

Rules kept here, from the SQS API reference: at most 10 entries in a batch, their ids unique in it (ours are positions);
a batch call answers 200 with ``Failed[]``; a message, and all of a send batch together, is at most 1 MiB; visibility
counts from the call, and at most 12 hours from the receive.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .direct import DirectCalls, direct_calls
from .errors import AccessDenied, QueueError, QueueNotFound
from .payloads import POINTER_BYTES, SIZE_ATTRIBUTE, Pointer, is_pointer, key_of, read_pointer, write_pointer
from .text import printable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

logger = logging.getLogger(__name__)

#: The most entries that one receive, delete, change or send call takes.
BATCH_SIZE = 10
#: The group of a message to a FIFO queue of which nobody said another.
DEFAULT_GROUP = "balog"
#: The largest message, and the largest sum of one send batch, in bytes.
MAX_MESSAGE_BYTES = 1_048_576
#: The largest body that is read unless a setting says otherwise, in bytes: one that is larger than a message is in S3.
#: Tasks carry it, and a broker has limits too: RabbitMQ's is 16 MiB, for text that is escaped twice by then.
MAX_BODY_BYTES = 4_194_304
#: The longest a message can stay invisible after its receive, in seconds.
MAX_VISIBILITY = 43_200

_MISSING = {"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "QueueDeletedRecently"}
#: The credentials are good, but do not allow it.
_FORBIDDEN = {"AccessDenied", "AccessDeniedException", "NotAuthorized"}
_DENIED = _FORBIDDEN | {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "MissingAuthenticationToken",
    "OptInRequired",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
    "CredentialRetrievalError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
#: Codes of calls that cannot even be made as things are set: no repetition helps.
MISCONFIGURED = frozenset({"ConfigNotFound", "ConfigParseError", "NoRegionError", "ProfileNotFound", "ValueError"})
#: Codes of a whole send that no repetition can help, as one of its messages is at fault.
_BAD_MESSAGE = {
    "BatchRequestTooLong",
    "InvalidMessageContents",
    "InvalidParameterValue",
    "MessageTooLong",
    "MissingParameter",
    "ParamValidationError",
}
_NONE: Mapping[str, str] = MappingProxyType({})
_TOO_LARGE = {"BatchRequestTooLong", "MessageTooLong"}
_AWS_URL = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/")


class Message(NamedTuple):
    """What the queue handed over, before anything of it was read.

    :param body: the text that was sent.
    :param handle: the receipt handle: what deletes, extends or returns this one receive.
    :param message_id: the queue's name for the message; the same on every receive.
    :param received: ``time.monotonic()`` of the receive: where its lease counts from.
    :param receive_count: how often the message was received, this time included.
    :param first_received: when it was received first, in milliseconds of Unix time; 0 if the queue does not say.
    :param problem: why the body that it points to can never be had; *body* is the pointer then.
    :param sent: when it was sent, in milliseconds of Unix time; 0 if the queue does not say.
    :param attributes: its message attributes that are texts; of SQS those that were asked for.
    :param group: the group in which a FIFO queue keeps it in order; "" of any other queue.
    """

    body: str
    handle: str
    message_id: str
    received: float
    receive_count: int = 1
    first_received: int = 0
    problem: str = ""
    sent: int = 0
    attributes: Mapping[str, str] = _NONE
    group: str = ""


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to send: its body, and its message attributes (text values that are not empty).

    :param group: its message group, for a FIFO queue.
    :param deduplication_id: what makes it the same as another, for a FIFO queue; default: its body, so that SQS says
        yes to a second one within five minutes and drops it.
    """

    body: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    group: str = field(default=DEFAULT_GROUP, compare=False)
    deduplication_id: str = field(default="", compare=False)

    def size(self) -> int:
        """Its size as SQS counts it, in bytes: body, names, types and values of the attributes."""
        return len(self.body.encode("utf-8", "surrogatepass")) + sum(
            len(name.encode()) + len("String") + len(value.encode()) for name, value in self.attributes.items()
        )


def size_in_batch(size: int) -> int:
    """What a message of *size* bytes takes of a batch's 1 MiB: one that is larger travels as a pointer into S3."""
    return size if size <= MAX_MESSAGE_BYTES else POINTER_BYTES


@dataclass(frozen=True, slots=True)
class EntryFailure:
    """One entry of a batch that SQS did not carry out.

    :param index: the entry's position in what was asked.
    :param code: the service's code, such as ``"ReceiptHandleIsInvalid"`` or ``"InternalError"``.
    :param message: the service's words.
    :param sender_fault: True where trying again cannot help.
    """

    index: int
    code: str
    message: str
    sender_fault: bool


class Access(NamedTuple):
    """Where SQS is for a queue, and where the credentials are from: no secret."""

    region: str
    endpoint_url: str
    credentials: str


class Queue(Protocol):
    """What an engine needs of a queue; :class:`SQSQueue` is the one that the package ships."""

    @property
    def name(self) -> str: ...

    @property
    def is_fifo(self) -> bool: ...

    def receive(self, limit: int, wait: float) -> list[Message]: ...

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]: ...

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]: ...

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]: ...

    def attributes(self) -> Mapping[str, str]: ...

    def exists(self) -> bool: ...

    def create(self) -> None: ...


class ReadableQueue(Queue, Protocol):
    """What it takes to look at the messages of a queue."""

    def read(self, limit: int, wait: float, visibility: int) -> list[Message]: ...


class SQSQueue:
    """One Amazon SQS queue.

    It may be shared by threads. It makes its boto3 client at the first call, and another one in a forked child.

    :param topic: the queue's name, or its URL.
    :param region: its AWS region; default: that of its URL, else boto3's own chain.
    :param endpoint_url: where SQS is; default: ``AWS_ENDPOINT_URL_SQS``, ``AWS_ENDPOINT_URL``, else AWS.
    :param aws_access_key_id: with *aws_secret_access_key* (and *aws_session_token*), credentials; default: boto3's own
        chain, which also renews them.
    :param visibility_timeout: seconds for which a received message stays invisible; default: the queue's own setting.
    :param payload_buckets: the S3 buckets from which bodies are read that messages point to; a larger body than SQS
        takes is put into the first. Objects are never deleted, as the Extended Client Library does not by default: a
        lifecycle rule of the bucket is for that.
    :param s3_endpoint_url: where S3 is; default: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, else AWS.
    :param max_body_bytes: the largest body that is read from S3.
    :param message_attributes: the names of the message attributes to receive with each message.
    """

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
        message_attributes: Sequence[str] = (),
    ) -> None:
        is_url = topic.startswith(("https://", "http://"))
        self.name = topic.rstrip("/").rpartition("/")[2] if is_url else topic
        self._url: str | None = topic if is_url else None
        self._given_url = is_url
        self._visibility_timeout = visibility_timeout
        self._message_attributes = message_attributes
        if is_url and region is None and (match := _AWS_URL.match(topic)):
            region = match.group(1)
        credentials = (aws_access_key_id, aws_secret_access_key, aws_session_token)
        self._connection = ("sqs", region, endpoint_url, *credentials)
        self._payload_buckets = tuple(payload_buckets)
        self._s3_connection = ("s3", region, s3_endpoint_url, *credentials)
        self._max_body_bytes = max_body_bytes

    def __repr__(self) -> str:
        return f"<SQSQueue {self.name}>"

    @property
    def url(self) -> str:
        """The queue's URL, asked for once.

        :raises QueueNotFound: there is no such queue.
        :raises AccessDenied: the credentials do not allow ``sqs:GetQueueUrl``.
        :raises QueueError: SQS could not be asked.
        """
        if self._url is None:
            with self._translated("GetQueueUrl"):
                self._url = self._client.get_queue_url(QueueName=self.name)["QueueUrl"]
        return self._url

    def receive(self, limit: int, wait: float) -> list[Message]:
        """Receive up to *limit* messages (at most 10), waiting up to *wait* seconds (at most 20) for the first.

        A body that is in S3 is read from there. Where that fails now its message is left out, to come again.

        :raises QueueError: as :attr:`url`; the permission is ``sqs:ReceiveMessage``. Or of all messages that came none
            could be had from S3; the permission is ``s3:GetObject``.
        """
        asked: dict[str, Any] = {}
        if self._visibility_timeout is not None:
            asked["VisibilityTimeout"] = self._visibility_timeout
        if self._message_attributes:
            asked["MessageAttributeNames"] = self._message_attributes
        return self._receive(limit, wait, asked)

    def read(self, limit: int, wait: float, visibility: int) -> list[Message]:
        """As :meth:`receive`, invisible for *visibility* seconds, and with all that is known of each message."""
        return self._receive(limit, wait, {"VisibilityTimeout": visibility, "MessageAttributeNames": ["All"]})

    def _receive(self, limit: int, wait: float, asked: dict[str, Any]) -> list[Message]:
        url = self.url
        before = time.monotonic()
        with self._translated("ReceiveMessage"):
            answer = self._call(
                "ReceiveMessage",
                QueueUrl=url,
                MaxNumberOfMessages=min(limit, BATCH_SIZE),
                WaitTimeSeconds=int(wait),
                MessageSystemAttributeNames=_FIFO_ATTRIBUTES if self.is_fifo else _SYSTEM_ATTRIBUTES,
                **asked,
            )
        # The lease began when SQS took the message, somewhere in a poll of up to 20 s; the answer follows at once.
        received = max(before, time.monotonic() - _ANSWER_MARGIN)
        messages = [_message(raw, received) for raw in answer.get("Messages", ())]
        return self._with_payloads(messages) if any(is_pointer(message.body) for message in messages) else messages

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        """Delete up to 10 messages by their receipt handles; return those that SQS did not delete.

        :raises QueueError: as :attr:`url`; the permission is ``sqs:DeleteMessage``.
        """
        entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(handles)]
        url = self.url
        with self._translated("DeleteMessage"):
            return _failures(self._call("DeleteMessageBatch", QueueUrl=url, Entries=entries))

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        """Keep up to 10 messages invisible for *seconds* from now (0 returns them at once); return the failures.

        :raises QueueError: as :attr:`url`; the permission is ``sqs:ChangeMessageVisibility``.
        """
        entries = [
            {"Id": str(index), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for index, handle in enumerate(handles)
        ]
        url = self.url
        with self._translated("ChangeMessageVisibility"):
            return _failures(self._call("ChangeMessageVisibilityBatch", QueueUrl=url, Entries=entries))

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        """Send up to 10 messages, 1 MiB together; return those that SQS did not take.

        With a payload bucket, a message larger than 1 MiB is put there, and counts :data:`POINTER_BYTES` here.

        :raises QueueError: as :attr:`url`; the permissions are ``sqs:SendMessage`` and ``s3:PutObject``.
        """
        if self._payload_buckets:
            messages = [self._offloaded(message) for message in messages]
        entries = [_entry(index, message, fifo=self.is_fifo) for index, message in enumerate(messages)]
        url = self.url
        with self._translated("SendMessage"):
            return _failures(self._call("SendMessageBatch", QueueUrl=url, Entries=entries))

    def attributes(self) -> Mapping[str, str]:
        """The queue's attributes, all of them, by SQS's names.

        :raises QueueError: as :attr:`url`; the permission is ``sqs:GetQueueAttributes``.
        """
        url = self.url
        with self._translated("GetQueueAttributes"):
            answer: Any = self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
            return dict(answer["Attributes"])

    def oldest(self) -> int | None:
        """How long its oldest message has waited, in seconds, as CloudWatch last heard; None if that cannot tell.

        SQS itself does not tell; CloudWatch hears of it about once a minute, and only of queues in use. It is asked
        where SQS is AWS's, or where ``AWS_ENDPOINT_URL_CLOUDWATCH`` or ``AWS_ENDPOINT_URL`` says where it is. It takes
        the permission ``cloudwatch:GetMetricStatistics``; without that this is None.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        elsewhere = os.environ.get("AWS_ENDPOINT_URL_CLOUDWATCH") or os.environ.get("AWS_ENDPOINT_URL")
        if not elsewhere and ".amazonaws.com" not in self._client.meta.endpoint_url:
            return None
        _service, _region, _endpoint_url, *credentials = self._connection
        now = datetime.now(timezone.utc)
        try:
            cloudwatch = _clients.get("cloudwatch", self._client.meta.region_name, None, *credentials)[0]
            answer = cloudwatch.get_metric_statistics(
                Namespace="AWS/SQS",
                MetricName="ApproximateAgeOfOldestMessage",
                Dimensions=[{"Name": "QueueName", "Value": self.name}],
                StartTime=now - timedelta(minutes=10),
                EndTime=now,
                Period=60,
                Statistics=["Maximum"],
            )
        except (BotoCoreError, ClientError) as error:
            logger.debug("CloudWatch was not asked for the age of %s: %s", printable(self.name), printable(error, 500))
            return None
        last = max(answer["Datapoints"], key=lambda point: point["Timestamp"], default=None)
        return None if last is None else int(last["Maximum"])

    def exists(self) -> bool:
        """Whether there is such a queue.

        :raises QueueError: as :attr:`url`, but for a queue that is missing.
        """
        try:
            return bool(self.url)
        except QueueNotFound:
            return False

    def create(self) -> None:
        """Create the queue with SQS's own defaults, and its payload buckets; an existing one stays as it is.

        :raises QueueError: as :attr:`url`; the permissions are ``sqs:CreateQueue`` and ``s3:CreateBucket``.
        """
        for bucket in self._payload_buckets:
            self._create_bucket(bucket)
        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if self.is_fifo else {}
        with self._translated("CreateQueue"):
            self._url = self._client.create_queue(QueueName=self.name, Attributes=attributes)["QueueUrl"]  # type: ignore[arg-type]

    def access(self) -> Access:
        """Where the queue is looked for, and with whose credentials; nothing is asked of SQS.

        :raises AccessDenied: there are no credentials.
        :raises QueueError: there is no region.
        """
        import boto3

        with self._translated("GetQueueUrl"):
            meta = self._client.meta
            found = None if self._connection[3] else boto3.session.Session().get_credentials()
        if not self._connection[3] and found is None:
            raise AccessDenied(
                "there are no AWS credentials: give boto3 some (environment, shared file, role), or set "
                "balog_aws_access_key_id and balog_aws_secret_access_key",
                "NoCredentialsError",
            )
        return Access(meta.region_name, meta.endpoint_url, found.method if found else "the settings")

    def refused(self) -> list[str]:
        """The permissions that a worker needs on the queue and does not have, as far as asking takes no message.

        Deletes and changes of visibility are tried with a receipt handle that no message has. ``sqs:ReceiveMessage``
        and ``sqs:SendMessage`` cannot be tried without receiving and sending.

        :raises QueueError: as :attr:`url`, and where a call fails for another reason.
        """
        refused = []
        trials: dict[str, Callable[[], object]] = {
            "sqs:GetQueueAttributes": self.attributes,
            "sqs:DeleteMessage": lambda: self.delete([_NO_HANDLE]),
            "sqs:ChangeMessageVisibility": lambda: self.change_visibility([_NO_HANDLE], 0),
        }
        for permission, trial in trials.items():
            try:
                trial()
            except AccessDenied as error:
                if error.code not in _FORBIDDEN:
                    raise  # not this permission, but the credentials themselves
                refused.append(permission)
        return refused

    def has_bucket(self, bucket: str) -> bool:
        """Whether there is an S3 bucket of that name.

        :raises AccessDenied: the credentials may not ask (``s3:ListBucket``).
        :raises QueueError: S3 could not be asked.
        """
        try:
            with self._s3_translated("ListBucket", bucket):
                self._s3.head_bucket(Bucket=bucket)
        except QueueError as error:
            if error.code != "404":  # all that the answer to a HEAD can say
                raise
            return False
        return True

    @property
    def is_fifo(self) -> bool:
        """True for a FIFO queue: only the suffix ``.fifo`` says so."""
        return self.name.endswith(".fifo")

    @property
    def _client(self) -> SQSClient:
        return self._clients()[0]

    def _clients(self) -> tuple[SQSClient, DirectCalls | None]:
        return _clients.get(*self._connection)

    @property
    def _s3(self) -> S3Client:
        client: S3Client = _clients.get(*self._s3_connection)[0]
        return client

    def _with_payloads(self, messages: Sequence[Message]) -> list[Message]:
        """*messages*, with the bodies that are in S3, and without those that cannot be read from there now."""
        # All at the same time, for their leases run.
        with ThreadPoolExecutor(BATCH_SIZE) as pool:
            results = list(pool.map(self._with_payload, messages))
        errors = [result for result in results if isinstance(result, QueueError)]
        if len(errors) == len(messages):
            raise errors[0]
        for error in errors:
            logger.warning(
                "a message of %s comes again, for its body cannot be read now: %s", printable(self.name), error
            )
        return [result for result in results if isinstance(result, Message)]

    def _with_payload(self, message: Message) -> Message | QueueError:
        """*message* with its body, or with the reason why that can never be had, or why it cannot be had now."""
        pointer = read_pointer(message.body)
        if pointer is None:
            return message
        place = f"its body, {printable(pointer.key, 100)} in the S3 bucket {printable(pointer.bucket, 100)},"
        if pointer.bucket not in self._payload_buckets:
            return message._replace(problem=f"{place} is not read: balog_payload_bucket does not name that bucket")
        try:
            with self._s3_translated("GetObject", pointer.bucket):
                answer = self._s3.get_object(Bucket=pointer.bucket, Key=pointer.key)
                if answer["ContentLength"] > self._max_body_bytes:
                    answer["Body"].close()
                    return message._replace(
                        problem=f"{place} is larger than {self._max_body_bytes} bytes (balog_max_body_bytes)"
                    )
                return message._replace(body=answer["Body"].read().decode())
        except QueueError as error:
            return message._replace(problem=f"{place} is gone") if error.code == "NoSuchKey" else error
        except UnicodeDecodeError:
            return message._replace(problem=f"{place} is not UTF-8")

    def _offloaded(self, message: OutgoingMessage) -> OutgoingMessage:
        """*message*, or one with a pointer to its body in S3 if it is too large for SQS."""
        if message.size() <= MAX_MESSAGE_BYTES:
            return message
        payload = message.body.encode("utf-8", "replace")
        pointer = Pointer(self._payload_buckets[0], key_of(payload, self.name))
        with self._s3_translated("PutObject", pointer.bucket):
            self._s3.put_object(Bucket=pointer.bucket, Key=pointer.key, Body=payload)
        attributes = {**message.attributes, SIZE_ATTRIBUTE: str(len(payload))}
        return replace(message, body=write_pointer(pointer), attributes=attributes)

    def _create_bucket(self, bucket: str) -> None:
        region = self._s3.meta.region_name
        # S3 wants to be told any region but its first.
        where: Any = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            with self._s3_translated("CreateBucket", bucket):
                self._s3.create_bucket(Bucket=bucket, **where)
        except QueueError as error:
            if error.code != "BucketAlreadyOwnedByYou":
                raise

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make one of the calls that are made all the time: directly, or else through the client."""
        client, direct = self._clients()
        answer = direct.call(operation, parameters) if direct is not None else None
        if answer is not None:
            return answer
        from botocore import xform_name

        answered: dict[str, Any] = getattr(client, xform_name(operation))(**parameters)
        return answered

    @contextmanager
    def _translated(self, permission: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self._error(*_said(error), permission) from error

    @contextmanager
    def _s3_translated(self, permission: str, bucket: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError) as error:
            code, text, status = _said(error)
            denied = code in _DENIED or status == 403
            if denied:
                _clients.drop(self._s3_connection)
            problem = f"s3:{permission} on bucket {printable(bucket, 100)!r} failed ({code}: {printable(text)})"
            raise (AccessDenied if denied else QueueError)(problem, code) from error

    def _error(self, code: str, text: str, status: int | None, permission: str) -> QueueError:
        name, text = printable(self.name), printable(text)
        if code in _MISSING:
            if not self._given_url:
                self._url = None  # deleted and made anew, it may have another URL
            return QueueNotFound(
                f"there is no queue {name!r} in this account and region, or the credentials may not see it: "
                f"create it, or correct the topic, the region or the endpoint ({code})",
                code,
            )
        if code in _DENIED or status == 403:
            # The next call makes a new client, whose credentials boto3's chain looks up anew.
            _clients.drop(self._connection)
            return AccessDenied(
                f"access to queue {name!r} was refused for sqs:{permission}: check the credentials, and that their "
                f"policy allows sqs:{permission} on it ({code}: {text})",
                code,
            )
        return QueueError(f"sqs:{permission} on queue {name!r} failed ({code}: {text})", code)


#: A receipt handle of no message.
_NO_HANDLE = "none"
_SYSTEM_ATTRIBUTES = ["ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SentTimestamp"]
_FIFO_ATTRIBUTES = [*_SYSTEM_ATTRIBUTES, "MessageGroupId"]
#: A received message's lease counts from this many seconds before its answer was read.
_ANSWER_MARGIN = 1.0


def _said(error: Exception) -> tuple[str, str, int | None]:
    """What an error of boto3 says: the service's code or the exception's name, the text, and the HTTP status."""
    response: Any = getattr(error, "response", None)
    if not isinstance(response, Mapping):
        return type(error).__name__, str(error), None
    said = response.get("Error", {})
    return (
        str(said.get("Code", "")),
        str(said.get("Message", "")),
        response.get("ResponseMetadata", {}).get("HTTPStatusCode"),
    )


class _Clients:
    """One boto3 client for each service, set of credentials, endpoint and process, and the direct calls beside it.

    Clients are thread-safe, sessions are not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[tuple[Any, ...], tuple[Any, DirectCalls | None]] = {}
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # A forked child must not talk over its parent's connections, nor wait for a lock that nobody will release.
        self.__init__()  # type: ignore[misc]

    def drop(self, connection: tuple[str | None, ...]) -> None:
        self._clients.pop(connection, None)

    def get(self, *connection: Any) -> tuple[Any, DirectCalls | None]:
        client = self._clients.get(connection)
        if client is None:
            with self._lock:
                client = self._clients.get(connection)
                if client is None:
                    client = self._clients[connection] = _new_client(*connection)
        return client


def _new_client(
    service: str,
    region: str | None,
    endpoint_url: str | None,
    key_id: str | None,
    secret: str | None,
    token: str | None,
) -> tuple[Any, DirectCalls | None]:
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.credentials import Credentials
    from botocore.exceptions import NoRegionError

    config = Config(
        connect_timeout=5,
        # Longer than the longest poll of 20 s: a reply that nobody reads leaves its messages invisible.
        read_timeout=30,
        # The loops above back off by themselves; a few quick retries here hide a single fault from them.
        retries={"mode": "standard", "total_max_attempts": 3},
        # What is sent is made here, so that checking it once more, and working out at every call what this client calls
        # itself, only cost: a quarter of a call.
        parameter_validation=False,
        user_agent=f"balog_celery Boto3/{boto3.__version__} Botocore/{botocore.__version__}",
        # Pollers, ackers and senders share the client, a connection for each; botocore's default of 10 is soon full.
        max_pool_connections=100,
    )
    core = botocore.session.Session()
    try:
        client: Any = boto3.session.Session(botocore_session=core).client(
            service,
            region_name=region,
            endpoint_url=endpoint_url,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=config,
        )
    except NoRegionError as error:
        raise QueueError(
            "no AWS region is known: set balog_region, AWS_DEFAULT_REGION or a region in ~/.aws/config", "NoRegionError"
        ) from error
    except ValueError as error:  # botocore's own word for an endpoint that is no URL
        raise QueueError(f"the {service.upper()} client cannot be made: {printable(error)}", "ValueError") from error
    if service != "sqs":
        return client, None
    credentials = Credentials(key_id, secret, token) if key_id and secret else core.get_credentials()
    return client, direct_calls(client, credentials, core.get_config_variable("ca_bundle"))


_clients = _Clients()


def _message(raw: Mapping[str, Any], received: float) -> Message:
    system, given = raw.get("Attributes", _NONE), raw.get("MessageAttributes")
    # By position, as it is done for every message, and names take half as long again.
    return Message(
        raw["Body"],
        raw["ReceiptHandle"],
        raw["MessageId"],
        received,
        int(system.get("ApproximateReceiveCount", 1)),
        int(system.get("ApproximateFirstReceiveTimestamp", 0)),
        "",
        int(system.get("SentTimestamp", 0)),
        {name: value["StringValue"] for name, value in given.items() if "StringValue" in value} if given else _NONE,
        system.get("MessageGroupId", ""),
    )


def _entry(index: int, message: OutgoingMessage, *, fifo: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"Id": str(index), "MessageBody": message.body}
    if message.attributes:
        entry["MessageAttributes"] = {
            name: {"DataType": "Number" if name == SIZE_ATTRIBUTE else "String", "StringValue": value}
            for name, value in message.attributes.items()
        }
    if fifo:
        entry["MessageGroupId"] = message.group
        # What the queue itself would take, if it was told to.
        entry["MessageDeduplicationId"] = (
            message.deduplication_id or hashlib.sha256(message.body.encode("utf-8", "replace")).hexdigest()
        )
    return entry


def _failures(answer: Mapping[str, Any]) -> list[EntryFailure]:
    return [
        EntryFailure(int(raw["Id"]), raw.get("Code", ""), raw.get("Message", ""), bool(raw.get("SenderFault")))
        for raw in answer.get("Failed", ())
    ]


def is_too_large_for_sqs(error: Exception) -> bool:
    """Whether *error*, of boto3, says that a message is larger than SQS takes."""
    code, text, _status = _said(error)
    # SQS has one code for most of what can be wrong with a call.
    return code.rpartition(".")[2] in _TOO_LARGE or (code == "InvalidParameterValue" and "shorter than" in text)


def is_bad_message(error: Exception) -> bool:
    """Whether *error*, of a send, is one that no repetition can help, as a message is at fault."""
    # SQS puts AWS.SimpleQueueService. before some of its codes.
    return isinstance(error, QueueError) and error.code.rpartition(".")[2] in _BAD_MESSAGE


def send_batches(messages: Iterable[OutgoingMessage]) -> Iterator[list[OutgoingMessage]]:
    """Group *messages* as :meth:`SQSQueue.send` takes them: up to 10, 1 MiB together."""
    batch: list[OutgoingMessage] = []
    size = 0
    for message in messages:
        taken = size_in_batch(message.size())
        if batch and (len(batch) == BATCH_SIZE or size + taken > MAX_MESSAGE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += taken
    if batch:
        yield batch


#: How to get the queue of a topic.
Connect = Callable[[str], Queue]
