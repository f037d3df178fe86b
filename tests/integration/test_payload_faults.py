"""Pointers to missing or unreadable S3 objects, which any sender may write, affect their own message only."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import servers
from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.sqs_engine import SQSEngine
from balog_celery.errors import QueueError
from balog_celery.events.limits import MAX_TRIES
from balog_celery.events.mark import read_mark
from balog_celery.sqs.messages import Message, OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from sample_events import event_text

BUCKET = "payloads"
#: The largest body that is read here, in bytes.
MOST = 1000
#: By key, what S3 answers: status, code of the error.
ERRORS = {
    "denied": (403, "AccessDenied"),
    "archived": (403, "InvalidObjectState"),
    "long": (400, "KeyTooLongError"),
    "encrypted": (400, "KMS.DisabledException"),
    "busy": (503, "SlowDown"),
    "throttled": (429, "TooManyRequests"),
    "expired": (400, "ExpiredToken"),
    "no bucket": (404, "NoSuchBucket"),
}
#: By key, what S3 has.
BODIES = {"good": b"good", "nul": b'{"a": "\0"}', "noncharacter": '"\uffff"'.encode(), "binary": b"\xff"}


class S3:
    """An S3 that refuses reads or sends chunks on demand, which no emulator does."""

    def __init__(self) -> None:
        self.connections: set[Any] = set()
        s3 = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                s3.connections.add(self.client_address)
                key = self.path.partition("?")[0].removeprefix(f"/{BUCKET}/").replace("%20", " ")
                if key in ERRORS:
                    status, code = ERRORS[key]
                    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                    self._send(status, body)
                elif key == "unknown":
                    self._send(404, b"<html>")
                elif key == "nonsense":
                    self._send(200, b"x", length="one")
                    self.close_connection = True
                elif key == "cut":
                    self._send(200, b"x" * 10, length=100)
                    self.close_connection = True
                elif key.startswith("chunks "):
                    self._send_chunks(int(key.removeprefix("chunks ")))
                else:
                    self._send(200, BODIES[key])

            def _send(self, status: int, body: bytes, length: object = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                self.wfile.write(body)

            def _send_chunks(self, count: int) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for _ in range(count):
                        self.wfile.write(b"64\r\n" + b"x" * 100 + b"\r\n")
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:  # whoever asked has seen enough
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def s3() -> Iterator[S3]:
    """An S3 that answers by the key."""
    s3 = S3()
    thread = threading.Thread(target=s3.server.serve_forever)
    thread.start()
    yield s3
    s3.server.shutdown()
    thread.join(60)
    s3.server.server_close()


def make_queue(s3: S3, name: str) -> SQSQueue:
    """Create a queue that reads bodies from the bucket, with a visibility timeout of a second."""
    SQSQueue(name).create()
    return SQSQueue(name, visibility_timeout=1, payload_buckets=[BUCKET], s3_endpoint_url=s3.url, max_body_bytes=MOST)


@pytest.fixture
def queue(s3: S3, queue_name: str) -> SQSQueue:
    """The queue of this test."""
    return make_queue(s3, queue_name)


def pointer(key: str, group: str = "g") -> OutgoingMessage:
    """A message that points to an object."""
    body = ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": BUCKET, "s3Key": key}]
    return OutgoingMessage(json.dumps(body), group=group)


def first(queue: SQSQueue) -> Message:
    """The next message that is received, however many receives that takes."""
    return servers.wait_until(lambda: queue.receive(10, 1), 60, "a message")[0]


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "its body,  in the S3 bucket payloads, is not there: a key is a text of 1 to 1024 bytes"),
        ("\ud800", "is not there: a key is a text of 1 to 1024 bytes"),
        ("é" * 513, "is not there: a key is a text of 1 to 1024 bytes"),
        ("archived", "its body, archived in the S3 bucket payloads, cannot be read (InvalidObjectState)"),
        ("long", "cannot be read (KeyTooLongError)"),
        ("nul", "has a character that SQS takes in no message"),
        ("noncharacter", "has a character that SQS takes in no message"),
        ("binary", "is not UTF-8"),
        ("chunks 11", "is larger than 1000 bytes (balog_max_body_bytes)"),
        ("chunks 1000000", "is larger than 1000 bytes (balog_max_body_bytes)"),
    ],
)
def test_what_can_never_be_read_is_told_at_once(queue: SQSQueue, key: str, problem: str) -> None:
    """A body that can never be read is returned at once as the message's problem."""
    queue.send([pointer(key)])
    message = first(queue)
    assert (message.receive_count, message.body) == (1, pointer(key).body)
    assert problem in message.problem


