"""The SQS calls that are made all the time, for an eighth of what they cost through boto3's client.

With ``queues.py`` and ``signer.py`` the only file that imports boto3 or botocore. The request is the one that the
client makes, signed by botocore's signer with the client's credentials; it goes over a socket of ours, and its answer
is read by httptools, which is llhttp. Left out is what the client does beside that at every call: endpoint rules, a
serializer and a parser that go by the service's model, most of its events, and two layers of HTTP in Python.

A call that does not succeed at once is None here, and then the client's: its retries, its errors and its words are the
only ones. So is everything that is unusual: a proxy, another signature or protocol, no credentials, a client that is
instrumented (by OpenTelemetry, for instance).
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import ssl
import weakref
from collections.abc import MutableMapping
from functools import cached_property
from http import HTTPStatus
from types import MethodType
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from httptools import HttpResponseParser
from pydantic_core import from_json, to_json

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_sqs import SQSClient

    from .signer import Keys

logger = logging.getLogger(__name__)

#: How much is read from a socket at a time, in bytes: an answer with ten small messages whole.
_CHUNK = 65_536
#: The headers that say where an answer ends.
_DELIMITERS = (b"content-length", b"transfer-encoding")


class DirectCalls:
    """Calls of SQS, past the client. It may be shared by threads.

    Certificates and timeouts are the client's; credentials are renewed as the client renews them. Handlers of the
    client's event ``before-send`` are called, of which moto is one.

    :param client: whose endpoint, region and configuration count.
    :param credentials: the client's.
    :param ca_bundle: the file of certificates to trust that boto3 is configured with, if any.
    """

    def __init__(self, client: SQSClient, credentials: Credentials, ca_bundle: str | None) -> None:
        meta: Any = client.meta
        config, service = meta.config, meta.service_model
        self._credentials = credentials
        self._emit = meta.events.emit
        self._scope = (service.signing_name, meta.region_name)
        self._keys: Keys = {}
        self._endpoint = urlsplit(meta.endpoint_url)
        path = self._endpoint.path or "/"
        self._url = meta.endpoint_url if self._endpoint.path else meta.endpoint_url + "/"
        self._request_line = f"POST {path} HTTP/1.1"
        self._target = service.metadata["targetPrefix"]
        self._headers = {
            "Host": _host(self._endpoint),
            "Content-Type": f"application/x-amz-json-{service.metadata['jsonVersion']}",
        }
        if "awsQueryCompatible" in service.metadata:
            self._headers["x-amzn-query-mode"] = "true"  # error codes are those from before the JSON protocol
        self._user_agent = config.user_agent
        self._timeouts = (config.connect_timeout, config.read_timeout)
        self._ca_bundle = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE")
        self._idle: list[socket.socket] = []
        weakref.finalize(self, _close, self._idle)

    def call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
        """Call SQS once.

        :param operation: its name, such as ``"ReceiveMessage"``.
        :param parameters: as the client's method takes them.
        :returns: the answer, as the client's method returns it but for ``ResponseMetadata``; None: ask the client.
        """
        try:
            return self._call(operation, parameters)
        except Exception:  # whatever it is, the client will either not have it, or say it in its own words
            logger.debug("sqs:%s did not succeed at once: boto3's client is asked", operation, exc_info=True)
            return None

    def _call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
        from .signer import Signer

        headers = {**self._headers, "X-Amz-Target": f"{self._target}.{operation}"}
        unsigned = _Unsigned(self._url, headers, to_json(parameters))
        Signer(self._credentials.get_frozen_credentials(), *self._scope, self._keys).add_auth(unsigned)  # type: ignore[arg-type]
        headers["User-Agent"] = self._user_agent  # which is not signed
        request = _Request(self._url, headers, unsigned.body)
        for _handler, given in self._emit(f"before-send.sqs.{operation}", request=request):
            if given is not None:
                return _answer(given.status_code, given.content)
        return _answer(*self._send(request))

    def _send(self, request: _Request) -> tuple[int, bytes]:
        sock = self._unused() or self._connect()
        try:
            sock.sendall(request.wire(self._request_line))
            response = _Response(sock)
        except BaseException:
            sock.close()
            raise
        if response.keeps_connection:
            self._idle.append(sock)
        else:
            sock.close()
        return response.status, response.content

    def _unused(self) -> socket.socket | None:
        """A connection that nobody uses and on which nothing waits to be read, if there is one."""
        while True:
            try:
                sock = self._idle.pop()
            except IndexError:
                return None
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if not poll.poll(0):
                return sock
            # The server has closed it, or has sent what would be taken for the answer to another request.
            sock.close()

    def _connect(self) -> socket.socket:
        secure = self._endpoint.scheme == "https"
        host = self._endpoint.hostname or ""
        connect_timeout, read_timeout = self._timeouts
        sock = socket.create_connection((host, self._endpoint.port or (443 if secure else 80)), connect_timeout)
        try:
            # Else the end of a long request waits until the server has acknowledged its beginning.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if secure:
                sock = self._tls.wrap_socket(sock, server_hostname=host)
            sock.settimeout(read_timeout)
        except BaseException:
            sock.close()
            raise
        return sock

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        from botocore.httpsession import get_cert_path

        return ssl.create_default_context(cafile=self._ca_bundle or get_cert_path(True))


class _Unsigned:
    """A request with all that botocore's signer asks of one; it adds headers.

    botocore's own takes a tenth of a call: it prepares its body anew whenever it is asked for that.
    """

    method = "POST"
    params: None = None

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self.url = url
        self.headers = headers
        self.body = body
        self.context: dict[str, Any] = {}


class _Request:
    """A request to send, as handlers of ``before-send`` are given it: they may change it."""

    method = "POST"

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self.url = url
        self.body = body
        self._headers: MutableMapping[str, str] = headers

    @cached_property
    def headers(self) -> MutableMapping[str, str]:
        """What the client has in this place, which cares for no case; made only for who asks."""
        from botocore.awsrequest import HeadersDict

        self._headers = HeadersDict(self._headers)
        return self._headers

    def wire(self, request_line: str) -> bytes:
        """What is sent.

        :raises ValueError: a header's value would be more than one line.
        """
        headers = [f"{name}: {value}" for name, value in self._headers.items()]
        lines = [request_line, *headers, "Accept-Encoding: identity", f"Content-Length: {len(self.body)}"]
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
            raise ValueError("a header's value has several lines")
        return head.encode("latin-1") + b"\r\n\r\n" + self.body


class _Response:
    """The next response that *sock* receives.

    :raises OSError: it did not come, or not all of it.
    :raises httptools.HttpParserError: it is none.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.status = 0
        self.content = b""
        self.keeps_connection = False
        self._ends_itself = True
        self._parser = HttpResponseParser(self)
        while self.status < HTTPStatus.OK:  # what comes before the final one is of no interest (RFC 9110, section 15.2)
            chunk = sock.recv(_CHUNK)
            if chunk:
                self._parser.feed_data(chunk)
            elif self._ends_itself:
                raise ConnectionResetError("the server closed the connection before it had answered")
            else:
                self.status = self._parser.get_status_code()
        del self._parser  # which knows this object: the content would stay until the next garbage collection

    def on_message_begin(self) -> None:
        """Called by the parser before its headers."""
        self._delimited = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        """Called by the parser for each header."""
        self._delimited = self._delimited or name.lower() in _DELIMITERS

    def on_headers_complete(self) -> None:
        """Called by the parser after its headers. What nothing delimits ends with the connection (RFC 9112, 6.3)."""
        self._ends_itself = self._delimited or self._parser.get_status_code() < HTTPStatus.OK

    def on_body(self, body: bytes) -> None:
        """Called by the parser with each part of the body."""
        self.content += body

    def on_message_complete(self) -> None:
        """Called by the parser at its end, which is the only time when it knows of the connection."""
        # One that has sent more than was asked for cannot be trusted to answer the next request.
        self.keeps_connection = self.status < HTTPStatus.OK and self._parser.should_keep_alive()
        self.status = self._parser.get_status_code()


