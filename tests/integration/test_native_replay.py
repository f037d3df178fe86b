"""``balog dead replay --native``, on a scripted SQS that keeps SQS's rules of message move tasks."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from celery import Celery
from click.testing import CliRunner, Result

import servers
from balog_celery import install
from balog_celery.cli import balog as group
from balog_celery.consumers import consumer_config
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.sqs.messages import Message
from balog_celery.sqs.queues import SQSQueue
from sample_events import event_text
from scripted_sqs.errors import ApiError
from scripted_sqs.script import Fault
from scripted_sqs.server import RunningSqs, serving_sqs
from scripted_sqs.store import arn_of

Balog = Callable[..., Result]


@consumer_config("orders")
def book(event: Any) -> None: ...


@consumer_config("parcels.fifo")
def ship(event: Any) -> None: ...


@pytest.fixture
def sqs(own_clients: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSqs]:
    """A scripted SQS of this test only, which boto3 finds."""
    with serving_sqs() as running:
        for name, value in {**servers.AWS_ENV, "AWS_ENDPOINT_URL_SQS": running.endpoint}.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def client(sqs: RunningSqs) -> Iterator[Any]:
    """A client, with the topics and their dead-letter queues."""
    with closing(boto3.client("sqs")) as client:
        for topic, dead in (("orders", "orders-dead"), ("parcels.fifo", "parcels-dead.fifo")):
            fifo = {"FifoQueue": "true"} if topic.endswith(".fifo") else {}
            client.create_queue(QueueName=dead, Attributes=fifo)
            policy = json.dumps({"deadLetterTargetArn": arn_of(dead), "maxReceiveCount": 1})
            client.create_queue(QueueName=topic, Attributes={**fifo, "RedrivePolicy": policy})
        yield client


@pytest.fixture
def balog(client: Any, tmp_path: Path) -> Iterator[Balog]:
    """Runs a command of an app with two topics."""
    app = Celery("native", broker="memory://", set_as_current=False)
    app.conf.balog_status_dir = str(tmp_path / "status")
    with closing(install(app, packages=[__name__])):

        def run(*arguments: str) -> Result:
            done = CliRunner().invoke(
                group, ["dead", "replay", *arguments], obj=SimpleNamespace(app=app, no_color=True)
            )
            print(arguments, done.exit_code, done.stdout, done.stderr)  # shown if the test failed
            assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
            return done

        yield run


def redrive(sqs: RunningSqs, topic: str, count: int) -> None:
    """Have the redrive policy of *topic* move messages to its dead-letter queue."""
    fifo = topic.endswith(".fifo")
    for number in range(count):
        more = {"MessageGroupId": "g", "MessageDeduplicationId": str(number)} if fifo else {}
        sqs.store.call("SendMessage", {"QueueUrl": topic, "MessageBody": event_text(f"e{number}"), **more})
    for _ in range(2 * count):
        sqs.store.call("ReceiveMessage", {"QueueUrl": topic, "MaxNumberOfMessages": 10, "VisibilityTimeout": 0})


def held(sqs: RunningSqs, queue: str) -> int:
    """How many messages a queue holds, all of them visible."""
    visible, flying, _ = sqs.store.named(queue).counts()
    assert flying == 0
    return visible


def test_sqs_moves_dead_letters_to_their_topics(balog: Balog, sqs: RunningSqs) -> None:
    """Given letters of a redrive policy, when replayed natively, then each is in its topic, also on FIFO queues."""
    redrive(sqs, "orders", 25)
    redrive(sqs, "parcels.fifo", 3)
    assert (held(sqs, "orders-dead"), held(sqs, "parcels-dead.fifo")) == (25, 3)
    dry = balog("--native", "--dry-run")
    assert "would move about 25 dead letters of orders-dead to orders\n" in dry.stdout
    assert held(sqs, "orders-dead") == 25
    done = balog("--native")
    assert done.exit_code == 0
    assert "moved 25 of about 25 dead letters of orders-dead to orders\n" in done.stdout
    assert "moved 3 of about 3 dead letters of parcels-dead.fifo to parcels.fifo\n" in done.stdout
    assert [held(sqs, name) for name in ("orders", "orders-dead", "parcels.fifo", "parcels-dead.fifo")] == [25, 0, 3, 0]
    assert balog("--native").stdout == "there are no dead letters to move\n"


def test_a_topic_and_a_rate_are_respected(balog: Balog, sqs: RunningSqs) -> None:
    """``--topic`` moves only letters of that topic; SQS gets the rate; ``--json`` has the numbers."""
    redrive(sqs, "orders", 10)
    redrive(sqs, "parcels.fifo", 3)
    done = balog("--native", "--topic", "orders", "--rate", "100", "--json")
    (result,) = json.loads(done.stdout)
    assert (result["queue"], result["topics"], result["status"], result["moved"]) == (
        "orders-dead",
        ["orders"],
        "COMPLETED",
        10,
    )
    assert held(sqs, "parcels-dead.fifo") == 3
    (task,) = sqs.store.call("ListMessageMoveTasks", {"SourceArn": arn_of("orders-dead")})["Results"]
    assert task["MaxNumberOfMessagesPerSecond"] == 100


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--consumer", "book"], "of the filters it takes only --topic"),
        (["--id", "e1"], "of the filters it takes only --topic"),
        (["--since", "1d"], "of the filters it takes only --topic"),
        (["--cls-type", "metrics"], "of the filters it takes only --topic"),
        (["--all-consumers"], "of the filters it takes only --topic"),
        (["--rate", "0.5"], "a whole --rate from 1 to 500, not 0.5"),
        (["--rate", "501"], "a whole --rate from 1 to 500, not 501"),
    ],
)
def test_what_sqs_cannot_do_is_refused(balog: Balog, sqs: RunningSqs, options: list[str], reason: str) -> None:
    """A filter, or a rate that SQS does not know, is refused with one line, and nothing is moved."""
    redrive(sqs, "orders", 1)
    done = balog("--native", *options)
    assert done.exit_code == 2
    assert reason in done.stderr.splitlines()[-1]
    assert held(sqs, "orders-dead") == 1


def test_letters_of_a_consumer_are_refused(balog: Balog, sqs: RunningSqs) -> None:
    """A queue that holds a letter of one consumer is not moved, and neither is any other queue."""
    redrive(sqs, "orders", 2)
    redrive(sqs, "parcels.fifo", 2)
    letters = DeadLetters(SQSQueue, "{topic}-dead")
    message = Message("not json", "h", "original", 0.0, group="g")
    assert letters.send_received(message, "not json", "parcels.fifo", "undecodable")
    done = balog("--native")
    assert done.exit_code == 1
    assert "parcels-dead.fifo holds dead letters that a worker sent there" in done.stderr
    assert (held(sqs, "orders-dead"), held(sqs, "parcels-dead.fifo")) == (2, 3)


def test_a_letter_of_a_consumer_ends_the_task(
    balog: Balog, sqs: RunningSqs, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a worker's letter behind those that are looked at, then SQS stops there, and the command says why."""
    monkeypatch.setattr("balog_celery.cli.native._SAMPLE", 10)
    redrive(sqs, "orders", 12)
    client.send_message(QueueUrl=client.get_queue_url(QueueName="orders-dead")["QueueUrl"], MessageBody="sent")
    done = balog("--native")
    assert done.exit_code == 1
    assert "SQS stopped at a dead letter that was sent to orders-dead" in done.stderr
    assert "moved 12 of about 13 dead letters" in done.stdout
    assert held(sqs, "orders-dead") == 1


