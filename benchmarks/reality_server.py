"""A process with one server for each kind of answer: each receive gets ten messages of that kind, at once.

    python reality_server.py PEM

It writes its certificate into the file PEM, and a line of JSON: the ports of the servers, by kind and by way. It ends
with its standard input.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench_base import ROOT  # noqa: F401  (the path to the tests' servers)

from scripted_sqs.certificates import server_context
from scripted_sqs.control import record
from scripted_sqs.raw import GOOD, Answer, Server

#: The largest message that SQS takes, in bytes; it counts characters as UTF-8.
_LARGEST = 1_048_576
_PAYLOAD = json.dumps([{"id": number, "name": "a name", "done": True} for number in range(30_000)])


def _full_of(text: str) -> str:
    """Return a body of nothing but *text*, as large as SQS takes."""
    return text * ((_LARGEST - 1000) // len(text.encode("utf-8", "surrogatepass")))


#: The bodies of the answers. Those whose name ends so are escaped to ASCII, as a server may do, the others UTF-8.
BODIES = {
    "0.6 kB": record("LG" + "0" * 22),
    "256 kB": record("LG" + "0" * 22, 255_000),
    "1 MiB of text": _full_of("x"),
    "1 MiB of JSON": _PAYLOAD[: _LARGEST - 1000],
    "1 MiB of `é`": _full_of("é"),
    "1 MiB of `é`, escaped": _full_of("é"),
    "1 MiB of Cyrillic, escaped": _full_of("Привет, мир! "),
    "1 MiB of emoji, escaped": _full_of("\U0001f600"),
    "1 MiB of line ends": _full_of("\n"),
    "1 MiB of half surrogate pairs, escaped": _full_of("\ud800"),
}
#: How the servers are reached: whether by TLS, whether they end each connection, and how many seconds away they are.
WAYS = {
    "HTTP": (False, False, 0.0),
    "TLS": (True, False, 0.0),
    "TLS, a connection for each call": (True, True, 0.0),
    "TLS, 10 ms away": (True, False, 0.01),
    "TLS, 50 ms away": (True, False, 0.05),
}
#: The kinds of answers and the ways that are measured.
CASES = [
    *(("0.6 kB", way) for way in WAYS),
    ("256 kB", "TLS"),
    *((kind, way) for kind in BODIES if kind.startswith("1 MiB") for way in ("HTTP", "TLS")),
]


def answer_of(kind: str) -> bytes:
    """Return SQS's answer to a receive."""
    handle, body = "AQEB" + "h" * 400, BODIES[kind]
    digest = hashlib.md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    messages = [
        {
            "MessageId": f"8c1f2d3e-0000-5000-8000-{number:012d}",
            "ReceiptHandle": f"{handle}{number}",
            "MD5OfBody": digest,
            "Body": body,
            "Attributes": {"ApproximateReceiveCount": "1", "ApproximateFirstReceiveTimestamp": "1700000000000"},
        }
        for number in range(10)
    ]
    text = json.dumps({"Messages": messages}, ensure_ascii=kind.endswith("escaped"), separators=(",", ":"))
    return text.encode()


class CannedSqs(Server):
    """A server that gives every receive the same answer.

    :param content: the answer.
    :param distance: how much later it answers than it could, in seconds.
    """

    def __init__(self, content: bytes, distance: float) -> None:
        super().__init__()
        self._content = content
        self._distance = distance

    def answer_to(self, headers: Any) -> Answer:
        self.seen.clear()
        self.headers.clear()
        self.bodies.clear()
        time.sleep(self._distance)
        return (200, self._content) if headers["X-Amz-Target"].endswith(".ReceiveMessage") else GOOD


def main() -> None:
    """Serve until the standard input ends."""
    context = server_context(Path(sys.argv[1]))
    answers = {kind: answer_of(kind) for kind in BODIES}
    ports: dict[str, dict[str, int]] = {}
    for kind, way in CASES:
        secure, hangs_up, distance = WAYS[way]
        server = CannedSqs(answers[kind], distance)
        server.hangs_up = hangs_up
        if secure:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ports.setdefault(kind, {})[way] = server.server_port
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
