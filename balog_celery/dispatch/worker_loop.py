"""Where the worker's side of the hand-off runs: in the worker's event loop, or in a thread where it has none.

Workers of gevent and eventlet have no event loop, and neither have those whose broker's transport cannot be used in
one. In a worker of gevent or eventlet, the threads here are greenlets.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..threads import SupervisedThread
from .channel import Channel
from .protocol import Message

logger = logging.getLogger(__name__)

#: For how long messages that may wait are gathered, in seconds: each write wakes the engine, which takes CPU of both.
LINGER = 0.01

#: Called with the messages that have arrived, or with None at the end of the stream.
OnMessages = Callable[[Sequence[Message] | None], None]


class WorkerLoop(Protocol):
    """Makes all calls to the hand-off one after the other."""

    def start_reading(self, channel: Channel, on_messages: OnMessages) -> None:
        """Have *on_messages* called with what arrives."""

    def stop_reading(self, channel: Channel) -> None:
        """Read no more from *channel*."""

    def call_soon(self, call: Callable[..., None], *args: Any) -> None:
        """Have *call* called; any thread may ask for it."""

    def send(self, channel: Channel, message: Message, *, may_wait: bool = False) -> None:
        """Send *message* soon, without waiting for the other end; any thread may ask for it.

        :param may_wait: whether it may wait a moment for others to be sent with it.
        :raises OSError: the other end is gone. It may also be, without an error.
        """


class HubLoop:
    """Runs in the event loop of the worker's main process, whose thread makes it.

    :param hub: the loop; its documented methods are those of asyncio.
    :param gathers: whether what this thread sends in one turn of the loop is written at the turn's end, at once: not
        where the loop executes the tasks, as a turn may take hours there.
    :param linger: for how long messages that may wait are gathered, in seconds.
    """

    def __init__(self, hub: Any, *, gathers: bool = True, linger: float = LINGER) -> None:
        self._hub = hub
        self._linger = linger
        self._gathering = threading.get_ident() if gathers else None
        #: The channel that is written to next, and by when, by ``time.monotonic()``.
        self._due: Channel | None = None
        self._due_at = math.inf
        self._has_timer = False

    def start_reading(self, channel: Channel, on_messages: OnMessages) -> None:
        self._hub.add_reader(channel.fileno(), lambda: on_messages(channel.receive()))
        self._hub.on_tick.add(self._end_turn)

    def stop_reading(self, channel: Channel) -> None:
        self._hub.remove_reader(channel.fileno())
        self._hub.on_tick.discard(self._end_turn)
        self._send_buffered()

    def call_soon(self, call: Callable[..., None], *args: Any) -> None:
        self._hub.call_soon(call, *args)

    def send(self, channel: Channel, message: Message, *, may_wait: bool = False) -> None:
        if threading.get_ident() != self._gathering:  # the loop may sleep for a second before its next turn
            channel.send(message, timeout=0.0)
            return
        if self._due is not channel:
            self._send_buffered()
            self._due, self._due_at = channel, time.monotonic() + self._linger
        channel.send(message, hold=True)
        if not may_wait:
            self._due_at = 0.0
        elif not self._has_timer:  # one that comes too early leaves the rest to the next one
            self._has_timer = True
            self._hub.call_later(self._linger, self._on_timer)

    def _on_timer(self) -> None:
        self._has_timer = False
        self._send_buffered()

    def _end_turn(self) -> None:
        if self._due is not None and self._due_at <= time.monotonic():
            self._send_buffered()

    def _send_buffered(self) -> None:
        channel, self._due = self._due, None
        if channel is not None:
            with contextlib.suppress(OSError):  # the other end is gone, as its reader will notice
                channel.send(timeout=0.0)


class ThreadLoop:
    """Runs in a thread, reads each channel in another one, and writes in a third.

    A channel is read to its end: one that reads until the worker has a broker again would have to be woken.

    The writer is a thread of its own because a pool of greenlets that is full makes the loop wait. Reports that waited
    for it reached the engine only when all tasks of a message had begun, so that the next ones came late.

    :param linger: for how long messages that may wait are gathered, in seconds.
    """

    def __init__(self, *, linger: float = LINGER) -> None:
        self._linger = linger
        self._calls = _Calls("the hand-off", "hand-off")
        self._writes = _Calls("the writer of the hand-off", "hand-off-writer")
        self._channel: Channel | None = None
        #: The channel that is about to be written to, and whether that is urgent.
        self._due: Channel | None = None
        self._urgent = threading.Event()

    def start_reading(self, channel: Channel, on_messages: OnMessages) -> None:
        self._calls.start()
        self._writes.start()
        if self._channel is not channel:
            self._channel = channel
            threading.Thread(
                target=self._read, args=(channel, on_messages), name="hand-off-reader", daemon=True
            ).start()

    def stop_reading(self, channel: Channel) -> None:
        """Do nothing: the hand-off releases what arrives while the worker has no broker."""

    def call_soon(self, call: Callable[..., None], *args: Any) -> None:
        self._calls.put(call, *args)

    def send(self, channel: Channel, message: Message, *, may_wait: bool = False) -> None:
        """Send *message* with those of the other tasks that end before the next write: greenlets end together."""
        channel.send(message, hold=True)
        if not may_wait:
            self._urgent.set()
        if self._due is not channel:
            self._due = channel
            self._writes.put(self._send_buffered, channel)

    def _send_buffered(self, channel: Channel) -> None:
        self._urgent.wait(self._linger)
        self._urgent.clear()
        self._due = None  # first: what is buffered from now on may come too late
        with contextlib.suppress(OSError):  # the other end is gone, as its reader will notice
            channel.send(timeout=0.0)

    def _read(self, channel: Channel, on_messages: OnMessages) -> None:
        try:
            while (messages := channel.receive()) is not None:
                self.call_soon(on_messages, messages)
        finally:
            # Without its reader the channel is closed too, so that the engine ends and another one starts.
            self.call_soon(on_messages, None)


class _Calls:
    """A thread that makes calls one after the other.

    :param what: the thread as the log names it.
    :param name: the thread's name.
    """

    def __init__(self, what: str, name: str) -> None:
        self._calls: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.Queue()
        self._of_thread = (what, name)
        self._thread: SupervisedThread | None = None

    def start(self) -> None:
        """Start the thread, if it has not been started."""
        if self._thread is None:
            self._thread = SupervisedThread(*self._of_thread, self._run)
            self._thread.start()

    def put(self, call: Callable[..., None], *args: Any) -> None:
        """Have *call* called; any thread may ask for it."""
        self._calls.put((call, args))
        if self._thread is not None:
            self._thread.ensure_alive()

    def _run(self) -> None:
        while True:
            call, args = self._calls.get()
            try:
                call(*args)
            except Exception:
                logger.exception("unexpected error in the hand-off: it goes on")
