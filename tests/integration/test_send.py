"""send and SQSHandler with an SQS server: ids, groups, delays, attributes, S3, topics."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery
from project import Topic

import servers
from balog_celery import SendError, SQSHandler, asend_many, configure, install, send, send_many
from balog_celery.consumers import ConsumerOperator
from balog_celery.errors import ConfigurationError
from balog_celery.sqs.clients import clients

NULL = {"cls_type": "null"}


@pytest.fixture(autouse=True)
def _own(sqs: servers.Sqs) -> Iterator[None]:
    """Use clients and configuration of this test only."""
    clients.forget()
    yield
    configure()
    clients.forget()


@pytest.fixture
def fifo(topic: Topic) -> tuple[str, str]:
    """Return the name and the URL of a FIFO queue."""
    name = f"orders-{uuid.uuid4().hex[:8]}.fifo"
    return name, topic.client.create_queue(QueueName=name, Attributes={"FifoQueue": "true"})["QueueUrl"]


def received(topic: Topic, url: str) -> list[dict[str, Any]]:
    """Receive and delete all messages of a queue, with all their attributes."""
    found: list[dict[str, Any]] = []
    while messages := topic.client.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
    ).get("Messages"):
        for message in messages:
            topic.client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        found += messages
    return found


def test_an_event_and_its_ids(topic: Topic) -> None:
    """The event id is in the header, and the message id is SQS's."""
    sent = send(NULL, topic=topic.name, attributes={"kind": "test"})
    (message,) = received(topic, topic.url)
    assert (json.loads(message["Body"])["header"]["id"], message["MessageId"]) == (sent.event_id, sent.message_id)
    assert message["MessageAttributes"]["kind"]["StringValue"] == "test"


def test_many_are_sent_ten_in_a_call(topic: Topic) -> None:
    """send_many sends ten events in a call and returns their ids in order."""
    sent = send_many(({"cls_type": "test", "number": number} for number in range(25)), topic=topic.name)
    found = {message["MessageId"]: json.loads(message["Body"]) for message in received(topic, topic.url)}
    assert [found[one.message_id]["payload"]["number"] for one in sent] == list(range(25))


def test_a_delay(topic: Topic) -> None:
    """A delay applies to a message of a standard queue, and is an error on a FIFO queue."""
    send(NULL, topic=topic.name, delay=600)
    attributes = topic.client.get_queue_attributes(QueueUrl=topic.url, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesDelayed"] == "1"
    with pytest.raises(ConfigurationError, match="FIFO"):
        send(NULL, topic="a.fifo", delay=600)


def test_groups_of_a_fifo_queue(topic: Topic, fifo: tuple[str, str]) -> None:
    """The producer chooses groups and deduplication ids, in send and in the handler."""
    name, url = fifo
    for _ in range(2):
        send(NULL, topic=name, group="a", deduplication_id="same")
    send(NULL, topic=name, group=lambda payload: payload["cls_type"])
    handler = SQSHandler(
        name,
        group=lambda record: record.name,
        deduplication_id=lambda record: str(record.lineno),
        attributes=lambda record: {"level": record.levelname},
    )
    for line, logger in enumerate(["b", "c", "c"]):
        handler.handle(logging.LogRecord(logger, logging.INFO, __file__, min(line, 1), "m", (), None))
    assert handler.flush(60)
    handler.close()
    messages = received(topic, url)
    assert sorted(message["Attributes"]["MessageGroupId"] for message in messages) == ["a", "b", "c", "null"]
    levels = [message["MessageAttributes"]["level"] for message in messages if "MessageAttributes" in message]
    assert [level["StringValue"] for level in levels] == ["INFO", "INFO"]


def test_a_handler_whose_group_fails_says_so(
    topic: Topic, fifo: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A record whose group function fails is counted, without an exception in the application."""
    handler = SQSHandler(fifo[0], group=lambda record: record.nothing)  # type: ignore[attr-defined]
    handler.handle(logging.LogRecord("a", logging.INFO, __file__, 1, "m", (), None))
    handler.close()
    assert handler.stats()["refused"] == 1
    assert "could not be made a message" in capfd.readouterr().err
    with pytest.raises(ConfigurationError, match="FIFO"):
        SQSHandler("a.fifo", delay=1)


def test_what_is_too_large(topic: Topic, sqs: servers.Sqs) -> None:
    """An event beyond SQS's limit or a threshold goes to S3 if there is a bucket; else the error names it alone."""
    large = {"cls_type": "test", "text": "x" * 1_100_000}
    with pytest.raises(SendError) as caught:
        send_many([NULL, large, NULL], topic=topic.name)
    assert [failure.index for failure in caught.value.failures] == [1]
    assert sorted(caught.value.sent) == [0, 2]
    assert len(received(topic, topic.url)) == 2
    with closing(sqs.client("s3")) as s3:
        s3.create_bucket(Bucket="payloads")
        configure(bucket="payloads")
        send(large, topic=topic.name)
        (message,) = received(topic, topic.url)
        pointer = json.loads(message["Body"])[1]
        body = s3.get_object(Bucket=pointer["s3BucketName"], Key=pointer["s3Key"])["Body"].read()
        assert json.loads(body)["payload"] == large
        configure(bucket="payloads", payload_threshold=500)
        send_many([NULL, {"cls_type": "test", "text": "x" * 500}], topic=topic.name)
    assert sorted(message["Body"][0] for message in received(topic, topic.url)) == ["[", "{"]


class Operator(ConsumerOperator):
    def __init__(self, env: str) -> None:
        self.env = env

    def get_topic(self, consumer: Any) -> str:
        return str(consumer.topic.format(env=self.env))


def test_the_operator_resolves_topics(topic: Topic) -> None:
    """The operator of the current app or of configure resolves topics; without one a placeholder is an error."""
    begin, end = topic.name.split("-")
    with pytest.raises(ConfigurationError, match="placeholder"):
        send(NULL, topic=f"{begin}-{{env}}")
    configure(operator=Operator(end))
    send(NULL, topic=f"{begin}-{{env}}")
    configure()
    app = Celery("test", broker="memory://", set_as_current=True)
    try:
        install(app, ["shop_consumers"], operator=Operator(end), region="us-east-1")
        send(NULL, topic=f"{begin}-{{env}}")
    finally:
        app.close()
        from celery import _state

        _state._tls.current_app = None
    assert len(received(topic, topic.url)) == 2


def test_the_event_loop_goes_on_meanwhile(topic: Topic) -> None:
    """The event loop runs while asend waits for SQS."""
    closed = f"http://127.0.0.1:{servers.free_port()}/queue/none"

    async def both() -> int:
        ticks = 0
        sending = asyncio.ensure_future(asend_many([NULL], topic=closed, timeout=2.0))
        while not sending.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(SendError):
            await sending
        return ticks

    assert asyncio.run(both()) > 3  # one or none, if asend blocked the loop


def test_a_queue_that_is_not_there_is_reported_at_once(topic: Topic) -> None:
    """A missing queue is an error at once, without retries."""
    began = time.monotonic()
    with pytest.raises(SendError, match="there is no queue"):
        send(NULL, topic="test-nowhere", timeout=60)
    assert time.monotonic() - began < 30
