"""The engine that listens to the queues of any broker that kombu speaks to: RabbitMQ, Redis, and others.

What is in those queues is foreign to Celery: JSON of whatever content type, from whatever publisher. Bodies are never
deserialised by kombu, so a message cannot make it unpickle anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kombu.connection import Connection
from kombu.messaging import Producer
from kombu.transport import virtual
from kombu.utils.json import loads
from typing_extensions import Unpack

from ..brokers import bound
from ..errors import AccessDenied, ConfigurationError, QueueError, QueueNotFound
from ..queues import EntryFailure, Message, OutgoingMessage
from ..text import printable
from .engine import Engine, EngineOptions
from .hub import ConsumerHub

#: How long one call to the broker may take before it counts as down, in seconds. Redis is tried a few times.
TIMEOUT = 5.0
#: For how long Redis keeps a message from others, unless it is extended or another time is asked for, in seconds.
REDIS_VISIBILITY = 60
#: Elsewhere a message stays with a connection until that ends, so there is nothing to extend; looked at now and then.
_VISIBILITY = 3600
#: The longest that one receive waits, in seconds: a stop waits for it.
_LONGEST_WAIT = 1.0
#: How long to wait between two looks at an empty queue: doubled from the first to the second, in seconds.
_PAUSES = (0.01, 0.25)
#: How often to look for messages on Redis that nobody keeps any more, in seconds.
_RESTORE_INTERVAL = 5.0

_DENIED = {"AuthenticationError", "AuthenticationWrongNumberOfArgsError", "NoPermissionError"}

#: Takes one message from Redis, and notes it as unacknowledged as kombu does, at once: what kombu does in two steps is
#: lost if it is killed between them. What is no envelope of kombu's becomes the body of one.
#: KEYS: the queue. ARGV: the hash and the index of what is unacknowledged, now, a new tag, the queue's name, and what
#: is added to the queue's key for each priority.
_TAKE = """
local item
for place = 6, #ARGV do
    item = redis.call('RPOP', KEYS[1] .. ARGV[place])
    if item then break end
end
if not item then return false end
local readable, envelope = pcall(cjson.decode, item)
local properties = readable and type(envelope) == 'table' and envelope.properties
local tag = type(properties) == 'table' and properties.delivery_tag
if type(tag) ~= 'string' or type(envelope.headers) ~= 'table' or type(properties.delivery_info) ~= 'table'
    or item:find('"headers"%s*:%s*%[') or item:find('"delivery_info"%s*:%s*%[') then
    tag = ARGV[4]
    item = cjson.encode({
        body = item,
        headers = {},
        properties = {delivery_tag = tag, delivery_info = {exchange = '', routing_key = ARGV[5]}}
    })
