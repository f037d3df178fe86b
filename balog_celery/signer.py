"""botocore's signer, without what it does anew at each call. Imported with the first call, as it imports botocore."""

from __future__ import annotations

import hmac
from typing import Any

from botocore.auth import SigV4Auth
from botocore.credentials import ReadOnlyCredentials

#: The keys that requests are signed with, by secret and scope: service, region and day.
Keys = dict[tuple[str | None, str], bytes]


class Signer(SigV4Auth):
    """Signs requests by AWS Signature Version 4, as botocore does, in less than half of its time.

    It is for requests whose headers are a dict and all to be signed, each a name of its own. botocore makes an e-mail
    message of them, twice, and derives the day's key from the secret at each call.

    :param credentials: who signs.
    :param service: the service's name for this.
    :param region: the AWS region.
    :param keys: where the derived key is kept from one signer to the next.
    """

    def __init__(self, credentials: ReadOnlyCredentials, service: str, region: str, keys: Keys) -> None:
        super().__init__(credentials, service, region)
        self._keys = keys

    def headers_to_sign(self, request: Any) -> dict[str, str]:  # type: ignore[override]
        """The headers of *request*, by their names in lower case."""
        return {name.lower(): value for name, value in request.headers.items()}

    def canonical_headers(self, headers_to_sign: dict[str, str]) -> str:  # type: ignore[override]
        """The lines of them that are signed: no space more than one between words."""
        return "\n".join([f"{name}:{' '.join(headers_to_sign[name].split())}" for name in sorted(headers_to_sign)])

    def signed_headers(self, headers_to_sign: dict[str, str]) -> str:  # type: ignore[override]
        """Their names."""
        return ";".join(sorted(headers_to_sign))

    def signature(self, string_to_sign: str, request: Any) -> str:
        """What proves that *string_to_sign* is from who knows the secret."""
        secret, scope = self.credentials.secret_key, self.credential_scope(request)
        key = self._keys.get((secret, scope))
        if key is None:
            key = f"AWS4{secret}".encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._keys.clear()  # those of yesterday, or of credentials that were renewed
            self._keys[secret, scope] = key
        return hmac.digest(key, string_to_sign.encode(), "sha256").hex()
