"""`balog check` with the permissions that the documentation lists, read from its page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from celery import Celery

from balog_celery.integration import install
from balog_celery.operations.checks.access import check_credentials
from balog_celery.operations.checks.finding import Finding
from balog_celery.operations.checks.topics import check_distinct_topics, check_topic
from scripted_sqs.raw import Server, error_answer, serving
from scripted_sqs.server import RunningSqs, serving_sqs

DOCS = Path(__file__).resolve().parents[3] / "docs"
TOPIC, DEAD, OTHER = "shop-orders", "shop-orders-dead", "shop-orders-redriven"
ACTIONS = {
    "GetQueueUrl",
    "GetQueueAttributes",
    "ReceiveMessage",
    "DeleteMessage",
    "ChangeMessageVisibility",
    "SendMessage",
}
KEYS = {"balog_aws_access_key_id": "AKIAEXAMPLE", "balog_aws_secret_access_key": "secret"}

pytestmark = pytest.mark.usefixtures("own_clients")


def documented() -> set[tuple[str, str]]:
    """What docs/operating.md allows workers, as pairs of action and queue."""
    text = (DOCS / "operating.md").read_text().split("## Permissions", 1)[1]
    found = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert found is not None
    statements = json.loads(found[1])["Statement"]
    return {
        (action.removeprefix("sqs:"), one["Resource"].rpartition(":")[2])
        for one in statements
        for action in one["Action"]
    }


def app_at(endpoint: str, **settings: str) -> Celery:
    app = Celery("check", broker="memory://", set_as_current=False)
    app.conf.update(balog_region="us-east-1", balog_endpoint_url=endpoint, **settings)
    install(app, local=False)
    return app


@pytest.fixture
def sqs() -> Iterator[RunningSqs]:
    """An SQS with the documented queues, and one more that SQS moves messages to."""
    with serving_sqs() as running:
        for name in (TOPIC, DEAD, OTHER):
            running.store.call("CreateQueue", {"QueueName": name, "Attributes": {"MessageRetentionPeriod": "1209600"}})
        yield running


def allow(sqs: RunningSqs, allowed: set[tuple[str, str]]) -> None:
    sqs.store.denied = {(action, name) for action in ACTIONS for name in (TOPIC, DEAD, OTHER)} - allowed


def check(sqs: RunningSqs) -> list[Finding]:
    app = app_at(sqs.endpoint, **KEYS)
    found = [*check_credentials(app.balog, TOPIC), *check_topic(app.balog, TOPIC)]
    app.close()
    return found


@pytest.mark.parametrize("target", ["", DEAD, OTHER])
def test_the_documented_policy_is_enough(sqs: RunningSqs, target: str) -> None:
    """With any redrive policy: SQS moves messages by itself."""
    if target:
        arn = f"arn:aws:sqs:us-east-1:000000000000:{target}"
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "10"})
        url = sqs.store.call("GetQueueUrl", {"QueueName": TOPIC})["QueueUrl"]
        sqs.store.call("SetQueueAttributes", {"QueueUrl": url, "Attributes": {"RedrivePolicy": policy}})
    allow(sqs, documented())
    found = check(sqs)
    assert [one for one in found if one.level != "OK"] == []
    assert len(found) >= 4


@pytest.mark.parametrize(
    ("action", "queue"),
    sorted(documented() - {("ReceiveMessage", TOPIC), ("SendMessage", DEAD)}),  # not tried, as the texts say
)
def test_a_missing_permission_is_named(sqs: RunningSqs, action: str, queue: str) -> None:
    """Each that can be tried."""
    allow(sqs, documented() - {(action, queue)})
    bad = [one for one in check(sqs) if one.level != "OK"]
    assert any(f"sqs:{action}" in one.text for one in bad)


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "ExpiredToken", "SignatureDoesNotMatch"])
def test_credentials_that_sqs_refuses_are_not_ok(code: str) -> None:
    """Wherever they are from."""
    with serving(Server(otherwise=error_answer(403, code))) as server:
        app = app_at(server.endpoint, **KEYS)
        (found,) = check_credentials(app.balog, TOPIC)
        app.close()
    assert found.level == "FAIL"
    assert code in found.text


class _Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no trust</Message></Error></ErrorResponse>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_a_role_that_sts_refuses_is_not_ok(sqs: RunningSqs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its provider is found, and has no credentials."""
    token = tmp_path / "token"
    token.write_text("token")
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)) as sts:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/worker")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{sts.server_port}")
        app = app_at(sqs.endpoint)
        (found,) = check_credentials(app.balog, TOPIC)
        app.close()
    assert found.level == "FAIL"
    assert "no trust" in found.text


def test_one_queue_under_two_names_is_a_failure(sqs: RunningSqs) -> None:
    """As for the engine. A queue that does not exist is another finding's."""
    app = app_at(sqs.endpoint, **KEYS)
    url = app.balog.connect(TOPIC).url
    assert list(check_distinct_topics(app.balog, [TOPIC, DEAD, "none"])) == []
    (finding,) = check_distinct_topics(app.balog, [DEAD, url, TOPIC, "none"])
    assert finding.level == "FAIL"
    assert f"topics '{url}' and '{TOPIC}' are the same queue" in finding.text