end
redis.call('ZADD', ARGV[2], ARGV[3], tag)
redis.call('HSET', ARGV[1], tag, '[' .. item .. ',"",' .. cjson.encode(ARGV[5]) .. ']')
return {tag, item}
"""


class KombuQueue:
    """One queue of a broker that kombu speaks to.

    It may be shared by threads: its connection serves one at a time, for no longer than a call to the broker takes. It
    connects at the first call, and anew in a forked child.

    On RabbitMQ the broker keeps what was received and not acknowledged for as long as the connection lasts, and
    delivers it again when that is lost; a message must then be settled within the broker's ``consumer_timeout``
    (30 minutes unless it is set). On Redis a received message is kept from others for *visibility_timeout*, which
    extensions prolong; engines that listen to a topic must agree on it. Other transports of kombu's do as they do.

    :param topic: the queue's name.
    :param url: the broker's URL, as kombu takes it.
    :param visibility_timeout: seconds for which a message received from Redis stays invisible; default: 60.
    :param transport_options: kombu's options for the transport, as in Celery's ``broker_transport_options``.
    :raises ConfigurationError: kombu cannot use the URL.
    """

    #: What other brokers call a queue says nothing of order.
    is_fifo = False

    def __init__(
        self,
        topic: str,
        url: str,
        *,
        visibility_timeout: int | None = None,
        transport_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = topic
        self._url = url
        self._options = {
            "visibility_timeout": REDIS_VISIBILITY,
            # Of its own, so that nobody restores what is not theirs: Celery's tasks live by another timeout.
            "unacked_key": f"balog.{topic}.unacked",
            "unacked_index_key": f"balog.{topic}.unacked_index",
            "unacked_mutex_key": f"balog.{topic}.unacked_mutex",
            "unacked_mutex_expire": 10,
            # RabbitMQ takes a message without a word, whether or not it will keep it, unless it is asked to confirm.
            "confirm_publish": True,
            **(transport_options or {}),
            **({} if visibility_timeout is None else {"visibility_timeout": visibility_timeout}),
        }
        # By process: a forked child must not talk over its parent's connection, nor close it, nor wait for its lock.
        self._sessions = {os.getpid(): self._new_session()}
        self._pause = _PAUSES[0]

    def __repr__(self) -> str:
        return f"<KombuQueue {self.name}>"

    def receive(self, limit: int, wait: float) -> list[Message]:
        """Receive up to *limit* messages, waiting up to *wait* seconds (at most 1) for the first.

        :raises QueueNotFound: there is no such queue.
        :raises AccessDenied: the broker refuses the user of the URL.
        :raises QueueError: the broker could not be asked.
        """
        deadline = time.monotonic() + min(wait, _LONGEST_WAIT)
        while True:
            messages = self._take(limit)
            left = deadline - time.monotonic()
            if messages:
                self._pause = _PAUSES[0]
            if messages or left <= 0:
                return messages
            time.sleep(min(self._pause, left))
            self._pause = min(2 * self._pause, _PAUSES[1])

    def read(self, limit: int, wait: float, visibility: int) -> list[Message]:
        """As :meth:`receive`, whatever *visibility* is."""
        return self.receive(limit, wait)

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        """Acknowledge messages by their handles; return those that were not.

        A handle is good for as long as the connection over which it came.
        """
        return self._settle(handles, _acknowledge)

    def change_visibility(self, handles: Sequence[str], seconds: int) -> list[EntryFailure]:
        """Return messages to the queue if *seconds* is 0, else keep them; return those for which it failed.

        They are kept for as long as :class:`KombuQueue` says, whatever *seconds* is.
        """
        return self._settle(handles, _extend if seconds else _requeue, done=not seconds)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[EntryFailure]:
        """Send messages, their attributes as headers; when this returns, the broker has all of them.

        :raises QueueError: as :meth:`receive`; some of them may have been sent.
        """
        with self._channel("publishing to") as channel:
            producer = Producer(channel, auto_declare=False)  # type: ignore[no-untyped-call]
            for message in messages:
                producer.publish(  # type: ignore[no-untyped-call]
                    message.body.encode("utf-8", "surrogateescape"),
                    routing_key=self.name,
                    content_type="application/json",
                    content_encoding="utf-8",
                    headers=dict(message.attributes),
                    # Without it RabbitMQ drops, and confirms, what is for a queue that does not exist.
                    mandatory=True,
                    # Tells it from another of the same body.
                    message_id=uuid.uuid4().hex,
                    retry=False,
                    confirm_timeout=TIMEOUT,
                )
        return []

    def attributes(self) -> Mapping[str, str]:
        """How many messages wait, and how long one that was received stays invisible, by SQS's names.

        :raises QueueError: as :meth:`receive`.
        """
        with self._channel("looking at") as channel:
            is_redis = _is_redis(channel)
            # On Redis a queue is there when something is in it.
            declared = channel.queue_declare(queue=self.name, passive=not is_redis)
            return {
                "ApproximateNumberOfMessages": str(declared.message_count),
                "VisibilityTimeout": str(channel.visibility_timeout if is_redis else _VISIBILITY),
            }

    def exists(self) -> bool:
        """Whether there is such a queue; on Redis, which makes it when something is put into it, always.

        :raises QueueError: as :meth:`receive`, but for a queue that is missing.
        """
        try:
            self.attributes()
        except QueueNotFound:
            return False
        return True

    def create(self) -> None:
        """Create the queue, durable; an existing one stays as it is.

        :raises QueueError: as :meth:`receive`.
        """
        if not self.exists():
            with self._channel("creating") as channel:
                channel.queue_declare(queue=self.name, durable=True, auto_delete=False)

    def close(self) -> None:
        """Close the connection; what was received and not settled goes back to the queue."""
        self._session.close()

    @property
    def _session(self) -> _Session:
        pid = os.getpid()
        return self._sessions.get(pid) or self._sessions.setdefault(pid, self._new_session())

    def _new_session(self) -> _Session:
        try:
            options = dict(self._options)
            connection = Connection(self._url, connect_timeout=TIMEOUT, transport_options=options)  # type: ignore[no-untyped-call]
            return _Session(bound(connection, TIMEOUT))
        except Exception as error:
            # Not their text, which may hold a part of the password.
            raise ConfigurationError(
                f"kombu cannot use the URL of the broker ({type(error).__name__}): write it as "
                "'amqp://user:password@host:5672/vhost' or 'redis://host:6379/0', with special characters in the "
                "password percent-encoded, and install what its transport needs, such as 'balog_celery[redis]'"
            ) from None

    def _take(self, limit: int) -> list[Message]:
        messages: list[Message] = []
        session = self._session
        try:
            while len(messages) < limit:
                # For each message anew, so that acknowledgements need not wait for all of them.
                with self._channel("receiving from") as channel:
                    if _is_redis(channel):
                        session.restore_abandoned(channel)
                        raw = _take_from_redis(channel, self.name)
                    else:
                        raw = channel.basic_get(self.name, no_ack=False)
                    if raw is None:
                        break
                    messages.append(_message(*session.hold(channel.message_to_python(raw))))
        except QueueError:
            # What is still held must not be forgotten; the next receive fails in its place.
            messages = [message for message in messages if message.handle in session.messages]
            if not messages:
                raise
        return messages

    def _settle(
        self, handles: Sequence[str], settle: Callable[[Any], bool], *, done: bool = True
    ) -> list[EntryFailure]:
        """Settle messages one by one, until one fails for a reason that would keep the others from it, too."""
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
                        EntryFailure(index, "Stale", "its connection was lost, or it was given to others", True)
                    )
                elif problem is not None:
                    failures.append(EntryFailure(index, type(problem).__name__, str(problem), False))
        return failures

    @contextmanager
    def _channel(self, what: str) -> Iterator[Any]:
        """The channel, for this thread alone."""
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
        text = f"{kind}: {printable(error, 500)}"
        if code in ("404", "312"):  # not found, and no route to it
            return QueueNotFound(f"there is no queue {name!r} on the broker: create it, or correct the topic", kind)
        if code in ("403", "530") or kind in _DENIED:
            return AccessDenied(
                f"the broker refused {what} queue {name!r}: check user, password and rights ({text})", kind
            )
        return QueueError(f"{what} queue {name!r} failed ({text})", kind)


class _Session:
    """One process's connection with its one channel, and what was received over it and is not settled.

    AMQP wants an acknowledgement on the channel over which the message came, and neither connections nor channels are
    for sharing: whoever uses one holds the lock, for one call.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        # The transports that keep a queue themselves know their messages over any connection, and make that anew.
        self._lasting = isinstance(connection.transport, virtual.Transport)
        self.lock = threading.RLock()
        self.messages: dict[str, Any] = {}
        self._channel: Any = None
        self._restore_at = 0.0

    def open(self) -> Any:
        """The channel; a new one if there is none."""
        if self._channel is None:
            # At once or not at all: the callers know how to wait.
            self.connection.ensure_connection(
                max_retries=1, interval_start=0, interval_step=0, interval_max=0, reraise_as_library_errors=False
            )
            self._channel = self.connection.channel()
        return self._channel

    def failed(self) -> None:
        """A call has failed: let go of the channel, and of all that only it could settle."""
        if self._channel is not None and self._lasting:
            # Whoever holds messages needs the time to extend them, before anybody takes them for abandoned.
            self._restore_at = (
                time.monotonic() + self._channel.visibility_timeout / 2 if _is_redis(self._channel) else 0
            )
            return
        self._channel = None
        self.messages.clear()
        with contextlib.suppress(Exception):
            # Not close(), which would wait for the answer of a broker that may have none.
            self.connection.collect(TIMEOUT)

    def close(self) -> None:
        """Close the connection, as well as can be."""
        with self.lock:
            self._channel = None
            self.messages.clear()
            with contextlib.suppress(Exception):
                self.connection.close()

    def hold(self, message: Any) -> tuple[str, Any]:
        """Keep *message* until it is settled; return its handle with it."""
        handle = uuid.uuid4().hex
        self.messages[handle] = message
        return handle, message

    def restore_abandoned(self, channel: Any) -> None:
        """Put back what was received and neither settled nor extended, by whomever: now and then."""
        if time.monotonic() >= self._restore_at:
            self._restore_at = time.monotonic() + _RESTORE_INTERVAL
            channel.qos.restore_visible(num=channel.unacked_restore_limit, interval=1)


