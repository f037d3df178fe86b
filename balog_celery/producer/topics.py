"""The queues of the topics that events are sent to."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from ..errors import ConfigurationError
from ..sqs.messages import MAX_MESSAGE_BYTES
from ..sqs.protocols import Queue
from ..sqs.queue_names import check_queue
from ..sqs.queues import SQSQueue
from .state import state


def queue_of(topic: str) -> Queue:
    """Return the queue of *topic*, with the operator and credentials of the current Celery app, if it has any.

    :raises ConfigurationError: the topic cannot be resolved, or be a queue's.
    """
    integration = _integration()
    operator = state.operator or (integration.operator if integration is not None else None)
    if operator is not None:
        topic = _resolved(operator, topic)
    elif "{" in topic:
        raise ConfigurationError(
            f"the topic {topic!r} has a placeholder, and there is no operator to fill it in: "
            "call balog_celery.configure(operator=...)"
        )
    check_topic(topic)
    if integration is not None:
        return _connected(integration, topic)
    return _plain_queue(topic, state.bucket, state.payload_threshold)


def check_topic(topic: str) -> None:
    """Check that *topic* can be a queue's, unless another broker than SQS has the queues.

    :raises ConfigurationError: it cannot.
    """
    integration = _integration()
    if integration is None or integration.settings.event_broker_url is None:
        check_queue(topic)


def has_bucket() -> bool:
    """Return whether bodies that are too large for SQS are put into S3."""
    integration = _integration()
    return bool(state.bucket if integration is None else integration.settings.payload_bucket)


def _integration() -> Any:
    """Return the integration of the current Celery app, if it has one."""
    # Not imported: a producer need not have Celery. Without an app of its own Celery's default has no such attribute.
    # While another thread imports it, it has no attribute at all.
    return getattr(getattr(sys.modules.get("celery"), "current_app", None), "balog", None)


def _resolved(operator: Any, topic: str) -> str:
    from ..consumers import Consumer
    from ..consumers.operator import resolve_topic

    return resolve_topic(operator, Consumer(_resolved, topic, name="send"))


@lru_cache(maxsize=256)
def _plain_queue(topic: str, bucket: str | None, threshold: int | None) -> Queue:
    return SQSQueue(
        topic, payload_buckets=(bucket,) if bucket else (), payload_threshold=threshold or MAX_MESSAGE_BYTES
    )


@lru_cache(maxsize=256)
def _connected(integration: Any, topic: str) -> Queue:
    queue: Queue = integration.connect(topic)
    return queue
