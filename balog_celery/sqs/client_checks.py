"""Checks of a client of SQS or S3 before its first call: what is wrong then stays wrong, however often it is called."""

from __future__ import annotations

import os
import ssl
from urllib.parse import urlsplit

from ..errors import QueueError
from ..text import printable

_SCHEMES = ("http", "https")


def cannot_be_made(service: str, endpoint_url: str | None, error: ValueError) -> QueueError:
    """Return the error that there is no client, of botocore's *error* in its region or endpoint."""
    from botocore.exceptions import InvalidRegionError

    if isinstance(error, InvalidRegionError):
        text = f"{printable(str(error).rstrip('.'))}: correct balog_region, AWS_DEFAULT_REGION or ~/.aws/config"
        return QueueError(f"the {service.upper()} client cannot be made: {text}", "ValueError")
    return _bad_endpoint(service, endpoint_url)


def check_client(service: str, endpoint_url: str | None, url: str, ca_bundle: str | None) -> None:
    """Check what calls of a client need.

    :param endpoint_url: the endpoint that it was given; None: none.
    :param url: its endpoint.
    :param ca_bundle: the file of certificates to trust that boto3 is configured with, if any.
    :raises QueueError: the endpoint or its proxy is no HTTP URL, or the certificates cannot be read.
    """
    from .botocore_compat import proxy_of

    if not _is_http(url):
        raise _bad_endpoint(service, endpoint_url)
    if (proxy := proxy_of(url)) is not None and not _is_http(proxy if "://" in proxy else f"http://{proxy}"):
        scheme = url.partition(":")[0]
        raise QueueError(
            f"the proxy for {scheme}{_shown(proxy)} is not an HTTP URL: correct {scheme.upper()}_PROXY, such as "
            "'http://proxy:3128', or leave it out",
            "ValueError",
        )
    bundle = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE")
    if url.startswith("https:") and bundle:
        _check_certificates(bundle)


def _check_certificates(bundle: str) -> None:
    names = [name for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE") if os.environ.get(name) == bundle]
    try:
        ssl.create_default_context(cafile=bundle)
    except OSError as error:  # which ssl.SSLError is, too
        name = names[0] if names else "ca_bundle in ~/.aws/config"
        raise QueueError(
            f"{name} = {printable(repr(bundle))}: no certificates can be read from it ({printable(error)}): name a "
            "file of certificates in PEM format, or leave it out",
            "ValueError",
        ) from None


def _is_http(url: str) -> bool:
    """Return whether *url* has the scheme, host and port of an HTTP URL."""
    try:
        parts = urlsplit(url)
        return parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _bad_endpoint(service: str, endpoint_url: str | None) -> QueueError:
    prefix = "" if service == "sqs" else f"{service}_"
    given = {f"balog_{prefix}endpoint_url": endpoint_url}
    given |= {name: os.environ.get(name) for name in (f"AWS_ENDPOINT_URL_{service.upper()}", "AWS_ENDPOINT_URL")}
    found = ((name, value) for name, value in given.items() if value)
    name, value = next(found, ("endpoint_url in ~/.aws/config", None))
    shown = f"{name}{_shown(value)}"
    text = f"the {service.upper()} client cannot be made: {shown} is not an HTTP URL: give one such as"
    return QueueError(f"{text} 'http://localhost:9324', or leave it out", "ValueError")


def _shown(url: str | None) -> str:
    """Return *url* behind an equals sign; "" where a part of it may be a secret: it cannot be told which."""
    return f" = {printable(repr(url))}" if url and not {"@", "?"} & {*url} else ""
