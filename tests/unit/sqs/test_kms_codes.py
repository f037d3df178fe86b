"""The codes of KMS, which SQS passes on in several spellings."""

from __future__ import annotations

import pytest

from balog_celery.sqs import codes

SPELLINGS = pytest.mark.parametrize(
    "spelling", ["Kms{}", "KMS.{}Exception", "KMS{}Exception", "KMS.{}", "KMS.KMS{}Exception"]
)


@SPELLINGS
@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize(
    ("code", "denied", "passing", "way_out"),
    [
        ("AccessDenied", True, False, "kms:Decrypt"),
        ("Throttled", False, True, "throttles"),
        ("Throttling", False, True, "throttles"),
        ("LimitExceeded", False, True, ""),
        ("Internal", False, True, ""),
        ("DependencyTimeout", False, True, ""),
        ("KeyUnavailable", False, True, ""),
        ("Disabled", False, False, "enable the key"),
        ("NotFound", False, False, "enable the key"),
        ("InvalidState", False, False, "enable the key"),
        ("InvalidKeyUsage", False, False, "enable the key"),
        ("OptInRequired", False, False, "enable the key"),
    ],
)
def test_a_code_of_kms_means_the_same_in_every_spelling(
    spelling: str, status: int, code: str, denied: bool, passing: bool, way_out: str
) -> None:
    """And at every status; none of them is the fault of a message, or of the credentials."""
    code = spelling.format(code)
    assert codes.is_denied(code, status) is denied
    assert codes.is_passing(code) is passing
    assert way_out in codes.way_out(code, "")
    assert not codes.is_hopeless(code)
    assert not codes.is_about_credentials(code)


@pytest.mark.parametrize(
    "code",
    [
        "ProvisionedThroughputExceededException",
        "TransactionInProgressException",
        "RequestTimeoutException",
        "EC2ThrottledException",
        "TooManyRequests",
        "ServiceUnavailableException",
        "InternalServiceError",
        "RequestLimitExceededException",
        "throttled",
    ],
)
def test_what_botocore_tries_again_is_passing_at_any_status(code: str) -> None:
    """Its lists of throttling and transient codes, with or without the suffix of some services."""
    assert codes.is_passing(code)
    assert not codes.is_denied(code, 403)
