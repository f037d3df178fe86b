"""Real servers for the integration tests: each test has a queue and a broker database of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from distributions import build
from project import CELERY, Project, Start, Topic
from sqs_accounts import MOTO_DIFFERS, Account

import servers
from balog_celery.pytest_plugin import missing
from scripted_sqs.server import RunningSqs, serving_sqs


@pytest.fixture(scope="session")
def sqs_server() -> Iterator[servers.Sqs]:
    """moto's SQS server, in a process of its own."""
    with servers.Sqs() as server:
        yield server


@pytest.fixture
def sqs(sqs_server: servers.Sqs, monkeypatch: pytest.MonkeyPatch) -> servers.Sqs:
    """The SQS server, empty, with the environment that makes boto3 find it."""
    sqs_server.reset()
    for name, value in sqs_server.env.items():
        monkeypatch.setenv(name, value)
    return sqs_server


@pytest.fixture
def queue_name(sqs: servers.Sqs) -> str:
    """The name of a queue that exists, of this test only."""
    name = f"events-{uuid.uuid4().hex[:12]}"
    with closing(sqs.client()) as client:
        client.create_queue(QueueName=name)
    return name


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[servers.Valkey]:
    """A Valkey on a unix socket."""
    with servers.Valkey() as server:
        yield server


@pytest.fixture
def broker(valkey_server: servers.Valkey) -> Iterator[servers.Valkey]:
    """An empty Valkey."""
    valkey_server.flush()
    return valkey_server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[servers.RabbitMQ]:
    """A private RabbitMQ node."""
    if not servers.RabbitMQ.available():
        missing("rabbitmq-server is not installed")
    with servers.RabbitMQ() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[servers.PostgreSQL]:
    """A private PostgreSQL."""
    if servers.PostgreSQL.programs() is None:
        missing("postgresql is not installed")
    with servers.PostgreSQL() as server:
        yield server


@pytest.fixture
def database(postgresql: servers.PostgreSQL) -> str:
    """The name of an empty database, of this test only."""
    name = f"d{uuid.uuid4().hex[:12]}"
    postgresql.create_database(name)
    return name


@pytest.fixture
def topic(sqs: servers.Sqs, queue_name: str) -> Iterator[Topic]:
    """The topic of this test."""
    with closing(sqs.client()) as client:
        yield Topic(client, queue_name)


@pytest.fixture
def project(tmp_path: Path, topic: Topic, broker: servers.Valkey) -> Project:
    """A project on Valkey."""
    return Project(tmp_path, topic.name, f"broker_url = {broker.url!r}\n", broker.url)


@pytest.fixture
def start(project: Project, sqs: servers.Sqs) -> Iterator[Start]:
    """Starts programs of the project; all are killed in the end."""
    programs: list[servers.Program] = []

    def run(*arguments: str, ready: str | None = " ready.", command: list[str] = CELERY) -> servers.Program:
        program = servers.Program([*command, *arguments], env={**project.env, **sqs.env}, cwd=project.folder)
        programs.append(program)
        program.start()
        if ready:
            program.wait_for(ready, 60)
        return program

    yield run
    for program in programs:
        print(program.output)  # shown if the test failed
        program.__exit__(None, None, None)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the package's distributions, built from what a clone would hold."""
    return build(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    """The source distribution."""
    (sdist,) = dist.glob("*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def scripted() -> Iterator[RunningSqs]:
    """A scripted SQS."""
    with serving_sqs() as running:
        yield running


@pytest.fixture(params=["scripted", "moto"])
def account(
    request: pytest.FixtureRequest, scripted: RunningSqs, sqs_server: servers.Sqs, own_clients: None
) -> Iterator[Account]:
    """An SQS: the scripted one, or moto, with which the tests of rules that it does not keep must fail."""
    name = request.node.originalname
    if request.param == "moto" and name in MOTO_DIFFERS:
        request.node.add_marker(pytest.mark.xfail(reason=MOTO_DIFFERS[name], strict=True))
    endpoint = scripted.endpoint if request.param == "scripted" else sqs_server.endpoint_url
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    config = Config(retries={"total_max_attempts": 1})
    with closing(boto3.client("sqs", endpoint_url=endpoint, config=config, **keys)) as client:
        yield Account(client, scripted if request.param == "scripted" else None)
