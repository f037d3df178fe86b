"""``balog topics --create`` and its templates, against a real SQS."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

import servers
from balog_celery import install
from balog_celery.cli import balog as group
from balog_celery.consumers import Consumer, consumer_config
from balog_celery.sqs.queues import SQSQueue

Balog = Callable[..., Result]


@consumer_config("plain")
def plain(event: Any) -> None: ...


@consumer_config("ordered.fifo")
def ordered(event: Any) -> None: ...


class Operator:
    """Gives each test topics of its own."""

    def __init__(self) -> None:
        self.prefix = f"t{uuid.uuid4().hex[:8]}"

    def get_topic(self, consumer: Consumer) -> str:
        return f"{self.prefix}-{consumer.topic}"

    def process_event(self, consumer: Consumer, event: Any) -> None: ...


@pytest.fixture
def operator() -> Operator:
    return Operator()


def runner(operator: Any, tmp_path: Path, **settings: Any) -> Balog:
    app = Celery("provision", broker="memory://", set_as_current=False)
    app.conf.balog_status_dir = str(tmp_path / "status")
    install(app, packages=[__name__], operator=operator, **settings)

    def run(*arguments: str) -> Result:
        done = CliRunner().invoke(group, ["topics", *arguments], obj=SimpleNamespace(app=app, no_color=False))
        print(arguments, done.exit_code, done.stdout, done.stderr)  # shown if the test failed
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return run


@pytest.fixture
def topics(operator: Operator, tmp_path: Path, sqs: servers.Sqs) -> Balog:
    """Runs ``balog topics`` with options."""
    return runner(operator, tmp_path)


@pytest.fixture
def client(sqs: servers.Sqs) -> Iterator[Any]:
    """A client of the SQS."""
    with closing(sqs.client()) as client:
        yield client


def names(operator: Operator) -> list[str]:
    """The queues that the app needs, those of dead letters first."""
    prefix = operator.prefix
    return [f"{prefix}-ordered-dead.fifo", f"{prefix}-plain-dead", f"{prefix}-ordered.fifo", f"{prefix}-plain"]


def test_missing_queues_are_created(topics: Balog, operator: Operator, client: Any) -> None:
    """A dry run creates no queues, `--create` creates all with dead-letter queues, and a repetition creates none."""
    dry = topics("--create", "--dry-run")
    assert [line.split()[2].rstrip(":") for line in dry.stdout.splitlines()] == names(operator)
    assert client.list_queues(QueueNamePrefix=operator.prefix).get("QueueUrls", []) == []
    made = json.loads(topics("--create", "--json").stdout)
    assert [(one["queue"], one["created"]) for one in made] == [(name, True) for name in names(operator)]
    for dead, topic in ((0, 2), (1, 3)):
        attributes = SQSQueue(names(operator)[topic]).attributes()
        policy = json.loads(attributes["RedrivePolicy"])
        assert policy["deadLetterTargetArn"] == SQSQueue(names(operator)[dead]).attributes()["QueueArn"]
        assert attributes["VisibilityTimeout"] == "60"
    assert SQSQueue(names(operator)[2]).attributes()["FifoQueue"] == "true"
    assert topics("--create").stdout.splitlines() == [f"{name} exists" for name in names(operator)]


def test_an_existing_queue_is_not_changed(topics: Balog, operator: Operator, client: Any) -> None:
    """`topics --create` does not change an existing queue, whatever its attributes are."""
    client.create_queue(QueueName=names(operator)[3], Attributes={"VisibilityTimeout": "7"})
    assert f"{names(operator)[3]} exists" in topics("--create").stdout
    assert SQSQueue(names(operator)[3]).attributes()["VisibilityTimeout"] == "7"


def test_templates_describe_the_queues_that_are_created(topics: Balog, operator: Operator) -> None:
    """Templates set the same attributes as the queues that `topics --create` creates."""
    topics("--create")
    template = json.loads(topics("--cloudformation").stdout)["Resources"]
    terraform = json.loads(topics("--terraform").stdout)["resource"]["aws_sqs_queue"]
    queues = {one["Properties"]["QueueName"]: one["Properties"] for one in template.values() if "SQS" in one["Type"]}
    assert list(queues) == [one["name"] for one in terraform.values()] == names(operator)
    logical = {one["Properties"]["QueueName"]: key for key, one in template.items() if "SQS" in one["Type"]}
    for name, properties in queues.items():
        real = SQSQueue(name).attributes()
        assert int(real["MessageRetentionPeriod"]) == properties["MessageRetentionPeriod"]
        (block,) = [one for one in terraform.values() if one["name"] == name]
        assert block["message_retention_seconds"] == properties["MessageRetentionPeriod"]
        assert ("FifoQueue" in properties) == ("fifo_queue" in block) == ("FifoQueue" in real)
        assert ("RedrivePolicy" in properties) == ("redrive_policy" in block) == ("RedrivePolicy" in real)
        if "RedrivePolicy" in real:
            target = json.loads(real["RedrivePolicy"])["deadLetterTargetArn"].rpartition(":")[2]
            assert properties["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": [logical[target], "Arn"]}
            (local,) = [key for key, one in terraform.items() if one["name"] == target]
            assert f"${{aws_sqs_queue.{local}.arn}}" in block["redrive_policy"]


def test_each_role_gets_a_policy(topics: Balog) -> None:
    """Each role gets a policy: a worker cannot delete dead letters, and a producer can only send."""
    template = json.loads(topics("--cloudformation").stdout)["Resources"]
    policies = {
        one["Properties"]["Description"].split()[-1]: {
            statement["Sid"]: set(statement["Action"]) for statement in one["Properties"]["PolicyDocument"]["Statement"]
        }
        for one in template.values()
        if one["Type"] == "AWS::IAM::ManagedPolicy"
    }
    send = {"sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"}
    assert policies["producer"] == {"Topics": send}
    assert "sqs:ReceiveMessage" in policies["worker"]["Topics"]
    assert policies["worker"]["DeadLetters"] == send
    assert {"sqs:DeleteMessage", "sqs:StartMessageMoveTask"} <= policies["operator"]["DeadLetters"]
    assert "sqs:ReceiveMessage" not in policies["operator"]["Topics"]


def test_what_cannot_be_created_is_refused(operator: Operator, tmp_path: Path, topics: Balog) -> None:
    """A topic given as a URL, topics on a broker, and a dry run without `--create` are refused."""
    assert topics("--dry-run").exit_code == 2
    operator.prefix = "https://sqs.eu-west-1.amazonaws.com/123456789012/x"
    done = runner(operator, tmp_path)("--create")
    assert done.exit_code == 1
    assert "is a URL" in done.stderr
    done = runner(Operator(), tmp_path, event_broker_url="memory://")("--terraform")
    assert done.exit_code == 1
    assert "balog_event_broker_url" in done.stderr


def test_names_that_are_alike_get_identifiers_of_their_own(tmp_path: Path) -> None:
    """Queues with similar names get different identifiers in Terraform and CloudFormation."""

    class Alike(Operator):
        def get_topic(self, consumer: Consumer) -> str:
            return {"plain": "9a-b", "ordered.fifo": "9a_b.fifo"}[consumer.topic].removesuffix(".fifo")

    topics = runner(Alike(), tmp_path, dead_letter=None)
    terraform = json.loads(topics("--terraform").stdout)["resource"]["aws_sqs_queue"]
    template = json.loads(topics("--cloudformation").stdout)["Resources"]
    assert {one["name"] for one in terraform.values()} == {"9a-b", "9a_b"}
    assert len([one for one in template.values() if "SQS" in one["Type"]]) == 2
    assert all(key[0].isalpha() for key in (*terraform, *template))
    assert all(key.isalnum() for key in template)
