"""HTTP servers that answer with given bytes, for tests of the client alone.

The scripted SQS (``server.py``) answers as SQS does, or fails as SQS does. Neither it nor any other server sends what a
broken proxy or network sends: half an answer, a head in pieces, two answers at once, any status with any body. These
servers have no queues.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

#: Credentials for queues of these servers.
KEYS = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret", "aws_session_token": "token"}
URL = "https://sqs.us-east-1.amazonaws.com/123456789012/events"


def good_answer(action: str, asked: Any) -> dict[str, Any]:
    """Return SQS's answer for full success."""
    if action in ("GetQueueUrl", "CreateQueue"):
        return {"QueueUrl": URL}
    if action == "GetQueueAttributes":
        return {"Attributes": {"VisibilityTimeout": "30"}}
    if action == "ReceiveMessage":
        return {}
    return {"Successful": [{"Id": entry["Id"]} for entry in asked["Entries"]], "Failed": []}


def error_answer(status: int, code: str) -> tuple[int, bytes]:
    """Return an error in SQS's format."""
    return status, json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": f"this is {code}"}).encode()


#: A status and a body; or one of the two below.
Answer = tuple[int, bytes] | None
#: Answer as SQS would if all went well.
GOOD: Answer = (0, b"")
#: End the connection instead of answering.
HANG_UP: Answer = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else the body waits for the acknowledgement of the head.
    disable_nagle_algorithm = True
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)
        server, action = self.server, self.headers["X-Amz-Target"].rpartition(".")[2]
        server.seen.append((self.client_address[1], action, asked))
        server.headers.append(self.headers)
        server.bodies.append(body)
        if action in server.unanswered:
            server.released.wait(60)
        answer = server.answer_to(self.headers)
        if answer is HANG_UP:
            self.close_connection = True
            return
        status, body = answer
        if answer == GOOD:
            status, body = 200, json.dumps(good_answer(action, asked)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if server.hangs_up:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.server.clock_offset)

    def log_message(self, *_: object) -> None: ...


class Server(ThreadingHTTPServer):
    """A server that gives the answers of *script*, one to each request, and after them *otherwise*."""

    daemon_threads = True

    def __init__(self, *script: Answer, otherwise: Answer = GOOD) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = list(script)
        self.otherwise = otherwise
        #: Whether it says that it ends the connection after each answer.
        self.hangs_up = False
        #: The actions that it answers only when it is *released*.
        self.unanswered: set[str] = set()
        self.released = threading.Event()
        #: The port from which each request came, its action, and what was asked.
        self.seen: list[tuple[int, str, Any]] = []
        self.headers: list[Any] = []
        self.bodies: list[bytes] = []
        #: The difference between its clock and this machine's, which its answers show.
        self.clock_offset = 0.0

    @property
    def endpoint(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def answer_to(self, _headers: Any) -> Answer:
        """The answer to a request with these headers: the next of the script."""
        return self.script.pop(0) if self.script else self.otherwise

    def server_close(self) -> None:
        self.released.set()
        super().server_close()

    def handle_error(self, *_: object) -> None: ...


class _Pieces(socketserver.BaseRequestHandler):
    server: PiecesServer

    def handle(self) -> None:
        server = self.server
        while True:
            request = b""
            while b"\r\n\r\n" not in request:
                received = self.request.recv(65536)
                if not received:
                    return
                request += received
            server.seen.append(self.client_address[1])
            for piece in server.pieces:
                self.request.sendall(piece)
                # What is sent next is another packet, for the reader is waiting for it.
                server.ended.wait(server.pause)
            if server.closes:
                return


class PiecesServer(socketserver.ThreadingTCPServer):
    """A server that answers each request with *pieces*, byte for byte, which no library sends.

    :param pause: the seconds after each piece.
    :param closes: whether it closes the connection then.
    """

    daemon_threads = True

    def __init__(self, *pieces: bytes, pause: float = 0.05, closes: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Pieces)
        self.pieces = pieces
        self.pause = pause
        self.closes = closes
        self.ended = threading.Event()
        #: The port from which each request came.
        self.seen: list[int] = []

    @property
    def endpoint(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def server_close(self) -> None:
        self.ended.set()
        super().server_close()

    def handle_error(self, *_: object) -> None: ...


AServer = TypeVar("AServer", bound=socketserver.BaseServer)


@contextmanager
def serving(server: AServer) -> Iterator[AServer]:
    """Run *server* as long as the block does."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
