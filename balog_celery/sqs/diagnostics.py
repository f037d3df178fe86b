"""Questions about a queue that the commands ask: where it is, which permissions are missing, how far it lags."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from ..errors import AccessDenied, QueueError
from ..text import printable
from . import codes
from .clients import clients
from .queues import SQSQueue
from .translation import calling_sqs, describe, without_secrets

logger = logging.getLogger(__name__)

#: A receipt handle that belongs to no message.
_NO_HANDLE = "none"


class Access(NamedTuple):
    """Where SQS is for a queue, and where the credentials come from; it holds no secret.

    :param slow_path: why calls take boto3's client alone; "" if they take the fast path.
    """

    region: str
    endpoint_url: str
    credentials: str
    slow_path: str = ""


def access_of(queue: SQSQueue) -> Access:
    """Return where SQS is for *queue*, and with which credentials it is called; SQS takes them.

    :raises AccessDenied: there are no credentials, or SQS or their provider, such as STS, refuses them.
    :raises QueueError: there is no region.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    has_keys = queue.connection.key_id
    with calling_sqs(queue.connection, queue.name, "GetQueueUrl") as sqs:
        meta = sqs.client.meta
        found = None if has_keys else botocore.session.Session().get_credentials()
    if not has_keys and found is None:
        raise AccessDenied(
            "there are no AWS credentials: give boto3 some (environment, shared file, role), or set "
            "balog_aws_access_key_id and balog_aws_secret_access_key",
            "NoCredentialsError",
        )
    source = found.method if found else "the settings"
    try:
        if found is not None:
            found.get_frozen_credentials()  # a role's come from STS, and only now
    except (BotoCoreError, ClientError) as error:
        code, text, _ = describe(error)
        raise AccessDenied(
            f"{source} gives no credentials ({code}: {printable(text)}): check the role and whom it trusts",
            code,
        ) from error
    try:
        queue.exists()
    except AccessDenied as error:
        if codes.is_about_credentials(error.code):
            raise
    except QueueError:
        logger.debug("SQS cannot be asked whether it takes the credentials", exc_info=True)
    return Access(meta.region_name, without_secrets(meta.endpoint_url), source, sqs.slow_path)


def missing_permissions(queue: SQSQueue) -> list[str]:
    """Return the permissions that a worker needs on *queue* and does not have.

    Deletes and changes of visibility are tried with a receipt handle that no message has. ``sqs:ReceiveMessage`` and
    ``sqs:SendMessage`` cannot be tried without receiving and sending, so they are not.

    :raises QueueError: a call failed for another reason.
    """
    missing = []
    trials: dict[str, Callable[[], object]] = {
        "sqs:GetQueueAttributes": queue.attributes,
        "sqs:DeleteMessage": lambda: queue.delete([_NO_HANDLE]),
        "sqs:ChangeMessageVisibility": lambda: queue.change_visibility([_NO_HANDLE], 0),
    }
    for permission, trial in trials.items():
        try:
            trial()
        except AccessDenied as error:
            if codes.bare(error.code) not in codes.FORBIDDEN:
                raise  # the credentials themselves are bad
            missing.append(permission)
    return missing


def oldest_message_age(queue: SQSQueue) -> int | None:
    """Return how long the oldest message of *queue* has waited, in seconds; None if CloudWatch does not say.

    SQS itself does not say. CloudWatch hears of it about once a minute, and only of queues in use. It is asked where
    SQS is AWS's, or where ``AWS_ENDPOINT_URL_CLOUDWATCH`` or ``AWS_ENDPOINT_URL`` points. The permission is
    ``cloudwatch:GetMetricStatistics``; without it this is None.
    """
    elsewhere = os.environ.get("AWS_ENDPOINT_URL_CLOUDWATCH") or os.environ.get("AWS_ENDPOINT_URL")
    meta = clients.get(queue.connection).client.meta
    if not elsewhere and ".amazonaws.com" not in meta.endpoint_url:
        return None
    cloudwatch = queue.connection._replace(service="cloudwatch", region=meta.region_name, endpoint_url=None)
    now = datetime.now(timezone.utc)
    try:
        answer = clients.get(cloudwatch).get_metric_statistics(
            Namespace="AWS/SQS",
            MetricName="ApproximateAgeOfOldestMessage",
            Dimensions=[{"Name": "QueueName", "Value": queue.name}],
            StartTime=now - timedelta(minutes=10),
            EndTime=now,
            Period=60,
            Statistics=["Maximum"],
        )
        last = max(answer["Datapoints"], key=lambda point: point["Timestamp"], default=None)
        return None if last is None else int(last["Maximum"])
    except Exception as error:  # botocore's parser may raise anything
        cause = printable(without_secrets(str(error)), 500)
        logger.debug("CloudWatch does not say the age of %s: %s", printable(queue.name), cause)
        return None
