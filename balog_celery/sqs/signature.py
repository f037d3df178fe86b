"""AWS Signature Version 4, for POST requests to a URL without a query.

botocore's signer takes several times as long: for each request it splits the URL, converts the headers twice, and
derives the day's key from the secret.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Protocol


class Credentials(Protocol):
    """What botocore's frozen credentials have."""

    @property
    def access_key(self) -> str | None: ...
    @property
    def secret_key(self) -> str | None: ...
    @property
    def token(self) -> str | None: ...


class Signer:
    """Signs requests to one URL. Threads may share it.

    :param service: the service's signing name.
    :param region: the AWS region.
    :param path: the path of the URL, quoted.
    """

    def __init__(self, service: str, region: str, path: str) -> None:
        self._scope = f"{region}/{service}/aws4_request"
        self._path = path
        #: What signs with the key of the latest secret and scope, which begins with the day; each use is of a copy.
        self._known: tuple[str | None, str, hmac.HMAC] = (None, "", hmac.new(b"", digestmod=sha256))

    def sign(self, headers: dict[str, str], body: bytes, credentials: Credentials, time: datetime) -> None:
        """Add the date, the session token and the signature to *headers*, all of which are signed.

        :param time: the service's time, UTC.
        """
        timestamp = _formatted(time.replace(microsecond=0))
        headers["X-Amz-Date"] = timestamp
        if credentials.token:
            headers["X-Amz-Security-Token"] = credentials.token
        signed, lines = _canonical(tuple(headers.items()))
        canonical = f"POST\n{self._path}\n\n{lines}\n\n{signed}\n{sha256(body).hexdigest()}"
        scope = f"{timestamp[:8]}/{self._scope}"
        text = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        mac = self._mac_for(credentials.secret_key, scope).copy()
        mac.update(text.encode())
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={signed}, "
            f"Signature={mac.hexdigest()}"
        )

    def _mac_for(self, secret: str | None, scope: str) -> hmac.HMAC:
        known_secret, known_scope, mac = self._known
        if (known_secret, known_scope) != (secret, scope):
            key = f"AWS4{secret}".encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            mac = hmac.new(key, digestmod=sha256)
            self._known = (secret, scope, mac)
        return mac


# All requests of a second have the same time, and those for one operation the same headers.
@lru_cache(maxsize=1)
def _formatted(time: datetime) -> str:
    return f"{time:%Y%m%dT%H%M%SZ}"


@lru_cache(maxsize=16)
def _canonical(headers: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    """Return the names of *headers*, and the headers, as they are signed."""
    fields = sorted((name.lower(), " ".join(value.split())) for name, value in headers)
    return ";".join([name for name, _ in fields]), "\n".join([f"{name}:{value}" for name, value in fields])
