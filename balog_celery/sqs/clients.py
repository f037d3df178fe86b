"""The boto3 clients of this process, and the calls that they make."""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import QueueError
from ..forks import run_in_child
from ..text import printable
from . import codes
from .answers import read_instead
from .client_checks import cannot_be_made, check_client
from .connections import SLOWEST
from .deadlines import Cancellation, refuse_if_cancelled, within
from .direct import ANSWER_TIMEOUT, RECEIVE_MARGIN, DirectCalls, needs_client, time_for
from .endpoints import Connection
from .exchange import LARGEST
from .imports import import_botocore
from .messages import MAX_MESSAGE_BYTES
from .server_clock import ServerClock

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

logger = logging.getLogger(__name__)

#: The longest that a receive waits for a first message, in seconds.
_LONGEST_WAIT = 20
#: After this many calls of an operation in a row that fail on the fast path and then succeed through the client, the
#: fast path counts as broken.
_BROKEN_AFTER = 10


class FallbackCounter:
    """Counts the calls that fail on the fast path and succeed through boto3's client. Threads may share it."""

    def __init__(self) -> None:
        #: All such calls.
        self.total = 0
        # By operation: sends may fail on the fast path while receives succeed.
        self._in_a_row: Counter[str] = Counter()
        self._lock = threading.Lock()

    def succeeded_directly(self, operation: str) -> None:
        """Note a call that succeeded on the fast path."""
        if operation in self._in_a_row:
            with self._lock:
                self._in_a_row.pop(operation, None)

    def fell_back(self, operation: str) -> None:
        """Note a call that succeeded only through the client; log it once if the fast path seems broken."""
        with self._lock:
            self.total += 1
            self._in_a_row[operation] += 1
            is_broken = self._in_a_row[operation] == _BROKEN_AFTER
        if is_broken:
            logger.warning(
                "the fast path to SQS fails for each %s while boto3's client succeeds: these calls are made twice "
                "until it works again (%d so far); the cause is logged at level DEBUG",
                operation,
                self.total,
            )


@dataclass(frozen=True, slots=True)
class SQS:
    """Calls SQS: one attempt on the fast path, then up to two through boto3's client.

    Each call has a deadline: a receive has its wait and a margin, an extension a share of the visibility timeout, any
    other call a few seconds. It covers the whole answer, and all attempts but those of a receive. boto3 by itself
    bounds only connecting and each read, so its calls run in threads that may be left behind.

    :param client: for calls that SQS answers at once.
    :param receiving: for receives.
    :param direct: the fast path; None if calls cannot take it.
    :param slow_path: why they cannot; "" if they can.
    """

    client: SQSClient
    receiving: SQSClient
    direct: DirectCalls | None
    slow_path: str = ""
    fallbacks: FallbackCounter = field(default_factory=FallbackCounter)

    def call(
        self, operation: str, parameters: dict[str, Any], cancellation: Cancellation | None = None
    ) -> dict[str, Any]:
        """Call SQS; return the answer as :func:`~.answers.read_answer` returns it.

        :param operation: its name, such as ``"ReceiveMessage"``.
        :param parameters: as the client's method takes them.
        :param cancellation: may end it before its time is over.
        :raises UnexpectedResponse: the answer is not SQS's.
        :raises TimeoutError: there is no whole answer in time.
        :raises botocore.exceptions.ClientError: SQS answers with an error.
        :raises botocore.exceptions.BotoCoreError: SQS cannot be asked.
        """
        began = time.monotonic()
        if self.direct is not None and (answer := self.direct.call(operation, parameters, cancellation)) is not None:
            self.fallbacks.succeeded_directly(operation)
            return answer
        from botocore import xform_name

        client = self.receiving if operation == "ReceiveMessage" else self.client
        method = partial(getattr(client, xform_name(operation)), **parameters)
        timeout = time_for(operation, parameters) + _most_bytes(operation, parameters) / SLOWEST
        if operation != "ReceiveMessage":  # one that is cut short may leave messages invisible
            timeout = max(0.0, timeout - (time.monotonic() - began))
        answered: dict[str, Any] = within(timeout, cancellation or Cancellation(), "sqs", method)
        if self.direct is not None:
            self.fallbacks.fell_back(operation)
        return answered


