"""The SQS calls that are made all the time, for a third of what they cost through boto3's client.

With ``queues.py`` the only file that imports boto3 or botocore. The request is the one that the client makes, signed
by botocore with the client's credentials; it goes over the standard library's HTTP. Left out is what the client does
beside that at every call: endpoint rules, a serializer and a parser that go by the service's model, most of its events,
and a second layer of HTTP.

A call that does not succeed at once is None here, and then the client's: its retries, its errors and its words are the
only ones. So is everything that is unusual: a proxy, another signature or protocol, no credentials, a client that is
instrumented (by OpenTelemetry, for instance).
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import ssl
import weakref
from functools import cached_property
from types import MethodType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_sqs import SQSClient

logger = logging.getLogger(__name__)


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
        self._endpoint = urlsplit(meta.endpoint_url)
        self._path = self._endpoint.path or "/"
        self._url = meta.endpoint_url if self._endpoint.path else meta.endpoint_url + "/"
        self._target = service.metadata["targetPrefix"]
        self._headers = {"Content-Type": f"application/x-amz-json-{service.metadata['jsonVersion']}"}
        if "awsQueryCompatible" in service.metadata:
            self._headers["x-amzn-query-mode"] = "true"  # error codes are those from before the JSON protocol
        self._user_agent = config.user_agent
        self._timeouts = (config.connect_timeout, config.read_timeout)
        self._ca_bundle = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE")
        self._idle: list[http.client.HTTPConnection] = []
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
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        body = json.dumps(parameters).encode()
        headers = {"X-Amz-Target": f"{self._target}.{operation}", **self._headers}
        request = AWSRequest("POST", self._url, headers, body)
        SigV4Auth(self._credentials.get_frozen_credentials(), *self._scope).add_auth(request)
        request.headers["User-Agent"] = self._user_agent
        for _handler, given in self._emit(f"before-send.sqs.{operation}", request=request):
            if given is not None:
                return _answer(given.status_code, given.content)
        return _answer(*self._post(body, dict(request.headers.items())))

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None:  # else the server has closed it
            self._idle.append(connection)
        return response.status, content

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._endpoint.hostname or "", self._endpoint.port
        connect_timeout, read_timeout = self._timeouts
        connection = (
            http.client.HTTPSConnection(host, port, timeout=connect_timeout, context=self._tls)
            if self._endpoint.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=connect_timeout)
        )
        connection.connect()
        connection.sock.settimeout(read_timeout)
        return connection

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        from botocore.httpsession import get_cert_path

        return ssl.create_default_context(cafile=self._ca_bundle or get_cert_path(True))


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


def _answer(status: int, content: bytes) -> dict[str, Any] | None:
    if status != http.HTTPStatus.OK:
        return None
    answer: dict[str, Any] = json.loads(content)
    return answer


def _close(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()
