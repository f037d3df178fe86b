"""SQS calls past boto3's client: the same request, the same trust, and None for whatever is unusual."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import select
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials, RefreshableCredentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto import mock_aws

from balog_celery import queues
from balog_celery.direct import DirectCalls, direct_calls
from balog_celery.errors import QueueError
from balog_celery.queues import OutgoingMessage, SQSQueue

KEYS = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret", "aws_session_token": "token"}
URL = "https://sqs.us-east-1.amazonaws.com/123456789012/events"
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


@pytest.fixture(autouse=True)
def new_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No client of another test, nor any configuration of this machine's."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    queues._clients._forget()
    yield
    queues._clients._forget()


def both(**connection: str) -> tuple[Any, DirectCalls]:
    """The client and the direct calls of a queue."""
    client, direct = SQSQueue(URL, **{**KEYS, "region": "us-east-1", **connection})._clients()  # type: ignore[arg-type]
    assert direct is not None
    return client, direct


class Wire:
    """Stands where requests leave botocore: keeps them, and answers each with an empty object."""

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
        yield b"{}"


def essence(request: dict[str, Any]) -> dict[str, Any]:
    """A request without what differs from one call to the next, what only counts the client's attempts, and spaces."""
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
    """Address, body and headers, what is signed and in whose name."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    client, direct = both(**connection)
    wire = Wire(client)
    method, parameters = CALLS[operation]
    parameters = {"QueueUrl": URL, **parameters}
    getattr(client, method)(**parameters)
    assert direct.call(operation, parameters) == {}
    by_client, by_us = wire.requests
    assert essence(by_us) == essence(by_client)
    assert by_us["headers"]["x-amz-security-token"] == "token"


def test_what_fails_is_the_clients() -> None:
    """It answers None for any status but 200."""
    client, direct = both()
    Wire(client, status=503)
    assert direct.call("ReceiveMessage", {"QueueUrl": URL}) is None


def test_credentials_are_renewed() -> None:
    """When they are about to expire, as boto3 does it."""
    client, _ = both()
    renewed = iter("ab")

    def refresh() -> dict[str, str]:
        expiry = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
        name = next(renewed)
        return {"access_key": name, "secret_key": "s", "token": f"token-{name}", "expiry_time": expiry.isoformat()}

    credentials = RefreshableCredentials.create_from_metadata(refresh(), refresh, "test")
    direct = DirectCalls(client, credentials, None)
    wire = Wire(client)
    direct.call("ReceiveMessage", {"QueueUrl": URL})
    assert wire.requests[-1]["headers"]["x-amz-security-token"] == "token-b"
    assert "Credential=b/" in wire.requests[-1]["headers"]["authorization"]


@pytest.mark.parametrize(
    ("config", "credentials", "proxy"),
    [
        (Config(), None, None),
        (Config(signature_version="v4a"), Credentials("a", "b"), None),
        (Config(), Credentials("a", "b"), "http://127.0.0.1:9"),
    ],
    ids=["no credentials", "another signature", "a proxy"],
)
def test_what_is_unusual_is_left_to_the_client(
    config: Config, credentials: Credentials | None, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no direct calls then."""
    client = boto3.session.Session().client("sqs", region_name="us-east-1", config=config)
    if proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert direct_calls(client, credentials, None) is None


def test_moto_in_the_same_process_sees_them() -> None:
    """Tests of users that mock AWS must not reach it."""
    with mock_aws():
        queue = SQSQueue("events", region="us-east-1", **KEYS)
        queue.create()
        assert queue.send([OutgoingMessage("a", {"reason": "é"})]) == []
        (message,) = queue.receive(10, 0)
        assert message.body == "a"
        assert queue.change_visibility([message.handle], 60) == []
        assert queue.delete([message.handle]) == []


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.client_address[1], asked))
        self.server.headers.append(self.headers)
        answer = self.server.script.pop(0) if self.server.script else OK
        if answer is None:
            self.close_connection = True
            return
        status, body = answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.hangs_up:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None: ...


#: An answer's status and body; None: the connection ends instead.
Answer = tuple[int, str] | None
OK: Answer = (200, "{}")


