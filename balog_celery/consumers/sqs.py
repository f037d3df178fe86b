"""The engine that listens to Amazon SQS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import Unpack

from ..queues import MAX_BODY_BYTES, SQSQueue
from .engine import Engine, EngineOptions
from .hub import ConsumerHub


class SQSEngine(Engine):
    """Listens to the SQS queues that a hub's consumers name.

    A topic is a queue's name or its URL. :meth:`run` serves the consumers in this process, one event of a topic after
    the other, as the original did; beside a Celery worker the engine runs in a process of its own and puts each
    (event, consumer) on the broker as a task.

    :param hub: the consumers.
    :param region: the AWS region; default: boto3's own chain.
    :param aws_access_key_id: with *aws_secret_access_key* (and *aws_session_token*), credentials; default: boto3's own
        chain.
    :param endpoint_url: where SQS is; default: ``AWS_ENDPOINT_URL_SQS``, ``AWS_ENDPOINT_URL``, else AWS.

    :param payload_bucket: the S3 bucket from which bodies are read that messages point to; several: the first is where
        dead letters go that are too large for SQS.

    The other arguments are those of :class:`Engine`.
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
        payload_bucket: str | Sequence[str] = (),
        **options: Unpack[EngineOptions],
    ) -> None:
        def connect(topic: str) -> SQSQueue:
            return SQSQueue(
                topic,
                region=region,
                endpoint_url=endpoint_url,
                aws_access_key_id=aws_access_key_id,
                aws_secret_access_key=aws_secret_access_key,
                aws_session_token=aws_session_token,
                visibility_timeout=options.get("visibility_timeout"),
                payload_buckets=(payload_bucket,) if isinstance(payload_bucket, str) else payload_bucket,
                max_body_bytes=options.get("max_body_bytes", MAX_BODY_BYTES),
                message_attributes=self.telemetry.attributes,
            )

        super().__init__(
            hub,
            connect,
            consumer_operator=consumer_operator,
            default_event_handler=default_event_handler,
            **options,
        )
