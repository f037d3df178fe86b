"""The names of botocore that its documentation does not promise, each with the reason why it is used.

``tests/unit/sqs/test_botocore_contract.py`` checks that they still work as described here. Import this module only
where botocore is imported anyway: it costs a tenth of a second.
"""

from __future__ import annotations

import http.client
import io
from collections.abc import Mapping, MutableMapping
from datetime import datetime, timedelta
from types import MethodType
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from botocore.auth import SIGV4_TIMESTAMP
from botocore.awsrequest import HeadersDict
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies, normalize_url_path

from .answers import UnexpectedResponse
from .deadlines import current
from .server_clock import ServerClock


class Service(NamedTuple):
    """The service that a client calls.

    :param signing_name: the service's name in signatures.
    :param target_prefix: the prefix of an operation in the header ``X-Amz-Target``.
    :param json_version: the version in the content type.
    :param protocol: such as ``json``.
    :param is_query_compatible: whether it can answer with the error codes from before the JSON protocol.
    """

    signing_name: str
    target_prefix: str
    json_version: str
    protocol: str
    is_query_compatible: bool


def service_of(client: Any) -> Service:
    """Return the service of *client*.

    ``meta.service_model`` and its ``metadata`` are the only place where botocore keeps these constants.
    """
    model = client.meta.service_model
    metadata: Mapping[str, Any] = model.metadata
    return Service(
        signing_name=model.signing_name,
        target_prefix=metadata.get("targetPrefix", ""),
        json_version=metadata.get("jsonVersion", ""),
        protocol=metadata["protocol"],
        is_query_compatible="awsQueryCompatible" in metadata,
    )


def is_instrumented(client: Any) -> bool:
    """Return whether a tracing library has put a wrapper around the calls of *client*.

    OpenTelemetry and others replace ``_make_api_call``, and must see each call.
    """
    return type(client._make_api_call) is not MethodType


def proxy_of(url: str) -> str | None:
    """Return the proxy through which botocore calls *url*, by the environment.

    botocore uses the entry for the URL's scheme only, so ``NO_PROXY`` alone, or a proxy for FTP, means none.
    """
    proxies: Mapping[str, str] = get_environ_proxies(url)
    return proxies.get(url.partition("://")[0].lower())


def default_certificates() -> str:
    """Return the file of certificates that botocore trusts, so that the fast path trusts the same."""
    return str(get_cert_path(True))


def case_insensitive(headers: Mapping[str, str]) -> MutableMapping[str, str]:
    """Return *headers* as botocore gives them to handlers of its event ``before-send``."""
    return HeadersDict(headers)


def signed_path(url: str) -> str:
    """Return the path of *url* as it is signed."""
    return quote(normalize_url_path(urlsplit(url).path), safe="/~")


def sign_by(clock: ServerClock, client: Any) -> None:
    """Have *client* sign its requests with the time of *clock*.

    botocore has no public hook between the time, which it takes from this machine, and the signature. Its signer makes
    an object for each request, which writes the date before it signs.
    """
    signer = client._request_signer
    make = signer.get_auth_instance

    def make_by_clock(*args: Any, **kwargs: Any) -> Any:
        auth = make(*args, **kwargs)
        set_date = getattr(auth, "_set_necessary_date_headers", None)  # not in an auth without a date
        if clock.offset and set_date is not None:

            def set_date_by_clock(request: Any) -> None:
                _shift(request, clock.offset)
                set_date(request)

            auth._set_necessary_date_headers = set_date_by_clock
        return auth

    signer.get_auth_instance = make_by_clock


def _shift(request: Any, offset: timedelta) -> None:
    """Add *offset* to the time with which *request* is about to be signed."""
    time = datetime.strptime(request.context["timestamp"], SIGV4_TIMESTAMP) + offset
    request.context["timestamp"] = time.strftime(SIGV4_TIMESTAMP)


def govern(client: Any, largest: float) -> None:
    """Let :class:`~.deadlines.Cancellation` end the calls of *client*, and refuse answers of more than *largest* bytes.

    botocore reads answers of any length, and cannot end a call. The only way to its sockets are the classes of its
    connections, which its HTTP session has by the scheme of the endpoint. They derive from those of ``http.client``,
    which make a response with their attribute ``response_class``.
    """
    classes = client._endpoint.http_session._pool_classes_by_scheme
    response = type("Response", (_Response,), {"largest": largest})
    for scheme, pool in classes.items():
        connection = type("Connection", (_Connection, pool.ConnectionCls), {"response_class": response})
        classes[scheme] = type("ConnectionPool", (pool,), {"ConnectionCls": connection})


class _Response(http.client.HTTPResponse):
    largest: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        received: Any = self.fp
        self.fp = io.BufferedReader(_Bounded(received.detach(), self.largest))


class _Connection:
    """Comes before the class of botocore's connections."""

    def send(self: Any, data: Any) -> Any:
        """Send a part of a request."""
        if self.sock is None:
            self.connect()
        if (cancellation := current()) is not None:
            # Over TLS to a proxy, urllib3 has an object of its own in the place of a socket, with the socket in it.
            cancellation.watch(getattr(self.sock, "socket", self.sock))
        return super().send(data)  # type: ignore[misc]


class _Bounded(io.RawIOBase):
    """Reads up to *left* bytes from *raw*.

    :raises UnexpectedResponse: there are more.
    """

    def __init__(self, raw: io.RawIOBase, left: float) -> None:
        self._raw = raw
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count: int | None = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise UnexpectedResponse("it is too large")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
