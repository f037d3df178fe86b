"""Events of other sources over real servers: S3 notifications by SNS through a worker, and bodies in S3."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from project import CELERY, Project, Start, Topic, stop

import servers
from balog_celery.dead_letters.writer import DeadLetters, Outcome
from balog_celery.errors import QueueError
from balog_celery.producer.handlers import SQSHandler
from balog_celery.sqs.messages import MAX_MESSAGE_BYTES, Message, OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from sample_events import event_text

UPLOADS = """
import os
from proj.consumers import note
from balog_celery.consumers import consumer_config

@consumer_config(topic=os.environ["TOPIC"], cls_type="aws.s3.ObjectCreated:*")
def uploaded(event):
    note("uploaded", event["payload"]["s3"]["object"]["key"], cls_type=event["payload"]["cls_type"])

@consumer_config(topic=os.environ["TOPIC"], cls_type="aws.s3.ObjectCreated:Copy")
def copied(event):
    note("copied", event["payload"]["s3"]["object"]["key"])

@consumer_config(topic=os.environ["TOPIC"], cls_type="big")
def big(event):
    note("big", event["header"]["id"], size=len(event["payload"]["text"]))
    if event["payload"].get("fails"):
        raise ValueError("no")
"""
BUCKET = "payloads"


@pytest.fixture
def client(sqs: servers.Sqs) -> Iterator[Callable[[str], Any]]:
    """Makes boto3 clients."""
    with ExitStack() as stack:
        clients: dict[str, Any] = {}

        def client(service: str) -> Any:
            if service not in clients:
                clients[service] = sqs.client(service)
                stack.callback(clients[service].close)
            return clients[service]

        yield client


@pytest.fixture
def s3(client: Callable[[str], Any]) -> Any:
    """S3, with a bucket for payloads."""
    client("s3").create_bucket(Bucket=BUCKET)
    return client("s3")


@pytest.fixture
def queue(queue_name: str) -> SQSQueue:
    """A queue with a bucket for payloads."""
    return SQSQueue(queue_name, payload_buckets=[BUCKET])


def pointer(key: str, bucket: str = BUCKET) -> OutgoingMessage:
    """A message that points to an object."""
    body = ["software.amazon.payloadoffloading.PayloadS3Pointer", {"s3BucketName": bucket, "s3Key": key}]
    return OutgoingMessage(json.dumps(body), {"ExtendedPayloadSize": "1"})


def keys(s3: Any) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def test_an_s3_notification_reaches_its_consumer_by_sns(
    start: Start, project: Project, topic: Topic, client: Callable[[str], Any]
) -> None:
    """An S3 notification sent by SNS to SQS runs the consumers of its event type in a worker."""
    (project.folder / "proj" / "uploads.py").write_text(UPLOADS)
    s3, sns = client("s3"), client("sns")
    arn = sns.create_topic(Name="uploads")["TopicArn"]
    names = ["QueueArn"]
    queue_arn = topic.client.get_queue_attributes(QueueUrl=topic.url, AttributeNames=names)["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn)
    s3.create_bucket(Bucket="uploads")
    s3.put_bucket_notification_configuration(
        Bucket="uploads",
        NotificationConfiguration={
            "TopicConfigurations": [{"TopicArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]
        },
    )
    s3.put_object(Bucket="uploads", Key="a.txt", Body=b"a")
    s3.copy_object(Bucket="uploads", Key="b.txt", CopySource="uploads/a.txt")
    s3.delete_object(Bucket="uploads", Key="a.txt")
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: len(runs) == 3, 60)
    assert project.runs() == {("uploaded", "a.txt"): 1, ("uploaded", "b.txt"): 1, ("copied", "b.txt"): 1}
    assert {entry["cls_type"] for entry in project.entries() if entry["consumer"] == "uploaded"} == {
        "aws.s3.ObjectCreated:Put",
        "aws.s3.ObjectCreated:Copy",
    }
    servers.wait_until(lambda: topic.left() == 0, 60, "the deletes")
    assert "(cls_type aws.s3.ObjectRemoved:Delete, schema 2.1): deleted" in worker.output
    assert stop(worker) == 0
    assert "Traceback" not in worker.output
    assert topic.dead() == []


def send_large(project: Project, topic: Topic, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run `balog send` on these lines."""
    (project.folder / "large.jsonl").write_text("".join(line + "\n" for line in lines))
    command = [*CELERY, "balog", "send", "--topic", topic.name, "large.jsonl"]
    env = {**os.environ, **project.env}
    return subprocess.run(command, cwd=project.folder, env=env, capture_output=True, text=True, timeout=120)


