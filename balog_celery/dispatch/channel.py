"""The socket between an engine and the worker beside it: lines of JSON, each way. ``protocol.py`` has their meaning."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from ..events.serialization import mend_surrogates

_CHUNK = 262_144


class Channel:
    """One end of the socket. Any thread may send; one thread receives.

    It works in threads and, where gevent or eventlet have patched the standard library, in greenlets: the socket never
    blocks, and waiting is left to ``selectors``, which both of them replace.

    :param sock: the end, which this object closes.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sending = threading.Lock()
        self._unsent = b""
        self._rest = b""

    def fileno(self) -> int:
        """Return the file descriptor, for an event loop."""
        return self._socket.fileno()

    def buffer(self, *lines: Sequence[Any]) -> None:
        """Keep *lines* for the next :meth:`send`."""
        try:
            data = b"".join([to_json(line) + b"\n" for line in lines])
        except ValueError:
            # A lone surrogate is not Unicode text. The decoders mend it in the same way.
            data = b"".join([mend_surrogates(json.dumps(line)).encode() + b"\n" for line in lines])
        with self._sending:
            self._unsent += data

    def send(self, *lines: Sequence[Any], timeout: float | None = None) -> bool:
        """Send what is buffered, and *lines* after it.

        :param timeout: how long to wait until the other end has room for all of it, in seconds; None: without limit.
            The rest stays buffered.
        :returns: whether nothing remains buffered.
        :raises OSError: the other end is gone.
        """
        self.buffer(*lines)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._sending, contextlib.suppress(BlockingIOError):
                while self._unsent:
                    self._unsent = self._unsent[self._socket.send(self._unsent) :]
                return True
            remaining = None if deadline is None else deadline - time.monotonic()
            if not self._wait_for(selectors.EVENT_WRITE, remaining):
                return False

    def receive(self) -> list[list[Any]] | None:
        """Return the lines that have arrived, or wait for the first; None when the other end is gone."""
        while True:
            try:
                chunk = self._socket.recv(_CHUNK)
                break
            except BlockingIOError:
                with contextlib.suppress(OSError, ValueError):  # another thread has closed it: recv() fails next
                    self._wait_for(selectors.EVENT_READ, None)
            except OSError:
                return None
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [from_json(line) for line in lines]

    def _wait_for(self, event: int, timeout: float | None) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, event)
            return bool(selector.select(timeout))

    def close(self) -> None:
        """Close this end. The other end reads the end of the stream."""
        with contextlib.suppress(OSError):  # the other end may be closed already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
