"""The connection settings of an app, an engine and a log handler reach SQS and S3."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from balog_celery import SQSHandler, install
from balog_celery.consumers import ConsumerHub, consumer_config
from balog_celery.consumers.sqs import SQSEngine
from balog_celery.operations.checks.run import check
from balog_celery.sqs.clients import clients
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, OutgoingMessage
from balog_celery.sqs.protocols import Queue
from scripted_sqs.raw import KEYS, URL, PiecesServer, Server, serving

pytestmark = pytest.mark.usefixtures("own_clients")

BODY = "x" * (MAX_MESSAGE_BYTES + 1)
STORED = b'HTTP/1.1 200 OK\r\nETag: "5d41"\r\nContent-Length: 0\r\n\r\n'


def by_app(**options: str) -> None:
    app = install(Celery("a", set_as_current=False), payload_bucket="bucket", **options)
    app.balog.connect(URL).send([OutgoingMessage(BODY)])


def by_engine(**options: str) -> None:
    found: list[Queue] = []

    class Engine(SQSEngine):
        def __init__(self, hub: ConsumerHub, **given: Any) -> None:
            super().__init__(hub, payload_bucket="bucket", **given)
            found.append(self._connect(URL))

    Engine(ConsumerHub(), **options)
    found[0].send([OutgoingMessage(BODY)])


def by_handler(**options: str) -> None:
    handler = SQSHandler(URL, bucket="bucket", linger=0.0, **options)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.emit(logging.LogRecord("a", logging.INFO, "a", 1, BODY, (), None))
    handler.close()


@pytest.mark.parametrize("send", [by_app, by_engine, by_handler])
def test_the_endpoints_and_the_session_token_reach_aws(send: Callable[..., None]) -> None:
    """A large body goes to ``s3_endpoint_url`` and its pointer, signed with the token, to ``endpoint_url``."""
    with serving(Server()) as sqs, serving(PiecesServer(STORED, closes=False)) as s3:
        send(region="us-east-1", endpoint_url=sqs.endpoint, s3_endpoint_url=s3.endpoint, **KEYS)
        assert [action for _, action, _ in sqs.seen] == ["SendMessageBatch"]
        assert sqs.headers[0]["X-Amz-Security-Token"] == KEYS["aws_session_token"]
        assert len(s3.seen) == 1


def checked_credentials() -> str:
    app = install(
        Celery("a", broker="memory://", set_as_current=False), packages=[__name__], region="eu-west-1", **KEYS
    )
    return next(finding.text for finding in check(app) if finding.about == "credentials")


@consumer_config("events")
def consume(_event: Any) -> None:
    """A consumer, for a topic to check."""


def test_check_says_why_calls_take_the_slow_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`balog check` says why calls take the slow path, without the proxy's password."""
    assert "boto3's client" not in checked_credentials()
    clients.forget()
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2@127.0.0.1:9")
    text = checked_credentials()
    assert text.endswith("calls take boto3's client: an HTTP proxy is configured")
    assert "hunter2" not in text