def test_a_large_record_is_not_sent_without_a_bucket(project: Project, topic: Topic) -> None:
    """`balog send` of a too large record without a bucket sends none of its file, and gives advice."""
    refused = send_large(project, topic, event_text("a"), event_text("b", text="x" * MAX_MESSAGE_BYTES))
    assert refused.returncode == 1
    assert f"line 2 of large.jsonl is larger than a message to {topic.name} may be, 1048576 bytes" in refused.stderr
    assert topic.left() == 0


def test_large_records_are_sent_and_consumed(start: Start, project: Project, topic: Topic, s3: Any) -> None:
    """`balog send` and dead letters store large records in the bucket, and a worker consumes them."""
    (project.folder / "proj" / "uploads.py").write_text(UPLOADS)
    project.add(f"balog_payload_bucket = {BUCKET!r}")
    large = event_text("b", "big", text="x" * MAX_MESSAGE_BYTES, fails=True)
    assert send_large(project, topic, event_text("a", "big", text="x"), large).returncode == 0
    assert len(keys(s3)) == 1
    start("worker", "-l", "INFO", "-c", "1", ready=None)
    project.wait_for(lambda runs: len(runs) == 2, 60)
    assert {entry["event"]: entry["size"] for entry in project.entries()} == {"a": 1, "b": MAX_MESSAGE_BYTES}
    dead: list[dict[str, Any]] = []
    servers.wait_until(lambda: dead.extend(topic.dead()) or dead, 60, "the dead letter")
    assert dead[0]["consumer"] == "proj.uploads.big"
    key = json.loads(dead[0]["body"])[1]["s3Key"]
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode() == large
    servers.wait_until(lambda: topic.left() == 0, 60, "the deletes")


def test_a_body_beyond_the_limit_goes_through_s3(queue: SQSQueue, s3: Any, client: Callable[[str], Any]) -> None:
    """A body over the limit is stored in S3 like the Extended Client Library does, once even if it is sent again."""
    large = "é" * (MAX_MESSAGE_BYTES // 2 + 1)
    for _ in range(2):
        assert queue.send([OutgoingMessage("small"), OutgoingMessage(large, {"reason": "failed"})]) == []
    raw = client("sqs").receive_message(
        QueueUrl=queue.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=0
    )["Messages"]
    (key,) = keys(s3)
    (sent, _) = [message for message in raw if message["Body"] != "small"]
    assert json.loads(sent["Body"]) == json.loads(pointer(key).body)
    assert sent["MessageAttributes"] == {
        "reason": {"DataType": "String", "StringValue": "failed"},
        "ExtendedPayloadSize": {"DataType": "Number", "StringValue": str(len(large.encode()))},
    }
    messages = queue.receive(10, 5)
    assert sorted(message.body for message in messages) == ["small", "small", large, large]
    assert queue.delete([message.handle for message in messages]) == []
    assert keys(s3) == [key]


def test_a_dead_letter_beyond_the_limit_keeps_its_attributes(queue_name: str, s3: Any) -> None:
    """A dead letter over the limit keeps its attributes, because its body is in S3."""
    large = "x" * (MAX_MESSAGE_BYTES + 1)
    dead = SQSQueue(f"{queue_name}-dead", payload_buckets=[BUCKET])
    dead.create()
    letters = DeadLetters(lambda name: SQSQueue(name, payload_buckets=[BUCKET]), "{topic}-dead")
    assert letters.send(large, queue_name, "failed", consumer="c") is Outcome.KEPT
    (message,) = dead.receive(1, 5)
    assert message.body == large


@pytest.mark.parametrize(
    "cls", ["software.amazon.payloadoffloading.PayloadS3Pointer", "com.amazon.sqs.javamessaging.MessageS3Pointer"]
)
def test_what_the_extended_client_library_sent_is_received(queue: SQSQueue, s3: Any, cls: str) -> None:
    """Messages of each version of the Extended Client Library are received, with or without their attribute."""
    s3.put_object(Bucket=BUCKET, Key="k/é", Body="hé".encode())
    queue.send([OutgoingMessage(json.dumps([cls, {"s3BucketName": BUCKET, "s3Key": "k/é"}], separators=(",", ":")))])
    (message,) = queue.receive(10, 5)
    assert (message.body, message.problem) == ("hé", "")


@pytest.mark.parametrize(
    ("key", "bucket", "problem"),
    [
        ("k", "others", "its body, k in the S3 bucket others, is not read: balog_payload_bucket does not name that"),
        ("gone", BUCKET, "its body, gone in the S3 bucket payloads, is gone"),
        ("large", BUCKET, "its body, large in the S3 bucket payloads, is larger than 100 bytes (balog_max_body_bytes)"),
        ("binary", BUCKET, "its body, binary in the S3 bucket payloads, is not UTF-8"),
    ],
)
def test_a_body_that_can_never_be_had_is_told(queue_name: str, s3: Any, key: str, bucket: str, problem: str) -> None:
    """A body that can never be read is the message's problem, and the other messages are received."""
    s3.create_bucket(Bucket="others")
    s3.put_object(Bucket="others", Key="k", Body=b"secret")
    s3.put_object(Bucket=BUCKET, Key="large", Body=b"x" * 101)
    s3.put_object(Bucket=BUCKET, Key="binary", Body=b"\xff")
    queue = SQSQueue(queue_name, payload_buckets=[BUCKET], max_body_bytes=100)
    sent = pointer(key, bucket)
    queue.send([sent, OutgoingMessage("other")])
    messages: dict[str, Message] = {}
    servers.wait_until(
        lambda: messages.update({m.body: m for m in queue.receive(10, 1)}) or len(messages) == 2, 60, "both"
    )
    assert messages[sent.body].problem.startswith(problem)
    assert messages["other"].problem == ""


def test_without_a_bucket_no_pointer_is_followed(queue_name: str, s3: Any) -> None:
    """Without a bucket no pointer is followed, so senders cannot make a consumer read other objects."""
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"secret")
    queue = SQSQueue(queue_name)
    queue.send([pointer("k")])
    (message,) = queue.receive(10, 5)
    assert message.body == pointer("k").body
    assert "balog_payload_bucket does not name that bucket" in message.problem


