"""The meaning of the error codes of SQS and S3: whether trying again can help, and what a person can do.

A known code decides. Neither the HTTP status nor ``SenderFault`` can: SQS also throttles with 403, the status of a
missing permission, and calls throttling the sender's fault.
"""

from __future__ import annotations

#: The prefix of some of SQS's codes.
_PREFIX = "AWS.SimpleQueueService."

#: The credentials are good but lack a permission on the queue or bucket.
FORBIDDEN = frozenset({"AccessDenied", "AccessDeniedException", "NotAuthorized"})
#: The configuration is wrong, so the call cannot even be made: trying again never helps.
MISCONFIGURED = frozenset({"ConfigNotFound", "ConfigParseError", "NoRegionError", "ProfileNotFound", "ValueError"})

# The codes of KMS as SQS passes them on, without what :func:`_of_kms` takes away.
#: The credentials lack a permission on the KMS key that encrypts the queue.
_KMS_FORBIDDEN = frozenset({"AccessDenied"})
#: The KMS key is disabled, gone or of the wrong kind.
_BAD_KEY = frozenset({"Disabled", "InvalidKeyUsage", "InvalidState", "NotFound", "OptInRequired"})
_KMS_PASSING = frozenset({"DependencyTimeout", "Internal", "KeyUnavailable", "LimitExceeded"})
_MISSING = frozenset({"NonExistentQueue", "QueueDeletedRecently", "QueueDoesNotExist"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
#: The time in the signature is too far from the service's.
_SKEWED = frozenset({"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"})
#: The signature is wrong, which a wrong clock is one cause of.
_BAD_SIGNATURE = frozenset({"AuthFailure", "InvalidSignatureException", "SignatureDoesNotMatch"})
#: The answer to a HEAD has no code, only this status.
_UNNAMED = frozenset({"403"})
_CREDENTIALS = (
    _EXPIRED
    | _BAD_SIGNATURE
    | {
        "CredentialRetrievalError",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NoCredentialsError",
        "OptInRequired",
        "PartialCredentialsError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
        "UnrecognizedClientException",
    }
)
# Without the suffix "Exception", which AWS's services give some of their codes.
_THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "LimitExceeded",
        "OverLimit",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "SlowDown",
        "TooManyRequests",
        "TransactionInProgress",
    }
)
_SERVICE_FAULTS = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServiceError",
        "RequestTimeout",
        "ServiceUnavailable",
        "Unavailable",
    }
)
#: The exceptions of boto3 and of the fast path when there is no answer.
_UNREACHABLE = frozenset(
    {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "HTTPClientError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "TimeoutError",
    }
)
_BAD_MESSAGE = frozenset(
    {
        "BatchRequestTooLong",
        "InvalidMessageContents",
        "InvalidParameterValue",
        "MessageTooLong",
        "MissingParameter",
        "ParamValidationError",
    }
)
_HOPELESS = _BAD_MESSAGE | {
    "InvalidAttributeName",
    "InvalidAttributeValue",
    "InvalidBatchEntryId",
    "InvalidIdFormat",
    "InvalidParameterCombination",
    "MessageNotInflight",
    "ReceiptHandleIsInvalid",
    "UnsupportedOperation",
}
#: Codes of a request that went to another region or endpoint than the queue's.
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "InvalidAddress", "PermanentRedirect"})

_SET_CLOCK = "the clock of this machine is wrong: set it, for instance with NTP"
_OTHER_REGION = "the endpoint is of another region or account: correct the region, the topic's URL or endpoint_url"


def bare(code: str) -> str:
    """Return *code* without the prefix of some of SQS's codes."""
    return code.removeprefix(_PREFIX)


def _stem(code: str) -> str:
    return bare(code).removesuffix("Exception")


def is_missing(code: str) -> bool:
    """Return whether there is no such queue."""
    return bare(code) in _MISSING


def is_about_credentials(code: str) -> bool:
    """Return whether the credentials are missing, wrong or expired, so that new ones may help."""
    return bare(code) in _CREDENTIALS


def may_be_renewed(code: str) -> bool:
    """Return whether boto3 may soon have good credentials by itself, from an endpoint that is not up yet.

    Keys that are wrong, or missing, stay so.
    """
    return bare(code) in _EXPIRED | {"CredentialRetrievalError", "TokenRetrievalError"}


def is_denied(code: str, status: int | None) -> bool:
    """Return whether the credentials are bad or lack a permission. A 403 says so only if its code is unknown."""
    code = bare(code)
    if code in FORBIDDEN or _of_kms(code) in _KMS_FORBIDDEN or code in _CREDENTIALS:
        return True
    return status == 403 and not _is_something_else(code)


