"""The socket between an engine and the worker beside it: lines of JSON, each way.

From the engine: ``["task", number, task id, task name, arguments shown, event, headers]``; for a batch ``event`` is a
list of them. From the worker: ``["open", limit, [queue, ...]]``, hand me tasks of these queues, so many at a time;
``["publish"]``, I cannot be handed tasks; ``["closed"]``, hand me none for now; ``["waiting", number]``, it waits here
for a retry or for its rate limit, so do not count it against the limit; ``["left", number, [position, ...]]``, of the
batch only these are left, the others are done; ``["done", number]`` and ``["refused", number]``.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

from .wire import mend_surrogates

_CHUNK = 262_144


class Link:
    """One end of the socket. Any thread may send; one thread receives.

    :param sock: the end; it becomes this object's.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._unsent = b""
        self._rest = b""

    def fileno(self) -> int:
        """The file descriptor, for an event loop."""
        return self._socket.fileno()

    def send(self, *lines: Sequence[Any]) -> None:
        """Send some lines.

        :raises OSError: the other end is gone.
        """
        data = _written(lines)
        with self._sending:
            data, self._unsent = self._unsent + data, b""
            self._socket.sendall(data)

    def post(self, *lines: Sequence[Any]) -> bool:
        """Send some lines without waiting for the other end to make room; what has none is kept for :meth:`flush`.

        :returns: whether all was sent.
        :raises OSError: as :meth:`send`.
        """
        data = _written(lines)
        with self._sending:
            self._unsent += data
            return self._flush()

    def flush(self, timeout: float = 0.0) -> bool:
        """Send what :meth:`post` has kept, as far as there is room; result and error as there.

        :param timeout: for how many seconds to wait for room.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._sending:
                if self._flush():
                    return True
            left = deadline - time.monotonic()
            if left <= 0 or not self._has_room(left):
                return False

    def _has_room(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(timeout * 1000))

    def _flush(self) -> bool:
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def receive(self) -> list[list[Any]] | None:
        """The lines that have arrived, waiting for the first if none has; None when the other end is gone."""
        try:
            chunk = self._socket.recv(_CHUNK)
        except OSError:
            chunk = b""
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [from_json(line) for line in lines]

    def close(self) -> None:
        """Close this end; the other end is told by the end of its stream."""
        with contextlib.suppress(OSError):  # the other end may have been faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _written(lines: Sequence[Sequence[Any]]) -> bytes:
    return b"".join([_line(line) for line in lines])


def _line(line: Sequence[Any]) -> bytes:
    try:
        return to_json(line) + b"\n"
    except ValueError:
        # A lone surrogate is no Unicode text; the records of whoever sent it are read in the same way.
        return mend_surrogates(json.dumps(line)).encode() + b"\n"