def test_trouble_with_s3_is_not_the_messages_fault(queue_name: str, s3: Any, caplog: pytest.LogCaptureFixture) -> None:
    """During an outage of S3 messages are left out to come again; if none is left, the receive fails and backs off."""
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"body")
    nobody = f"http://127.0.0.1:{servers.free_port()}"
    broken = SQSQueue(queue_name, payload_buckets=[BUCKET], s3_endpoint_url=nobody)
    broken.send([pointer("k")])
    with pytest.raises(QueueError, match=r"s3:GetObject on bucket 'payloads' failed \(EndpointConnectionError"):
        broken.receive(10, 5, 5)
    broken.send([OutgoingMessage("other")])
    seen: list[str] = []

    def left_out() -> bool:
        if broken.attributes()["ApproximateNumberOfMessages"] != "2":
            return False  # one of them would come alone, again and again
        try:
            seen.extend(message.body for message in broken.receive(10, 1, 1))
        except QueueError:
            return False
        return "other" in seen and "will be received again, because its body cannot be read now" in caplog.text

    with caplog.at_level(logging.WARNING):
        servers.wait_until(left_out, 60, "a receive of both")
    assert set(seen) == {"other"}
    well = SQSQueue(queue_name, payload_buckets=[BUCKET])
    servers.wait_until(lambda: "body" in [message.body for message in well.receive(10, 1)], 60, "its body")


def test_a_bucket_that_is_missing_is_named(queue_name: str, sqs: servers.Sqs) -> None:
    """A missing bucket is named in the error, and nothing was sent."""
    queue = SQSQueue(queue_name, payload_buckets=["no-such-bucket"])
    with pytest.raises(QueueError, match=r"s3:PutObject on bucket 'no-such-bucket' failed \(NoSuchBucket"):
        queue.send([OutgoingMessage("x" * (MAX_MESSAGE_BYTES + 1))])
    assert queue.receive(10, 0) == []


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_creating_a_queue_creates_its_bucket(sqs: servers.Sqs, region: str) -> None:
    """Creating a queue creates its bucket once, in any region."""
    for _ in range(2):
        queue = SQSQueue("made", region=region, payload_buckets=[f"made-{region}"])
        queue.create()
        assert queue.send([OutgoingMessage("x" * (MAX_MESSAGE_BYTES + 1))]) == []


def test_the_handler_ships_large_records_to_a_bucket(queue: SQSQueue, s3: Any) -> None:
    """SQSHandler sends large records through a bucket, and refuses them without one."""
    handler = SQSHandler(queue.name, bucket=BUCKET, linger=3600)
    handler.setFormatter(logging.Formatter("%(message)s"))
    texts = [f"{number} " + "x" * MAX_MESSAGE_BYTES * (number % 2) for number in range(6)]
    try:
        for text in texts:
            handler.handle(logging.LogRecord("app", logging.INFO, __file__, 1, text, (), None))
        assert handler.flush(60)
        assert handler.stats() == {"sent": 6, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}
    finally:
        handler.close()
    seen: set[str] = set()
    servers.wait_until(lambda: seen.update(m.body for m in queue.receive(10, 1)) or len(seen) == 6, 60, "all of them")
    assert seen == set(texts)
    assert len(keys(s3)) == 3
