"""The undocumented names of botocore still work as ``botocore_compat`` describes them."""

from __future__ import annotations

import ast
from http.client import HTTPConnection
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import ReadOnlyCredentials

from balog_celery.sqs import botocore_compat


@pytest.fixture
def client() -> Any:
    """A client of SQS."""
    return boto3.session.Session(aws_access_key_id="a", aws_secret_access_key="b").client(
        "sqs", region_name="eu-west-1"
    )


def test_a_client_knows_the_constants_of_its_service(client: Any) -> None:
    """``meta.service_model`` of a client has the constants that a request needs."""
    assert botocore_compat.service_of(client) == ("sqs", "AmazonSQS", "1.0", "json", True)
    s3 = boto3.session.Session("a", "b").client("s3", region_name="eu-west-1")
    assert botocore_compat.service_of(s3).protocol != "json"


def test_calls_of_a_client_go_through_one_method(client: Any) -> None:
    """Each call of a client goes through ``_make_api_call``, a plain method unless instrumented."""
    assert not botocore_compat.is_instrumented(client)
    calls = []

    def wrapper(_client: Any, operation: str, _parameters: Any) -> dict[str, Any]:
        calls.append(operation)
        return {"QueueUrl": "url"}

    client._make_api_call = MethodType(wrapper, client)
    client.get_queue_url(QueueName="events")
    assert calls == ["GetQueueUrl"]


def test_a_client_has_its_connections_from_classes_by_scheme(client: Any) -> None:
    """The pools of connections are of the classes in ``_pool_classes_by_scheme``, also behind a proxy."""
    session = client._endpoint.http_session
    botocore_compat.govern(client, 1)
    for scheme, pool in session._pool_classes_by_scheme.items():
        assert issubclass(pool.ConnectionCls, HTTPConnection)
        for manager in (session._manager, session._get_proxy_manager("http://proxy:1")):
            assert type(manager.connection_from_url(f"{scheme}://sqs.example")) is pool
        assert pool.ConnectionCls("sqs.example").response_class is pool.ConnectionCls.response_class


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({"HTTPS_PROXY": "http://p:1"}, "https://sqs.eu-west-1.amazonaws.com", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://localstack:4566", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "amazonaws.com"}, "https://sqs.eu-west-1.amazonaws.com", None),
        ({"NO_PROXY": "localhost"}, "https://sqs.eu-west-1.amazonaws.com", None),
    ],
)
def test_the_proxy_is_that_of_botocore(
    environment: dict[str, str], url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy is the one that botocore's HTTP session uses."""
    from botocore.httpsession import ProxyConfiguration
    from botocore.utils import get_environ_proxies

    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert botocore_compat.proxy_of(url) == proxy
    assert ProxyConfiguration(get_environ_proxies(url)).proxy_url_for(url) == proxy


def test_there_is_a_file_of_default_certificates() -> None:
    """The file of default certificates exists: botocore's or certifi's."""
    assert "BEGIN CERTIFICATE" in Path(botocore_compat.default_certificates()).read_text()


def test_handlers_get_headers_by_names_of_any_case(client: Any) -> None:
    """Handlers of ``before-send`` get headers of botocore's own class."""
    seen = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        seen.append(type(request.headers))
        return AWSResponse(request.url, 200, {}, SimpleNamespace(stream=lambda **_: iter([b'{"QueueUrl": "u"}'])))

    client.meta.events.register("before-send.sqs", answer)
    client.get_queue_url(QueueName="events")
    headers = botocore_compat.case_insensitive({"X-Amz-Target": "t"})
    assert seen == [type(headers)]
    assert headers["x-amz-target"] == "t"


@pytest.mark.parametrize("path", ["", "/", "/aws/sqs", "/aws//sqs/../é b/"])
def test_the_path_is_signed_as_botocore_signs_it(path: str) -> None:
    """The path of a signature is the one that botocore's signer uses."""
    url = f"https://sqs.example.com{path}"
    signer = SigV4Auth(ReadOnlyCredentials("AKID", "secret", None), "sqs", "eu-west-1")
    signed = AWSRequest("POST", url, headers={"Host": "sqs.example.com"}, data=b"{}")
    signer.add_auth(signed)
    assert botocore_compat.signed_path(url) == signer.canonical_request(signed).split("\n")[1]


def test_only_one_module_uses_names_that_are_not_promised() -> None:
    """Only ``botocore_compat`` uses undocumented names of botocore."""
    documented = {"botocore", "botocore.session", "botocore.config", "botocore.credentials", "botocore.exceptions"}
    package = Path(botocore_compat.__file__).parents[1]
    for path in package.rglob("*.py"):
        if path.name == "botocore_compat.py":
            continue
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            used = {module for module in modules if module.split(".")[0] == "botocore"}
            assert used <= documented, path
        assert "_make_api_call" not in text, path
        assert "service_model" not in text, path
