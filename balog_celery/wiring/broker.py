"""Checks that Celery can use ``broker_url`` and ``result_backend``, before a command fails on them deep inside."""

from __future__ import annotations

import difflib
import re
from typing import Any

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from ..dev import local_stack
from ..errors import ConfigurationError
from ..text import printable

#: The schemes of brokers whose client library is an extra of this package.
_REDIS = ("redis", "rediss", "sentinel")
_NO_URL = (
    "it is not a URL; write it as scheme://user:password@host:port/path, with special characters in the password "
    "percent-encoded"
)


def require_broker(app: Celery) -> None:
    """Check that ``broker_url`` can be read, and that the client library of its transport is installed.

    :raises ConfigurationError: it cannot be read, or a package is missing.
    """
    if app.balog.local and (reason := local_stack.available()):
        raise ConfigurationError(reason)
    url = app.conf.broker_url
    try:
        connection = app.connection_for_write()
        transport = connection.transport
        transport.driver_version()
    except Exception as error:  # kombu raises KeyError, ImportError, AttributeError or ValueError, as it happens
        shown = f"{_scheme_of(url)}://..." if isinstance(error, ValueError) else _without_password(url)
        message = f"broker_url = {shown!r} cannot be used: {_reason(url, error)}"
        raise ConfigurationError(message) from None


def require_backend(app: Celery) -> None:
    """Check that Celery can make the backend that ``result_backend`` names.

    :raises ConfigurationError: it cannot.
    """
    try:
        app.backend.as_uri(include_password=False)
    except Exception as error:  # Celery raises ImportError, ImproperlyConfigured, KeyError or ValueError, as it happens
        url = app.conf.result_backend
        if isinstance(error, ValueError):
            # Not the error's text, which may hold a part of the password.
            shown, reason = f"{_scheme_of(url)}://...", _NO_URL
        else:
            shown, reason = _without_password(url), f"{type(error).__name__}: {printable(error, 300)}"
        message = f"result_backend = {shown!r} cannot be used: {reason}"
        raise ConfigurationError(f"{message}; without one, leave result_backend out") from None


def _reason(url: Any, error: Exception) -> str:
    scheme = _scheme_of(url)
    if scheme not in TRANSPORT_ALIASES and "." not in scheme and ":" not in scheme:
        near = difflib.get_close_matches(scheme, TRANSPORT_ALIASES, n=1)
        return f"kombu has no transport {scheme!r}" + (f": did you mean {near[0]!r}?" if near else "")
    if isinstance(error, ValueError):
        # Not the error's text, which may hold a part of the password.
        return _NO_URL
    if not isinstance(error, (ImportError, AttributeError, KeyError)):
        return f"{type(error).__name__}: {printable(error)}"
    if scheme in _REDIS:
        return "the client library of Redis is missing: pip install 'balog_celery[redis]'"
    return f"install the client library of {scheme!r} ({printable(error)})"


def _scheme_of(url: Any) -> str:
    return str(url).partition("://")[0]


def _without_password(url: Any) -> str:
    shown = re.sub(r"//.*@", "//**@", str(url)).partition("?")[0]
    # A connection string, as Azure's, has its key among settings.
    return printable(f"{_scheme_of(url)}://..." if ";" in shown else shown)
