"""Messages with which the engine itself fails, over a real SQS."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

import servers
from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.sqs_engine import SQSEngine
from balog_celery.events.mark import MARK
from balog_celery.events.records import FacilityRecord, decode
from sample_events import event_text

POISON = event_text("A2")


@pytest.fixture
def client(sqs: servers.Sqs) -> Iterator[Any]:
    """boto3's client of SQS."""
    with closing(sqs.client()) as client:
        yield client


def reader(body: str) -> list[FacilityRecord]:
    """A decoder that ends the thread at one body, as none should."""
    if body == POISON:
        raise SystemExit(3)
    return [decode(body)]


def test_a_fifo_group_goes_on_after_a_message_that_makes_the_engine_fail(client: Any) -> None:
    """After a poison message becomes a dead letter, the rest of its group is processed once and in order."""
    topic = f"events-{uuid.uuid4().hex[:12]}.fifo"
    dead = topic.replace(".fifo", "-dead.fifo")
    attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    urls = [client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"] for name in (topic, dead)]
    bodies = [event_text("A1"), POISON, event_text("A3"), event_text("B1"), event_text("A4", schema="1" * 1000)]
    for body in bodies:
        group = "B" if '"B1"' in body else "A"
        client.send_message(QueueUrl=urls[0], MessageBody=body, MessageGroupId=group)
    ran: list[str] = []
    hub = ConsumerHub()
    hub.add_consumer(Consumer(lambda event: ran.append(event["header"]["id"]), topic))
    hub.add_consumer(Consumer(lambda event: ran.append("a version"), topic, version=">2", name="versions"))
    engine = SQSEngine(hub, visibility_timeout=2, wait_time=1, decoders={topic: reader})
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:

        def left() -> int:
            numbers = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
            answer = client.get_queue_attributes(QueueUrl=urls[0], AttributeNames=numbers)
            return sum(map(int, answer["Attributes"].values()))

        servers.wait_until(lambda: left() == 0, 60, "all of them")
    finally:
        engine.stop()
        thread.join(60)
    assert [name for name in ran if name[0] == "A"] == ["A1", "A3", "A4"]
    assert sorted(ran) == ["A1", "A3", "A4", "B1"]
    answer = client.receive_message(QueueUrl=urls[1], MaxNumberOfMessages=10, MessageAttributeNames=["All"])
    (letter,) = answer["Messages"]
    failure = json.loads(letter["MessageAttributes"][MARK]["StringValue"])
    assert letter["Body"] == POISON
    assert (failure["reason"], failure["group"], failure["receive_count"]) == ("fault", "A", 3)
