"""An exchange whose answer is awaited without blocking: what can be read may be less than the answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from balog_celery.sqs.connections import Connections
from balog_celery.sqs.exchange import is_readable
from scripted_sqs.certificates import server_context
from servers import wait_until

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


class Peer:
    """A server of one connection, over TLS 1.3 if *pem* is given; it does what the test tells it to do."""

    def __init__(self, pem: Path | None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context = None if pem is None else server_context(pem)
        self._accepted = threading.Event()
        self.sock = socket.socket()
        port = self._listener.getsockname()[1]
        scheme = "http" if pem is None else "https"
        self.connections = Connections(urlsplit(f"{scheme}://127.0.0.1:{port}"), None if pem is None else str(pem))
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(60)
        self.sock = sock if self._context is None else self._context.wrap_socket(sock, server_side=True)
        self.sock.recv(65536)
        self._accepted.set()

    def say(self, text: bytes) -> None:
        assert self._accepted.wait(60)
        self.sock.sendall(text)

    def end(self) -> None:
        self._thread.join(60)
        self.sock.close()
        self._listener.close()


@pytest.fixture(params=["http", "https"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    one = Peer(tmp_path / "server.pem" if request.param == "https" else None)
    yield one
    one.end()


def test_a_part_of_an_answer_is_none(peer: Peer) -> None:
    """Neither are the session tickets of TLS 1.3, which come with each new connection; each part is kept."""
    exchange = peer.connections.start(REQUEST, 60)
    peer.say(HEAD[:20])
    wait_until(lambda: is_readable(exchange.sock))
    assert not exchange.is_answered()
    peer.say(HEAD[20:] + b"ab")
    wait_until(lambda: is_readable(exchange.sock))
    assert not exchange.is_answered()
    peer.say(b"cd")
    wait_until(exchange.is_answered)
    assert exchange.finish().content == b"abcd"


def test_an_answer_that_has_begun_is_waited_for(peer: Peer) -> None:
    """Who finishes the exchange waits for the rest of it."""
    exchange = peer.connections.start(REQUEST, 60)
    peer.say(HEAD)
    wait_until(lambda: is_readable(exchange.sock))
    assert not exchange.is_answered()
    threading.Timer(0.1, peer.say, [b"abcd"]).start()
    assert exchange.finish().content == b"abcd"


def test_an_answer_that_never_comes_is_told_by_who_finishes(peer: Peer) -> None:
    """A connection that ends need not be waited for."""
    exchange = peer.connections.start(REQUEST, 60)
    peer.say(HEAD[:20])
    peer.sock.close()
    wait_until(exchange.is_answered)
    with pytest.raises(OSError, match=r"closed the connection|EOF occurred|reset"):
        exchange.finish()
