"""A wrong clock of this machine is corrected for every service and path, not only for the fast path to SQS."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from balog_celery.errors import AccessDenied, QueueError
from balog_celery.sqs.diagnostics import oldest_message_age
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, Message, OutgoingMessage
from balog_celery.sqs.payloads import Pointer, write_pointer
from balog_celery.sqs.queues import SQSQueue
from scripted_sqs.raw import GOOD, KEYS, URL, Answer, Server, error_answer, serving

pytestmark = pytest.mark.usefixtures("own_clients")


def is_signed_in_time(headers: Any, offset: float) -> bool:
    """Return whether a request is signed for a time that is a service's whose clock is *offset* seconds ahead."""
    signed = datetime.strptime(headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    scope = re.search(r"Credential=AKIAEXAMPLE/(\d{8})/", headers["Authorization"])
    assert scope is not None
    assert scope[1] == f"{signed:%Y%m%d}"
    return abs(signed - datetime.now(timezone.utc) - timedelta(seconds=offset)) < timedelta(minutes=5)


class _S3Handler(BaseHTTPRequestHandler):
    server: S3

    def _answer(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.seen.append((self.command, body))
        if not is_signed_in_time(self.headers, server.clock_offset) or server.refuses:
            status, answer = 403, f"<Error><Code>{server.code}</Code><Message>no</Message></Error>".encode()
        else:
            status, answer = 200, server.content if self.command == "GET" else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_PUT = do_HEAD = do_POST = _answer

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.server.clock_offset)

    def log_message(self, *_: object) -> None: ...


class S3(ThreadingHTTPServer):
    """A bucket on a service whose clock is not this machine's; it refuses other times, as S3 does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _S3Handler)
        self.clock_offset = 0.0
        self.code = "RequestTimeTooSkewed"
        self.content = b"the body"
        self.refuses = False
        self.seen: list[tuple[str, bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class StrictServer(Server):
    """An SQS that refuses a signature whose time is not its own."""

    def answer_to(self, headers: Any) -> Answer:
        return GOOD if is_signed_in_time(headers, self.clock_offset) else error_answer(403, "InvalidSignatureException")


@pytest.fixture
def s3() -> Iterator[S3]:
    with serving(S3()) as server:
        yield server


def queue_with(s3: S3, endpoint: str = "http://127.0.0.1:1") -> SQSQueue:
    more: dict[str, Any] = {"region": "us-east-1", "endpoint_url": endpoint, "s3_endpoint_url": s3.endpoint}
    return SQSQueue(URL, payload_buckets=["bucket"], **more, **KEYS)


OFFSETS = pytest.mark.parametrize("offset", [3600, -3600, 86_400 * 400])


@OFFSETS
def test_a_body_in_s3_is_read_with_the_time_of_s3(s3: S3, offset: int, caplog: pytest.LogCaptureFixture) -> None:
    """The difference is logged once, and later calls are signed right at once."""
    s3.clock_offset = offset
    queue = queue_with(s3)
    pointer = write_pointer(Pointer("bucket", "key"))
    for _ in range(2):
        (message,) = queue.payloads.fetch([Message(pointer, "h", "m", 0.0)], 600, omit_failures=False)
        assert (message.body, message.problem) == ("the body", "")
    assert [method for method, _ in s3.seen] == ["GET"] * 3
    (text,) = [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]
    found = re.search(r"(\d+) s (behind|ahead of) AWS's", text)
    assert found is not None
    assert abs(int(found[1]) - abs(offset)) <= 5


@OFFSETS
def test_a_body_is_put_into_s3_with_the_time_of_s3(s3: S3, offset: int) -> None:
    """The body is sent again with the new signature."""
    s3.clock_offset = offset
    large = "x" * (MAX_MESSAGE_BYTES + 1)
    with serving(Server()) as server:
        assert queue_with(s3, server.endpoint).send([OutgoingMessage(large)]) == []
    assert [method for method, _ in s3.seen] == ["PUT", "PUT"]
    assert large.encode() in s3.seen[1][1]


def test_a_head_says_no_code_and_is_repeated_all_the_same(s3: S3) -> None:
    """Its answer has no body, so the date alone tells."""
    s3.clock_offset = 3600
    assert queue_with(s3).payloads.has_bucket("bucket")


def test_a_refusal_that_the_right_time_does_not_help_tells_the_clock(s3: S3) -> None:
    """And is no error about permissions, for which a process would end."""
    s3.clock_offset, s3.refuses = 3600, True
    with pytest.raises(QueueError, match=r"the clock of this machine is 3\d+ s behind AWS's: set it") as error:
        queue_with(s3).payloads.has_bucket("bucket")
    assert not isinstance(error.value, AccessDenied)
    assert len(s3.seen) == 2


def test_a_refusal_with_a_right_clock_is_not_repeated(s3: S3) -> None:
    """It is about permissions."""
    s3.refuses = True
    with pytest.raises(AccessDenied):
        queue_with(s3).payloads.has_bucket("bucket")
    assert len(s3.seen) == 1


@OFFSETS
def test_sqs_is_called_with_its_time_without_the_fast_path(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy, or instrumented."""
    monkeypatch.setattr("balog_celery.sqs.clients.needs_client", lambda _client: "a test")
    with serving(StrictServer()) as server:
        server.clock_offset = offset
        queue = SQSQueue(URL, region="us-east-1", endpoint_url=server.endpoint, **KEYS)
        for _ in range(2):
            assert queue.delete(["h"]) == []
        assert len(server.seen) == 3


def test_both_paths_to_sqs_share_the_difference() -> None:
    """What the fast path has learned holds for the client that makes a failed call again."""
    with serving(StrictServer()) as server:
        server.clock_offset = 3600
        queue = SQSQueue(URL, region="us-east-1", endpoint_url=server.endpoint, **KEYS)
        assert queue.delete(["h"]) == []
        answers = iter([None, GOOD])
        server.answer_to = lambda headers: (  # type: ignore[method-assign]
            next(answers) if is_signed_in_time(headers, 3600) else error_answer(403, "InvalidSignatureException")
        )
        assert queue.delete(["h"]) == []
        assert len(server.seen) == 4


def test_cloudwatch_is_asked_with_its_time(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The age of the oldest message comes from there."""
    s3.clock_offset = 3600
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", s3.endpoint)
    oldest_message_age(queue_with(s3))
    assert len(s3.seen) == 2
