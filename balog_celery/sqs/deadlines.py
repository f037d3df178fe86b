"""How long a call is waited for: until a deadline, or until another thread cancels it."""

from __future__ import annotations

import contextvars
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

Answer = TypeVar("Answer")

#: How many calls of a service may go on that no thread waits for any longer. Each of them has a thread.
MOST_LEFT_BEHIND = 50


class Cancellation:
    """Ends one call from another thread, or before it has begun."""

    def __init__(self) -> None:
        #: When the answer began to arrive, by ``time.monotonic()``; None if that is not known.
        self.answer_began: float | None = None
        self._cancelled = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._wake: Callable[[], None] = lambda: None

    @property
    def is_cancelled(self) -> bool:
        """Whether the call is to end."""
        return self._cancelled

    def cancel(self) -> None:
        """End the call: close the connection that it waits on."""
        self._cancelled = True
        with self._lock, suppress(OSError):
            self._wake()
            if self._socket is not None:
                # The plain method: that of a TLS socket would take the encryption away from the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise TimeoutError if the call is cancelled."""
        if self.is_cancelled:
            raise TimeoutError("cancelled")

    def watch(self, sock: socket.socket | None) -> None:
        """Let :meth:`cancel` close *sock*, on which the call waits from now on; None: it waits on no socket any longer.

        :raises TimeoutError: it was cancelled.
        """
        with self._lock:
            self._socket = sock
        if sock is not None:
            self.check()

    @contextmanager
    def over(self, sock: socket.socket) -> Iterator[None]:
        """Let :meth:`cancel` end what the block does on *sock*.

        :raises TimeoutError: it was cancelled.
        """
        try:
            self.watch(sock)
            yield
        except Exception:
            self.check()
            raise
        finally:
            self.watch(None)

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Let :meth:`cancel` call *wake* during the block."""
        with self._lock:
            self._wake = wake
        try:
            yield
        finally:
            with self._lock:
                self._wake = lambda: None


#: The cancellation of the call that this thread makes for another one.
_current: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar("balog_cancellation", default=None)
_left_behind: defaultdict[str, set[threading.Thread]] = defaultdict(set)


def within(timeout: float, cancellation: Cancellation, service: str, call: Callable[[], Answer]) -> Answer:
    """Return what *call* returns, from a thread of its own, which is left behind at the deadline.

    For calls through boto3, which bounds each read, but no whole answer. What is left behind ends soon: its connection
    is closed, if it has one (:func:`current`).

    :param timeout: how long to wait, in seconds.
    :param service: whose calls are counted together: an outage of one does not end the calls of another.
    :raises TimeoutError: the call has not ended, was cancelled, or too many others have not ended.
    """
    left_behind = _left_behind[service]
    left_behind.difference_update([thread for thread in tuple(left_behind) if not thread.is_alive()])
    if len(left_behind) >= MOST_LEFT_BEHIND:
        raise TimeoutError(f"{len(left_behind)} earlier calls have not ended")
    cancellation.check()
    outcome: list[tuple[Any, BaseException | None]] = []
    done = threading.Event()

    def run() -> None:
        _current.set(cancellation)
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))
        cancellation.watch(None)
        done.set()

    # In the caller's context, which tells a tracing library to which span the call belongs.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name=f"{service}-call", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down, and starts no more threads
        return call()
    with cancellation.waking(done.set):
        done.wait(timeout)
    if not outcome:
        left_behind.add(thread)
        cancellation.check()
        cancellation.cancel()  # it is not to begin another attempt
        raise TimeoutError(f"no whole answer within {timeout:.3g} s")
    answer, error = outcome[0]
    if error is not None:
        try:
            raise error
        finally:
            del error, outcome  # the traceback refers to this frame
    return answer  # type: ignore[no-any-return]


def current() -> Cancellation | None:
    """Return the cancellation of the call that this thread makes for another one, if it makes one."""
    return _current.get()


def refuse_if_cancelled(**_: Any) -> None:
    """Raise TimeoutError before an attempt of a cancelled call: a handler of boto3's event ``before-send``."""
    if (cancellation := current()) is not None:
        cancellation.check()
