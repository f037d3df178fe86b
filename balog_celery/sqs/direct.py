"""The fast path to SQS: calls for an eighth of what they cost through boto3's client.

A request is the one that the client would send, signed with the client's credentials, over connections of this package.
It leaves out what makes the client slow: endpoint rules, a serializer and a parser that follow the service's model,
most of its events, and two layers of HTTP in Python.

If a direct call fails, the client makes it again, and its retries and errors are the ones that count. Two kinds of
failure are not left to the client. A call that got a 200 may have been carried out, even if the answer is unreadable. A
call that timed out has used up the time that its caller can wait. A signature that is refused because this machine's
clock is wrong is made again with the service's time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, MutableMapping
from datetime import datetime, timezone
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from pydantic_core import to_json

from . import codes
from .answers import UnexpectedResponse, read_answer, read_error_code, refuse_redirect
from .connections import Connections
from .deadlines import Cancellation
from .exchange import Answer, Exchange
from .server_clock import ServerClock
from .signature import Signer

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_sqs import SQSClient

logger = logging.getLogger(__name__)

#: How long a call may take, in seconds. Most take milliseconds, and visibility timeouts end while one hangs.
ANSWER_TIMEOUT = 5.0
#: How much longer than its wait a receive may take, in seconds. It is more than others get because the messages of a
#: lost answer stay invisible for their visibility timeout.
RECEIVE_MARGIN = 10.0
#: The share of a visibility timeout that an extension may take, and the least, in seconds. Extensions begin at a third
#: of it. So two in a row that hang leave time for a third one, or one for a second if the timeout is less than 3 s.
_EXTENSION_SHARE, _SHORTEST_EXTENSION = 1 / 6, 0.5


class DirectCalls:
    """Calls SQS without the client. Threads may share it.

    Certificates are the client's; credentials are renewed as the client renews them. Handlers of the client's event
    ``before-send``, of which moto is one, are called.

    :param client: its endpoint, region and configuration are used.
    :param credentials: the client's credentials.
    :param ca_bundle: the file of certificates to trust that boto3 is configured with, if any.
    :param clock: the service's clock, which the client follows too.
    """

    def __init__(self, client: SQSClient, credentials: Credentials, ca_bundle: str | None, clock: ServerClock) -> None:
        from .botocore_compat import service_of, signed_path

        meta: Any = client.meta
        service = service_of(client)
        endpoint = urlsplit(meta.endpoint_url)
        self._credentials = credentials
        self._emit = meta.events.emit
        self._signer = Signer(service.signing_name, meta.region_name, signed_path(meta.endpoint_url))
        self._clock = clock
        self._url = meta.endpoint_url if endpoint.path else meta.endpoint_url + "/"
        self._request_line = f"POST {endpoint.path or '/'} HTTP/1.1"
        self._target = service.target_prefix
        self._headers = {"Host": _host(endpoint), "Content-Type": f"application/x-amz-json-{service.json_version}"}
        if service.is_query_compatible:
            self._headers["x-amzn-query-mode"] = "true"  # error codes are those from before the JSON protocol
        self._user_agent = meta.config.user_agent
        self._connections = Connections(endpoint, ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE"))

    def call(
        self, operation: str, parameters: Mapping[str, Any], cancellation: Cancellation | None = None
    ) -> dict[str, Any] | None:
        """Call SQS once.

        :param operation: its name, such as ``"ReceiveMessage"``.
        :param parameters: as the client's method takes them.
        :param cancellation: may end it before its time is over, and keeps when the answer began.
        :returns: the answer, as :func:`~.answers.read_answer` returns it; None if the client must make the call.
        :raises UnexpectedResponse: the answer is not SQS's.
        :raises TimeoutError: there is no whole answer in time.
        """
        timeout = time_for(operation, parameters)
        try:
            answer = self._call(operation, parameters, timeout, cancellation)
            if self._has_wrong_clock(answer):
                answer = self._call(operation, parameters, timeout, cancellation)
        except TimeoutError as error:
            raise TimeoutError(f"no whole answer within {timeout:.3g} s") from error
        except UnexpectedResponse:
            raise
        except Exception:  # the client will succeed, or report it in its own words
            logger.debug("sqs:%s failed on the fast path: boto3's client makes it again", operation, exc_info=True)
            return None
        refuse_redirect(answer.status, answer.location.decode("latin-1"))
        if answer.status != HTTPStatus.OK:
            return None
        if cancellation is not None:
            cancellation.answer_began = answer.began
        return read_answer(operation, answer.content)

    def start(self, operation: str, parameters: Mapping[str, Any]) -> StartedCall:
        """Send the request of a call; return the call, whose answer any thread may read later.

        :raises Exception: it cannot be sent.
        """
        wire, given = self._request(operation, parameters)
        exchange = None if given else self._connections.start(wire, time_for(operation, parameters))
        return StartedCall(operation, exchange, given)

    def _has_wrong_clock(self, answer: Answer) -> bool:
        """Return whether a signature was refused because of this machine's clock, which is now corrected."""
        return (
            answer.status >= HTTPStatus.BAD_REQUEST
            and codes.may_be_skewed(read_error_code(answer.content))
            and self._clock.correct(answer.date.decode("latin-1"))
        )

    def _call(
        self, operation: str, parameters: Mapping[str, Any], timeout: float, cancellation: Cancellation | None
    ) -> Answer:
        wire, given = self._request(operation, parameters)
        grows = not _extension_in(operation, parameters)
        return given or self._connections.exchange(wire, timeout, cancellation, grows=grows)

    def _request(self, operation: str, parameters: Mapping[str, Any]) -> tuple[bytes, Answer | None]:
        """Return the bytes of a request, and the answer that a handler of ``before-send`` has given in place of SQS."""
        headers = {**self._headers, "X-Amz-Target": f"{self._target}.{operation}"}
        body = to_json(parameters)
        time = datetime.now(timezone.utc) + self._clock.offset
        self._signer.sign(headers, body, self._credentials.get_frozen_credentials(), time)
        headers["User-Agent"] = self._user_agent  # which is not signed
        request = _Request(self._url, headers, body)
        for _handler, given in self._emit(f"before-send.sqs.{operation}", request=request):
            if given is not None:
                return b"", Answer(given.status_code, given.content)
        return request.wire(self._request_line), None