def direct_calls(client: SQSClient, credentials: Credentials | None, ca_bundle: str | None) -> DirectCalls | None:
    """The direct calls for *client*, or None where it does anything but sign JSON with the usual signature."""
    from botocore.utils import get_environ_proxies

    meta: Any = client.meta
    usual = (
        meta.config.signature_version == "v4"
        and meta.service_model.metadata["protocol"] == "json"
        and not get_environ_proxies(meta.endpoint_url)
        # What instruments botocore puts a wrapper in this method's place, and is to see the calls.
        and type(client._make_api_call) is MethodType  # type: ignore[attr-defined]
    )
    return DirectCalls(client, credentials, ca_bundle) if usual and credentials is not None else None


def _host(endpoint: SplitResult) -> str:
    """What names *endpoint* in a request (RFC 9110, section 7.2)."""
    host = endpoint.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    default = {"http": 80, "https": 443}.get(endpoint.scheme)
    return host if endpoint.port in (None, default) else f"{host}:{endpoint.port}"


def _answer(status: int, content: bytes) -> dict[str, Any] | None:
    if status != HTTPStatus.OK:
        return None
    answer: dict[str, Any]
    try:
        answer = from_json(content)
    except ValueError:
        # It may hold a lone surrogate. To ask again would leave unseen what was received.
        answer = json.loads(content)
    return answer


def _close(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()
