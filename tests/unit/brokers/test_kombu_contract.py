"""The undocumented names of kombu and py-amqp still work as ``kombu_compat`` describes them.

tests/integration/test_kombu_queue.py has them with a real Redis and RabbitMQ.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import amqp
import kombu
import pytest
from kombu import Connection, Exchange, Producer, Queue
from kombu.transport import redis as kombu_redis

from balog_celery.brokers import kombu_compat


class Client:
    """A Redis client that remembers what it is asked, and has one unacknowledged message."""

    def __init__(self) -> None:
        self.index = {"tag": 0.0}

    def zadd(self, _key: str, times: dict[str, float], *, xx: bool, ch: bool) -> int:
        assert xx
        assert ch
        changed = {tag: at for tag, at in times.items() if tag in self.index}
        self.index |= changed
        return len(changed)


@pytest.fixture
def redis_channel() -> Any:
    """A channel of kombu's transport for Redis, without its connection."""
    channel = object.__new__(kombu_redis.Channel)
    channel.connection = SimpleNamespace(driver_type="redis")
    channel.client = Client()
    return channel


@pytest.fixture
def memory_channel() -> Iterator[Any]:
    """A channel of a transport for which kombu routes."""
    with Connection("memory://") as connection:
        yield connection.channel()


def test_the_layout_on_redis_is_kombus(redis_channel: Any) -> None:
    """The Redis layout has the lists and keys of kombu's own receive, in the same order."""
    redis_channel.global_keyprefix = "prefix-"
    layout = kombu_compat.redis_layout(redis_channel)
    names = [redis_channel._q_for_pri("queue", priority) for priority in redis_channel.priority_steps]
    assert [f"queue{suffix}" for suffix in layout.lists] == names
    assert (layout.unacked, layout.unacked_index) == ("prefix-unacked", "prefix-unacked_index")


def test_a_message_is_made_as_the_transport_makes_it(redis_channel: Any) -> None:
    """A message made from an envelope equals the one that the transport makes."""
    info = {"exchange": "e", "routing_key": "r"}
    envelope = {"body": "x", "headers": {"a": "b"}, "properties": {"delivery_tag": "tag", "delivery_info": info}}
    message = kombu_compat.redis_message(redis_channel, envelope)
    assert (message.body, message.headers, message.delivery_tag) == (b"x", {"a": "b"}, "tag")
    assert message.delivery_info == info


def test_unacknowledged_messages_are_tracked_and_restored_by_these_methods() -> None:
    """The transport's QoS has the methods, with these arguments, that track and restore unacknowledged messages."""
    assert [*inspect.signature(kombu_redis.QoS.append).parameters] == ["self", "message", "delivery_tag"]
    restore = inspect.signature(kombu_redis.QoS.restore_visible).parameters
    assert {"num", "interval"} <= restore.keys()
    assert kombu_redis.Channel.unacked_restore_limit is None


def test_the_time_in_the_index_is_that_of_the_receive(redis_channel: Any) -> None:
    """The time in the index is that of the receive, from which kombu counts the visibility timeout."""
    assert "time() - self.visibility_timeout" in inspect.getsource(kombu_redis.QoS.restore_visible)
    redis_channel.visibility_timeout = 60
    now = time.time()
    assert kombu_compat.keep_invisible(redis_channel, "tag", 100, now)
    assert redis_channel.client.index == {"tag": now + 40}
    assert not kombu_compat.keep_invisible(redis_channel, "other", 100, now)


def test_only_the_transport_for_redis_is_redis(redis_channel: Any, memory_channel: Any) -> None:
    """Only the transport for Redis counts as Redis, by the name of its driver."""
    assert kombu_redis.Transport.driver_type == "redis"
    assert kombu_compat.is_redis(redis_channel)
    assert not kombu_compat.is_redis(memory_channel)


def test_a_dropped_connection_is_closed_without_waiting() -> None:
    """A connection is dropped with a timeout, and errors of a broken one are ignored."""
    assert "socket_timeout" in inspect.signature(Connection.collect).parameters
    with Connection("memory://") as connection:
        connection.connect()
        kombu_compat.drop_connection(connection, 1.0)
        assert not connection.connected


