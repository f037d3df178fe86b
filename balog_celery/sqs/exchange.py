"""One HTTP request and its answer on a connection, with a deadline for the whole of it.

httptools, a binding of llhttp, parses the answers.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from http import HTTPStatus
from typing import NamedTuple, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .answers import UnexpectedResponse

#: The largest answer that is read, in bytes: ten messages of 1 MiB, each byte of which may be six bytes of JSON.
LARGEST = 67_108_864
#: How much is read from a socket at a time, in bytes: enough for an answer with ten small messages.
_CHUNK = 65_536
#: The headers that say where an answer ends.
_DELIMITERS = (b"content-length", b"transfer-encoding")


class Answer(NamedTuple):
    """An HTTP answer.

    :param date: its ``Date`` header; empty if it has none.
    :param location: its ``Location`` header; empty if it has none.
    :param began: when it began to arrive, by ``time.monotonic()``; None if that is not known.
    """

    status: int
    content: bytes
    date: bytes = b""
    location: bytes = b""
    began: float | None = None


class Ended(Protocol):
    """Takes back a connection that has had its answer; *is_kept*: it may be used again."""

    def __call__(self, sock: socket.socket, *, is_kept: bool) -> None: ...


class Exchange:
    """A request and its answer, on a connection that nothing else uses meanwhile.

    :param deadline: when all of it must have ended, by ``time.monotonic()``.
    :param slowest: the speed of the link, in bytes a second, at which a large answer gets more time.
    :param ended: takes the connection back.
    """

    def __init__(self, sock: socket.socket, deadline: float, slowest: float, ended: Ended) -> None:
        self.sock = sock
        self._deadline = deadline
        self._slowest = slowest
        self._ended = ended
        self._response = _Response()
        self._failure: Exception | None = None

    def send(self, request: bytes) -> None:
        """Send the request.

        :raises TimeoutError: it takes too long.
        :raises OSError: it cannot be sent.
        """
        unsent = memoryview(request)
        while unsent:
            _limit(self.sock, left(self._deadline))
            unsent = unsent[self.sock.send(unsent) :]

    def is_answered(self) -> bool:
        """Whether :meth:`receive` need not wait: the answer has arrived, or it never will."""
        # What can be read may be less than the answer: a part of it, or the session tickets of TLS 1.3.
        if self._failure is None and is_readable(self.sock):
            try:
                self.sock.settimeout(0)
                while not self._response.is_complete:
                    self._response.read(self.sock)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except Exception as error:
                self._failure = error
        return self._response.is_complete or self._failure is not None

    def receive(self) -> None:
        """Wait for the answer.

        :raises TimeoutError: it takes too long.
        :raises OSError: it does not come, or not all of it.
        :raises UnexpectedResponse: it is larger than :data:`LARGEST`.
        :raises httptools.HttpParserError: it is not HTTP.
        """
        if self._failure is not None:
            raise self._failure
        response = self._response
        while not response.is_complete:
            _limit(self.sock, left(self._deadline + response.received / self._slowest))
            response.read(self.sock)

    def end(self) -> Answer:
        """Give the connection back; return the answer, which has been received."""
        response = self._response
        self._ended(self.sock, is_kept=response.keeps_connection)
        return Answer(response.status, response.content, response.date, response.location, response.began)

    def finish(self) -> Answer:
        """Wait for the answer of a request that was sent; close the connection if it does not come.

        :raises Exception: as :meth:`receive`.
        """
        try:
            self.receive()
        except BaseException:
            self.sock.close()
            raise
        return self.end()


class _Response:
    """Receives the first final response. Further bytes are ignored, but end the connection."""

    def __init__(self) -> None:
        self.status = self.received = 0
        self.date = self.location = b""
        self.began = 0.0
        self.keeps_connection = self.is_complete = False
        self._ends_itself = True
        self._content: list[bytes] = []
        self._parser = HttpResponseParser(self)

    def read(self, sock: socket.socket) -> None:
        """Read what *sock* has.

        :raises OSError: nothing comes in time, or not all of the response.
        :raises UnexpectedResponse: it is larger than :data:`LARGEST`.
        :raises httptools.HttpParserError: it is not HTTP.
        """
        chunk = sock.recv(_CHUNK)
        self.received += len(chunk)
        if self.received > LARGEST:
            raise UnexpectedResponse("it is too large")
        if chunk:
            self._feed(chunk)
        elif self._ends_itself:
            raise ConnectionResetError("the server closed the connection before it had answered")
        else:
            self.status, self.is_complete = self._parser.get_status_code(), True
        if self.is_complete:
            self.content = b"".join(self._content)
            del self._parser  # it refers to this object, so the content would stay until the next garbage collection

    def _feed(self, chunk: bytes) -> None:
        try:
            self._parser.feed_data(chunk)
        except (HttpParserError, HttpParserUpgrade):
            if not self.is_complete:  # what follows the answer does not change it
                raise

    def on_message_begin(self) -> None:
        """Handle the parser's event before the headers."""
        self._delimited = False
        if not self.is_complete:
            self.began = time.monotonic()
        # After a second response, the next one may answer any request.
        self.keeps_connection = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle the parser's event for each header."""
        name = name.lower()
        if name in _DELIMITERS:
            self._delimited = True
        elif name == b"date" and not self.is_complete:
            self.date = value
        elif name == b"location" and not self.is_complete:
            self.location = value

    def on_headers_complete(self) -> None:
        """Handle the parser's event after the headers. Content without a length ends the connection (RFC 9112, 6.3)."""
        self._ends_itself = self._delimited or self._parser.get_status_code() < HTTPStatus.OK

    def on_body(self, body: bytes) -> None:
        """Handle the parser's event for each part of the body."""
        if not self.is_complete:
            self._content.append(body)

    def on_message_complete(self) -> None:
        """Handle the parser's event at the end, the only time when it knows whether the connection is kept."""
        status = self._parser.get_status_code()
        # Interim responses come before the final one (RFC 9110, section 15.2).
        if status >= HTTPStatus.OK and not self.is_complete:
            self.status, self.is_complete = status, True
            self.keeps_connection = self._parser.should_keep_alive()


def left(deadline: float) -> float:
    """Return the seconds left until *deadline*, by ``time.monotonic()``.

    :raises TimeoutError: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def is_readable(sock: socket.socket) -> bool:
    """Return whether bytes of *sock*, or its end, can be read at once."""
    if not hasattr(select, "poll"):  # on Windows, and with eventlet
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _limit(sock: socket.socket, seconds: float) -> None:
    """Let the next operation on *sock* take so long; setting a timeout takes time, so one that is as good stays."""
    if abs((sock.gettimeout() or math.inf) - seconds) > seconds / 100:
        sock.settimeout(seconds)
