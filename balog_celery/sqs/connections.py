"""Keep-alive HTTP connections to one server, with a deadline for each whole exchange."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import time
import weakref
from functools import cached_property
from urllib.parse import SplitResult

from .deadlines import Cancellation
from .exchange import Answer, Exchange, is_readable, left

#: How long connecting may take, in seconds, however many addresses the host has.
_CONNECT_TIMEOUT = 5.0
#: How long a connection may be idle and still be used again, in seconds. A firewall may have forgotten an older one: a
#: request on it would get no answer.
_IDLE = 45.0
#: The slowest link that is supported, in bytes a second. Each exchange gets that much more time for its size.
SLOWEST = 65_536
#: TCP options that probe a silent connection every few seconds, so that firewalls remember it during a long poll and a
#: dead one is noticed. Not every system has all of them; macOS calls TCP_KEEPIDLE TCP_KEEPALIVE.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


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
        :raises UnexpectedResponse: the answer is larger than :data:`~.exchange.LARGEST`.
        :raises httptools.HttpParserError: the answer is not HTTP.
        """
        exchange = self._open(request, timeout, SLOWEST if grows else math.inf)
        try:
            with contextlib.nullcontext() if cancellation is None else cancellation.over(exchange.sock):
                exchange.send(request)
                exchange.receive()
        except BaseException:
            exchange.sock.close()
            raise
        return exchange.end()  # outside of that: a cancellation must not touch a connection that is used again

    def start(self, request: bytes, timeout: float) -> Exchange:
        """Send *request*; return the exchange, whose answer any thread may read later.

        :param timeout: how long the whole exchange may take, in seconds; a large request or answer gets more time.
        :raises TimeoutError: it takes longer to connect and send.
        :raises OSError: the request cannot be sent.
        """
        exchange = self._open(request, timeout, SLOWEST)
        try:
            exchange.send(request)
        except BaseException:
            exchange.sock.close()
            raise
        return exchange

    def _open(self, request: bytes, timeout: float, slowest: float) -> Exchange:
        deadline = time.monotonic() + timeout + len(request) / slowest
        kept = self._unused()
        sock = kept or self._connect(min(deadline, time.monotonic() + _CONNECT_TIMEOUT))
        return Exchange(sock, deadline, slowest, self._ended if kept else self._first_ended)

    def _first_ended(self, sock: socket.socket, *, is_kept: bool) -> None:
        """Note the end of the first exchange on a connection."""
        if isinstance(sock, ssl.SSLSocket):
            self._session = sock.session  # only now: TLS 1.3 sends it after the handshake
        self._ended(sock, is_kept=is_kept)

    def _ended(self, sock: socket.socket, *, is_kept: bool) -> None:
        if is_kept:
            self._idle.append((sock, time.monotonic()))
        else:
            sock.close()

    def _unused(self) -> socket.socket | None:
        """Return an idle connection on which nothing waits to be read, if there is one."""
        while True:
            try:
                sock, since = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() - since < _IDLE and not is_readable(sock):
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
                sock.settimeout(left(deadline))
                sock = self._tls.wrap_socket(sock, server_hostname=host, session=self._session)
        except BaseException:
            sock.close()
            raise
        return sock

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        from .botocore_compat import default_certificates

        return ssl.create_default_context(cafile=self._ca_bundle or default_certificates())


def _connected(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address of *host* that answers. Each address gets an equal share of the time left."""
    addresses = [str(address[0]) for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    while len(addresses) > 1:
        share = left(deadline) / len(addresses)
        with contextlib.suppress(OSError):
            return socket.create_connection((addresses.pop(0), port), share)
    return socket.create_connection((addresses[0], port), left(deadline))


def _close(idle: list[tuple[socket.socket, float]]) -> None:
    for connection, _since in idle:
        connection.close()