def test_s3_need_not_tell_how_long_a_body_is(queue: SQSQueue) -> None:
    """A body is read although S3 does not send its length."""
    queue.send([pointer("chunks 10")])
    assert first(queue).body == "x" * MOST


@pytest.mark.parametrize("key", ["denied", "encrypted", "unknown", "nonsense"])
def test_what_s3_refuses_of_one_object_is_that_messages_trouble(
    queue: SQSQueue, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that S3 refuses comes again a few times, while other messages are received."""
    queue.send([pointer(key), OutgoingMessage("other"), pointer("good")])
    seen: dict[str, Message] = {}
    servers.wait_until(lambda: seen.update({m.body: m for m in queue.receive(10, 1)}) or len(seen) == 3, 60, "all")
    assert {"other", "good"} < seen.keys()
    refused = seen[pointer(key).body]
    assert refused.receive_count == MAX_TRIES
    assert "cannot be read (" in refused.problem
    assert caplog.text.count("will be received again, because its body cannot be read now: its body, ") == MAX_TRIES - 1


def test_a_refused_object_does_not_cost_the_connection(queue: SQSQueue, s3: S3) -> None:
    """A refused object does not replace the client, whose credentials are good for others."""
    queue.send([pointer("denied")])
    servers.wait_until(lambda: queue.receive(10, 1), 60, "the problem")
    assert len(s3.connections) == 1


@pytest.mark.parametrize("key", ["busy", "throttled", "expired", "no bucket", "cut"])
def test_trouble_with_s3_is_an_error_and_never_a_messages_fault(queue: SQSQueue, key: str) -> None:
    """An outage of S3 is an error and never makes a dead letter, however often a message is received.

    The loop backs off.
    """
    queue.send([pointer(key)])
    for _ in range(MAX_TRIES + 1):

        def fails() -> bool:
            try:
                assert queue.receive(10, 1) == []
            except QueueError:
                return True
            return False

        servers.wait_until(fails, 60, "an error")


@pytest.mark.usefixtures("sqs")
def test_nothing_overtakes_what_cannot_be_read_in_its_group(s3: S3) -> None:
    """A message whose body cannot be read now holds back its message group only."""
    queue = make_queue(s3, f"events-{uuid.uuid4().hex[:12]}.fifo")
    queue.send([pointer("denied", "A"), OutgoingMessage("a2", group="A"), OutgoingMessage("b1", group="B")])
    seen: list[Message] = []
    while not any(message.body == "a2" for message in seen):
        messages = queue.receive(10, 1)
        seen += messages
        queue.delete([message.handle for message in messages] or ["none"])
    assert [message.body for message in seen] == ["b1", pointer("denied").body, "a2"]
    assert seen[1].problem


@pytest.mark.parametrize("key", ["denied", "busy", "cut", ""])
def test_whoever_reads_a_queue_sees_all_that_is_in_it(queue: SQSQueue, key: str) -> None:
    """`read` returns every message, also those whose body cannot be read, with the problem."""
    queue.send([pointer(key)])
    (message,) = servers.wait_until(lambda: queue.read(10, 1, 60), 60, "the message")
    assert message.problem.startswith("its body, ")


def test_an_engine_serves_all_others_at_once(queue: SQSQueue, s3: S3) -> None:
    """An engine processes the other messages at once, and makes dead letters of impossible pointers."""
    dead = make_queue(s3, f"{queue.name}-dead")
    queue.send([pointer("\ud800"), pointer(""), *(OutgoingMessage(event_text(f"e{number}")) for number in range(8))])
    ran: list[str] = []
    hub = ConsumerHub()
    hub.add_consumer(Consumer(lambda event: ran.append(event["header"]["id"]), queue.name))
    engine = SQSEngine(hub, wait_time=1, payload_bucket=BUCKET)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        servers.wait_until(lambda: len(ran) == 8, 10, "the others")
        letters: list[Message] = []
        servers.wait_until(lambda: letters.extend(dead.read(10, 1, 60)) or len(letters) == 2, 60, "the dead letters")
    finally:
        engine.stop()
        thread.join(60)
    assert {read_mark(letter.attributes)["reason"] for letter in letters} == {"undecodable"}
    assert {letter.body for letter in letters} == {pointer("\ud800").body, pointer("").body}