def test_a_queue_without_a_redrive_policy_is_refused(balog: Balog, sqs: RunningSqs) -> None:
    """SQS moves only the messages of redrive targets."""
    redrive(sqs, "orders", 1)
    sqs.store.call("SetQueueAttributes", {"QueueUrl": "orders", "Attributes": {"RedrivePolicy": ""}})
    done = balog("--native")
    assert done.exit_code == 1
    assert "no redrive policy names orders-dead, so SQS cannot move its messages" in done.stderr


def test_messages_of_another_topic_are_refused(balog: Balog, sqs: RunningSqs, client: Any) -> None:
    """A queue that also takes messages of a queue that no consumer listens to is not moved."""
    redrive(sqs, "orders", 1)
    policy = json.dumps({"deadLetterTargetArn": arn_of("orders-dead"), "maxReceiveCount": 1})
    client.create_queue(QueueName="invoices", Attributes={"RedrivePolicy": policy})
    done = balog("--native")
    assert done.exit_code == 1
    assert "orders-dead also takes messages of invoices, which SQS would move as well" in done.stderr
    assert held(sqs, "orders-dead") == 1


def test_a_task_that_runs_is_named(balog: Balog, sqs: RunningSqs, client: Any) -> None:
    """SQS runs one task for each queue: the command says so, and how to end it."""
    redrive(sqs, "orders", 50)
    task = client.start_message_move_task(SourceArn=arn_of("orders-dead"), MaxNumberOfMessagesPerSecond=1)
    done = balog("--native")
    assert done.exit_code == 1
    assert "SQS moves the messages of orders-dead already" in done.stderr
    assert f"aws sqs cancel-message-move-task --task-handle {task['TaskHandle']}" in done.stderr


