"""The start of an engine whose queue cannot be checked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.engine import Engine
from balog_celery.errors import AccessDenied
from balog_celery.sqs.clients import clients
from balog_celery.sqs.queues import SQSQueue
from engines import running
from scripted_sqs.raw import GOOD, KEYS, URL, Server, error_answer, serving
from servers import wait_until

pytestmark = pytest.mark.usefixtures("own_clients")


def engine_at(server: Server) -> Engine:
    hub = ConsumerHub()
    hub.add_consumer(Consumer(lambda _event: None, URL))
    options: Any = {"region": "us-east-1", "endpoint_url": server.endpoint, **KEYS}
    return Engine(hub, lambda topic: SQSQueue(topic, **options), wait_time=0, dead_letter=None)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3's client repeats a call at once."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


PASSING = ["RequestThrottled", "OverLimit", "ThrottlingException", "ExpiredToken", "ExpiredTokenException"]
PASSING += ["RequestExpired", "RequestTimeTooSkewed", "ServiceUnavailable", "KMS.ThrottlingException"]


@pytest.mark.parametrize("code", PASSING)
def test_a_failure_that_may_pass_is_waited_for(code: str, caplog: pytest.LogCaptureFixture) -> None:
    """After a temporary failure, such as throttling with 403, the engine starts to poll and logs a warning."""
    with serving(Server(otherwise=error_answer(403, code))) as server, running(engine_at(server)):
        wait_until(lambda: any(action == "ReceiveMessage" for _, action, _ in server.seen), 60, "a receive")
        server.otherwise = GOOD
        seen = len(server.seen)
        wait_until(lambda: len(server.seen) > seen, 60, "a receive after the failure")
    assert "are not known yet: " in caplog.text
    assert code in caplog.text


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidClientTokenId", "SignatureDoesNotMatch", "SomethingNew"])
def test_a_failure_that_will_not_pass_ends_the_engine(code: str) -> None:
    """A permanent failure ends the engine, with an error that says what to change."""
    with serving(Server(otherwise=error_answer(403, code))) as server, pytest.raises(AccessDenied, match=code):
        engine_at(server).run()


def test_a_credentials_endpoint_that_is_not_up_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start waits for a credentials endpoint that is not up yet, as in containers."""
    from botocore.credentials import Credentials
    from botocore.exceptions import CredentialRetrievalError

    began = time.monotonic()

    class Late(Credentials):
        def get_frozen_credentials(self) -> Any:
            if time.monotonic() < began + 1:
                raise CredentialRetrievalError(provider="container-role", error_msg="connection refused")
            return super().get_frozen_credentials()

    monkeypatch.setattr("botocore.session.Session.get_credentials", lambda *_: Late("a", "b"))
    clients.forget()
    hub = ConsumerHub()
    hub.add_consumer(Consumer(lambda _event: None, URL))
    with serving(Server()) as server:
        engine = Engine(
            hub,
            lambda topic: SQSQueue(topic, region="us-east-1", endpoint_url=server.endpoint),
            wait_time=0,
            dead_letter=None,
        )
        with running(engine):
            wait_until(lambda: any(action == "ReceiveMessage" for _, action, _ in server.seen), 60, "a receive")


def test_a_credential_process_that_fails_at_first_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """boto3 asks it for keys while it makes a client, so there is none to replace."""
    # Given
    keys, config = tmp_path / "keys.json", tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = cat {keys}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    clients.forget()
    hub = ConsumerHub()
    hub.add_consumer(Consumer(lambda _event: None, URL))
    with serving(Server()) as server:
        engine = Engine(
            hub,
            lambda topic: SQSQueue(topic, region="us-east-1", endpoint_url=server.endpoint),
            wait_time=0,
            dead_letter=None,
        )

        # When
        with running(engine):
            wait_until(lambda: "polling events failed" in caplog.text, 60, "a receive in vain")
            keys.with_suffix(".new").write_text('{"Version": 1, "AccessKeyId": "AKIAEXAMPLE", "SecretAccessKey": "s"}')
            keys.with_suffix(".new").rename(keys)

            # Then
            wait_until(lambda: any(action == "ReceiveMessage" for _, action, _ in server.seen), 60, "a receive")
    assert caplog.text.count("CredentialRetrievalError") >= 2
    assert "Traceback" not in caplog.text
