"""The clients of a process: the path of each call, and the warnings about them."""

from __future__ import annotations

import logging
import re
import socket
import traceback
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from balog_celery.errors import AccessDenied, QueueError
from balog_celery.sqs.clients import clients
from balog_celery.sqs.diagnostics import access_of
from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from scripted_sqs.raw import GOOD, KEYS, URL, Answer, Server, error_answer, serving

pytestmark = pytest.mark.usefixtures("own_clients")


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3's client repeats a call at once."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def queue_at(endpoint: str, **options: Any) -> SQSQueue:
    return SQSQueue(URL, **{"region": "us-east-1", "endpoint_url": endpoint, **KEYS, **options})


def told_offset(text: str) -> int:
    """Return the seconds of clock offset in a message."""
    found = re.search(r"the clock of this machine is (\d+) s (behind|ahead of) AWS's", text)
    assert found is not None, text
    return int(found[1]) * (1 if found[2] == "behind" else -1)


class StrictServer(Server):
    """A server that refuses a signature whose time is not its own, as AWS does."""

    def answer_to(self, headers: Any) -> Answer:
        time = datetime.strptime(headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        ahead = time - (datetime.now(timezone.utc) + timedelta(seconds=self.clock_offset))
        return error_answer(403, self.code) if abs(ahead) > timedelta(minutes=5) else GOOD

    code = "InvalidSignatureException"


@pytest.mark.parametrize("code", ["InvalidSignatureException", "RequestTimeTooSkewed", "RequestExpired"])
@pytest.mark.parametrize("offset", [3600, -3600, 86_400 * 400])
def test_a_wrong_clock_is_corrected_and_logged_once(code: str, offset: int, caplog: pytest.LogCaptureFixture) -> None:
    """With a wrong clock the first call is signed again with SQS's time, and later ones at once."""
    with serving(StrictServer()) as server:
        server.code, server.clock_offset = code, offset
        queue = queue_at(server.endpoint)
        for _ in range(3):
            assert queue.delete(["h"]) == []
        assert len(server.seen) == 4
    (record,) = [record for record in caplog.records if "clock" in record.message]
    assert abs(told_offset(record.message) - offset) <= 5


def test_a_clock_that_is_set_right_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    """After the clock was set, the offset is learned again."""
    caplog.set_level(logging.INFO)
    with serving(StrictServer()) as server:
        queue = queue_at(server.endpoint)
        for offset in (3600, 0, -900):
            server.clock_offset = offset
            assert queue.delete(["h"]) == []
    said = [record.message for record in caplog.records if "clock" in record.message]
    assert ["behind" in said[0], "agrees" in said[1], "ahead of" in said[2]] == [True] * 3
    assert len(said) == 3


@pytest.mark.parametrize("offset", [0, 200, -200])
def test_a_bad_signature_with_a_right_clock_is_not_the_clocks_fault(
    offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad signature with a right clock is an error about the credentials, without another call."""
    with serving(Server(otherwise=error_answer(403, "SignatureDoesNotMatch"))) as server:
        server.clock_offset = offset
        with pytest.raises(AccessDenied, match="check the credentials"):
            queue_at(server.endpoint).delete(["h"])
        assert len(server.seen) == 2
    assert "clock" not in caplog.text


@pytest.mark.parametrize(
    ("endpoint", "warned"),
    [
        ("http://sqs.internal.example:4566", True),
        ("http://10.1.2.3:4566", True),
        ("http://user:hunter2@sqs.internal.example", True),
        ("http://127.0.0.1:4566", False),
        ("http://127.8.9.10:4566", False),
        ("http://[::1]:4566", False),
        ("http://localhost:4566", False),
        ("http://sqs.localhost:4566", False),
        ("https://sqs.internal.example", False),
    ],
)
def test_an_endpoint_that_is_not_encrypted_is_warned_of_once(
    endpoint: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An unencrypted endpoint on another machine is logged once, without its password."""
    for topic in (URL, URL + "-other"):
        access_of(SQSQueue(topic, region="us-east-1", endpoint_url=endpoint, **KEYS))
    clients.drop(queue_at(endpoint).connection, clients.get(queue_at(endpoint).connection))
    access_of(queue_at(endpoint))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert ("not encrypted" in caplog.text) is warned
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "endpoint",
    [
        "user:hunter2@host",
        "https://user:hunter2@",
        "https://user:hunter2@host:port",
        "https://user:hunter2/@host",
        "https://user:pass/hunter2@host",
        "https://[hunter2@host",
        "ftp//host?X-Amz-Signature=hunter2",
        "//hunter2@",
    ],
)
def test_no_part_of_a_malformed_endpoint_is_shown(endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    """No part of a malformed endpoint, which may be a password, is in the error, its traceback or the log."""
    caplog.set_level(logging.INFO)
    with pytest.raises(QueueError) as error:
        queue_at(endpoint).delete(["h"])
    shown = f"{''.join(traceback.format_exception(error.value))}{caplog.text}"
    assert "hunter2" not in shown


def test_an_unreachable_endpoint_is_an_error_without_its_password(unused_port: int) -> None:
    """An unreachable endpoint is an error that says what to check, without its password."""
    with pytest.raises(QueueError, match="check endpoint_url, DNS") as error:
        queue_at(f"http://user:hunter2@127.0.0.1:{unused_port}").delete(["h"])
    assert "hunter2" not in str(error.value)
    assert f"127.0.0.1:{unused_port}" in str(error.value)


@pytest.fixture
def unused_port() -> int:
    """A port on which no server listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_server_without_tls_is_an_error_that_says_so() -> None:
    """A server without TLS is an error that names certificates and proxy."""
    with serving(Server()) as server, pytest.raises(QueueError, match="TLS connection failed"):
        queue_at(server.endpoint.replace("http:", "https:")).delete(["h"])


class ForClientsOnly(Server):
    """A server that refuses sends on the fast path, and takes them from boto3's client."""

    def answer_to(self, headers: Any) -> Answer:
        is_send = headers["X-Amz-Target"].endswith("SendMessageBatch")
        return error_answer(500, "InternalFailure") if is_send and "amz-sdk-request" not in headers else GOOD


def test_a_broken_fast_path_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """After ten failures in a row of one kind of call the broken fast path is logged once, and every call succeeds."""
    with serving(ForClientsOnly()) as server:
        queue = queue_at(server.endpoint)
        for count in range(1, 31):
            assert queue.send([OutgoingMessage("a")]) == []
            assert queue.delete(["h"]) == []
            assert len([record for record in caplog.records if "fast path" in record.message]) == (count >= 10)
        assert clients.get(queue.connection).fallbacks.total == 30


def test_an_outage_of_sqs_is_not_the_fast_paths(caplog: pytest.LogCaptureFixture) -> None:
    """Calls that fail both ways, and single failures, do not count against the fast path."""
    faulty = [error_answer(500, "InternalFailure")] * 3
    single = [error_answer(500, "InternalFailure"), GOOD, GOOD]
    with serving(Server(*faulty * 12, *single * 12)) as server:
        queue = queue_at(server.endpoint)
        for _ in range(12):
            with pytest.raises(QueueError):
                queue.delete(["h"])
        for _ in range(24):
            assert queue.delete(["h"]) == []
        assert clients.get(queue.connection).fallbacks.total == 12
    assert "fast path" not in caplog.text


def test_calls_that_cannot_take_the_fast_path_are_logged_once_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls that cannot take the fast path are logged once, with the reason."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2@127.0.0.1:9")
    for topic in (URL, URL + "-other"):
        assert access_of(SQSQueue(topic, region="eu-west-1", **KEYS)).slow_path == "an HTTP proxy is configured"
    (record,) = [record for record in caplog.records if "boto3's client" in record.message]
    assert "an HTTP proxy is configured" in record.message
    assert "hunter2" not in caplog.text