def test_a_missing_permission_is_named(balog: Balog, sqs: RunningSqs) -> None:
    """Each of the four permissions is named by the command that lacks it."""
    for action in ("ListDeadLetterSourceQueues", "ListMessageMoveTasks", "StartMessageMoveTask"):
        redrive(sqs, "orders", 1)
        sqs.store.denied = {(action, "orders-dead")}
        done = balog("--native")
        assert done.exit_code == 1
        assert f"was refused for sqs:{action}" in done.stderr.splitlines()[-1]


PROGRAM = """
from celery import Celery
import balog_celery

app = Celery("native", broker="memory://", set_as_current=True)
balog_celery.install(app, packages=["consumers"])
"""
CONSUMERS = """
from balog_celery.consumers import consumer_config

@consumer_config("orders")
def book(event): ...
"""


@pytest.fixture
def replay(client: Any, sqs: RunningSqs, tmp_path: Path) -> Iterator[servers.Program]:
    """The command in a process of its own, which moves 100 dead letters slowly."""
    redrive(sqs, "orders", 100)
    (tmp_path / "proj.py").write_text(PROGRAM)
    (tmp_path / "consumers.py").write_text(CONSUMERS)
    command = [sys.executable, "-m", "celery", "-A", "proj", "balog", "dead", "replay", "--native", "--rate", "2"]
    with servers.Program(command, cwd=tmp_path, name="replay") as program:
        yield program


def status(sqs: RunningSqs) -> str:
    """The status of the last task; "" if there is none."""
    found = sqs.store.call("ListMessageMoveTasks", {"SourceArn": arn_of("orders-dead")})["Results"]
    return str(found[0]["Status"]) if found else ""


def test_ctrl_c_cancels_the_task(replay: servers.Program, sqs: RunningSqs) -> None:
    """Ctrl-C cancels the task: the command says how many were moved and exits with 130; the others remain."""
    servers.wait_until(lambda: status(sqs) == "RUNNING" and held(sqs, "orders") > 0, 60, "the first messages")
    replay.signal(signal.SIGINT)
    assert replay.wait(60) == 130
    assert status(sqs) == "CANCELLED"
    moved = held(sqs, "orders")
    assert f"moved {moved} of about 100 dead letters of orders-dead to orders\n" in replay.output
    assert "stopped: interrupted; the other dead letters are where they were" in replay.output
    assert held(sqs, "orders-dead") == 100 - moved


def test_a_task_that_cannot_be_cancelled_is_named(replay: servers.Program, sqs: RunningSqs) -> None:
    """If SQS refuses to cancel, the command says that the task goes on, and how to end it."""
    sqs.script.add(Fault("CancelMessageMoveTask", error=ApiError("AccessDeniedException", "no", 403), times=9))
    servers.wait_until(lambda: status(sqs) == "RUNNING", 60, "the task")
    replay.signal(signal.SIGINT)
    assert replay.wait(60) == 1
    assert "SQS goes on moving orders-dead" in replay.output
    assert "aws sqs cancel-message-move-task --task-handle" in replay.output
    assert status(sqs) == "RUNNING"
