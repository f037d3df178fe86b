"""pytest fixtures: a real local SQS and broker, which need only ``balog_celery[local]``.

Ask for them in the ``conftest.py`` at the top of your tests:

    pytest_plugins = ["balog_celery.pytest_plugin"]

It is no entry point, because pytest would import it in every run of every project that has the package installed.

Tests are skipped if the local stack cannot run. With ``CI=true`` in the environment they fail instead: a suite that
skips all its tests would look like one that passes.
"""

from __future__ import annotations

import os
import urllib.request
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from .dev.local_stack import LocalStack
    from .sqs.queues import SQSQueue
    from .testing import Records


@pytest.fixture
def balog_records() -> Iterator[Records]:
    """The records that the test logs: see :func:`balog_celery.testing.capture_records`."""
    from .testing import capture_records

    with capture_records() as records:
        yield records


@pytest.fixture(scope="session")
def balog_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The local stack, for the whole session: ``.broker_url`` and ``.endpoint_url``."""
    from .dev import local_stack

    reason = local_stack.available()
    if reason:
        missing(reason)
    folder = tmp_path_factory.mktemp("balog")
    yield local_stack.hold(folder)
    local_stack.release(folder)


@pytest.fixture
def balog_broker(balog_stack: LocalStack) -> str:
    """The URL of an empty broker, for Celery's ``broker_url``."""
    import redis

    with redis.Redis.from_url(balog_stack.broker_url.replace("redis+socket://", "unix://")) as client:
        client.flushall()
    return balog_stack.broker_url


@pytest.fixture
def balog_sqs(balog_stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint of an SQS without queues.

    The environment of this process and its children makes boto3 find it, and holds no other variables of AWS.
    """
    from .dev.moto_server import DUMMY_CREDENTIALS

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", balog_stack.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", DUMMY_CREDENTIALS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", DUMMY_CREDENTIALS["aws_secret_access_key"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", DUMMY_CREDENTIALS["region_name"])
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # Ignore proxies: the endpoint is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(f"{balog_stack.endpoint_url}/moto-api/reset", method="POST"), timeout=30).close()
    return balog_stack.endpoint_url


@pytest.fixture
def balog_queue(balog_sqs: str) -> SQSQueue:
    """A new queue with its dead-letter queue: ``.name``, ``.send()``, ``.receive()``."""
    from .settings import Settings
    from .sqs.addresses import dead_letter_topic
    from .sqs.queues import SQSQueue

    name = f"test-{uuid.uuid4().hex[:12]}"
    SQSQueue(str(dead_letter_topic(Settings().dead_letter, name))).create()
    queue = SQSQueue(name)
    queue.create()
    return queue


def missing(reason: str) -> NoReturn:
    """Skip the test for *reason*; with ``CI=true`` fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
