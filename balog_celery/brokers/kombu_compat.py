"""The names of kombu and py-amqp that their documentation does not promise, each with the reason why it is used.

``tests/unit/brokers/test_kombu_contract.py`` checks that they still work as described here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from kombu.transport import virtual


class RedisLayout(NamedTuple):
    """The keys and names under which kombu keeps a queue's messages on Redis.

    The receive script must read and write the same ones as kombu, which has no API for them.

    :param lists: the suffixes of the queue's lists, one for each priority, in the order of kombu's receive.
    :param unacked: the key of the hash that holds the unacknowledged messages.
    :param unacked_index: the key of the sorted set that holds the times of their receives.
    """

    lists: list[str]
    unacked: str
    unacked_index: str


#: The header that replaces ``compression`` in a received message.
COMPRESSION = "balog-compression"


def without_decompression(message_class: Any) -> Any:
    """Return a class of messages like a channel's ``Message``, which leaves compressed bodies as they came.

    kombu decompresses a body when it makes the message, to any size, as the header ``compression`` asks.
    """

    class CompressedMessage(message_class):  # type: ignore[misc]
        def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
            named = payload if isinstance(payload, dict) else payload.properties
            headers = named.get("headers" if isinstance(payload, dict) else "application_headers")
            if isinstance(headers, dict) and "compression" in headers:
                headers[COMPRESSION] = headers.pop("compression")
            super().__init__(payload, channel=channel, **options)

    return CompressedMessage


#: Transport options by which kombu looks each second for tasks on Redis whose visibility timeout has ended. Before 5.7,
#: it ignores them and looks each 100 seconds.
RESTORE_EACH_SECOND = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}


def unacked_keys(name: Callable[[str], str]) -> dict[str, str]:
    """Return the transport options that keep a consumer's unacknowledged messages apart from those of others on Redis.

    :param name: returns the key on Redis for ``unacked``, ``unacked_index`` and ``unacked_mutex``, kombu's own names.
    """
    return {f"{key}_key": name(key) for key in ("unacked", "unacked_index", "unacked_mutex")}


def driver_of(connection: Any) -> str:
    """Return the kind of broker that *connection* is for, such as ``redis``, for any of its URLs."""
    return str(connection.transport.driver_type)


def is_redis(channel: Any) -> bool:
    """Return whether *channel* belongs to kombu's transport for Redis."""
    return getattr(channel.connection, "driver_type", None) == "redis"


def redis_layout(channel: Any) -> RedisLayout:
    """Return the layout that *channel*, of the transport for Redis, uses."""
    prefix = channel.global_keyprefix
    return RedisLayout(
        [f"{channel.sep}{step}" if step else "" for step in channel.priority_steps],
        prefix + channel.unacked_key,
        prefix + channel.unacked_index_key,
    )


def redis_message(channel: Any, envelope: dict[str, Any]) -> Any:
    """Return the message in *envelope*, as the transport for Redis would after its own receive."""
    return channel.Message(envelope, channel=channel)


def track_unacked(channel: Any, message: Any, tag: str) -> None:
    """Let *channel* acknowledge or requeue *message*, which it did not receive itself."""
    channel.qos.append(message, tag)


def restore_unacked(channel: Any) -> None:
    """Put messages on Redis back into their queues whose visibility timeout has ended.

    kombu does so only while one of its own consumers polls, and here none does.
    """
    channel.qos.restore_visible(num=channel.unacked_restore_limit, interval=1)


def restore_all_unacked(channel: Any) -> int:
    """Put all unacknowledged messages of *channel*, on Redis, to the front of their queues; return their number."""
    # Each goes to the front, so the newest goes first and the oldest ends up in front.
    tags = channel.client.zrange(channel.unacked_index_key, 0, -1, desc=True)
    for tag in tags:
        channel.qos.restore_by_tag(tag, channel.client)
    return len(tags)


def keep_invisible(channel: Any, tag: str, seconds: float, now: float) -> bool:
    """Keep an unacknowledged message on Redis invisible for *seconds* from *now*, in Unix time.

    :returns: False if it is no longer unacknowledged: another process has received it again.
    """
    # kombu restores a message when the transport's timeout has passed since the time in the index.
    noted = now + seconds - channel.visibility_timeout
    return bool(channel.client.zadd(channel.unacked_index_key, {tag: noted}, xx=True, ch=True))


def drop_connection(connection: Any, timeout: float) -> None:
    """Close *connection* without waiting for its broker, which may not answer; ``close()`` would wait."""
    with contextlib.suppress(Exception):
        connection.collect(timeout)


def batch(producer: Any) -> AbstractContextManager[Any]:
    """Return a context in which *producer* publishes to Redis in one pipeline, which is sent at its end.

    Before kombu 5.7, and over other transports, each message is sent by itself.
    """
    begin: Callable[[], AbstractContextManager[Any]] = getattr(producer, "batch", contextlib.nullcontext)
    return begin()


def report_unroutable(channel: Any, report: Callable[[str, str], None]) -> None:
    """Have *channel* call *report* with exchange and routing key for a ``mandatory`` message that no queue takes.

    RabbitMQ returns such a message before it confirms it; py-amqp keeps its handlers for that in ``events``. The
    transports for which kombu routes drop it silently, so their ``_put``, kombu's hook for storing a message in one
    queue, is wrapped to see whether it was called.
    """
    if isinstance(channel, virtual.Channel):
        _report_unstored(channel, report)
    elif (events := getattr(channel, "events", None)) is not None:
        events["basic_return"].add(lambda _error, exchange, key, _message: report(exchange, key))


def _report_unstored(channel: Any, report: Callable[[str, str], None]) -> None:
    publish, put = channel.basic_publish, channel._put
    stored = False

    def checked_put(queue: str, message: Any, **options: Any) -> Any:
        nonlocal stored
        stored = True
        return put(queue, message, **options)

    def checked_publish(message: Any, exchange: str, routing_key: str, mandatory: bool = False, **options: Any) -> Any:
        nonlocal stored
        stored = False
        result = publish(message, exchange, routing_key, **options)
        if mandatory and not stored:
            report(exchange, routing_key)
        return result

    channel._put, channel.basic_publish = checked_put, checked_publish
