"""The commands for operation, with a real SQS, broker and worker."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result
from project import Project, Start, Topic

import servers
from balog_celery import install
from balog_celery.cli import balog as group
from balog_celery.consumers import Consumer, ConsumerOperator, consumer_config
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.sqs.diagnostics import oldest_message_age
from balog_celery.sqs.queues import SQSQueue
from sample_events import event_text

Balog = Callable[..., Result]
METRIC = [{"name": "n", "value": 1}]


@consumer_config("{topic}", "metrics", "<1.0")
def first(event: Any) -> None: ...


@consumer_config("{topic}", "metrics", once=True)
def typed(event: Any) -> None: ...


@consumer_config("{topic}", "doomed")
def doomed(event: Any) -> None: ...


DOOMED, FIRST, TYPED = (f"{__name__}.{name}" for name in ("doomed", "first", "typed"))


class Operator(ConsumerOperator):
    """Has every consumer of this module listen to one queue."""

    def __init__(self, topic: str) -> None:
        self.topic = topic

    def get_topic(self, consumer: Consumer) -> str:
        return consumer.topic.format(topic=self.topic)


@pytest.fixture
def app(topic: Topic, broker: servers.Valkey, tmp_path: Path) -> Iterator[Celery]:
    """An app with the consumers of this module, in this process."""
    app = Celery("operate", broker=broker.url, set_as_current=False)
    app.conf.update(balog_once_url=broker.url, balog_status_dir=str(tmp_path / "status"))
    install(app, packages=[__name__], operator=Operator(topic.name))
    yield app
    app.close()


@pytest.fixture
def balog(app: Celery) -> Balog:
    """Runs a command of that app; what happens is the same as on a command line, without a process's start."""

    def run(*arguments: str, text: str | None = None) -> Result:
        done = CliRunner().invoke(group, arguments, obj=SimpleNamespace(app=app, no_color=False), input=text)
        print(arguments, done.exit_code, done.stdout, done.stderr)  # shown if the test failed
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done

    return run


def die(topic: Topic, body: str, reason: str = "failed", consumer: str = "", of: str = "") -> None:
    """Put a dead letter, as the package does."""
    known = {"reason": reason, "topic": of or topic.name, "consumer": consumer, "error": "ValueError('no')"}
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in known.items() if value}
    topic.client.send_message(QueueUrl=topic.dead_url, MessageBody=body, MessageAttributes=attributes)


def depth(topic: Topic) -> dict[str, int]:
    """How many dead letters there are: waiting, and invisible."""
    names = {"waiting": "ApproximateNumberOfMessages", "in_flight": "ApproximateNumberOfMessagesNotVisible"}
    answer = topic.client.get_queue_attributes(QueueUrl=topic.dead_url, AttributeNames=list(names.values()))
    return {name: int(answer["Attributes"][key]) for name, key in names.items()}


def tasks(broker: servers.Valkey) -> Counter[tuple[str, str]]:
    """The tasks that wait on the broker: consumer and event."""
    with broker.client() as client:
        headers = [json.loads(message)["headers"] for message in client.lrange("celery", 0, -1)]
    return Counter((one["task"], one["balog_event"]["id"]) for one in headers)


def test_dead_letters_are_listed_and_shown_and_stay(balog: Balog, topic: Topic) -> None:
    """Dead letters are listed as a table and as JSON, filtered, and stay in their queue.

    One that claims to come from another topic than its queue's is listed without what it says of its failure.
    """
    die(topic, event_text("d1", "doomed"), consumer=DOOMED)
    die(topic, event_text("m1", values=METRIC), consumer=FIRST)
    die(topic, "not json", "undecodable")
    die(topic, event_text("x1"), of="another-topic")
    table = balog("dead", "list").stdout.splitlines()
    assert len(table) == 5
    assert next(line for line in table if line.startswith("x1")).split()[-1] == topic.name
    (line,) = [line for line in table if line.startswith("d1")]
    assert line.split()[-3:] == ["failed", DOOMED, "ValueError('no')"]
    listed = json.loads(balog("dead", "list", "--json", "--cls-type", "metrics", "--consumer", FIRST).stdout)
    assert [(one["id"], one["consumer"], one["schema"]) for one in listed] == [("m1", FIRST, "0.0.1")]
    shown = balog("dead", "show", "d1")
    assert '"cls_type": "doomed"' in shown.stdout
    assert balog("dead", "show", "nothing").exit_code == 1
    assert depth(topic) == {"waiting": 4, "in_flight": 0}


