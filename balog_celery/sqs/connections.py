"""Keep-alive HTTP connections to one server, with a deadline for each whole exchange.

httptools, a binding of llhttp, parses the answers.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import time
import weakref
from functools import cached_property
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import SplitResult

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from .answers import ForeignAnswer
from .patience import Cancellation

#: How long connecting may take, in seconds, however many addresses the host has.
_CONNECT_TIMEOUT = 5.0
#: How long a connection may be idle and still be used again, in seconds. A firewall may have forgotten an older one: a
#: request on it would get no answer.
_IDLE = 45.0
#: The slowest link that is supported, in bytes a second. Each exchange gets that much more time for its size.
SLOWEST = 65_536
#: The largest answer that is read, in bytes: ten messages of 1 MiB, each byte of which may be six bytes of JSON.
LARGEST = 67_108_864
#: How much is read from a socket at a time, in bytes: enough for an answer with ten small messages.
_CHUNK = 65_536
#: The headers that say where an answer ends.
_DELIMITERS = (b"content-length", b"transfer-encoding")
#: TCP options that probe a silent connection every few seconds, so that firewalls remember it during a long poll and a
#: dead one is noticed. Not every system has all of them; macOS calls TCP_KEEPIDLE TCP_KEEPALIVE.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


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


class Connections:
    """The connections to one server. Threads may share it.

    :param endpoint: the server's URL.
    :param ca_bundle: the file of certificates to trust; None: botocore's.
    """

    def __init__(self, endpoint: SplitResult, ca_bundle: str | None) -> None:
        self._endpoint = endpoint
        self._ca_bundle = ca_bundle
        #: The unused connections, each with the ``time.monotonic()`` of its last use.
        self._idle: list[tuple[socket.socket, float]] = []
        #: What the newest connection's server gave to shorten the next TLS handshake.
        self._session: ssl.SSLSession | None = None
        weakref.finalize(self, _close, self._idle)

    def exchange(
        self, request: bytes, timeout: float, cancellation: Cancellation | None = None, *, grows: bool = True
    ) -> Answer:
        """Send *request*; return the answer.

        :param timeout: how long the whole exchange may take, in seconds.
        :param cancellation: may end it earlier.
        :param grows: whether a large request or answer gets more time.
        :raises TimeoutError: it takes longer, or was cancelled.
        :raises OSError: the answer does not come, or not all of it.
        :raises ForeignAnswer: the answer is larger than :data:`LARGEST`.
        :raises httptools.HttpParserError: the answer is not HTTP.
        """
        slowest = SLOWEST if grows else math.inf
        deadline = time.monotonic() + timeout + len(request) / slowest
        kept = self._unused()
        sock = kept or self._connect(min(deadline, time.monotonic() + _CONNECT_TIMEOUT))
        try:
            with contextlib.nullcontext() if cancellation is None else cancellation.over(sock):
                unsent = memoryview(request)
                while unsent:
                    _limit(sock, _left(deadline))
                    unsent = unsent[sock.send(unsent) :]
                response = _Response(sock, deadline, slowest)
            if kept is None and isinstance(sock, ssl.SSLSocket):
                self._session = sock.session  # only now: TLS 1.3 sends it after the handshake
        except BaseException:
            sock.close()
            raise
        if response.keeps_connection:
            self._idle.append((sock, time.monotonic()))
        else:
            sock.close()
        return Answer(response.status, response.content, response.date, response.location, response.began)

    def _unused(self) -> socket.socket | None:
        """Return an idle connection on which nothing waits to be read, if there is one."""
        while True:
            try:
                sock, since = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() - since < _IDLE and not _is_readable(sock):
                return sock
            # It is old; or the server has closed it, or has sent bytes that would look like the next request's answer.
            sock.close()

    def _connect(self, deadline: float) -> socket.socket:
        secure = self._endpoint.scheme == "https"
        host = self._endpoint.hostname or ""
        sock = _connected(host, self._endpoint.port or (443 if secure else 80), deadline)
        try:
            # Otherwise the end of a long request waits until the server has acknowledged its beginning.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if (option := getattr(socket, name, None)) is not None:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
            if secure:
                sock.settimeout(_left(deadline))
                sock = self._tls.wrap_socket(sock, server_hostname=host, session=self._session)
        except BaseException:
            sock.close()
            raise
        return sock

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        from .botocore_compat import default_certificates

        return ssl.create_default_context(cafile=self._ca_bundle or default_certificates())


class _Response:
    """Receives the first final response. Further bytes are ignored, but end the connection.

    :raises TimeoutError: it is not complete before *deadline*, plus what its bytes take at the speed *slowest*.
    :raises OSError: it does not come, or not all of it.
    :raises ForeignAnswer: it is larger than :data:`LARGEST`.
    :raises httptools.HttpParserError: it is not HTTP.
    """

    def __init__(self, sock: socket.socket, deadline: float, slowest: float) -> None:
        self.status = 0
        self.date = self.location = b""
        self.began = 0.0
        self.keeps_connection = False
        self._complete = False
        self._ends_itself = True
        self._content: list[bytes] = []
        self._parser = HttpResponseParser(self)
        received = 0
        while not self._complete:
            _limit(sock, _left(deadline + received / slowest))
            chunk = sock.recv(_CHUNK)
            received += len(chunk)
            if received > LARGEST:
                raise ForeignAnswer("it is too large")
            if chunk:
                self._feed(chunk)
            elif self._ends_itself:
                raise ConnectionResetError("the server closed the connection before it had answered")
            else:
                self.status = self._parser.get_status_code()
                break
        self.content = b"".join(self._content)
        del self._parser  # it refers to this object, so the content would stay until the next garbage collection

    def _feed(self, chunk: bytes) -> None:
        try:
            self._parser.feed_data(chunk)
        except (HttpParserError, HttpParserUpgrade):
            if not self._complete:  # what follows the answer does not change it
                raise

    def on_message_begin(self) -> None:
        """Handle the parser's event before the headers."""
        self._delimited = False
        if not self._complete:
            self.began = time.monotonic()
        # After a second response, the next one may answer any request.
        self.keeps_connection = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle the parser's event for each header."""
        name = name.lower()
        if name in _DELIMITERS:
            self._delimited = True
        elif name == b"date" and not self._complete:
            self.date = value
        elif name == b"location" and not self._complete:
            self.location = value

    def on_headers_complete(self) -> None:
        """Handle the parser's event after the headers. Content without a length ends the connection (RFC 9112, 6.3)."""
        self._ends_itself = self._delimited or self._parser.get_status_code() < HTTPStatus.OK

    def on_body(self, body: bytes) -> None:
        """Handle the parser's event for each part of the body."""
        if not self._complete:
            self._content.append(body)

    def on_message_complete(self) -> None:
        """Handle the parser's event at the end, the only time when it knows whether the connection is kept."""
        status = self._parser.get_status_code()
        # Interim responses come before the final one (RFC 9110, section 15.2).
        if status >= HTTPStatus.OK and not self._complete:
            self.status, self._complete = status, True
            self.keeps_connection = self._parser.should_keep_alive()


def _connected(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address of *host* that answers. Each address gets an equal share of the time left."""
    addresses = [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    while len(addresses) > 1:
        share = _left(deadline) / len(addresses)
        with contextlib.suppress(OSError):
            return socket.create_connection((addresses.pop(0), port), share)
    return socket.create_connection((addresses[0], port), _left(deadline))


def _left(deadline: float) -> float:
    """Return the seconds left until *deadline*, by ``time.monotonic()``.

    :raises TimeoutError: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _is_readable(sock: socket.socket) -> bool:
    if not hasattr(select, "poll"):  # on Windows, and with eventlet
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _limit(sock: socket.socket, seconds: float) -> None:
    """Let the next operation on *sock* take so long; setting a timeout takes time, so one that is as good stays."""
    if abs((sock.gettimeout() or math.inf) - seconds) > seconds / 100:
        sock.settimeout(seconds)


def _close(idle: list[tuple[socket.socket, float]]) -> None:
    for connection, _since in idle:
        connection.close()
