"""How SQS and S3 are reached: the region, the endpoint and the credentials that a caller gives."""

from __future__ import annotations

from typing import NamedTuple

from ..arguments import optional_text


class Connection(NamedTuple):
    """The properties that make one client different from another. None leaves the choice to boto3."""

    service: str
    region: str | None
    endpoint_url: str | None
    key_id: str | None
    secret: str | None
    token: str | None


def connections_of(
    region: str | None,
    default_region: str | None,
    endpoint_url: str | None,
    s3_endpoint_url: str | None,
    credentials: tuple[str | None, str | None, str | None],
) -> tuple[Connection, Connection]:
    """Return how SQS and S3 are reached; an empty text counts as not given.

    :param default_region: the region if none is given.
    :param credentials: the key's id, its secret and the session token.
    :raises ConfigurationError: an argument is no text.
    """
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    key_id, secret, token = (
        optional_text(name, value, is_secret=True) for name, value in zip(names, credentials, strict=True)
    )
    region = optional_text("region", region) or default_region
    return (
        Connection("sqs", region, optional_text("endpoint_url", endpoint_url), key_id, secret, token),
        Connection("s3", region, optional_text("s3_endpoint_url", s3_endpoint_url), key_id, secret, token),
    )
