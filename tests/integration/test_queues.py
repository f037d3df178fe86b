"""SQSQueue against a real SQS server, and against endpoints without one."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from celery import Celery

import servers
from balog_celery import install
from balog_celery.brokers.connections import is_too_large
from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.dead_letters.writer import DeadLetters, Outcome
from balog_celery.engine.sqs_engine import SQSEngine
from balog_celery.errors import AccessDenied, BalogError, ConfigurationError, QueueError, QueueNotFound
from balog_celery.events.mark import read_mark
from balog_celery.operations.checks.access import check_buckets
from balog_celery.sqs import clients
from balog_celery.sqs.diagnostics import access_of
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, OutgoingMessage, TypedValue
from balog_celery.sqs.queues import SQSQueue
from balog_celery.sqs.translation import is_bad_message

SECRETS = {"aws_access_key_id": "KEYID-0451", "aws_secret_access_key": "hush-1", "aws_session_token": "hush-2"}


@pytest.fixture(autouse=True, params=["direct", "client"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """How SQS is called: on the fast path, or through boto3's client. Tests expect the same results."""
    if request.param == "client":
        monkeypatch.setattr(clients, "needs_client", lambda _client: "a test")
    clients.clients.forget()
    yield request.param
    clients.clients.forget()


@pytest.fixture
def queue(queue_name: str) -> SQSQueue:
    """A queue by its name."""
    return SQSQueue(queue_name)


@pytest.fixture
def client(sqs: servers.Sqs) -> Iterator[Any]:
    """boto3's client of SQS."""
    with closing(sqs.client()) as client:
        yield client


def texts(*bodies: str) -> list[OutgoingMessage]:
    return [OutgoingMessage(body) for body in bodies]


def test_what_is_sent_is_received(queue: SQSQueue) -> None:
    """A message is received unchanged with the queue's attributes, and is then invisible."""
    assert queue.send(texts(' {"a": "é"}\n', "two")) == []
    before = time.time() * 1000
    messages = queue.receive(10, 5)
    assert sorted(message.body for message in messages) == [' {"a": "é"}\n', "two"]
    assert len({message.handle for message in messages}) == len({message.message_id for message in messages}) == 2
    for message in messages:
        assert message.receive_count == 1
        assert abs(message.first_received - before) < 60_000
        assert abs(message.sent - before) < 60_000
        assert message.attributes == {}
        assert 0 <= time.monotonic() - message.received < 30
    assert queue.receive(10, 0) == []


def test_attributes_travel(queue: SQSQueue, client: Any) -> None:
    """Message attributes are sent and received as texts."""
    assert queue.send([OutgoingMessage("x", {"reason": "failed", "topic": "é"})]) == []
    (raw,) = client.receive_message(QueueUrl=queue.url, MessageAttributeNames=["All"])["Messages"]
    assert raw["MessageAttributes"] == {
        "reason": {"DataType": "String", "StringValue": "failed"},
        "topic": {"DataType": "String", "StringValue": "é"},
    }


def test_all_attributes_are_received(queue_name: str, client: Any) -> None:
    """A message comes with its attributes: texts by themselves, others with their types."""
    queue = SQSQueue(queue_name)
    attributes = {
        "text": {"DataType": "String", "StringValue": "yes"},
        "bytes": {"DataType": "Binary", "BinaryValue": b"no"},
        "other": {"DataType": "Number", "StringValue": "1"},
    }
    client.send_message(QueueUrl=queue.url, MessageBody="body", MessageAttributes=attributes)
    (message,) = queue.receive(10, 5)
    assert message.attributes == {"text": "yes", "other": "1"}
    assert message.typed == {"bytes": TypedValue("Binary", b"no"), "other": TypedValue("Number", "1")}


def test_one_receive_gives_ten_at_most(queue: SQSQueue) -> None:
    """A receive returns at most ten messages, and at most the requested number."""
    assert queue.send(texts(*"abcdefghij")) == []
    assert queue.send(texts("k", "l")) == []
    assert len(queue.receive(3, 0)) == 3
    assert len(queue.receive(100, 0)) == 9