def test_dead_letters_are_replayed_to_the_consumer_that_failed(
    balog: Balog, topic: Topic, broker: servers.Valkey
) -> None:
    """Letters go to the consumer that failed, or to their topic; those without a destination are left."""
    die(topic, event_text("m1", values=METRIC), consumer=FIRST)
    die(topic, event_text("m2", values=METRIC), "default_event_handler")
    die(topic, event_text("m3", values=METRIC), consumer="proj.consumers.gone")
    dry = json.loads(balog("dead", "replay", "--dry-run", "--json").stdout)
    assert dry["replayed"] == {FIRST: 1, f"topic {topic.name}": 1}
    assert (depth(topic), topic.left(), tasks(broker)) == ({"waiting": 3, "in_flight": 0}, 0, {})
    replayed = balog("dead", "replay")
    assert replayed.exit_code == 1
    assert "1 left: there is no consumer proj.consumers.gone: it was renamed or removed" in replayed.stdout
    assert (depth(topic), topic.left()) == ({"waiting": 1, "in_flight": 0}, 1)
    assert tasks(broker) == {(FIRST, "m1"): 1}


def test_what_is_replayed_is_processed_by_that_consumer_only(start: Start, project: Project, topic: Topic) -> None:
    """A replay runs the event for its consumer only; one that fails again becomes one new dead letter."""
    die(topic, event_text("m1", values=METRIC), consumer="proj.consumers.typed")
    die(topic, event_text("d1", "doomed"), consumer="proj.consumers.doomed")
    start("worker", "-l", "INFO", "-c", "2")
    replay = start("balog", "dead", "replay", ready=None)
    assert replay.wait(120) == 0
    project.wait_for(lambda runs: len(runs) == 2)
    servers.wait_until(lambda: len(topic.dead()) == 1, 40, "the new dead letter")
    assert project.runs() == {("typed", "m1"): 1, ("doomed", "d1"): 1}


def test_a_file_and_a_queue_are_replayed_to_one_consumer(
    balog: Balog, tmp_path: Path, topic: Topic, broker: servers.Valkey
) -> None:
    """Files and queues are replayed to one consumer, or to the whole topic."""
    file = tmp_path / "events.jsonl"
    file.write_text(event_text("f1", values=METRIC) + "\n" + event_text("f2", values=METRIC))
    assert balog("replay", str(file), "--consumer", "typed", "--id", "f2").exit_code == 0
    assert topic.left() == 0
    # As a redrive policy moves them: without a word.
    for number in range(12):
        topic.client.send_message(QueueUrl=topic.dead_url, MessageBody=event_text(f"q{number}", values=METRIC))
    assert balog("replay", f"{topic.name}-dead", "--consumer", TYPED).exit_code == 0
    assert depth(topic) == {"waiting": 0, "in_flight": 0}
    assert tasks(broker) == {(TYPED, "f2"): 1, **{(TYPED, f"q{number}"): 1 for number in range(12)}}
    assert balog("replay", "-", text=file.read_text()).exit_code == 0
    assert topic.left() == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_replay_that_is_stopped_half_way_loses_nothing(
    start: Start, topic: Topic, broker: servers.Valkey, number: int
) -> None:
    """After an interrupted replay each event is in the dead-letter queue or sent; the next replay sends the rest."""
    events = {f"m{index}" for index in range(20)}
    for event in sorted(events):
        die(topic, event_text(event, values=METRIC), consumer="proj.consumers.first")
    replay = start("balog", "dead", "replay", "--rate", "2", ready=None)
    servers.wait_until(lambda: sum(depth(topic).values()) < 18, 60, "the first replays")
    replay.signal(number)
    assert replay.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    left = depth(topic)
    published = tasks(broker)
    assert 0 < len(published) < 20
    assert len(published) + sum(left.values()) >= 20
    if number == signal.SIGINT:
        assert left["in_flight"] == 0
        assert "stopped: interrupted; the other events are where they were" in replay.output
        assert start("balog", "dead", "replay", ready=None).wait(120) == 0
        assert set(tasks(broker)) == {("proj.consumers.first", event) for event in events}
        assert depth(topic) == {"waiting": 0, "in_flight": 0}


def test_dead_letters_are_dropped(balog: Balog, topic: Topic) -> None:
    """The selected dead letters are dropped, after a confirmation."""
    for event in ("a", "b", "c"):
        die(topic, event_text(event, "doomed"), consumer=DOOMED)
    assert "would drop 2" in balog("dead", "drop", "--id", "a", "--id", "b", "--dry-run").stdout
    assert balog("dead", "drop", "--id", "a", text="n\n").exit_code == 1
    assert sum(depth(topic).values()) == 3
    assert json.loads(balog("dead", "drop", "--id", "a", "--id", "b", "--yes", "--json").stdout)["dropped"] == 2
    (left,) = topic.dead()
    assert '"c"' in left["body"]