class Server(ThreadingHTTPServer):
    """An HTTP server that answers what it is told to, then with empty objects.

    A real one or an emulator cannot be made to fail when a test wants it.
    """

    def __init__(self, *script: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.script = list(script)
        self.hangs_up = False
        #: The port from which each call came, and what was asked.
        self.seen: list[tuple[int, Any]] = []
        self.headers: list[Any] = []

    def handle_error(self, *_: object) -> None: ...


AServer = TypeVar("AServer", bound=socketserver.BaseServer)


@contextmanager
def serving(server: AServer) -> Iterator[AServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_connection_is_used_again() -> None:
    """For as long as the server keeps it; a poll after that may last as long as the first one."""
    with serving(Server()) as server:
        _, direct = both(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        for hangs_up in (False, False, True, False):
            server.hangs_up = hangs_up
            assert direct.call("ReceiveMessage", {"QueueUrl": URL}) == {}
        ports = [port for port, _ in server.seen]
        assert ports[0] == ports[1] == ports[2] != ports[3]
        assert [connection.gettimeout() for connection in direct._idle] == [30]
        queues._clients._forget()
        del direct


def _error(status: int, code: str) -> Answer:
    return status, json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": f"this is {code}"})


RECEIVED = json.dumps(
    {
        "Messages": [
            {"MessageId": "m", "ReceiptHandle": "h", "Body": "é", "Attributes": {"ApproximateReceiveCount": "2"}}
        ]
    }
)
PARTIAL = json.dumps(
    {
        "Successful": [{"Id": "1"}],
        "Failed": [{"Id": "0", "Code": "InternalError", "Message": "later", "SenderFault": False}],
    }
)
METHODS: dict[str, Callable[[SQSQueue], Any]] = {
    "receive": lambda queue: [(m.body, m.handle, m.message_id, m.receive_count) for m in queue.receive(10, 0)],
    "delete": lambda queue: queue.delete(["a", "b"]),
    "change_visibility": lambda queue: queue.change_visibility(["a", "b"], 5),
    "send": lambda queue: queue.send([OutgoingMessage("a"), OutgoingMessage("b")]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("script", "direct_calls", "client_calls"),
    [
        ([OK], 1, 1),
        ([(200, RECEIVED)], 1, 1),
        ([(200, PARTIAL)], 1, 1),
        ([_error(500, "InternalFailure"), OK], 2, 2),
        ([_error(400, "ThrottlingException"), OK], 2, 2),
        ([None, OK], 2, 2),
        ([_error(400, "QueueDoesNotExist")] * 2, 2, 1),
        ([_error(400, "OverLimit")] * 2, 2, 1),
        ([_error(403, "AccessDeniedException")] * 2, 2, 1),
        ([_error(503, "ServiceUnavailable")] * 4, 4, 3),
        ([(502, "<html>")] * 4, 4, 3),
        ([None] * 4, 4, 3),
        ([(200, "<html>")] * 2, 2, 1),
    ],
    ids=lambda value: str(value)[:60],
)
def test_whatever_happens_it_is_as_with_the_client(
    method: str, script: list[Answer], direct_calls: int, client_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result, or the error and its words; a call that cannot succeed costs one more than the client's own."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    outcomes = []
    for calls in (direct_calls, client_calls):
        with serving(Server(*script)) as server:
            queue = SQSQueue(URL, region="us-east-1", endpoint_url=f"http://127.0.0.1:{server.server_port}", **KEYS)
            try:
                outcome: Any = METHODS[method](queue)
            except QueueError as error:
                outcome = type(error), error.code, str(error).replace(str(server.server_port), "PORT")
            outcomes.append(outcome)
            assert [asked["QueueUrl"] for _, asked in server.seen] == [URL] * calls
            queues._clients._forget()
        monkeypatch.setattr(queues, "direct_calls", lambda *_: None)
    assert outcomes[0] == outcomes[1]


class _Pieces(socketserver.BaseRequestHandler):
    """Answers each request with the pieces that the server was given, one after the other, and then closes."""

    server: PiecesServer

    def handle(self) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += self.request.recv(65536)
        self.server.seen += 1
        for piece in self.server.pieces:
            self.request.sendall(piece)
            # What is sent next is another packet, for the reader is waiting for it.
            self.server.pause.wait(self.server.longest_pause)


class PiecesServer(socketserver.ThreadingTCPServer):
    """A server whose every byte is given, as no library sends them."""

    daemon_threads = True

    def __init__(self, *pieces: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Pieces)
        self.pieces = pieces
        self.pause = threading.Event()
        self.longest_pause = 0.05
        self.seen = 0

    @property
    def server_port(self) -> int:
        port: int = self.server_address[1]
        return port


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: 8\r\n\r\n", b'{"a"', b": 1}"], {"a": 1}),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b'{"a"', b": 1}"], {"a": 1}),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\n\r\n", b'{"a": 1}'], {"a": 1}),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n", b'{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n'],
            {"a": 1},
        ),
        ([b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"a": "\\ud800"}'], {"a": "\ud800"}),
        ([b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a": 1}'], None),
        ([b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{"a": 1}'], None),
        ([b"HTTP/1.1 200 OK\r\nX-Head"], None),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], None),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], {}),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], {}),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" * 2], None),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"], None),
        ([b'{"a": 1}'], None),
        ([b""], None),
    ],
    ids=[
        "in pieces",
        "until the end of the connection",
        "by an old server",
        "in chunks",
        "a lone surrogate",
        "cut off",
        "more than was said",
        "half a header",
        "never",
        "after another status",
        "in one packet with that",
        "two answers",
        "another protocol",
        "no HTTP",
        "nothing",
    ],
)
def test_an_answer_is_read_whole_or_not_at_all(pieces: list[bytes], expected: dict[str, Any] | None) -> None:
    """However it arrives; what is no whole answer to one request is the client's to ask for again."""
    server = PiecesServer(*pieces)
    with serving(server):
        _, direct = both(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        assert direct.call("ReceiveMessage", {"QueueUrl": URL}) == expected
        assert server.seen == 1
        # Only a connection on which all was well, and which the server has not given up, is used again.
        ends = pieces[0].startswith((b"HTTP/1.0", b"HTTP/1.1 200 OK\r\n\r\n"))
        assert len(direct._idle) == (expected is not None and not ends)
        queues._clients._forget()
        del direct


def test_what_comes_unasked_is_no_answer_to_the_next_call() -> None:
    """That would be believed: a delete that failed would pass for one that was made."""
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + b'{"Messages":[]}'
    server = PiecesServer(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + b'{"a": 1}', late)
    server.longest_pause = 60
    with serving(server):
        _, direct = both(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        assert direct.call("ReceiveMessage", {"QueueUrl": URL}) == {"a": 1}
        (idle,) = direct._idle
        server.pause.set()
        assert select.select([idle], [], [], 60)[0]
        server.pause.clear()
        assert direct.call("DeleteMessageBatch", {"QueueUrl": URL}) == {"a": 1}
        assert server.seen == 2
        server.pause.set()
        queues._clients._forget()
        del direct, idle


def test_handlers_may_look_at_a_request_and_change_it() -> None:
    """As they may with the client's, whose headers are found in any case."""
    with serving(Server()) as server:
        client, direct = both(endpoint_url=f"http://127.0.0.1:{server.server_port}")
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
        queues._clients._forget()
        del direct


def test_a_header_of_several_lines_is_not_sent() -> None:
    """What follows the first would be headers of somebody else's making."""
    with serving(Server()) as server:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        client = boto3.session.Session().client("sqs", region_name="us-east-1", endpoint_url=endpoint, **KEYS)  # type: ignore[call-overload]
        direct = DirectCalls(client, Credentials("a", "b", "token\r\nX-Other: 1"), None)
        assert direct.call("ReceiveMessage", {"QueueUrl": URL}) is None
        assert server.seen == []


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, private


@pytest.mark.parametrize("bundle", [None, "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_only_whom_boto3_trusts_is_trusted(bundle: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose certificate nobody vouches for learns nothing; the usual variables name further ones."""
    pem, key = _certificate(tmp_path)
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
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
        queues._clients._forget()
        del direct


def test_a_file_of_certificates_that_is_not_there_is_an_error_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of ours, as whatever else keeps SQS from being reached."""
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere/bundle.pem")
    with pytest.raises(QueueError, match="sqs:ReceiveMessage"):
        SQSQueue(URL, region="us-east-1", endpoint_url="https://127.0.0.1:9", **KEYS).receive(1, 0)