def test_a_delete_is_for_good(queue: SQSQueue, client: Any) -> None:
    """A delete removes exactly the messages of the given handles."""
    queue.send(texts(*"abc"))
    messages = queue.receive(10, 5)
    assert queue.delete([message.handle for message in messages if message.body != "b"]) == []
    assert queue.change_visibility([message.handle for message in messages if message.body == "b"], 0) == []
    assert [message.body for message in queue.receive(10, 5)] == ["b"]


def test_what_was_not_deleted_is_told_by_its_position(queue: SQSQueue) -> None:
    """A failed delete in a successful answer is reported by its position."""
    queue.send(texts("a"))
    (message,) = queue.receive(10, 5)
    (failure,) = queue.delete([message.handle, "no handle"])
    assert failure.index == 1
    assert failure.code == "ReceiptHandleIsInvalid"
    assert failure.message
    assert failure.sender_fault


def test_a_message_given_back_comes_again_with_its_count(queue: SQSQueue) -> None:
    """A released message comes again at once, with the same id, another handle and a higher receive count."""
    queue.send(texts("a"))
    (first,) = queue.receive(10, 5)
    assert queue.change_visibility([first.handle], 0) == []
    (second,) = queue.receive(10, 5)
    assert second.message_id == first.message_id
    assert second.handle != first.handle
    assert second.receive_count == 2
    assert second.first_received == first.first_received


def test_an_extended_message_stays_away(queue_name: str) -> None:
    """An extended message stays invisible longer; another one comes back."""
    queue = SQSQueue(queue_name)
    queue.send(texts("a", "b"))
    messages = {message.body: message for message in queue.receive(10, 5, 4)}
    assert queue.change_visibility([messages["a"].handle], 600) == []
    again: list[str] = []

    def returned() -> bool:
        again.extend(message.body for message in queue.receive(10, 1, 4))
        return "b" in again

    servers.wait_until(returned, what="the message that was not extended")
    assert "a" not in again


def test_a_handle_that_cannot_be_extended_is_told(queue: SQSQueue) -> None:
    """A failed extension is reported by its position, as a failed delete is."""
    (failure,) = queue.change_visibility(["no handle"], 60)
    assert failure.index == 0
    assert failure.sender_fault


def test_a_topic_may_be_a_url(queue: SQSQueue, sqs: servers.Sqs) -> None:
    """A topic may be a URL, which is used unchanged and whose last part is the queue's name."""
    by_url = SQSQueue(queue.url)
    assert by_url.name == queue.name
    assert by_url.url == queue.url
    by_url.send(texts("a"))
    assert [message.body for message in queue.receive(10, 5)] == ["a"]
    assert SQSQueue(queue.url + "/").name == queue.name


def test_a_url_of_no_queue_does_not_exist(queue: SQSQueue) -> None:
    """A URL without a queue does not exist, in the account where SQS looks."""
    assert SQSQueue(queue.url).exists()
    assert not SQSQueue(f"{queue.url}-missing").exists()


def test_dead_letters_of_a_url_are_sent_beside_it(queue: SQSQueue) -> None:
    """Dead letters of a URL's topic go to the dead-letter queue beside it, if that exists."""
    dead_letters = DeadLetters(SQSQueue, "{topic}-dead")
    assert dead_letters.send("body", queue.url, "failed") is Outcome.NO_QUEUE
    beside = SQSQueue(f"{queue.name}-dead")
    beside.create()
    assert DeadLetters(SQSQueue, "{topic}-dead").send("body", queue.url, "failed") is Outcome.KEPT
    (message,) = beside.read(10, 5, 30)
    assert (message.body, read_mark(message.attributes)["topic"]) == ("body", queue.url)


def test_it_knows_whether_it_exists(queue: SQSQueue, sqs: servers.Sqs) -> None:
    """`exists` answers without raising an error."""
    assert queue.exists()
    assert not SQSQueue("no-such-queue").exists()


