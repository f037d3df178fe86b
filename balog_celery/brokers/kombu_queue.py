"""Queues of any broker that kombu supports: RabbitMQ, Redis and others, as sources of events.

Their messages do not come from Celery: they are JSON of any content type, from any publisher. kombu neither
deserialises nor decompresses a body here.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from kombu.connection import Connection
from kombu.messaging import Producer

from ..errors import AccessDenied, ConfigurationError, QueueError, QueueNotFound
from ..sqs.messages import MAX_BODY_BYTES, EntryFailure, Message, OutgoingMessage
from ..text import brief, printable
from .connections import bound
from .kombu_compat import is_redis, unacked_keys
from .kombu_headers import write_headers
from .kombu_message import read_kombu_message
from .redis_receive import extend_on_redis, receive_from_redis
from .session import Session

#: How long one call to the broker may take before it counts as down, in seconds. Redis is tried a few times.
TIMEOUT = 5.0
#: The default visibility timeout on Redis, in seconds.
REDIS_VISIBILITY = 60
#: The visibility timeout reported for other brokers, in seconds. There a message belongs to its connection until that
#: ends, so there is nothing to extend.
_VISIBILITY = 3600
#: The longest that one receive waits, in seconds, because a stop waits for it.
_LONGEST_WAIT = 1.0
#: The first and the longest pause between two receives from an empty queue, in seconds; it doubles each time.
_PAUSES = (0.01, 0.25)

_DENIED = {"AuthenticationError", "AuthenticationWrongNumberOfArgsError", "NoPermissionError"}


class KombuQueue:
    """One queue of a broker that kombu supports.

    Threads may share it: its connection serves one at a time, for one call. It connects at the first call, and again in
    a forked child.

    RabbitMQ keeps unacknowledged messages for the connection, and delivers them again when it is lost; a message must
    be acknowledged within the broker's ``consumer_timeout`` (30 minutes by default). On Redis a received message is
    invisible for *visibility_timeout*, unless it is extended; the engines of a topic must use the same one.

    :param topic: the queue's name.
    :param url: the broker's URL, as kombu takes it.
    :param visibility_timeout: seconds for which a message received from Redis stays invisible; default: 60.
    :param transport_options: kombu's options for the transport, as in Celery's ``broker_transport_options``.
    :param max_body_bytes: the largest body that is decompressed.
    :raises ConfigurationError: kombu cannot use the URL.
    """

    max_message_bytes = sys.maxsize  # a broker refuses larger messages than its own limit
    is_fifo = False  # other brokers have no message groups
    has_unique_ids = False  # an id is the publisher's choice, or a hash of the body

    def __init__(
        self,
        topic: str,
        url: str,
        *,
        visibility_timeout: int | None = None,
        transport_options: Mapping[str, Any] | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.name = topic
        self._max_body_bytes = max_body_bytes
        self._url = url
        self._options = {
            "visibility_timeout": REDIS_VISIBILITY,
            # Separate from Celery's, whose tasks have another timeout: each must restore its own only.
            **unacked_keys(lambda key: f"balog.{topic}.{key}"),
            "unacked_mutex_expire": 10,
            # RabbitMQ confirms messages only on request.
            "confirm_publish": True,
            **(transport_options or {}),
            **({} if visibility_timeout is None else {"visibility_timeout": visibility_timeout}),
        }
        # By process: a forked child must not use its parent's connection, nor close it, nor wait for its lock.
        self._sessions = {os.getpid(): self._new_session()}
        self._pause = _PAUSES[0]

    def __repr__(self) -> str:
        return f"<KombuQueue {self.name}>"

    def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
        """Receive up to *limit* messages, waiting up to *wait* seconds (at most 1) for the first.

        :param visibility: seconds for which they stay invisible on Redis; default: see :class:`KombuQueue`.
        :raises QueueNotFound: there is no such queue.
        :raises AccessDenied: the broker refuses the user of the URL.
        :raises QueueError: the broker could not be reached.
        """
        deadline = time.monotonic() + min(wait, _LONGEST_WAIT)
        while True:
            messages = self._receive(limit, visibility)
            left = deadline - time.monotonic()
            if messages:
                self._pause = _PAUSES[0]
            if messages or left <= 0:
                return messages
            time.sleep(min(self._pause, left))
            self._pause = min(2 * self._pause, _PAUSES[1])

    def stop_polling(self) -> None:
        """Do nothing: a receive waits for a second at most."""

    read = receive

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        """Acknowledge messages by their handles, which are valid as long as their connection; return the failures."""
        return self._settle(handles, _acknowledge)

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        """Release messages if *seconds* is 0; otherwise keep them invisible, on Redis for *seconds* from now.

        :returns: the failures.
        """
        return self._settle(handles, partial(_extend, seconds) if seconds else _requeue, done=not seconds)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        """Send messages, with their attributes as headers; when this returns, the broker has all of them.

        :raises QueueError: as for :meth:`receive`; some messages may have been sent.
        """
        with self._channel("publishing to") as channel:
            producer = Producer(channel, auto_declare=False)  # type: ignore[no-untyped-call]
            for message in messages:
                producer.publish(  # type: ignore[no-untyped-call]
                    message.body.encode("utf-8", "surrogateescape"),
                    routing_key=self.name,
                    content_type="application/json",
                    content_encoding="utf-8",
                    headers=write_headers(message.attributes),
                    # Without it RabbitMQ drops, but confirms, a message for a queue that does not exist.
                    mandatory=True,
                    # Distinguishes it from another message with the same body.
                    message_id=uuid.uuid4().hex,
                    timestamp=int(time.time()),
                    retry=False,
                    confirm_timeout=TIMEOUT,
                )
        return []

    def attributes(self) -> Mapping[str, str]:
        """Return the number of waiting messages and the visibility timeout, by SQS's names.

        :raises QueueError: as for :meth:`receive`.
        """
        with self._channel("looking at") as channel:
            on_redis = is_redis(channel)
            # On Redis a queue exists only while it holds messages.
            declared = channel.queue_declare(queue=self.name, passive=not on_redis)
            return {
                "ApproximateNumberOfMessages": str(declared.message_count),
                "VisibilityTimeout": str(channel.visibility_timeout if on_redis else _VISIBILITY),
            }

    def exists(self) -> bool:
        """Return whether there is such a queue; always True on Redis, where sending creates it.

        :raises QueueError: as for :meth:`receive`, except for a missing queue.
        """
        try:
            self.attributes()
        except QueueNotFound:
            return False
        return True

    def create(self) -> None:
        """Create the queue, durable; an existing one stays unchanged.

        :raises QueueError: as for :meth:`receive`.
        """
        if not self.exists():
            with self._channel("creating") as channel:
                channel.queue_declare(queue=self.name, durable=True, auto_delete=False)

    def close(self) -> None:
        """Close the connection; unsettled messages go back to the queue."""
        self._session.close()

    @property
    def _session(self) -> Session:
        pid = os.getpid()
        return self._sessions.get(pid) or self._sessions.setdefault(pid, self._new_session())

    def _new_session(self) -> Session:
        try:
            options = dict(self._options)
            connection = Connection(self._url, connect_timeout=TIMEOUT, transport_options=options)  # type: ignore[no-untyped-call]
            return Session(bound(connection, TIMEOUT), TIMEOUT)
        except Exception as error:
            # Not the error's text, which may hold a part of the password.
            raise ConfigurationError(
                f"kombu cannot use the URL of the broker (balog_event_broker_url; {type(error).__name__}): write it as "
                "'amqp://user:password@host:5672/vhost' or 'redis://host:6379/0', with special characters in the "
                "password percent-encoded, and install what its transport needs, such as 'balog_celery[redis]'"
            ) from None

    def _receive(self, limit: int, visibility: int | None) -> list[Message]:
        messages: list[Message] = []
        session = self._session
        try:
            while len(messages) < limit:
                # Locked for each message, so that acknowledgements need not wait for all of them.
                with self._channel("receiving from") as channel:
                    if is_redis(channel):
                        session.restore_expired(channel)
                        raw = receive_from_redis(channel, self.name, visibility)
                    else:
                        raw = channel.basic_get(self.name, no_ack=False)
                    if raw is None:
                        break
                    handle, message = session.hold(channel.message_to_python(raw))
                    messages.append(read_kombu_message(handle, message, self._max_body_bytes))
        except QueueError:
            # Messages that are still held must be returned; the next receive raises the error.
            messages = [message for message in messages if message.handle in session.messages]
            if not messages:
                raise
        return messages

    def _settle(
        self, handles: Sequence[str], settle: Callable[[Any], bool], *, done: bool = True
    ) -> list[EntryFailure]:
        """Settle messages one by one, until one fails for a reason that concerns the others as well."""
        failures: list[EntryFailure] = []
        session = self._session
        problem: Exception | None = None
        with session.lock:
            for index, handle in enumerate(handles):
                message = session.messages.get(handle)
                stale = message is None
                if message is not None and problem is None:
                    try:
                        stale = not settle(message)
                    except Exception as error:
                        problem = error
                        session.failed()
                        stale = handle not in session.messages
                    else:
                        if done or stale:
                            del session.messages[handle]
                if stale:
                    failures.append(
                        EntryFailure(index, "Stale", "its connection is lost, or another process has it", True)
                    )
                elif problem is not None:
                    failures.append(EntryFailure(index, type(problem).__name__, str(problem), False))
        return failures

    @contextmanager
    def _channel(self, what: str) -> Iterator[Any]:
        """Yield the channel, locked for this thread."""
        session = self._session
        with session.lock:
            try:
                yield session.open()
            except Exception as error:
                session.failed()
                raise self._error(what, error) from error

    def _error(self, what: str, error: Exception) -> QueueError:
        name, kind = printable(self.name), type(error).__name__
        code = str(getattr(error, "reply_code", ""))
        text = brief(error)
        if code in ("404", "312"):  # not found, no route
            return QueueNotFound(f"there is no queue {name!r} on the broker: create it, or correct the topic", kind)
        if code in ("403", "530") or kind in _DENIED:
            return AccessDenied(
                f"the broker refused {what} queue {name!r}: check user, password and rights ({text})", kind
            )
        return QueueError(f"{what} queue {name!r} failed ({text})", kind)


def _acknowledge(message: Any) -> bool:
    message.ack()
    return True


def _requeue(message: Any) -> bool:
    message.requeue()
    return True


def _extend(seconds: int, message: Any) -> bool:
    """Keep *message* invisible for *seconds* from now; return False if another process has received it again."""
    return extend_on_redis(seconds, message) if is_redis(message.channel) else True
