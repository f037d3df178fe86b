"""The fast path: the requests and the trust of boto3's client, which makes the calls that fail on it."""

from __future__ import annotations

import datetime
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import wrapt
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials, RefreshableCredentials
from moto import mock_aws

from balog_celery.errors import QueueError
from balog_celery.sqs import clients, direct
from balog_celery.sqs.direct import DirectCalls, needs_client
from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from balog_celery.sqs.server_clock import ServerClock
from scripted_sqs.certificates import server_context
from scripted_sqs.raw import GOOD, HANG_UP, KEYS, URL, Answer, Server, error_answer, serving

pytestmark = pytest.mark.usefixtures("own_clients")

ENTRIES = [{"Id": "0", "ReceiptHandle": "é"}]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "ReceiveMessage": ("receive_message", {"MaxNumberOfMessages": 10, "WaitTimeSeconds": 20, "VisibilityTimeout": 7}),
    "DeleteMessageBatch": ("delete_message_batch", {"Entries": ENTRIES}),
    "ChangeMessageVisibilityBatch": (
        "change_message_visibility_batch",
        {"Entries": [{**ENTRIES[0], "VisibilityTimeout": 3}]},
    ),
    "SendMessageBatch": ("send_message_batch", {"Entries": [{"Id": "0", "MessageBody": '{"a": "\\u00e9é"}'}]}),
}


def both(**connection: str) -> tuple[Any, DirectCalls]:
    """Return the client and the fast path of a queue."""
    queue = SQSQueue(URL, **{**KEYS, "region": "us-east-1", **connection})  # type: ignore[arg-type]
    sqs = clients.clients.get(queue.connection)
    assert sqs.direct is not None
    return sqs.client, sqs.direct


class Wire:
    """Records the requests that leave botocore, and gives each the same answer."""

    def __init__(self, client: Any, status: int = 200) -> None:
        self.requests: list[dict[str, Any]] = []
        self._status = status
        client.meta.events.register("before-send.sqs", self._send)

    def _send(self, request: Any, **_: Any) -> AWSResponse:
        headers = {name.lower(): v.decode() if isinstance(v, bytes) else v for name, v in request.headers.items()}
        body = request.body if isinstance(request.body, bytes) else request.body.encode()
        self.requests.append({"method": request.method, "url": request.url, "body": body, "headers": headers})
        return AWSResponse(request.url, self._status, {}, _Raw())


class _Raw:
    def stream(self, **_: Any) -> Iterator[bytes]:
        yield b'{"Successful": [{"Id": "0"}]}'