def test_tail_shows_what_workers_do_with_the_events_of_a_topic(start: Start, project: Project, topic: Topic) -> None:
    """`balog tail` shows received, started and finished tasks, and receives no messages."""
    start("worker", "-l", "INFO", "-c", "1")
    tail = start("balog", "tail", topic.name, "--json", "--count", "3", ready="watching ")
    topic.send(event_text("d1", "doomed"))
    assert tail.wait(60) == 0
    sights: list[dict[str, Any]] = [json.loads(line) for line in tail.output.splitlines() if line.startswith("{")]
    assert [sight["state"] for sight in sights] == ["received", "started", "failed"]
    assert {(one["event"], one["cls_type"], one["consumer"]) for one in sights} == {
        ("d1", "doomed", "proj.consumers.doomed")
    }
    assert sights[2]["detail"] == "ValueError('never works')"


def test_tail_ends_well_at_ctrl_c(start: Start, topic: Topic) -> None:
    """`balog tail` ends at Ctrl-C with exit code 130 and no traceback."""
    tail = start("balog", "tail", topic.name, ready="watching ")
    tail.signal(signal.SIGINT)
    assert tail.wait(60) == 130
    assert "Traceback" not in tail.output


def test_topics_tells_what_is_in_the_queues(balog: Balog, topic: Topic) -> None:
    """`balog topics` counts waiting, in-flight and dead messages, and exits with 1 if a queue is missing."""
    topic.send("a", "b", "c")
    topic.client.receive_message(QueueUrl=topic.url, MaxNumberOfMessages=1, VisibilityTimeout=600)
    die(topic, "d")
    (row,) = json.loads(balog("topics", "--json").stdout)
    assert (row["topic"], row["waiting"], row["in_flight"], row["delayed"]) == (topic.name, 2, 1, 0)
    assert row["dead_letters"] == [{"queue": f"{topic.name}-dead", "waiting": 1, "in_flight": 0, "delayed": 0}]
    assert f"1 ({topic.name}-dead)" in balog("topics").stdout
    assert row["oldest"] is None  # a local SQS has no CloudWatch
    topic.client.delete_queue(QueueUrl=topic.url)
    gone = balog("topics")
    assert gone.exit_code == 1
    assert f"there is no queue '{topic.name}'" in gone.stdout