def _is_redis(channel: Any) -> bool:
    return getattr(channel.connection, "driver_type", None) == "redis"


def _take_from_redis(channel: Any, queue: str) -> Any:
    """As ``channel.basic_get``, but whatever is in the list, nothing of it is lost; None if there is nothing."""
    prefix = channel.global_keyprefix
    steps = [f"{channel.sep}{step}" if step else "" for step in channel.priority_steps]
    keys = [prefix + channel.unacked_key, prefix + channel.unacked_index_key]
    take = channel.client.register_script(_TAKE)
    taken = take(keys=[queue], args=[*keys, time.time(), str(uuid.uuid4()), queue, *steps])
    if taken is None:
        return None
    tag, item = (part.decode(errors="replace") for part in taken)
    info: dict[str, Any] = {"exchange": "", "routing_key": queue}
    try:
        message = channel.Message(loads(item), channel=channel)  # type: ignore[no-untyped-call]
        info["redelivered"] = message.delivery_info.get("redelivered", False)
        if not isinstance(message.body, (bytes, str)):
            raise TypeError("a body is text or bytes")
    except Exception:
        # It looks like an envelope, and is none.
        properties = {"delivery_tag": tag, "delivery_info": info}
        message = channel.Message({"body": item, "headers": {}, "properties": properties}, channel=channel)
    # It goes back to where it came from, and not to all queues of its exchange.
    message.delivery_info = info
    channel.qos.append(message, tag)
    return message


