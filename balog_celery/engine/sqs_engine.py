"""The engine for Amazon SQS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import Unpack

from ..consumers.hub import ConsumerHub
from ..sqs.queues import SQSQueue
from .config import EngineOptions
from .engine import Engine


class SQSEngine(Engine):
    """Consumes the SQS queues that a hub's consumers name.

    A topic is a queue's name or its URL. :meth:`run` calls the consumers in this process, one event of a topic after
    the other. (Beside a Celery worker the engine runs in its own process, and each event becomes a task for each of
    its consumers.)

    :param hub: the consumers.
    :param region: the AWS region. Default: boto3's chain.
    :param aws_access_key_id: credentials, with *aws_secret_access_key* and perhaps *aws_session_token*. Default:
        boto3's chain.
    :param consumer_operator: resolves topics and calls functions.
    :param default_event_handler: called with each event that matches no consumer.
    :param endpoint_url: the URL of SQS. Default: ``AWS_ENDPOINT_URL_SQS``, ``AWS_ENDPOINT_URL``, else AWS.
    :param s3_endpoint_url: the URL of S3. Default: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, else AWS.
    :param payload_bucket: the S3 bucket, or buckets, with the bodies that messages point to. Dead letters that are too
        large for SQS are stored in the first one.
    :param options: the other fields of :class:`~balog_celery.engine.config.EngineConfig`.
    """

    def __init__(
        self,
        hub: ConsumerHub,
        region: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        consumer_operator: Any = None,
        default_event_handler: Callable[[Any], Any] | None = None,
        *,
        aws_session_token: str | None = None,
        endpoint_url: str | None = None,
        s3_endpoint_url: str | None = None,
        payload_bucket: str | Sequence[str] = (),
        **options: Unpack[EngineOptions],
    ) -> None:
        def connect(topic: str) -> SQSQueue:
            return SQSQueue(
                topic,
                region=region,
                endpoint_url=endpoint_url,
                s3_endpoint_url=s3_endpoint_url,
                aws_access_key_id=aws_access_key_id,
                aws_secret_access_key=aws_secret_access_key,
                aws_session_token=aws_session_token,
                payload_buckets=(payload_bucket,) if isinstance(payload_bucket, str) else payload_bucket,
                max_body_bytes=self.config.max_body_bytes,
            )

        super().__init__(
            hub,
            connect,
            consumer_operator=consumer_operator,
            default_event_handler=default_event_handler,
            **options,
        )
        connect("queue")  # a wrong argument is an error here
