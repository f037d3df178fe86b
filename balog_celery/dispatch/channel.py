"""The socket between an engine and the worker beside it, which carries the messages of ``protocol.py`` as lines."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time

from pydantic_core import from_json, to_json

from ..events.serialization import mend_surrogates
from .protocol import KIND_OF, KINDS, Message

_CHUNK = 262_144
#: How long a thread waits for messages before it waits again, in seconds.
_LONG = 3600.0


class Channel:
    """One end of the socket. Any thread may send; one thread receives.

    It works in threads and, where gevent or eventlet have patched the standard library, in greenlets: the socket never
    blocks, and waiting is left to ``selectors``, which both of them replace.

    :param sock: the end, which this object closes.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        #: The same end for a thread that waits: each of the two has a timeout of its own.
        self._waiting = sock.dup()
        self._waiting.settimeout(_LONG)
        self._sending = threading.Lock()
        #: Sent bytes are deleted from its front, which copies nothing.
        self._unsent = bytearray()
        #: The pieces of a line whose end has not arrived.
        self._rest: list[bytes] = []
        self._receiving = threading.Lock()

    def fileno(self) -> int:
        """Return the file descriptor, for an event loop."""
        return self._socket.fileno()

    def send(self, *messages: Message, timeout: float | None = None, hold: bool = False) -> bool:
        """Send what is buffered, and *messages* after it.

        :param timeout: how long to wait until the other end has room for all of it, in seconds; None: without limit.
            The rest stays buffered.
        :param hold: only buffer *messages*, for the next call.
        :returns: whether nothing remains buffered.
        :raises OSError: the other end is gone.
        """
        lines = [(KIND_OF[type(message)], *message) for message in messages]
        try:
            data = b"".join([to_json(line) + b"\n" for line in lines])
        except ValueError:
            # A lone surrogate is not Unicode text. The decoders mend it in the same way.
            data = b"".join([mend_surrogates(json.dumps(line)).encode() + b"\n" for line in lines])
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._sending:
            self._unsent += data
        while not hold:
            with self._sending, contextlib.suppress(BlockingIOError):
                while self._unsent:
                    del self._unsent[: self._socket.send(self._unsent)]
                return True
            remaining = None if deadline is None else deadline - time.monotonic()
            with selectors.DefaultSelector() as writable:
                writable.register(self._socket, selectors.EVENT_WRITE)
                if not writable.select(remaining):
                    break
        return False

    def receive(self) -> list[Message] | None:
        """Return the messages that have arrived, or wait for some; None when the other end is gone.

        Kinds that this release does not know are left out, and so are fields beyond those that it knows.

        :raises TypeError: a field is missing.
        """
        with self._receiving:
            chunk: bytes | None = None
            while chunk is None:
                try:
                    chunk = self._waiting.recv(_CHUNK)
                except TimeoutError:
                    continue
                except OSError:
                    return None
        if not chunk:
            return None
        *lines, rest = chunk.split(b"\n")
        if lines and self._rest:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._rest.clear()
        if rest:
            self._rest.append(rest)
        messages: list[Message] = []
        for line in lines:
            kind, *fields = from_json(line) or [None]
            if isinstance(kind, str) and (known := KINDS.get(kind)) is not None:
                messages.append(known(*fields[: len(known._fields)]))
        return messages

    def close(self) -> None:
        """Close this end. The other end reads the end of the stream, and so does a thread that receives here."""
        with contextlib.suppress(OSError):  # the other end may be closed already
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._receiving:  # not while a thread reads from it
            self._waiting.close()
            self._socket.close()