class StartedCall:
    """A call whose request has been sent, and whose answer is to be read.

    :param exchange: brings the answer, unless it is *given*.
    """

    def __init__(self, operation: str, exchange: Exchange | None, given: Answer | None) -> None:
        self._operation = operation
        self._exchange = exchange
        self._given = given

    def is_answered(self) -> bool:
        """Whether :meth:`finish` need not wait for the answer to begin."""
        return self._exchange is None or self._exchange.is_answered()

    def finish(self) -> dict[str, Any] | None:
        """Wait for the answer; return it as :func:`~.answers.read_answer` does, or None if it is not a plain yes.

        After None, the call may have been made: make it again if that does no harm.
        """
        try:
            answer = self._given or (self._exchange and self._exchange.finish())
            if answer and answer.status == HTTPStatus.OK:
                return read_answer(self._operation, answer.content)
        except Exception:
            logger.debug("sqs:%s failed after it had been sent", self._operation, exc_info=True)
        return None


def time_for(operation: str, parameters: Mapping[str, Any]) -> float:
    """Return how many seconds a call may take; a large request or answer gets more, but not that of an extension.

    :param operation: its name, such as ``"ReceiveMessage"``.
    :param parameters: as the client's method takes them.
    """
    if (wait := parameters.get("WaitTimeSeconds")) is not None:
        return float(wait + RECEIVE_MARGIN)
    if visibility := _extension_in(operation, parameters):
        return min(ANSWER_TIMEOUT, max(_SHORTEST_EXTENSION, visibility * _EXTENSION_SHARE))
    return ANSWER_TIMEOUT


def _extension_in(operation: str, parameters: Mapping[str, Any]) -> int:
    """Return by how many seconds a call extends visibility timeouts; 0 if it is no extension."""
    if operation != "ChangeMessageVisibilityBatch":
        return 0
    return int(max(entry["VisibilityTimeout"] for entry in parameters["Entries"]))


class _Request:
    """A request to send, as handlers of ``before-send`` get it: they may change it."""

    method = "POST"

    def __init__(self, url: str, headers: dict[str, str], body: bytes) -> None:
        self.url = url
        self.body = body
        self._headers: MutableMapping[str, str] = headers

    @cached_property
    def headers(self) -> MutableMapping[str, str]:
        """The headers, by names of any case; built only if a handler reads them."""
        from .botocore_compat import case_insensitive

        self._headers = case_insensitive(self._headers)
        return self._headers

    def wire(self, request_line: str) -> bytes:
        """Return the bytes to send.

        :raises ValueError: a header's value has several lines.
        """
        headers = [f"{name}: {value}" for name, value in self._headers.items()]
        lines = [request_line, *headers, "Accept-Encoding: identity", f"Content-Length: {len(self.body)}"]
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
            raise ValueError("a header's value has several lines")
        return head.encode("latin-1") + b"\r\n\r\n" + self.body


def needs_client(client: SQSClient) -> str:
    """Return why the calls of *client* cannot take the fast path; "" if they can."""
    from .botocore_compat import is_instrumented, proxy_of, service_of

    meta: Any = client.meta
    if meta.config.signature_version != "v4":
        return "the configured signature is not AWS Signature Version 4"
    if service_of(client).protocol != "json":
        return "this botocore does not speak JSON with SQS"
    if proxy_of(meta.endpoint_url) is not None:
        return "an HTTP proxy is configured"
    if is_instrumented(client):
        return "boto3 is instrumented"
    return ""


def _host(endpoint: SplitResult) -> str:
    """Return the ``Host`` header for *endpoint* (RFC 9110, section 7.2)."""
    host = endpoint.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    default = {"http": 80, "https": 443}.get(endpoint.scheme)
    return host if endpoint.port in (None, default) else f"{host}:{endpoint.port}"