def test_it_tells_its_attributes(queue: SQSQueue) -> None:
    """`attributes` returns the queue's attributes by SQS's names."""
    attributes = queue.attributes()
    assert attributes["VisibilityTimeout"] == "30"
    assert attributes["QueueArn"].endswith(f":{queue.name}")


def test_creating_it_twice_is_creating_it_once(sqs: servers.Sqs) -> None:
    """Creating an existing queue keeps it and its messages."""
    queue = SQSQueue("made")
    queue.create()
    queue.send(texts("a"))
    SQSQueue("made").create()
    assert [message.body for message in queue.receive(10, 5)] == ["a"]


def test_a_fifo_queue_is_one_by_its_suffix(sqs: servers.Sqs) -> None:
    """A queue with the suffix .fifo is FIFO, and its messages are in one group and in order."""
    queue = SQSQueue("made.fifo")
    queue.create()
    assert queue.attributes()["FifoQueue"] == "true"
    assert queue.send(texts("a", "b", "c")) == []
    assert [message.body for message in queue.receive(10, 5)] == ["a", "b", "c"]


def test_a_fifo_queue_keeps_the_group_that_is_given(sqs: servers.Sqs) -> None:
    """A FIFO queue sends and returns the given message group, also without content-based deduplication."""
    with closing(sqs.client()) as client:
        client.create_queue(QueueName="plain.fifo", Attributes={"FifoQueue": "true"})
    queue = SQSQueue("plain.fifo")
    assert (
        queue.send(
            [OutgoingMessage("a", group="g"), OutgoingMessage("b", group="h", deduplication_id="d"), *texts("c")]
        )
        == []
    )
    assert [(message.body, message.group) for message in queue.receive(10, 5)] == [
        ("a", "g"),
        ("b", "h"),
        ("c", "balog"),
    ]


@pytest.mark.parametrize("call", ["url", "receive", "delete", "change_visibility", "send", "attributes"])
def test_a_missing_queue_is_named(sqs: servers.Sqs, call: str) -> None:
    """Each call to a missing queue raises an error that names the queue and the remedy."""
    queue = SQSQueue("no-such-queue")
    calls: dict[str, Any] = {
        "url": lambda: queue.url,
        "receive": lambda: queue.receive(1, 0),
        "delete": lambda: queue.delete(["h"]),
        "change_visibility": lambda: queue.change_visibility(["h"], 1),
        "send": lambda: queue.send(texts("a")),
        "attributes": queue.attributes,
    }
    with pytest.raises(QueueNotFound, match=r"there is no queue 'no-such-queue'.*create it, or correct") as error:
        calls[call]()
    assert "NonExistentQueue" in error.value.code or error.value.code == "QueueDoesNotExist"


def test_a_missing_queue_of_a_url_is_named(queue: SQSQueue) -> None:
    """The error for a URL without a queue names it, although a URL is not looked up first."""
    missing = SQSQueue(queue.url.replace(queue.name, "no-such-queue"))
    with pytest.raises(QueueNotFound, match="'no-such-queue'"):
        missing.receive(1, 0)


def test_a_queue_that_was_deleted_and_made_anew_is_found(queue: SQSQueue, client: Any) -> None:
    """After a queue is deleted and created again, one call fails and the next ones find it."""
    queue.send(texts("a"))
    client.delete_queue(QueueUrl=queue.url)
    with pytest.raises(QueueNotFound):
        queue.receive(1, 0)
    client.create_queue(QueueName=queue.name)
    assert queue.receive(1, 0) == []


def test_a_body_that_is_too_large_does_not_hide_those_that_were_sent(queue: SQSQueue) -> None:
    """Of a batch with a body that is too large, SQS sends the others or nothing, and reports which."""
    oversize = "x" * (MAX_MESSAGE_BYTES + 1)
    error, failures = None, []
    try:
        failures = queue.send(texts("a", oversize, "b"))
    except QueueError as caught:
        error = caught
    arrived = sorted(message.body for message in queue.receive(10, 0))
    if error is None:
        assert [failure.index for failure in failures] == [1]
        assert arrived == ["a", "b"]
    else:
        assert f"sqs:SendMessage on queue {queue.name!r} failed" in str(error)
        assert len(str(error)) < 1000
        assert arrived == []