def _acknowledge(message: Any) -> bool:
    message.ack()
    return True


def _requeue(message: Any) -> bool:
    message.requeue()
    return True


def _extend(message: Any) -> bool:
    """Keep *message* from others for longer; False if it was given to others already."""
    channel = message.channel
    if not _is_redis(channel):
        return True
    index = channel.unacked_index_key
    return bool(channel.client.zadd(index, {message.delivery_tag: time.time()}, xx=True, ch=True))


def _message(handle: str, message: Any) -> Message:
    properties, headers = message.properties, message.headers
    body = _text(message.body)
    delivered = headers.get("x-delivery-count")  # of RabbitMQ's quorum queues: how often before
    redelivered = message.delivery_info.get("redelivered")
    return Message(
        body=body,
        handle=handle,
        # Two messages of one body that their publisher did not name look like one.
        message_id=str(
            properties.get("message_id")
            or properties.get("delivery_tag")
            or hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        ),
        received=time.monotonic(),
        receive_count=delivered + 1 if isinstance(delivered, int) else 2 if redelivered else 1,
        attributes={name: value for name, value in headers.items() if isinstance(value, str)},
    )


def _text(body: Any) -> str:
    """What is not UTF-8 stays as it is: :meth:`KombuQueue.send` writes the same bytes again."""
    return body if isinstance(body, str) else bytes(body or b"").decode("utf-8", "surrogateescape")


class KombuEngine(Engine):
    """Listens to the queues, of a broker that kombu speaks to, that a hub's consumers name.

    A topic is a queue's name: what its broker puts into it, by which exchange and binding, is the broker's matter. On
    Redis it is a list, in which kombu's publishers put an envelope; a plain ``LPUSH`` of JSON is taken as well. Use is
    as that of :class:`~balog_celery.consumers.sqs.SQSEngine`. *wait_time* is 1 second at most.

    :param hub: the consumers.
    :param url: the broker's URL: ``amqp://user:password@host:5672/vhost``, ``redis://host:6379/0``, ...
    :param transport_options: kombu's options for the transport, as in Celery's ``broker_transport_options``.
    :raises ConfigurationError: kombu cannot use the URL.

    The other arguments are those of :class:`Engine`; *visibility_timeout* is for Redis, and 60 seconds by default.
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
                visibility_timeout=options.get("visibility_timeout"),
                transport_options=transport_options,
            )
            self._queues.append(queue)
            return queue

        KombuQueue("", url, transport_options=transport_options)  # a bad URL is an error here
        super().__init__(
            hub,
            connect,
            consumer_operator=consumer_operator,
            default_event_handler=default_event_handler,
            **options,
        )

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """As :meth:`Engine.run`; connections are closed in the end."""
        try:
            super().run(ready)
        finally:
            for queue in self._queues:
                queue.close()
