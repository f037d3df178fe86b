"""Connections of an app: to the queues of its topics, and to the Redis of consumers with ``once``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from celery import Celery

from ..brokers.kombu_queue import KombuQueue
from ..dev import local_stack
from ..dev.moto_server import DUMMY_CREDENTIALS
from ..errors import BalogError, ConfigurationError
from ..settings import Settings
from ..sqs.protocols import Queue
from ..sqs.queues import SQSQueue


def connect_queue(topic: str, settings: Settings, local_dir: Path | None) -> Queue:
    """Return the queue of *topic*.

    :param topic: a queue's name or URL.
    :param settings: the app's.
    :param local_dir: the folder of the local stack, if that serves the app.
    :raises ConfigurationError: kombu cannot use the broker's URL.
    :raises BalogError: the local stack does not run.
    """
    if settings.event_broker_url is not None:
        return KombuQueue(
            topic,
            settings.event_broker_url.get_secret_value(),
            visibility_timeout=settings.visibility_timeout,
            transport_options=settings.event_broker_transport_options,
            max_body_bytes=settings.max_body_bytes,
        )
    connection = _aws_connection(settings) if local_dir is None else _local_connection(local_dir)
    return SQSQueue(
        topic,
        payload_buckets=settings.payload_bucket,
        max_body_bytes=settings.max_body_bytes,
        payload_threshold=settings.payload_threshold,
        **connection,
    )


def _aws_connection(settings: Settings) -> dict[str, Any]:
    secrets = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    values = {name: getattr(settings, name) for name in secrets}
    return {
        "region": settings.region,
        "endpoint_url": settings.endpoint_url,
        "s3_endpoint_url": settings.s3_endpoint_url,
        **{name: value.get_secret_value() if value else None for name, value in values.items()},
    }


def _local_connection(state_dir: Path) -> dict[str, Any]:
    stack = local_stack.find(state_dir)
    if stack is None:
        raise BalogError(
            f"the local SQS of {state_dir} does not run: start a worker in this folder, "
            "or configure a broker and an endpoint"
        )
    credentials = dict(DUMMY_CREDENTIALS)
    return {
        "region": credentials.pop("region_name"),
        **credentials,
        "endpoint_url": stack.endpoint_url,
        "s3_endpoint_url": stack.endpoint_url,
    }


def redis_client(app: Celery, settings: Settings, local_broker: str | None, option: str) -> Callable[[], Any]:
    """Return what returns the client of the Redis in which consumers keep what all workers must know.

    :param local_broker: the URL of the local broker, if that serves the app.
    :param option: the consumers' option that needs it.
    :raises ConfigurationError: there is no Redis for it, or balog_once_url is no URL of one.
    """
    if url := settings.once_url.get_secret_value() if settings.once_url else local_broker:
        _redis(url)  # which connects later, and refuses now what is no URL
        return partial(_redis, url)
    if str(app.conf.result_backend or "").startswith(("redis", "rediss", "sentinel", "valkey")):
        # The backend makes a client for each process and thread that asks.
        return lambda: app.backend.client
    raise ConfigurationError(
        f"a consumer has {option}, which needs Redis: set balog_once_url, or a Redis result backend"
    )


@lru_cache
def _redis(url: str) -> Any:
    try:
        import redis
    except ImportError as error:
        raise ConfigurationError(
            f"balog_once_url needs the client library of Redis: pip install 'balog_celery[redis]' ({error})"
        ) from error
    try:
        # redis-py and kombu have different schemes for a unix socket. The client handles forks.
        return redis.Redis.from_url(
            url.replace("redis+socket://", "unix://"), socket_timeout=10, socket_connect_timeout=5
        )
    except ValueError:
        # Not the error's text, which may hold a part of the password.
        raise ConfigurationError(
            "balog_once_url is not the URL of a Redis: write it as 'redis://:password@host:6379/1', with special "
            "characters in the password percent-encoded"
        ) from None
