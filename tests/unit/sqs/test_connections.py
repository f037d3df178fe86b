"""Connections: an answer is read whole or not at all, before its deadline, and for its own request."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from httptools import HttpParserError, HttpParserUpgrade

from balog_celery.sqs import connections, exchange
from balog_celery.sqs.connections import Connections
from scripted_sqs.certificates import server_context
from scripted_sqs.raw import PiecesServer, serving

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
#: Seconds in which an answer surely comes, on a slow machine as well.
PLENTY = 60.0


def to(endpoint: str) -> Connections:
    return Connections(urlsplit(endpoint), None)


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return the bytes of a response."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 8\r\n\r\n", b'{"a"', b": 1}"], (200, b'{"a": 1}')),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b'{"a"', b": 1}"], (200, b'{"a": 1}')),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\n", b'{"a": 1}'], (200, b'{"a": 1}')),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n", b'{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n'],
            (200, b'{"a": 1}'),
        ),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", answer(b"{}")], (200, b"{}")),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + answer(b"{}")], (200, b"{}")),
        ([answer(b"no", status="503 Busy")], (503, b"no")),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"], ConnectionResetError),
        ([b"HTTP/1.1 200 OK\r\nX-Head"], ConnectionResetError),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], ConnectionResetError),
        ([b""], ConnectionResetError),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"], HttpParserUpgrade),
        ([b'{"a": 1}'], HttpParserError),
    ],
    ids=[
        "in pieces",
        "until the end of the connection",
        "by an old server",
        "in chunks",
        "after another status",
        "in one packet with others",
        "an error",
        "cut off",
        "half a header",
        "never",
        "nothing",
        "another protocol",
        "no HTTP",
    ],
)
def test_an_answer_is_read_whole_or_not_at_all(pieces: list[bytes], expected: Any) -> None:
    """An answer is read whole or not at all, in whichever pieces it arrives."""
    with serving(PiecesServer(*pieces)) as server:
        if isinstance(expected, tuple):
            assert to(server.endpoint).exchange(REQUEST, PLENTY)[:2] == expected
        else:
            with pytest.raises(expected):
                to(server.endpoint).exchange(REQUEST, PLENTY)
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        (b"", True),
        (answer(b"other"), False),
        (answer(b"", "Connection: close", status="408 Request Timeout"), False),
        (b'{"a": 1}', False),
        (b"HTT", False),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", False),
    ],
    ids=["nothing", "another answer", "a timeout", "no HTTP", "part of an answer", "another protocol"],
)
@pytest.mark.parametrize("headers", [[], ["Connection: close"]], ids=["kept", "closed"])
def test_the_first_answer_counts_whatever_comes_with_it(more: bytes, kept: bool, headers: list[str]) -> None:
    """Bytes after the first answer end the connection."""
    with serving(PiecesServer(answer(b"first", *headers) + more, closes=False)) as server:
        calls = to(server.endpoint)
        assert [calls.exchange(REQUEST, PLENTY)[:2] for _ in range(2)] == [(200, b"first")] * 2
        assert (server.seen[0] == server.seen[1]) is (kept and not headers)


@pytest.fixture(params=["poll", "select"])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module ``select`` as it is, and without ``poll``: so it is on Windows, and with eventlet."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("headers", [[], ["Connection: close"]], ids=["kept", "closed"])
def test_a_connection_is_used_again_unless_the_server_ends_it(headers: list[str]) -> None:
    """A connection is reused unless the answer has ``Connection: close``."""
    with serving(PiecesServer(answer(b"{}", *headers), closes=False)) as server:
        calls = to(server.endpoint)
        for _ in range(3):
            calls.exchange(REQUEST, PLENTY)
        assert len(set(server.seen)) == (3 if headers else 1)


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was idle for long is not reused, because a firewall may have forgotten it."""
    now = [0.0]
    monkeypatch.setattr(connections, "time", _Clock(now))
    monkeypatch.setattr(exchange, "time", _Clock(now))
    with serving(PiecesServer(answer(b"{}"), closes=False)) as server:
        calls = to(server.endpoint)
        for passed in (0.0, 44.0, 46.0):
            now[0] += passed
            calls.exchange(REQUEST, PLENTY)
        first, second, third = server.seen
        assert first == second != third


class _Clock:
    """A replacement for the module ``time``."""

    def __init__(self, now: list[float]) -> None:
        self._now = now

    def monotonic(self) -> float:
        return self._now[0]


@pytest.mark.usefixtures("waiting")
def test_what_comes_unasked_is_no_answer_to_the_next_request() -> None:
    """Unasked bytes on a connection are not taken for the answer to the next request."""
    with serving(PiecesServer(answer(b"{}"), answer(b"late"), pause=60)) as server:
        calls = to(server.endpoint)
        assert calls.exchange(REQUEST, PLENTY)[:2] == (200, b"{}")
        ((idle, _since),) = calls._idle
        server.ended.set()
        assert select.select([idle], [], [], 60)[0]
        assert calls.exchange(REQUEST, PLENTY)[:2] == (200, b"{}")
        assert len(set(server.seen)) == 2


class EndingServer(PiecesServer):
    """A server that ends each connection after its answer, which does not announce it.

    :param end: ends a connection.
    """

    def __init__(self, end: Callable[[socket.socket], None]) -> None:
        super().__init__(answer(b"{}"))
        self._end = end
        self.kept: list[socket.socket] = []
        self.has_ended = threading.Semaphore(0)

    def shutdown_request(self, request: Any) -> None:
        self.kept.append(request)
        self._end(request)
        self.has_ended.release()

    def server_close(self) -> None:
        super().server_close()
        for sock in self.kept:
            sock.close()


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("end", [socket.socket.close, half_close, reset], ids=["closed", "half-closed", "reset"])
def test_a_connection_that_the_server_ends_while_idle_is_not_used_again(end: Callable[[socket.socket], None]) -> None:
    """A connection that the server closed while idle is not used, so no request is made twice."""
    with serving(EndingServer(end)) as server:
        calls = to(server.endpoint)
        for count in range(1, 4):
            assert calls.exchange(REQUEST, PLENTY)[:2] == (200, b"{}")
            assert server.has_ended.acquire(timeout=60)
            assert len(server.seen) == len(set(server.seen)) == count