def is_passing(code: str) -> bool:
    """Return whether it may work later: the caller is throttled, or the service has an outage."""
    code = bare(code)
    return is_throttled(code) or _stem(code) in _SERVICE_FAULTS or _of_kms(code) in _KMS_PASSING


def is_throttled(code: str) -> bool:
    """Return whether the caller makes more calls than AWS allows."""
    # KMS throttles through SQS as well: KmsThrottled, KMS.ThrottlingException.
    return "throttl" in code.lower() or _stem(code) in _THROTTLED


def is_hopeless(code: str) -> bool:
    """Return whether this entry of a batch can never succeed as it is."""
    return bare(code) in _HOPELESS


def is_known(code: str) -> bool:
    """Return whether the meaning of *code* is known here, so that no guess is needed."""
    return is_denied(code, None) or _is_something_else(bare(code))


def is_bad_message(code: str) -> bool:
    """Return whether this send can never succeed, because one of its messages is at fault."""
    return bare(code) in _BAD_MESSAGE


def may_be_skewed(code: str) -> bool:
    """Return whether the cause can be a wrong clock on this machine."""
    return bare(code) in _SKEWED | _BAD_SIGNATURE | _UNNAMED


def way_out(code: str, text: str) -> str:
    """Return what a code means and what to do about it, in a few words; "" if the code says too little.

    :param text: the service's text.
    """
    code = bare(code)
    if code in _SKEWED or (code in _BAD_SIGNATURE and ("expired" in text or "not yet current" in text)):
        return _SET_CLOCK
    if code in _ELSEWHERE or (code in _CREDENTIALS and "valid region" in text):
        return _OTHER_REGION
    if _of_kms(code) in _BAD_KEY:
        return "the KMS key that encrypts it cannot be used: enable the key, or encrypt with another"
    if _of_kms(code) in _KMS_FORBIDDEN:
        return "allow kms:Decrypt (for sending, kms:GenerateDataKey too) in the policy, on the KMS key that encrypts it"
    if code == "OverLimit":
        return "the queue has as many messages in flight as SQS allows: delete or release some first"
    if is_throttled(code):
        return "AWS throttles these calls: they are tried again later; if it lasts, ask AWS for a higher quota"
    if is_unexpected(code):
        return _WAYS_OUT["UnexpectedResponse"]
    return _WAYS_OUT.get(code, "") or _WAYS_OUT.get(_stem(code), "")


def is_unexpected(code: str) -> bool:
    """Return whether an answer of SQS with this code is not SQS's: it has none, so the HTTP status takes its place."""
    return code.isdigit()


def _is_something_else(code: str) -> bool:
    """Return whether *code* is known, and is not about credentials or SQS permissions."""
    return (
        is_passing(code)
        or code in _MISSING
        or code in _HOPELESS
        or code in _SKEWED
        or code in _ELSEWHERE
        or bool(_of_kms(code))
    )


def _of_kms(code: str) -> str:
    """Return the code of KMS in *code*: ``Disabled`` for ``KmsDisabled``, ``KMS.DisabledException``; "" if it has none.

    SQS has two spellings, and KMS's own codes have a third: ``KMSInternalException``.
    """
    if not code.upper().startswith("KMS"):
        return ""
    return code[3:].removeprefix(".").removeprefix("KMS").removesuffix("Exception")


_WAYS_OUT = {
    **dict.fromkeys(
        ("NoCredentialsError", "PartialCredentialsError"),
        "check the credentials: set balog_aws_access_key_id and balog_aws_secret_access_key, AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this machine a role",
    ),
    "ProfileNotFound": "correct AWS_PROFILE, or add that profile to ~/.aws/config",
    **dict.fromkeys(
        ("ConfigNotFound", "ConfigParseError"), "fix that file, or correct AWS_CONFIG_FILE (default: ~/.aws/config)"
    ),
    **dict.fromkeys(_EXPIRED, "the session token has expired: renew the credentials"),
    **dict.fromkeys(_SERVICE_FAULTS, "AWS has an outage: the call is tried again later"),
    **dict.fromkeys(_UNREACHABLE, "no answer from the endpoint: check endpoint_url, DNS, proxies and firewalls"),
    "UnexpectedResponse": "the answer did not come from SQS: check endpoint_url, and any proxy or portal in between",
    "OptInRequired": "the account is not enabled for this service or region: enable it in the AWS console",
    "SSLError": "the TLS connection failed: check which certificates are trusted (AWS_CA_BUNDLE) and any proxy",
}