def test_a_message_that_no_queue_takes_is_reported(memory_channel: Any) -> None:
    """An unroutable message is reported if it is ``mandatory``; a stored one is not."""
    reported: list[tuple[str, str]] = []
    kombu_compat.report_unroutable(memory_channel, lambda *where: reported.append(where))
    exchange = Exchange("contract", "direct")
    Queue("contract", exchange, routing_key="known")(memory_channel).declare()
    producer = Producer(memory_channel, exchange)
    for key, mandatory in (("known", True), ("unknown", False), ("unknown", True)):
        producer.publish("x", routing_key=key, mandatory=mandatory)
    assert reported == [("contract", "unknown")]


def test_py_amqp_has_a_set_of_handlers_for_returned_messages() -> None:
    """py-amqp calls its handlers for returned messages with error, exchange, routing key and message."""
    reported: list[tuple[str, str]] = []
    channel = object.__new__(amqp.Channel)
    channel.events = {"basic_return": set()}
    kombu_compat.report_unroutable(channel, lambda *where: reported.append(where))
    channel._on_basic_return(312, "NO_ROUTE", "e", "k", object())
    assert reported == [("e", "k")]


def test_a_batch_is_published_when_it_ends_or_at_once(memory_channel: Any) -> None:
    """In order, whether or not this kombu has batches."""
    queue = Queue(f"batch-{id(memory_channel)}")(memory_channel)
    queue.declare()
    producer = Producer(memory_channel)
    with kombu_compat.batch(producer):
        for number in range(12):
            producer.publish(str(number), routing_key=queue.name)
    assert [queue.get(no_ack=True).payload for _ in range(12)] == [str(number) for number in range(12)]


@pytest.mark.skipif(kombu.VERSION < (5, 7), reason="kombu has batches since 5.7")
def test_a_batch_is_one_pipeline_of_redis() -> None:
    """It is what makes ten tasks one round trip."""
    assert Producer(None).batch
    assert "create_publish_batch" in vars(kombu_redis.Channel)


def test_kombu_restores_tasks_on_redis_each_second_since_5_7() -> None:
    """Older versions do not know the options, and must ignore them."""
    known = set(kombu_compat.RESTORE_EACH_SECOND) <= set(kombu_redis.Channel.from_transport_options)
    assert known == (kombu.VERSION >= (5, 7))


def test_the_keys_of_unacknowledged_messages_are_transport_options() -> None:
    """All three, so that two consumers share none."""
    options = kombu_compat.unacked_keys(lambda key: f"mine.{key}")
    assert options == {
        "unacked_key": "mine.unacked",
        "unacked_index_key": "mine.unacked_index",
        "unacked_mutex_key": "mine.unacked_mutex",
    }
    assert options.keys() <= set(kombu_redis.Channel.from_transport_options)


def test_all_unacknowledged_messages_are_restored_the_oldest_last() -> None:
    """Each goes to the front of its queue."""
    restored: list[Any] = []
    client = SimpleNamespace(zrange=lambda key, first, last, *, desc: [b"new", b"old"] if desc else [])
    qos = SimpleNamespace(restore_by_tag=lambda tag, using: restored.append((tag, using is client)))
    channel = SimpleNamespace(client=client, qos=qos, unacked_index_key="unacked_index")
    assert kombu_compat.restore_all_unacked(channel) == 2
    assert restored == [(b"new", True), (b"old", True)]
    assert [*inspect.signature(kombu_redis.QoS.restore_by_tag).parameters][:3] == ["self", "tag", "client"]


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("redis://", "redis"),
        ("rediss://", "redis"),
        ("amqp://", "amqp"),
        ("pyamqp://", "amqp"),
        ("memory://", "memory"),
    ],
)
def test_a_broker_is_known_by_its_driver(url: str, driver: str) -> None:
    """By whatever scheme its URL has."""
    assert kombu_compat.driver_of(Connection(url)) == driver


def test_only_one_module_uses_names_that_are_not_promised() -> None:
    """Only ``kombu_compat`` uses undocumented names; the keys of ``transport_options`` are documented."""
    names = r"\.qos\b|channel\.unacked_|\.collect\(|\._put\b|priority_steps|global_keyprefix|basic_return"
    for path in Path(kombu_compat.__file__).parent.glob("*.py"):
        if path.name != "kombu_compat.py":
            assert not re.search(names, path.read_text()), path
