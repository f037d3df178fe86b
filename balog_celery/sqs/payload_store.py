"""The S3 buckets that hold the bodies of messages beyond SQS's size limit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

from ..arguments import check_whole, is_blank, shown
from ..errors import ConfigurationError, QueueError
from ..events.limits import MAX_TRIES
from ..text import printable
from . import codes
from .answers import UnexpectedResponse
from .clients import clients
from .deadlines import Cancellation, within
from .endpoints import Connection
from .messages import BATCH_SIZE, MAX_BODY_BYTES, Message, OutgoingMessage, TypedValue
from .payloads import (
    SIZE_ATTRIBUTE,
    PayloadError,
    Pointer,
    about_object,
    check_key,
    is_pointer,
    key_of,
    read_pointer,
    replace_pointer,
    text_of,
    write_pointer,
)
from .translation import calling_s3, describe

logger = logging.getLogger(__name__)

#: The share of a message's visibility timeout in which its body must be read: it is not extended before. And how long
#: the reading may take if the timeout is not known, in seconds.
_READING_SHARE, _READING = 2 / 3, 20.0


class PayloadStore:
    """Reads the bodies that a queue's messages point to, and stores the bodies that are too large for SQS.

    Objects are never deleted, as the Extended Client Library does not delete them by default: use a lifecycle rule.

    :param queue: the queue's name.
    :param is_fifo: whether the queue keeps the order of its message groups.
    :param buckets: the buckets from which bodies are read; the first is the one that is written to.
    :param connection: how S3 is reached.
    :param max_body_bytes: the largest body that is read.
    """

    def __init__(
        self,
        queue: str,
        *,
        is_fifo: bool,
        buckets: Sequence[str],
        connection: Connection,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        if not isinstance(buckets, (list, tuple)) or not all(isinstance(bucket, str) for bucket in buckets):
            raise ConfigurationError(f"bad payload_buckets{shown(buckets)}: give a list of names of S3 buckets")
        check_whole("max_body_bytes", max_body_bytes, "a number of bytes, 1 or more", least=1)
        self._queue = queue
        self._is_fifo = is_fifo
        self._buckets = tuple(bucket for bucket in buckets if not is_blank(bucket))
        self._connection = connection
        self._max_body_bytes = max_body_bytes

    @property
    def writes(self) -> bool:
        """Whether there is a bucket to put bodies into."""
        return bool(self._buckets)

    def check(self) -> None:
        """Check that there can be a client of S3, if there is a bucket.

        :raises QueueError: the configuration does not allow it.
        """
        if self._buckets:
            clients.get(self._connection)

    def fetch(self, messages: list[Message], visibility: int | None, *, omit_failures: bool) -> list[Message]:
        """Return *messages* with the bodies that are in S3.

        A body that can never be read is the message's ``problem``.

        :param visibility: for how many seconds they stay invisible, if that is known.
        :param omit_failures: leave out a message whose body cannot be read now, and, on a FIFO queue, the messages
            behind it in its group. Otherwise the failure is its ``problem``.
        :raises QueueError: S3 cannot be reached or refuses access, and no message is left.
        """
        if not [message for message in messages if is_pointer(message.body)]:
            return messages
        # In parallel: their visibility timeouts are running.
        with ThreadPoolExecutor(BATCH_SIZE) as pool:
            timeout = visibility * _READING_SHARE if visibility else _READING
            fetch_one = partial(self._fetch_one, timeout=timeout, omit_failures=omit_failures)
            results = list(pool.map(fetch_one, messages))
        fetched: list[Message] = []
        failures: list[QueueError] = []
        blocked: set[str] = set()  # message groups
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, QueueError):
                failures.append(result)
                blocked.add(message.group)
            elif not self._is_fifo or message.group not in blocked:
                fetched.append(result)
        outages = [error for error in failures if not isinstance(error, PayloadError)]
        if outages and not fetched:
            raise outages[0]
        for error in failures:
            logger.warning(
                "a message of %s will be received again, because its body cannot be read now: %s",
                printable(self._queue),
                error,
            )
        return fetched

    def offload(self, message: OutgoingMessage) -> OutgoingMessage:
        """Put the body of *message* into the bucket, and return the message with a pointer to it.

        :raises QueueError: S3 did not take the body; the permission is ``s3:PutObject``.
        """
        payload = message.body.encode("utf-8", "replace")
        pointer = Pointer(self._buckets[0], key_of(payload, self._queue))
        with calling_s3(self._connection, pointer.bucket, "PutObject") as s3:
            if not s3.put_object(Bucket=pointer.bucket, Key=pointer.key, Body=payload).get("ETag"):
                raise UnexpectedResponse("it has no ETag")
        attributes = {**message.attributes, SIZE_ATTRIBUTE: TypedValue("Number", str(len(payload)))}
        return message._replace(body=write_pointer(pointer), attributes=attributes)

    def create_buckets(self) -> None:
        """Create the buckets that do not exist yet.

        :raises QueueError: S3 did not create one; the permission is ``s3:CreateBucket``.
        """
        for bucket in self._buckets:
            try:
                with calling_s3(self._connection, bucket, "CreateBucket") as s3:
                    region = s3.meta.region_name
                    # S3 refuses its first region as a location, and requires any other.
                    location: Any = {"CreateBucketConfiguration": {"LocationConstraint": region}}
                    s3.create_bucket(Bucket=bucket, **({} if region == "us-east-1" else location))
            except QueueError as error:
                if error.code != "BucketAlreadyOwnedByYou":
                    raise

    def has_bucket(self, bucket: str) -> bool:
        """Return whether there is an S3 bucket of that name.

        :raises AccessDenied: the credentials may not ask (``s3:ListBucket``).
        :raises QueueError: S3 could not be asked.
        """
        try:
            with calling_s3(self._connection, bucket, "ListBucket") as s3:
                s3.head_bucket(Bucket=bucket)
        except QueueError as error:
            if error.code != "404":  # all that the answer to a HEAD can say
                raise
            return False
        return True

    def _fetch_one(self, message: Message, timeout: float, *, omit_failures: bool) -> Message | QueueError:
        """Return *message* with its body or its problem, or the failure for which it is left out."""
        pointer = read_pointer(message.body)
        if pointer is None:
            return message
        place = f"its body, {printable(pointer.key, 100)} in the S3 bucket {printable(pointer.bucket, 100)},"
        if pointer.bucket not in self._buckets:
            return message._replace(problem=f"{place} is not read: balog_payload_bucket does not name that bucket")
        try:
            return message._replace(body=replace_pointer(message.body, self._read(pointer, timeout)))
        except PayloadError as error:
            if omit_failures and not error.final and message.receive_count < MAX_TRIES:
                return PayloadError(f"{place} {error}", error.code, final=False)
            return message._replace(problem=f"{place} {error}")
        except QueueError as error:
            return error if omit_failures else message._replace(problem=f"{place} cannot be read now: {error}")

    def _read(self, pointer: Pointer, timeout: float) -> str:
        """Return the text of the object at *pointer*.

        :raises PayloadError: it cannot be read, and this concerns this object alone.
        :raises QueueError: S3 cannot be reached, or refuses all requests.
        """
        check_key(pointer.key)
        try:
            with calling_s3(self._connection, pointer.bucket, "GetObject"):
                # boto3 bounds each read, but not all of them.
                payload = within(timeout, Cancellation(), "s3", partial(self._read_object, pointer))
        except QueueError as error:
            status = describe(error.__cause__)[2]
            of_object = None if codes.is_about_credentials(error.code) else about_object(error.code, status)
            raise (of_object or error) from error
        except OSError as error:
            raise QueueError(
                f"reading from the S3 bucket {printable(pointer.bucket, 100)} failed: {printable(error)}"
            ) from error
        except Exception as error:  # boto3 may raise anything for an answer that it cannot parse
            logger.warning("a body cannot be read from S3", exc_info=True)
            raise PayloadError(f"cannot be read ({type(error).__name__})", final=False) from error
        return text_of(payload, self._max_body_bytes)

    def _read_object(self, pointer: Pointer) -> bytearray:
        """Return the object's content, but at most one byte more than a body may have.

        S3 need not send its length. The last read, which returns nothing, has boto3 check that nothing was cut off.
        """
        limit = self._max_body_bytes + 1
        content = bytearray()
        s3 = clients.get(self._connection)
        with closing(s3.get_object(Bucket=pointer.bucket, Key=pointer.key)["Body"]) as body:
            while len(content) < limit and (chunk := body.read(limit - len(content))):
                content += chunk
        return content
