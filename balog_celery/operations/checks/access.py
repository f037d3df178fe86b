"""Checks of the AWS credentials and of the S3 buckets for large bodies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import AccessDenied, BalogError, QueueError
from ...sqs.codes import MISCONFIGURED
from ...sqs.diagnostics import access_of
from ...sqs.queues import SQSQueue
from ...text import plain_topic, printable
from .finding import Finding


def check_credentials(balog: Any, topic: str) -> Iterator[Finding]:
    """Report where the credentials of *topic* are from."""
    try:
        queue = balog.connect(topic)
        if not isinstance(queue, SQSQueue):
            yield Finding("OK", "credentials", "those of balog_event_broker_url: topics are not on SQS")
            return
        access = access_of(queue)
    except BalogError as error:
        yield Finding("FAIL", "credentials", str(error))
        return
    where = plain_topic(access.endpoint_url)
    slow = f"; calls take boto3's client: {access.slow_path}" if access.slow_path else ""
    text = f"from {access.credentials}; region {access.region}; SQS at {where}{slow}"
    yield Finding("OK", "credentials", printable(text, 500))


def check_buckets(balog: Any, topic: str) -> Iterator[Finding]:
    """Report whether the payload buckets exist, asked for with the credentials of *topic*."""
    names = balog.settings.payload_bucket
    if not names:
        return
    try:
        queue = balog.connect(topic)
    except BalogError as error:
        yield Finding("FAIL", "payload bucket", str(error))
        return
    if isinstance(queue, SQSQueue):
        yield from (_bucket(queue, bucket) for bucket in names)


def _bucket(queue: SQSQueue, bucket: str) -> Finding:
    about, name = "payload bucket", printable(bucket, 100)
    try:
        if not queue.payloads.has_bucket(bucket):
            return Finding("FAIL", about, f"there is no {name!r}: create it, or correct balog_payload_bucket")
    except AccessDenied:
        return Finding("WARN", about, f"access to {name} is denied: allow s3:ListBucket on it, or correct its name")
    except QueueError as error:
        return Finding("FAIL" if error.code in MISCONFIGURED else "WARN", about, str(error))
    return Finding("OK", about, f"{name} exists (reading and writing are not tried)")