def test_topics_tells_for_how_long_the_oldest_message_has_waited(
    balog: Balog, topic: Topic, sqs: servers.Sqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`balog topics` shows CloudWatch's age of the oldest message, and the counts even without CloudWatch."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", sqs.endpoint_url)
    (row,) = json.loads(balog("topics", "--json").stdout)
    assert row["oldest"] is None
    now = datetime.now(timezone.utc)
    with closing(sqs.client(service="cloudwatch")) as client:
        for minutes, seconds in ((5, 7.0), (2, 42.0)):
            datum = {
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Dimensions": [{"Name": "QueueName", "Value": topic.name}],
                "Timestamp": now - timedelta(minutes=minutes),
                "Value": seconds,
            }
            client.put_metric_data(Namespace="AWS/SQS", MetricData=[datum])
    (row,) = json.loads(balog("topics", "--json").stdout)
    assert row["oldest"] == 42
    # Another region is another client, which looks where CloudWatch is.
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", f"http://127.0.0.1:{servers.free_port()}")
    assert oldest_message_age(SQSQueue(topic.name, region="eu-west-1", endpoint_url=sqs.endpoint_url)) is None


def findings(done: Result) -> dict[tuple[str, str], str]:
    return {(one["level"], one["about"]): one["text"] for one in json.loads(done.stdout)}


def test_check_is_content_with_what_works(
    balog: Balog, app: Celery, start: Start, topic: Topic, broker: servers.Valkey
) -> None:
    """`balog check` reports OK for everything with a running worker."""
    app.conf.result_backend = broker.url
    start("worker", "-l", "INFO", "-c", "1", "--no-engine")

    def answered() -> Result | None:
        """The worker may be slower to answer than the command waits."""
        done = balog("check", "--json")
        return done if "none answers" not in done.stdout else None

    done = servers.wait_until(answered, what="the worker's answer")
    assert done.exit_code == 0
    found = findings(done)
    assert {level for level, _ in found} == {"OK"}
    about = f"topic {topic.name}"
    assert {name for _, name in found} == {
        "settings", "consumers", "engine", "credentials", about, f"{about}, visibility", f"{about}, dead letters",
        "broker", "result backend", "once", "workers",
    }  # fmt: skip
    assert found["OK", "credentials"].startswith("from env; region us-east-1; SQS at http://127.0.0.1:")


def test_check_tells_what_is_wrong_and_what_to_do(balog: Balog, app: Celery, topic: Topic) -> None:
    """`balog check` reports all problems in one run, with advice and without secrets."""
    topic.client.set_queue_attributes(
        QueueUrl=topic.url,
        Attributes={
            "VisibilityTimeout": "5",
            "RedrivePolicy": json.dumps(
                {
                    "deadLetterTargetArn": topic.client.get_queue_attributes(
                        QueueUrl=topic.dead_url, AttributeNames=["QueueArn"]
                    )["Attributes"]["QueueArn"],
                    "maxReceiveCount": 1,
                }
            ),
        },
    )
    topic.client.set_queue_attributes(QueueUrl=topic.dead_url, Attributes={"MessageRetentionPeriod": "3600"})
    port = servers.free_port()
    app.conf.broker_url = app.conf.result_backend = f"redis://:hunter2@127.0.0.1:{port}/0"
    done = balog("check", "--json")
    assert done.exit_code == 1
    assert "hunter2" not in done.stdout + done.stderr
    found = findings(done)
    about = f"topic {topic.name}"
    assert "make it 30 s or more" in found["WARN", f"{about}, visibility"]
    assert "make it 5 or more" in found["WARN", f"{about}, redrive policy"]
    assert "MessageRetentionPeriod" in found["WARN", f"{about}, dead letters"]
    assert f"redis://:**@127.0.0.1:{port}/0 does not answer" in found["FAIL", "broker"]
    assert "correct result_backend" in found["FAIL", "result backend"]
    topic.client.delete_queue(QueueUrl=topic.url)
    done = balog("check")
    assert done.exit_code == 1
    assert f"FAIL  {about}: there is no queue '{topic.name}'" in done.stdout


def test_check_tells_whether_a_fifo_topic_will_be_refused(balog: Balog, app: Celery) -> None:
    """`balog check` reports a FIFO topic that the engine would refuse at start."""
    app.balog.operator.topic = "orders.fifo"
    for name in ("orders.fifo", "orders-dead.fifo"):
        SQSQueue(name).create()
    about = "topic orders.fifo, order"
    assert ("OK", about) in findings(balog("check", "--json"))
    app.tasks[FIRST].acks_late = False
    refused = findings(balog("check", "--json"))["FAIL", about]
    assert f"acks_late=False does not know when {FIRST} has finished" in refused
    assert "leave acks_late out" in refused
    del app.tasks[FIRST].acks_late
    app.conf.broker_url = "memory://"
    assert "Redis or RabbitMQ" in findings(balog("check", "--json"))["FAIL", about]


@pytest.mark.parametrize("dispatch", ["hand-off", "publish"])
def test_check_looks_for_the_payload_bucket(
    topic: Topic, broker: servers.Valkey, sqs: servers.Sqs, tmp_path: Path, dispatch: str
) -> None:
    """`balog check` reports a missing payload bucket, and a FIFO topic whose tasks are published."""
    app = Celery("operate", broker=broker.url, set_as_current=False)
    app.conf.update(balog_once_url=broker.url, balog_status_dir=str(tmp_path / "status"), balog_dispatch=dispatch)
    install(app, packages=[__name__], operator=Operator("orders.fifo"), payload_bucket=("there", "nowhere"))
    for name in ("orders.fifo", "orders-dead.fifo"):
        SQSQueue(name).create()
    SQSQueue("orders.fifo", payload_buckets=["there"]).create()
    done = CliRunner().invoke(group, ["check", "--json"], obj=SimpleNamespace(app=app, no_color=False))
    found = findings(done)
    app.close()
    assert "there is no 'nowhere'" in found["FAIL", "payload bucket"]
    assert found["OK", "payload bucket"].startswith("there exists")
    refused = found.get(("FAIL", "topic orders.fifo, order"), "")
    assert ("balog_dispatch = 'hand-off'" in refused) is (dispatch == "publish")


def test_letters_of_a_fifo_topic_are_all_seen_and_replayed(balog: Balog, app: Celery) -> None:
    """All letters of a FIFO topic are listed and replayed, despite message groups and deduplication."""
    app.balog.operator.topic = "orders.fifo"
    letters = DeadLetters(SQSQueue, "{topic}-dead")
    for name in ("orders.fifo", "orders-dead.fifo"):
        SQSQueue(name).create()
    for number in range(12):
        assert letters.send(event_text("o", values=METRIC), "orders.fifo", "failed", consumer=f"c{number}")
    listed = json.loads(balog("dead", "list", "--json").stdout)
    assert {one["consumer"] for one in listed} == {f"c{number}" for number in range(12)}
    replayed = json.loads(balog("dead", "replay", "--all-consumers", "--json").stdout)
    assert replayed["replayed"] == {"topic orders.fifo": 12}
    assert SQSQueue("orders-dead.fifo").attributes()["ApproximateNumberOfMessages"] == "0"
    assert SQSQueue("orders.fifo").attributes()["ApproximateNumberOfMessages"] == "12"