def test_an_error_says_whether_a_message_was_at_fault(queue: SQSQueue) -> None:
    """The error of a send says whether a message is at fault, so that sending it again cannot help."""
    with pytest.raises(QueueError) as error:
        queue.send(texts("x" * (MAX_MESSAGE_BYTES + 1)))
    assert is_bad_message(error.value)
    with pytest.raises(QueueError) as error:
        SQSQueue(f"{queue.name}-missing").send(texts("x"))
    assert not is_bad_message(error.value)


def test_boto3_says_that_a_message_is_too_large(queue: SQSQueue, client: Any) -> None:
    """A message that is too large for SQS as Celery's broker is recognised by boto3's error."""
    with pytest.raises(ClientError) as error:
        client.send_message(QueueUrl=queue.url, MessageBody="x" * (MAX_MESSAGE_BYTES + 1))
    assert is_too_large(error.value)
    half = "x" * (MAX_MESSAGE_BYTES // 2 + 1)
    entries = [{"Id": name, "MessageBody": half} for name in "ab"]
    with pytest.raises(ClientError) as error:
        client.send_message_batch(QueueUrl=queue.url, Entries=entries)
    assert is_too_large(error.value)
    with pytest.raises(ClientError) as error:
        client.send_message(QueueUrl=queue.url, MessageBody="x", DelaySeconds=5000)
    assert not is_too_large(error.value)


def test_a_size_is_counted_as_sqs_does() -> None:
    """A size counts bytes of the body and the attributes' names, types and values."""
    assert OutgoingMessage("é").size() == 2
    assert OutgoingMessage("x", {"né": "é"}).size() == 1 + 3 + 6 + 2


def test_an_endpoint_where_nobody_listens_is_an_error_within_seconds(sqs: servers.Sqs) -> None:
    """An endpoint that nothing listens on is an error within seconds that names the queue."""
    queue = SQSQueue("events", endpoint_url=f"http://127.0.0.1:{servers.free_port()}")
    before = time.monotonic()
    with pytest.raises(QueueError, match=r"'events'.*EndpointConnectionError"):
        queue.receive(1, 20)
    assert time.monotonic() - before < 30


def test_an_endpoint_that_is_no_url_is_an_error(sqs: servers.Sqs) -> None:
    """An endpoint that is not a URL is an error before anything is connected to."""
    with pytest.raises(QueueError, match="nonsense"):
        _ = SQSQueue("events", endpoint_url="nonsense").url


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str | None]:
    """An environment in which boto3 finds nothing."""
    return {
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
        **dict.fromkeys(
            [
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN",
                "AWS_DEFAULT_REGION",
                "AWS_REGION",
                "AWS_PROFILE",
                "AWS_CA_BUNDLE",
                "AWS_CONFIG_FILE",
                "AWS_SHARED_CREDENTIALS_FILE",
                "AWS_ENDPOINT_URL",
                "AWS_ENDPOINT_URL_SQS",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "REQUESTS_CA_BUNDLE",
            ]
        ),
    }


