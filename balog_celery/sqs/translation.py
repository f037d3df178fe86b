"""Calls to AWS whose errors name the queue or bucket, the permission and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import AccessDenied, QueueError, QueueNotFound
from ..text import printable
from . import codes
from .answers import UnexpectedResponse
from .clients import SQS, clients
from .endpoints import Connection
from .imports import import_botocore
from .server_clock import clock_offset, clock_problem

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

#: The part of a URL before the host, which may hold a password, and its query, which may hold a signature.
_SECRET_PARTS = re.compile(r"(?<=://)[^/\s\"']*@|\?[^\s\"']+")

_EXPIRED = "ExpiredToken"


@contextmanager
def calling_sqs(
    connection: Connection, queue: str, permission: str, missing: Callable[[], None] = lambda: None
) -> Iterator[SQS]:
    """Yield the object that calls SQS, and translate the errors of the call.

    :param queue: the queue's name, for the error.
    :param permission: the permission that the call takes, without ``sqs:``.
    :param missing: called if there is no such queue.
    :raises QueueNotFound: there is no such queue.
    :raises AccessDenied: the credentials are missing or bad, or lack the permission.
    :raises QueueError: the call failed for another reason.
    """
    sqs: SQS | None = None
    try:
        sqs = clients.get(connection)
        yield sqs
    except Exception as error:
        from botocore.exceptions import BotoCoreError, ClientError  # here, as to look them up takes time

        code, text, status = describe(error)
        is_known = isinstance(error, (BotoCoreError, ClientError, UnexpectedResponse, TimeoutError))
        if not is_known and not (isinstance(error, RuntimeError) and code == _EXPIRED):
            raise
        if codes.is_about_credentials(code):
            clients.drop(connection, sqs)
        translated = _queue_error(code, text, status, queue, permission, _clock_problem(error, code))
        if isinstance(translated, QueueNotFound):
            missing()
        raise translated from error


@contextmanager
def calling_s3(connection: Connection, bucket: str, permission: str) -> Iterator[S3Client]:
    """Yield the S3 client, and translate the errors of the call.

    :param permission: the permission that the call takes, without ``s3:``.
    :raises AccessDenied: the credentials are missing or bad, or lack the permission.
    :raises QueueError: the call failed for another reason.
    """
    import_botocore()
    from botocore.exceptions import BotoCoreError, ClientError

    client: S3Client | None = None
    try:
        client = clients.get(connection)
        yield client
    except (BotoCoreError, ClientError, UnexpectedResponse, RuntimeError) as error:
        code, text, status = describe(error)
        if isinstance(error, RuntimeError) and code != _EXPIRED:
            raise
        if codes.is_about_credentials(code):
            clients.drop(connection, client)
        problem = f"s3:{permission} on bucket {printable(bucket, 100)!r} failed"
        if clock := _clock_problem(error, code):
            raise QueueError(f"{problem}: {clock} ({code}: {printable(text)})", code) from error
        is_denied = codes.is_denied(code, status)
        raise (AccessDenied if is_denied else QueueError)(f"{problem} ({code}: {printable(text)})", code) from error


def describe(error: BaseException | None) -> tuple[str, str, int | None]:
    """Return the service's code (or the exception's name), the text and the HTTP status of an error of boto3."""
    from botocore.exceptions import HTTPClientError

    if isinstance(error, HTTPClientError) and isinstance(unexpected := error.kwargs.get("error"), UnexpectedResponse):
        error = unexpected  # it was found while botocore read the answer
    response: Any = getattr(error, "response", None)
    if not isinstance(response, Mapping):
        text = without_secrets(str(error))
        # botocore raises it if a provider, or a process that was suspended meanwhile, has expired credentials only.
        is_expired = isinstance(error, RuntimeError) and "credentials are still expired" in text
        return _EXPIRED if is_expired else type(error).__name__, text, None
    details = response.get("Error", {})
    return (
        str(details.get("Code", "")),
        without_secrets(str(details.get("Message", ""))),
        response.get("ResponseMetadata", {}).get("HTTPStatusCode"),
    )


def without_secrets(text: str) -> str:
    """Return *text* without the user, password and query of the URLs in it."""
    return _SECRET_PARTS.sub("***", text)


def is_bad_message(error: BaseException) -> bool:
    """Return whether *error*, of a send, blames one of the messages: sending it again cannot help."""
    return isinstance(error, QueueError) and codes.is_bad_message(error.code)


def _clock_problem(error: Exception, code: str) -> str:
    """Return how wrong this machine's clock is, if that can be why the service refused the signature; else ""."""
    response: Any = getattr(error, "response", None)
    if not isinstance(response, Mapping) or not codes.may_be_skewed(code):
        return ""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    offset = clock_offset(headers.get("date", ""))
    return clock_problem(offset) if offset else ""


def _queue_error(code: str, text: str, status: int | None, queue: str, permission: str, clock: str) -> QueueError:
    name, text = printable(queue), printable(text)
    if codes.is_missing(code):
        return QueueNotFound(
            f"there is no queue {name!r} in this account and region, or the credentials may not see it: "
            f"create it, or correct the topic, the region or the endpoint ({code})",
            code,
        )
    way_out = clock or codes.way_out(code, text)
    if codes.is_denied(code, status) and not clock and not codes.is_unexpected(code):
        way_out = way_out or f"check the credentials, and that their policy allows sqs:{permission} on it"
        return AccessDenied(
            f"access to queue {name!r} was refused for sqs:{permission}: {way_out} ({code}: {text})", code
        )
    problem = f"sqs:{permission} on queue {name!r} failed"
    return QueueError(f"{problem}: {way_out} ({code}: {text})" if way_out else f"{problem} ({code}: {text})", code)
