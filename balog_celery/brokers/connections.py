"""Connections to a broker, with timeouts and publisher confirms."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from amqp import NotFound, PreconditionFailed
from kombu.messaging import Producer
from kombu.transport import native_delayed_delivery as delayed

from ..celery_compat.tasks import queues_of
from ..errors import BalogError
from ..text import printable
from .kombu_compat import driver_of, drop_connection, report_unroutable

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The transport options that limit how long a transport waits for its broker.
_TIMEOUT_OPTIONS = {
    "redis": ("socket_timeout", "socket_connect_timeout"),
    "amqp": ("read_timeout", "write_timeout"),
}

#: The codes with which Amazon SQS refuses a message that is too large.
_TOO_LARGE_FOR_SQS = {"BatchRequestTooLong", "MessageTooLong"}

_local = threading.local()
#: The producers that a forked child inherited, by app. They are never closed nor collected: that would end the
#: parent's connections.
_inherited: list[Any] = []


def bounded_connection(app: Celery, timeout: float) -> Any:
    """Return a new connection to the broker of *app* that waits for it at most *timeout* seconds."""
    return bound(app.connection_for_write(connect_timeout=timeout), timeout)


def bound(connection: Any, timeout: float) -> Any:
    """Have *connection*, which is not open yet, wait for its broker at most *timeout* seconds, and return it."""
    for option in _TIMEOUT_OPTIONS.get(driver_of(connection), ()):
        connection.transport_options.setdefault(option, timeout)
    return connection


def is_too_large(error: Exception) -> bool:
    """Return whether *error*, of publishing, says that the message is larger than the broker ever takes.

    RabbitMQ has a largest size (``max_message_size``: 16 MiB since its version 4), and so has Amazon SQS as a broker.
    """
    if isinstance(error, PreconditionFailed):
        # RabbitMQ also raises it for a queue that was declared with other arguments.
        return "message size" in str(error)
    # boto3's error, without importing boto3.
    response = getattr(error, "response", None)
    details = response.get("Error", {}) if isinstance(response, Mapping) else {}
    code, text = str(details.get("Code", "")), str(details.get("Message", ""))
    # InvalidParameterValue is SQS's code for most faults of a call.
    return code.removeprefix("AWS.SimpleQueueService.") in _TOO_LARGE_FOR_SQS or (
        code == "InvalidParameterValue" and "shorter than" in text
    )


class Unroutable(BalogError):
    """The broker has no queue for a message, so the message is not stored.

    :param exchange: the exchange that it was published to; "" is the default exchange.
    :param routing_key: its routing key.
    """

    def __init__(self, exchange: str, routing_key: str) -> None:
        self.exchange = exchange
        if exchange:
            missing = f"exchange {printable(exchange)!r} leads to no queue for routing key {printable(routing_key)!r}"
        else:
            missing = f"there is no queue {printable(routing_key)!r}"
        super().__init__(f"{missing} on the broker")


class RoutedProducer(Producer):
    """A producer that raises :class:`Unroutable` if the broker has no queue for a ``mandatory`` message.

    RabbitMQ returns such a message, but confirms it too. Transports for which kombu routes, such as that for Redis,
    drop it silently if the bindings that they keep on the broker are gone.

    After an error, drop its connection: the broker's answers to earlier messages may still be on the way.
    """

    _checked_channel: Any = None

    @property
    def channel(self) -> Any:
        """The channel, set up to report unroutable messages; a new one after kombu has reconnected."""
        channel = super().channel
        if channel is not self._checked_channel:
            report_unroutable(channel, _raise_unroutable)
            self._checked_channel = channel
        return channel

    def publish(self, body: Any, *args: Any, **options: Any) -> Any:
        """Publish a message with kombu's arguments.

        :raises Unroutable: no queue has taken it, or there is no such exchange.
        """
        try:
            return super().publish(body, *args, **options)  # type: ignore[no-untyped-call]
        except NotFound as error:
            if error.method_name != "Basic.publish":
                raise
            exchange = options.get("exchange") or ""
            raise Unroutable(getattr(exchange, "name", exchange), options.get("routing_key") or "") from error


def _raise_unroutable(exchange: str, routing_key: str) -> None:
    raise Unroutable(exchange, routing_key)


def publish_confirmed(app: Celery, timeout: float, publish: Callable[[Producer], T]) -> T:
    """Call *publish* with a producer, and return its result when the broker has put the message into a queue.

    The message must be ``mandatory``. If its queue is missing, the queue is declared and *publish* called again.

    :param timeout: the seconds without an answer after which the broker counts as down.
    :raises Unroutable: there is no queue for the message, and declaring it did not help.
    :raises Exception: the transport's own errors.
    """
    try:
        with _confirmed_producer(app, timeout) as producer:
            return publish(producer)
    except Unroutable as error:
        problem = error
    with _confirmed_producer(app, timeout) as producer:
        _declare_again(app, producer, problem.exchange)
        result = publish(producer)
    logger.warning("%s: it was declared, and its task was published, again", problem)
    return result


def _declare_again(app: Celery, producer: Producer, exchange: str) -> None:
    """Declare the queues of *app* to which *exchange* leads; Celery declares only the queue that a task names."""
    queues = [queue(producer.channel) for queue in queues_of(app)]
    # With quorum queues, RabbitMQ delays tasks in a chain of queues that Celery's workers declare when they connect.
    if exchange in (delayed.level_name(delayed.MAX_LEVEL), delayed.CELERY_DELAYED_DELIVERY_EXCHANGE):
        kind = app.conf.broker_native_delayed_delivery_queue_type
        delayed.declare_native_delayed_delivery_exchanges_and_queues(producer.connection, kind)
        for queue in queues:
            if queue.exchange.type != "direct":
                queue.declare()
                delayed.bind_queue_to_native_delayed_delivery_exchange(producer.connection, queue)
        return
    for queue in queues:
        if exchange and exchange in {queue.exchange.name, *(binding.exchange.name for binding in queue.bindings)}:
            queue.declare()


@contextlib.contextmanager
def _confirmed_producer(app: Celery, timeout: float) -> Iterator[RoutedProducer]:
    """Yield a producer whose publishes return when the broker has the message.

    Each thread of each process keeps one for each app.

    RabbitMQ confirms messages only on request. If the block raises, the connection is dropped.

    :param timeout: the seconds without an answer after which the broker counts as down.
    """
    producers = _producers()
    producer = producers.get(app)
    if producer is None:
        connection = bounded_connection(app, timeout)
        if driver_of(connection) == "amqp":
            connection.transport_options["confirm_publish"] = True
        producer = producers[app] = RoutedProducer(connection, auto_declare=False)  # type: ignore[no-untyped-call]
    try:
        yield producer
    except BaseException:
        producers.pop(app, None)
        drop_connection(producer.connection, timeout)
        raise


def _producers() -> WeakKeyDictionary[Celery, RoutedProducer]:
    """Return this thread's producers by app."""
    if getattr(_local, "pid", None) != os.getpid():
        _inherited.append(getattr(_local, "producers", None))
        _local.pid, _local.producers = os.getpid(), WeakKeyDictionary()
    found: WeakKeyDictionary[Celery, RoutedProducer] = _local.producers
    return found