@pytest.fixture
def bare_boto3(bare: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Use only the given environment for boto3."""
    for name, value in bare.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("bare_boto3")
def test_without_credentials_access_is_denied(sqs_server: servers.Sqs) -> None:
    """Without credentials the error names the missing permission, and says to check the credentials."""
    # A region that no other test uses: a client is kept, with the credentials that it was made with.
    queue = SQSQueue("events", region="eu-north-1", endpoint_url=sqs_server.endpoint_url)
    with pytest.raises(AccessDenied, match=r"'events'.*sqs:GetQueueUrl.*check the credentials.*NoCredentials") as error:
        queue.receive(1, 0)
    assert error.value.code == "NoCredentialsError"


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[str]]]:
    """A server's URL, and the error code with which it refuses all calls: no emulator looks at credentials."""
    codes: list[str] = []

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = json.dumps({"__type": f"com.amazon.coral.service#{codes[0]}", "message": "no\nway"}).encode()
            self.send_response(403)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", codes
        server.shutdown()
        thread.join(60)


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "SignatureDoesNotMatch", "AccessDenied", "SomethingNew"])
def test_credentials_that_are_refused_are_told(refusing: tuple[str, list[str]], code: str) -> None:
    """Refused credentials are reported with SQS's code and text, and with what to check."""
    url, codes = refusing
    codes.append(code)
    queue = SQSQueue("events", region="us-east-1", endpoint_url=url, **SECRETS)
    said = rf"'events' was refused for sqs:GetQueueUrl: check the credentials.*\({code}: no\\nway\)"
    with pytest.raises(AccessDenied, match=said) as error:
        queue.attributes()
    assert error.value.code == code
    assert not any(secret in str(error.value) for secret in SECRETS.values())


@pytest.mark.usefixtures("bare_boto3")
def test_without_a_region_the_error_says_where_to_set_one(sqs_server: servers.Sqs) -> None:
    """Without a region the error is this package's, and says where to set one."""
    with pytest.raises(QueueError, match=r"no AWS region.*balog_region.*AWS_DEFAULT_REGION") as error:
        _ = SQSQueue("events", endpoint_url=sqs_server.endpoint_url, **SECRETS).url
    assert error.value.code == "NoRegionError"


REGION = {"AWS_DEFAULT_REGION": "eu-west-1"}


@pytest.mark.usefixtures("bare_boto3")
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "no AWS region is known: set balog_region"),
        ({"AWS_DEFAULT_REGION": "mars 1"}, "'mars 1' doesn't match a supported format"),
        ({**REGION, "AWS_ENDPOINT_URL_SQS": "nonsense"}, "AWS_ENDPOINT_URL_SQS = 'nonsense' is not an HTTP URL: give"),
        ({**REGION, "AWS_ENDPOINT_URL": "ftp://host"}, "AWS_ENDPOINT_URL = 'ftp://host' is not an HTTP URL: give"),
        (
            {**REGION, "HTTPS_PROXY": "socks5://h:1"},
            "the proxy for https = 'socks5://h:1' is not .*HTTPS_PROXY",
        ),
        ({**REGION, "AWS_CA_BUNDLE": "/no.pem"}, "AWS_CA_BUNDLE = '/no.pem': no certificates .*No such file.*PEM"),
        ({**REGION, "REQUESTS_CA_BUNDLE": __file__}, "REQUESTS_CA_BUNDLE = .*: no certificates can be read.*PEM"),
        ({**REGION, "AWS_PROFILE": "nobody"}, r"correct AWS_PROFILE.*profile \(nobody\) could not be found"),
        ({**REGION, "AWS_CONFIG_FILE": __file__}, r"fix that file, or correct AWS_CONFIG_FILE.*Unable to parse"),
    ],
)
def test_an_engine_that_can_make_no_client_ends_at_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """An engine that can never make a client ends at start, instead of retrying and looking healthy."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hub = ConsumerHub()
    hub.add_consumer(Consumer(print, "events"))
    # What no other test gives: a client is kept, with what it was made with.
    keys = {"aws_access_key_id": message, "aws_secret_access_key": "hush-1"}
    given = {"region": message} if "AWS_PROFILE" in message or "AWS_CONFIG" in message else keys
    with pytest.raises(ConfigurationError, match=message):
        SQSEngine(hub, **given).run()


def test_an_engine_that_can_make_no_client_of_s3_ends_at_start(sqs: servers.Sqs, queue_name: str) -> None:
    """Bodies in the payload bucket could never be read; `balog check` reports it as a failure."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(print, queue_name))
    message = "the S3 client cannot be made: balog_s3_endpoint_url = 'ftp://h' is not an HTTP URL"
    with pytest.raises(ConfigurationError, match=message):
        SQSEngine(hub, payload_bucket="b", s3_endpoint_url="ftp://h").run()
    app = Celery("buckets", set_as_current=False)
    install(app, payload_bucket="b", s3_endpoint_url="ftp://h")
    (finding,) = check_buckets(app.balog, queue_name)
    assert (finding.level, message in finding.text) == ("FAIL", True)


