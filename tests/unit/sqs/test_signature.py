"""The signature of the fast path, checked by a verifier that is written from AWS's specification alone.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from scripted_sqs.raw import KEYS, URL, Server, serving

pytestmark = pytest.mark.usefixtures("own_clients")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def keyed(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature(
    method: str, target: str, headers: Mapping[str, str], signed: list[str], body: bytes, secret: str, scope: str
) -> str:
    """Return the signature that a request must have.

    :param headers: all headers by their lower-case names, ``x-amz-date`` among them.
    :param signed: the names of those that are signed.
    :param scope: day, region, service and ``aws4_request``.
    """
    parts = urlsplit(target)
    query = "&".join(sorted(parts.query.split("&"))) if parts.query else ""
    values = {name: re.sub(r" +", " ", headers[name].strip()) for name in signed}
    canonical = "\n".join(
        [
            method,
            quote(parts.path or "/", safe="/~"),
            query,
            *(f"{name}:{values[name]}" for name in sorted(signed)),
            "",
            ";".join(sorted(signed)),
            digest(body),
        ]
    )
    to_sign = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, digest(canonical.encode())])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = keyed(key, part)
    return keyed(key, to_sign).hex()


FORM = {"content-type": "application/x-www-form-urlencoded"}
#: Of AWS's Signature Version 4 test suite (aws-sig-v4-test-suite): name, method, target, headers, body, signature.
PUBLISHED: list[tuple[str, str, str, dict[str, str], bytes, str]] = [
    ("get-vanilla", "GET", "/", {}, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    ("post-vanilla", "POST", "/", {}, b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    (
        "get-vanilla-query-order-key-case",
        "GET",
        "/?Param2=value2&Param1=value1",
        {},
        b"",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    (
        "get-header-value-trim",
        "GET",
        "/",
        {"my-header1": " value1", "my-header2": ' "a   b   c"'},
        b"",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    (
        "post-header-key-sort",
        "POST",
        "/",
        {"my-header1": "value1"},
        b"",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    (
        "post-x-www-form-urlencoded",
        "POST",
        "/",
        FORM,
        b"Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
]


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "expected"),
    [vector[1:] for vector in PUBLISHED],
    ids=[vector[0] for vector in PUBLISHED],
)
def test_the_verifier_agrees_with_the_published_vectors(
    method: str, target: str, headers: dict[str, str], body: bytes, expected: str
) -> None:
    """AWS's own examples tell that the verifier is right."""
    headers = {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z", **headers}
    scope = "20150830/us-east-1/service/aws4_request"
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    assert signature(method, target, headers, list(headers), body, secret, scope) == expected


OPERATIONS: dict[str, Callable[[SQSQueue], Any]] = {
    "ReceiveMessage": lambda queue: queue.receive(10, 0, 30),
    "DeleteMessageBatch": lambda queue: queue.delete(["é" * 100]),
    "ChangeMessageVisibilityBatch": lambda queue: queue.change_visibility(["h"], 5),
    "SendMessageBatch": lambda queue: queue.send([OutgoingMessage('{"a": "é\\u2028"}', {"reason": "failed"})]),
    "GetQueueAttributes": lambda queue: queue.attributes(),
}
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>[^,]+), "
    r"SignedHeaders=(?P<signed>[^,]+), Signature=(?P<signature>[0-9a-f]{64})"
)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("token", [None, "token", "long " + "t" * 900], ids=["no token", "token", "long token"])
@pytest.mark.parametrize("path", ["", "/aws/sqs"])
def test_the_request_has_the_signature_that_aws_computes(operation: str, token: str | None, path: str) -> None:
    """Every call, with and without a session token; all of ``x-amz-*``, host and content type are signed."""
    keys = {**KEYS, "aws_session_token": token}
    with serving(Server()) as server:
        queue = SQSQueue(URL, region="eu-west-1", endpoint_url=server.endpoint + path, **keys)  # type: ignore[arg-type]
        OPERATIONS[operation](queue)
        headers = {name.lower(): value for name, value in server.headers[0].items()}
        found = AUTHORIZATION.fullmatch(headers["authorization"])
        assert found is not None
        assert found["key"] == KEYS["aws_access_key_id"]
        assert found["scope"] == f"{headers['x-amz-date'][:8]}/eu-west-1/sqs/aws4_request"
        signed = found["signed"].split(";")
        assert {name for name in headers if name.startswith("x-amz")} | {"host", "content-type"} == set(signed)
        assert headers.get("x-amz-security-token") == token
        expected = signature(
            "POST", path or "/", headers, signed, server.bodies[0], KEYS["aws_secret_access_key"], found["scope"]
        )
        assert found["signature"] == expected
        assert len(server.seen) == 1
