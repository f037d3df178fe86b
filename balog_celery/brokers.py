"""Connections to a broker that neither wait for ever nor take silence for a yes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .queues import is_too_large_for_sqs

if TYPE_CHECKING:
    from celery import Celery

#: The transport options that bound how long a transport waits for its broker.
_TIMEOUT_OPTIONS = {
    "redis": ("socket_timeout", "socket_connect_timeout"),
    "amqp": ("read_timeout", "write_timeout"),
}

_local = threading.local()
#: What a forked child found of its parent's. Never closed, nor collected: that would shut the parent's own connection.
_inherited: list[Any] = []


def bounded_connection(app: Celery, timeout: float) -> Any:
    """A new connection to the broker of *app*, that never waits for it longer than *timeout* seconds."""
    return bound(app.connection_for_write(connect_timeout=timeout), timeout)


def bound(connection: Any, timeout: float) -> Any:
    """Let *connection*, which is not open yet, never wait for its broker longer than *timeout* seconds."""
    for option in _TIMEOUT_OPTIONS.get(connection.transport.driver_type, ()):
        connection.transport_options.setdefault(option, timeout)
    return connection


def is_too_large(error: Exception) -> bool:
    """Whether *error*, of publishing, says that the broker takes no message of such a size, however often it is asked.

    RabbitMQ has a largest size (``max_message_size``: 16 MiB since its version 4), and Amazon SQS has one as a broker.
    """
    from amqp import PreconditionFailed

    if isinstance(error, PreconditionFailed):
        # As which it also says that a queue was declared otherwise before: that is no fault of a message.
        return "message size" in str(error)
    return is_too_large_for_sqs(error)


@contextlib.contextmanager
def confirmed_producer(app: Celery, timeout: float) -> Iterator[Any]:
    """A producer whose publishes return when the broker has the message; one for each thread of each process.

    RabbitMQ takes a message without a word, whether or not it will keep it, unless it is asked to confirm. If the block
    raises, the connection is dropped.

    :param timeout: after how many seconds without an answer the broker counts as down.
    """
    key = (id(app), os.getpid())
    if getattr(_local, "key", None) != key:
        _inherited.append(getattr(_local, "producer", None))
        connection = bounded_connection(app, timeout)
        if connection.transport.driver_type == "amqp":
            connection.transport_options["confirm_publish"] = True
        _local.key, _local.producer = key, app.amqp.Producer(connection, auto_declare=False)
    try:
        yield _local.producer
    except BaseException:
        _local.key = None
        producer, _local.producer = _local.producer, None
        with contextlib.suppress(Exception):
            # Not close(), which would wait for the answer of a broker that may have none.
            producer.connection.collect(timeout)
        raise
