"""One process's connection to the broker of a queue, with the messages that it has received and not settled."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from typing import Any

from kombu.transport import virtual

from .kombu_compat import drop_connection, is_redis, restore_unacked, without_decompression

#: How often messages on Redis whose visibility timeout has ended are put back, in seconds.
_RESTORE_INTERVAL = 5.0


class Session:
    """A connection with one channel, and the messages received over it that are neither acknowledged nor requeued.

    AMQP requires an acknowledgement on the channel over which the message came, and threads must not use a connection
    or channel at the same time: a thread holds :attr:`lock` for each call.

    :param connection: the connection, not open yet.
    :param timeout: the seconds that dropping it may take.
    """

    def __init__(self, connection: Any, timeout: float) -> None:
        self.connection = connection
        self.lock = threading.RLock()
        #: The received messages by their handles.
        self.messages: dict[str, Any] = {}
        self._timeout = timeout
        # Transports for which kombu keeps the queues know their messages over any connection, and reconnect.
        self._outlives_connection = isinstance(connection.transport, virtual.Transport)
        self._channel: Any = None
        self._restore_at = 0.0

    def open(self) -> Any:
        """Return the channel; open one if there is none."""
        if self._channel is None:
            # A single attempt: the callers back off.
            self.connection.ensure_connection(
                max_retries=1, interval_start=0, interval_step=0, interval_max=0, reraise_as_library_errors=False
            )
            self._channel = self.connection.channel()
            self._channel.Message = without_decompression(self._channel.Message)
        return self._channel

    def failed(self) -> None:
        """Drop the channel after a failed call, with the messages that only it could settle."""
        if self._channel is not None and self._outlives_connection:
            # The processes that hold messages need time to extend them before those are put back.
            self._restore_at = time.monotonic() + self._channel.visibility_timeout / 2 if is_redis(self._channel) else 0
            return
        self._channel = None
        self.messages.clear()
        drop_connection(self.connection, self._timeout)

    def close(self) -> None:
        """Close the connection; errors are ignored."""
        with self.lock:
            self._channel = None
            self.messages.clear()
            with contextlib.suppress(Exception):
                self.connection.close()

    def hold(self, message: Any) -> tuple[str, Any]:
        """Hold *message* until it is settled; return its new handle and the message."""
        handle = uuid.uuid4().hex
        self.messages[handle] = message
        return handle, message

    def restore_expired(self, channel: Any) -> None:
        """Put messages on Redis back whose visibility timeout has ended, if this was not done lately."""
        if time.monotonic() >= self._restore_at:
            self._restore_at = time.monotonic() + _RESTORE_INTERVAL
            restore_unacked(channel)
