"""The engine for brokers that kombu supports, such as RabbitMQ and Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

from typing_extensions import Unpack

from ..arguments import is_blank
from ..brokers.kombu_queue import KombuQueue
from ..consumers.hub import ConsumerHub
from ..errors import ConfigurationError
from .config import EngineOptions
from .engine import Engine


class KombuEngine(Engine):
    """Consumes the queues, on a broker that kombu supports, that a hub's consumers name.

    A topic is a queue's name; exchanges and bindings are not declared. On Redis the queue is a list, of kombu's
    envelopes or of plain JSON texts as ``LPUSH`` adds them. Use it as :class:`~balog_celery.consumers.sqs.SQSEngine`.
    *wait_time* is 1 second at most.

    :param hub: the consumers.
    :param url: the broker's URL: ``amqp://user:password@host:5672/vhost``, ``redis://host:6379/0``, ...
    :param transport_options: kombu's transport options, as in Celery's ``broker_transport_options``.
    :param consumer_operator: resolves topics and calls functions.
    :param default_event_handler: called with each event that matches no consumer.
    :param options: the other fields of :class:`~balog_celery.engine.config.EngineConfig`; *visibility_timeout* applies
        to Redis, and is 60 seconds by default.
    :raises ConfigurationError: kombu cannot use the URL.
    """

    def __init__(
        self,
        hub: ConsumerHub,
        url: str,
        consumer_operator: Any = None,
        default_event_handler: Callable[[Any], Any] | None = None,
        *,
        transport_options: Mapping[str, Any] | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        self._queues: list[KombuQueue] = []

        def connect(topic: str) -> KombuQueue:
            queue = KombuQueue(
                topic,
                url,
                visibility_timeout=self.config.of(topic).visibility_timeout,
                transport_options=transport_options,
                max_body_bytes=self.config.max_body_bytes,
            )
            self._queues.append(queue)
            return queue

        if not isinstance(url, str) or is_blank(url):
            raise ConfigurationError("bad url: give a broker's URL, such as 'redis://host:6379/0'")
        if not isinstance(transport_options, (Mapping, NoneType)):
            raise ConfigurationError(f"bad transport_options, a {type(transport_options).__name__}: give a dict")
        KombuQueue("", url, transport_options=transport_options)  # a bad URL is an error here
        super().__init__(
            hub,
            connect,
            consumer_operator=consumer_operator,
            default_event_handler=default_event_handler,
            **options,
        )

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Run as :meth:`Engine.run`, and close the connections at the end."""
        try:
            super().run(ready)
        finally:
            for queue in self._queues:
                queue.close()