class Clients:
    """One client for each connection in each process. Clients are thread-safe, sessions are not."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget all clients."""
        self._lock = threading.Lock()
        self._clients: dict[Connection, Any] = {}
        self._logged: set[str] = set()

    def get(self, connection: Connection) -> Any:
        """Return the client for *connection*; for SQS it is an :class:`SQS`.

        :raises QueueError: the configuration does not allow to make one.
        """
        client = self._clients.get(connection)
        if client is None:
            with self._lock:
                client = self._clients.get(connection)
                if client is None:
                    client = self._clients[connection] = _new_client(connection)
                    self._warn(connection, client)
        return client

    def drop(self, connection: Connection, client: Any) -> None:
        """Forget *client*, whose credentials were refused: the next one gets new ones from boto3's chain.

        If another thread has already replaced it, the newer client stays; there may be none, as its making asks for
        credentials, too.
        """
        with self._lock:
            if self._clients.get(connection) is client:
                self._clients.pop(connection, None)

    def _warn(self, connection: Connection, client: Any) -> None:
        """Log, once for each process and cause, what is unsafe or slow about a new *client*."""
        is_sqs = isinstance(client, SQS)
        url = urlsplit((client.client if is_sqs else client).meta.endpoint_url)
        if url.scheme == "http" and not _is_loopback(url.hostname or ""):
            self._log_once(
                logging.WARNING,
                f"the {connection.service.upper()} endpoint http://{printable(url.hostname)} is not encrypted: events "
                "and session tokens can be read on the way; use https",
            )
        if is_sqs and client.slow_path:
            self._log_once(
                logging.INFO, f"calls to SQS take boto3's client, for eight times the CPU: {client.slow_path}"
            )

    def _log_once(self, level: int, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            logger.log(level, "%s", text)


def _new_client(connection: Connection) -> Any:
    """Make the client for *connection*; for SQS an :class:`SQS`.

    :raises QueueError: there is no region, or what the client needs is wrong.
    """
    import_botocore()
    import botocore.session
    from botocore.config import Config
    from botocore.credentials import Credentials

    core = botocore.session.Session()
    core.get_scoped_config()  # a profile that does not exist is an error before what it would have said
    config = _config(connection.service)
    clock = ServerClock()
    patient = _boto3_client(core, connection, config, clock)
    if connection.service != "sqs":
        return patient
    quick = _boto3_client(core, connection, config.merge(Config(read_timeout=ANSWER_TIMEOUT)), clock)
    for client in (patient, quick):
        client.meta.events.register("before-parse.sqs", read_instead)
    _, _, _, key_id, secret, token = connection
    credentials = Credentials(key_id, secret, token) if key_id and secret else core.get_credentials()
    slow_path = needs_client(quick)
    if credentials is None or slow_path:
        return SQS(quick, patient, None, slow_path)
    return SQS(quick, patient, DirectCalls(quick, credentials, core.get_config_variable("ca_bundle"), clock))


def _boto3_client(core: Any, connection: Connection, config: Any, clock: ServerClock) -> Any:
    """Make boto3's client.

    :param core: the botocore session.
    :param clock: the service's clock, by which it signs.
    :raises QueueError: there is no region, or what the client needs is wrong.
    """
    from botocore.exceptions import NoRegionError

    from .botocore_compat import govern, sign_by

    try:
        client = core.create_client(
            connection.service,
            region_name=connection.region,
            endpoint_url=connection.endpoint_url,
            aws_access_key_id=connection.key_id,
            aws_secret_access_key=connection.secret,
            aws_session_token=connection.token,
            config=config,
        )
    except NoRegionError as error:
        raise QueueError(
            "no AWS region is known: set balog_region, AWS_DEFAULT_REGION or a region in ~/.aws/config", "NoRegionError"
        ) from error
    except ValueError as error:  # botocore's error for a region or an endpoint that cannot be one
        # It may quote a URL with a password or signature, or the part of one that was taken for a port.
        raise cannot_be_made(connection.service, connection.endpoint_url, error) from None
    ca_bundle = core.get_config_variable("ca_bundle")
    check_client(connection.service, connection.endpoint_url, client.meta.endpoint_url, ca_bundle)
    sign_by(clock, client)
    govern(client, LARGEST if connection.service == "sqs" else math.inf)  # a body in S3 has a limit of its own
    client.meta.events.register(f"before-send.{connection.service}", refuse_if_cancelled)
    client.meta.events.register(f"needs-retry.{connection.service}", partial(_retry_by_clock, clock))
    return client


def _retry_by_clock(clock: ServerClock, response: tuple[Any, Mapping[str, Any]] | None, **_: Any) -> float | None:
    """Return after how many seconds boto3 repeats a call: at once if its time was wrong; None: as it does otherwise."""
    parsed: Mapping[str, Any] = response[1] if response is not None else {}
    code = str(parsed.get("Error", {}).get("Code", ""))
    date = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    return 0.0 if codes.may_be_skewed(code) and clock.correct(date) else None


def _config(service: str) -> Any:
    import botocore
    from botocore.config import Config

    return Config(
        connect_timeout=ANSWER_TIMEOUT,
        # Longer than the longest poll: the messages of a lost answer stay invisible.
        read_timeout=_LONGEST_WAIT + RECEIVE_MARGIN,
        # The callers back off by themselves; quick retries would only hide single faults. For SQS the direct call is
        # the first attempt.
        retries={"mode": "standard", "total_max_attempts": 2 if service == "sqs" else 3},
        tcp_keepalive=True,
        # Checking our own parameters and composing the user agent at every call would cost a quarter of it.
        parameter_validation=False,
        user_agent=f"balog_celery Botocore/{botocore.__version__}",
        # Pollers, deletes and senders share the client, with a connection each; botocore's default is 10.
        max_pool_connections=100,
    )


def _most_bytes(operation: str, parameters: Mapping[str, Any]) -> int:
    """Return how large the request or the answer of a call may be, in bytes. boto3 does not tell how far one is."""
    if operation == "ReceiveMessage":
        return int(parameters["MaxNumberOfMessages"]) * MAX_MESSAGE_BYTES
    return sum(len(entry.get("MessageBody", "")) for entry in parameters.get("Entries", ()))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


clients = Clients()
# A forked child must not write to its parent's connections, nor wait for a lock that no thread will release.
run_in_child(clients.forget)