def essence(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request without the parts that differ between calls or attempts."""
    headers = dict(request["headers"])
    for name in ("x-amz-date", "amz-sdk-invocation-id", "amz-sdk-request", "content-length"):
        headers.pop(name, None)
    headers["authorization"] = re.sub(r"/\d{8}/|Signature=\w+", "", headers["authorization"])
    # The client leaves it to its HTTP library, from its address.
    headers.setdefault("host", urlsplit(request["url"]).netloc)
    return {**request, "headers": headers, "body": json.loads(request["body"])}


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize(
    ("connection", "env"),
    [
        ({}, {}),
        ({"region": "cn-north-1"}, {}),
        ({"region": "us-gov-west-1"}, {"AWS_USE_FIPS_ENDPOINT": "true"}),
        ({"region": "eu-central-1"}, {"AWS_USE_DUALSTACK_ENDPOINT": "true"}),
        ({"endpoint_url": "http://127.0.0.1:4566"}, {}),
        ({"endpoint_url": "http://[::1]:4566"}, {}),
        ({"endpoint_url": "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/", "region": "eu-west-1"}, {}),
        ({"endpoint_url": "https://proxy.example.com/aws/sqs"}, {}),
    ],
    ids=str,
)
def test_the_request_is_the_clients(
    operation: str, connection: dict[str, str], env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Address, body, headers, signature and credentials equal those of the client's request."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    client, direct = both(**connection)
    wire = Wire(client)
    method, parameters = CALLS[operation]
    parameters = {"QueueUrl": URL, **parameters}
    answered = getattr(client, method)(**parameters)
    del answered["ResponseMetadata"]
    assert direct.call(operation, parameters) == answered
    by_client, by_us = wire.requests
    assert essence(by_us) == essence(by_client)
    assert by_us["headers"]["x-amz-security-token"] == "token"


def test_what_fails_is_the_clients() -> None:
    """For any status but 200 the fast path leaves the call to the client."""
    client, direct = both()
    Wire(client, status=503)
    assert direct.call("ReceiveMessage", {"QueueUrl": URL}) is None


def test_credentials_are_renewed() -> None:
    """Credentials are renewed shortly before they expire, as in boto3."""
    client, _ = both()
    renewed = iter("ab")

    def refresh() -> dict[str, str]:
        expiry = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
        name = next(renewed)
        return {"access_key": name, "secret_key": "s", "token": f"token-{name}", "expiry_time": expiry.isoformat()}

    credentials = RefreshableCredentials.create_from_metadata(refresh(), refresh, "test")
    direct = DirectCalls(client, credentials, None, ServerClock())
    wire = Wire(client)
    direct.call("ReceiveMessage", {"QueueUrl": URL})
    assert wire.requests[-1]["headers"]["x-amz-security-token"] == "token-b"
    assert "Credential=b/" in wire.requests[-1]["headers"]["authorization"]


PROXY_VARIABLES = [f"{kind}_proxy" for kind in ("http", "https", "ftp", "all", "no")]


@pytest.mark.parametrize(
    ("version", "environment", "reason"),
    [
        ("v4", {}, ""),
        ("v4a", {}, "Signature Version 4"),
        ("v4", {"HTTPS_PROXY": "http://127.0.0.1:9"}, "proxy"),
        ("v4", {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "amazonaws.com"}, ""),
        ("v4", {"NO_PROXY": "localhost,169.254.169.254"}, ""),
        ("v4", {"FTP_PROXY": "http://127.0.0.1:9"}, ""),
        ("v4", {"HTTP_PROXY": "http://127.0.0.1:9"}, ""),
    ],
)
def test_only_what_the_fast_path_cannot_do_is_left_to_the_client(
    version: str, environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a signature, protocol or proxy that the fast path does not support excludes it."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.session.Session("a", "b").client(
        "sqs", region_name="us-east-1", config=Config(signature_version=version)
    )
    found = needs_client(client)
    assert (reason in found) if reason else not found


def test_an_instrumented_client_makes_all_calls() -> None:
    """An instrumented client makes all calls, so that the instrumentation sees them."""
    client = boto3.session.Session("a", "b").client("sqs", region_name="us-east-1")
    wrapt.wrap_function_wrapper(client, "_make_api_call", lambda wrapped, _, args, kwargs: wrapped(*args, **kwargs))
    assert needs_client(client) == "boto3 is instrumented"


def test_moto_in_the_same_process_sees_them() -> None:
    """moto in the same process intercepts the calls, so that tests never reach AWS."""
    with mock_aws():
        queue = SQSQueue("events", region="us-east-1", **KEYS)
        queue.create()
        assert queue.send([OutgoingMessage("a", {"reason": "é"})]) == []
        (message,) = queue.receive(10, 0)
        assert message.body == "a"
        assert queue.change_visibility([message.handle], 60) == []
        assert queue.delete([message.handle]) == []


RECEIVED = json.dumps(
    {
        "Messages": [
            {"MessageId": "m", "ReceiptHandle": "h", "Body": "é", "Attributes": {"ApproximateReceiveCount": "2"}}
        ]
    }
).encode()
PARTIAL = json.dumps(
    {
        "Successful": [{"Id": "1"}],
        "Failed": [{"Id": "0", "Code": "InternalError", "Message": "later", "SenderFault": False}],
    }
).encode()
METHODS: dict[str, Callable[[SQSQueue], Any]] = {
    "receive": lambda queue: [(m.body, m.handle, m.message_id, m.receive_count) for m in queue.receive(10, 0)],
    "delete": lambda queue: queue.delete(["a", "b"]),
    "change_visibility": lambda queue: queue.change_visibility(["a", "b"], 5),
    "send": lambda queue: queue.send([OutgoingMessage("a"), OutgoingMessage("b")]),
    "attributes": lambda queue: queue.attributes(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("script", "direct_calls", "client_calls"),
    [
        ([GOOD], 1, 1),
        ([(200, RECEIVED)], 1, 1),
        ([(200, PARTIAL)], 1, 1),
        ([error_answer(500, "InternalFailure"), GOOD], 2, 2),
        ([error_answer(400, "ThrottlingException"), GOOD], 2, 2),
        ([HANG_UP, GOOD], 2, 2),
        ([error_answer(400, "QueueDoesNotExist")] * 2, 2, 1),
        ([error_answer(400, "OverLimit")] * 2, 2, 1),
        ([error_answer(403, "AccessDeniedException")] * 2, 2, 1),
        ([error_answer(503, "ServiceUnavailable")] * 3, 3, 2),
        ([(502, b"<html>")] * 3, 3, 2),
        ([(307, b"")] * 2, 1, 1),
        ([(403, b"<html>")] * 2, 2, 1),
        ([HANG_UP] * 3, 3, 2),
        ([(200, b"<html>")] * 2, 1, 1),
    ],
    ids=lambda value: str(value)[:60],
)
def test_whatever_happens_it_is_as_with_the_client(
    method: str, script: list[Answer], direct_calls: int, client_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result or error equals the client's, in at most three attempts."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    outcomes = []
    for calls in (direct_calls, client_calls):
        with serving(Server(*script)) as server:
            queue = SQSQueue(URL, region="us-east-1", endpoint_url=server.endpoint, **KEYS)
            try:
                outcome: Any = METHODS[method](queue)
            except QueueError as error:
                outcome = type(error), error.code, str(error).replace(str(server.server_port), "PORT")
            outcomes.append(outcome)
            assert [asked["QueueUrl"] for _, _, asked in server.seen] == [URL] * calls
            clients.clients.forget()
        monkeypatch.setattr(clients, "needs_client", lambda _client: "a test")
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("way", ["direct", "client"])
def test_a_call_that_hangs_is_given_up_within_seconds(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs is given up within seconds and not repeated."""
    monkeypatch.setattr(direct, "ANSWER_TIMEOUT", 1.0)
    if way == "client":
        monkeypatch.setattr(clients, "needs_client", lambda _client: "a test")
    with serving(Server()) as server:
        queue = SQSQueue(URL, region="us-east-1", endpoint_url=server.endpoint, **KEYS)
        for method in ("delete", "change_visibility", "send", "attributes"):
            server.unanswered = {"DeleteMessageBatch", "ChangeMessageVisibilityBatch", "SendMessageBatch"}
            server.unanswered |= {"GetQueueAttributes"}
            before = time.monotonic()
            with pytest.raises(QueueError, match=r"no whole answer within (1|0\.83\d*) s"):
                METHODS[method](queue)
            assert time.monotonic() - before < 20
        # A machine may be so slow that a request does not leave it within the second.
        actions = [action for _, action, _ in server.seen]
        assert len(actions) == len(set(actions))
        server.unanswered = {"ReceiveMessage"}
        threading.Timer(1.5, server.released.set).start()
        assert queue.receive(10, 0) == []
        clients.clients.forget()


def test_handlers_may_look_at_a_request_and_change_it() -> None:
    """Handlers of the client see the request and may change it."""
    with serving(Server()) as server:
        client, direct = both(endpoint_url=server.endpoint)
        seen: list[str] = []

        def handle(request: Any, **_: Any) -> None:
            seen.append(request.headers["x-amz-target"])
            request.headers["user-agent"] = "mine"
            request.headers["X-Trace"] = "1"

        client.meta.events.register("before-send.sqs", handle)
        assert direct.call("ReceiveMessage", {"QueueUrl": URL}) == {}
        assert seen == ["AmazonSQS.ReceiveMessage"]
        (headers,) = server.headers
        assert (headers.get_all("User-Agent"), headers.get_all("X-Trace")) == (["mine"], ["1"])
        clients.clients.forget()
        del direct


def test_a_header_of_several_lines_is_not_sent() -> None:
    """A header value of several lines is not sent, because it could inject headers."""
    with serving(Server()) as server:
        client = boto3.session.Session().client("sqs", region_name="us-east-1", endpoint_url=server.endpoint, **KEYS)  # type: ignore[call-overload]
        direct = DirectCalls(client, Credentials("a", "b", "token\r\nX-Other: 1"), None, ServerClock())
        assert direct.call("ReceiveMessage", {"QueueUrl": URL}) is None
        assert server.seen == []


@pytest.mark.parametrize("bundle", [None, "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_only_whom_boto3_trusts_is_trusted(bundle: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are trusted as by boto3, including those of the usual variables."""
    pem = tmp_path / "cert.pem"
    server = Server()
    server.socket = server_context(pem).wrap_socket(server.socket, server_side=True)
    if bundle:
        monkeypatch.setenv(bundle, str(pem))
    with serving(server):
        endpoint = f"https://127.0.0.1:{server.server_port}"
        _, direct = both(endpoint_url=endpoint)
        answer = direct.call("ReceiveMessage", {"QueueUrl": URL})
        if bundle:
            assert answer == {}
        else:
            assert answer is None
            with pytest.raises(QueueError, match="SSLError"):
                SQSQueue(URL, region="us-east-1", endpoint_url=endpoint, **KEYS).receive(1, 0)
            assert server.seen == []
        clients.clients.forget()
        del direct


def test_a_file_of_certificates_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the setting, before anything is connected to."""
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/bundle.pem")
    with pytest.raises(QueueError, match=r"AWS_CA_BUNDLE = '/nowhere/bundle.pem': no certificates"):
        SQSQueue(URL, region="us-east-1", endpoint_url="https://127.0.0.1:9", **KEYS).receive(1, 0)


@pytest.mark.parametrize("status", [200, 202, 302, 400, 500])
def test_a_started_call_succeeds_by_its_status_too(status: int) -> None:
    """A started call whose answer has another status than 200 has not surely been made."""
    client, calls = both()
    Wire(client, status)
    found = calls.start("DeleteMessageBatch", {"QueueUrl": URL, "Entries": ENTRIES}).finish()
    assert found == ({"Successful": [{"Id": "0"}]} if status == 200 else None)


def test_a_started_call_whose_answer_a_handler_gives_has_it_at_once() -> None:
    """A handler of ``before-send``, such as moto's, answers a call that is started, and is asked once."""
    client, calls = both()
    wire = Wire(client)
    started = calls.start("DeleteMessageBatch", {"QueueUrl": URL, "Entries": ENTRIES})
    assert started.is_answered()
    assert started.finish() == {"Successful": [{"Id": "0"}]}
    assert len(wire.requests) == 1


def test_what_cannot_be_sent_is_not_started() -> None:
    """A delete is not started before the queue's URL is known, nor where nothing listens."""
    queue = SQSQueue("topic", **{**KEYS, "region": "us-east-1", "endpoint_url": "http://127.0.0.1:1"})
    assert queue.start_delete(["a"]) is None
    queue = SQSQueue(URL, **{**KEYS, "region": "us-east-1", "endpoint_url": "http://127.0.0.1:1"})
    assert queue.start_delete(["a"]) is None