@pytest.mark.usefixtures("bare_boto3")
def test_a_region_is_read_from_an_aws_url() -> None:
    """The region is read from an AWS URL, so a worker may use queues of several regions."""
    queue = SQSQueue("https://sqs.eu-west-3.amazonaws.com/123456789012/events", **SECRETS)
    assert access_of(queue)[:2] == ("eu-west-3", "https://sqs.eu-west-3.amazonaws.com")


class Gate(BaseHTTPRequestHandler):
    """An SQS that knows one key; with any other the token has expired. A real one does not expire on demand."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        good = "Credential=AKIANEW/" in self.headers["authorization"]
        answer = {"QueueUrl": "http://x/1/events"} if good else {"__type": "com.amazonaws.sqs#ExpiredToken"}
        body = json.dumps(answer).encode()
        self.send_response(200 if good else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.usefixtures("bare_boto3")
def test_expired_credentials_are_looked_up_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expired credentials are looked up again by boto3's chain at the next call."""
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with ThreadingHTTPServer(("127.0.0.1", 0), Gate) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        queue = SQSQueue("events", region="us-east-1", endpoint_url=endpoint)
        file.write_text("[default]\naws_access_key_id = AKIAOLD\naws_secret_access_key = s\n")
        for _ in range(2):
            with pytest.raises(AccessDenied, match="ExpiredToken"):
                _ = queue.url
        file.write_text("[default]\naws_access_key_id = AKIANEW\naws_secret_access_key = s\n")
        answer = queue.receive(1, 0)
        server.shutdown()
        thread.join(60)
    assert answer == []


def test_no_secret_is_shown(sqs: servers.Sqs) -> None:
    """Neither the object's repr nor its errors and their causes show a secret."""
    shown: list[str] = []
    for endpoint in (sqs.endpoint_url, f"http://127.0.0.1:{servers.free_port()}", "nonsense"):
        queue = SQSQueue("no-such-queue", region="us-east-1", endpoint_url=endpoint, **SECRETS)
        with pytest.raises(BalogError) as caught:
            queue.receive(1, 0)
        error: BaseException | None = caught.value
        while error is not None:
            shown += [str(error), repr(error)]
            error = error.__cause__ or error.__context__
        shown.append(repr(queue))
    assert not [text for text in shown if any(secret in text for secret in SECRETS.values())]
    assert repr(SQSQueue("events", **SECRETS)) == "<SQSQueue events>"


FORK = """
import json, os, sys, threading
from balog_celery.sqs.clients import clients
from balog_celery.queues import OutgoingMessage, SQSQueue

queue = SQSQueue(sys.argv[1])
queue.send([OutgoingMessage("parent")])
mine = clients.get(queue.connection)
# Held over the fork, as a thread that makes a client at that moment would.
clients._lock.acquire()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    queue.send([OutgoingMessage("child")])
    os.write(writer, json.dumps({"same": clients.get(queue.connection) is mine}).encode())
    os._exit(0)
clients._lock.release()
os.close(writer)
answer = json.loads(os.read(reader, 1000))
_, status = os.waitpid(child, 0)
queue.send([OutgoingMessage("parent again")])
print(json.dumps({**answer, "status": status, "kept": clients.get(queue.connection) is mine}), flush=True)
"""


def test_a_forked_child_has_a_client_of_its_own(queue: SQSQueue, sqs: servers.Sqs) -> None:
    """A forked child makes its own client, and does not wait for a lock that its parent held."""
    with servers.Program([sys.executable, "-W", "ignore", "-c", FORK, queue.name], env=sqs.env) as program:
        assert program.wait(60) == 0, program.output
        assert json.loads(program.output) == {"same": False, "status": 0, "kept": True}
    bodies = {message.body for message in queue.receive(10, 5)}
    assert bodies == {"parent", "child", "parent again"}