def test_a_silent_connection_is_probed() -> None:
    """A silent connection is probed, so firewalls remember it and a dead one is noticed."""
    with serving(PiecesServer(answer(b"{}"), closes=False)) as server:
        calls = to(server.endpoint)
        calls.exchange(REQUEST, PLENTY)
        ((idle, _since),) = calls._idle
        assert idle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert idle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 20


def drip(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


@pytest.mark.parametrize(
    "pieces",
    [
        [b"", *[b""] * 1000],
        drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000),
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *drip(b"x" * 1000)],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 1000],
        [b"HTTP/1.1 200 OK\r\n\r\n", *drip(b"x" * 1000)],
        [b"HTTP/1.1 102 Processing\r\n\r\n"] * 1000,
    ],
    ids=["nothing", "headers", "content", "chunks", "content without a length", "not yet"],
)
def test_an_answer_that_drips_in_ends_at_the_deadline(pieces: list[bytes]) -> None:
    """The deadline covers the whole answer, even if each piece arrives quickly."""
    with serving(PiecesServer(*pieces, pause=0.05)) as server:
        before = time.monotonic()
        with pytest.raises(TimeoutError):
            to(server.endpoint).exchange(REQUEST, 0.5)
        assert 0.5 <= time.monotonic() - before < 20


def test_a_large_answer_has_more_time() -> None:
    """A large answer has more time, so it also arrives over a slow network."""
    content = b"x" * 65_536
    pieces = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(content) * 4), *[content] * 4]
    with serving(PiecesServer(*pieces, pause=0.3)) as server:
        assert to(server.endpoint).exchange(REQUEST, 0.7)[:2] == (200, content * 4)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections, but neither reads nor writes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_reads_nothing_is_given_up(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline covers sending the request."""
    monkeypatch.setattr(connections, "SLOWEST", 10**9)
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        to(f"http://{silent}").exchange(REQUEST + b"x" * 50_000_000, 0.5)
    assert time.monotonic() - before < 20


def test_a_server_that_shakes_no_hands_is_given_up(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline for connecting covers the TLS handshake."""
    before = time.monotonic()
    with pytest.raises((TimeoutError, ssl.SSLError), match="timed out"):
        to(f"https://{silent}").exchange(REQUEST, 0.5)
    assert time.monotonic() - before < 20


class SecureServer(PiecesServer):
    """A server that speaks TLS and ends each connection after its answer.

    :param context: of the next connections.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(answer(b"{}", "Connection: close"), pause=0)
        self.context = context
        #: Of each connection, whether it went on with the session of an earlier one.
        self.resumed: list[bool | None] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        secure = self.context.wrap_socket(sock, server_side=True)
        self.resumed.append(secure.session_reused)
        return secure, address


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_new_connection_resumes_the_session_of_the_former(version: ssl.TLSVersion, tmp_path: Path) -> None:
    """A reconnect skips most of the TLS handshake, unless the server has forgotten the session."""
    pems = tmp_path / "first.pem", tmp_path / "second.pem"
    contexts = [server_context(pem) for pem in pems]
    for context in contexts:
        context.maximum_version = version
    (bundle := tmp_path / "bundle.pem").write_text("".join(pem.read_text() for pem in pems))
    with serving(SecureServer(contexts[0])) as server:
        calls = Connections(urlsplit(server.endpoint.replace("http:", "https:")), str(bundle))
        for count in range(1, 6):
            if count == 4:
                server.context = contexts[1]
            assert calls.exchange(REQUEST, PLENTY)[:2] == (200, b"{}")
        assert server.resumed == [False, True, True, False, True]


@pytest.fixture
def good() -> Iterator[socket.socket]:
    """A server on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def full(good: socket.socket) -> Iterator[int]:
    """The same port of 127.0.0.2, on which connections are neither accepted nor refused: its backlog is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.2", good.getsockname()[1]))
        server.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for sock in waiting:
            sock.close()


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make every name resolve to *addresses*."""

    def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        found = [host] if host in addresses else addresses
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="only Linux has all of 127.0.0.0/8")
def test_an_address_that_does_not_answer_leaves_time_for_the_others(
    good: socket.socket, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that does not answer leaves time for the others before the common deadline."""
    resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
    thread = threading.Thread(target=_answer_once, args=(good,), daemon=True)
    thread.start()
    assert to(f"http://sqs.example:{full}").exchange(REQUEST, 4.0)[:2] == (200, b"{}")
    thread.join(60)


def _answer_once(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer(b"{}"))


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="only Linux has all of 127.0.0.0/8")
def test_addresses_that_do_not_answer_are_given_up_at_the_deadline(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several addresses do not extend the deadline."""
    resolving(monkeypatch, *["127.0.0.2"] * 8)
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        to(f"http://sqs.example:{full}").exchange(REQUEST, 2.0)
    assert time.monotonic() - before < 12


def test_an_address_that_refuses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an address that refuses, the next one is tried."""
    resolving(monkeypatch, "127.0.0.3", "127.0.0.1")
    with serving(PiecesServer(answer(b"{}"))) as server:
        port = urlsplit(server.endpoint).port
        assert to(f"http://sqs.example:{port}").exchange(REQUEST, PLENTY)[:2] == (200, b"{}")
