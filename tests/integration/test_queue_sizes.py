"""The size limit of the queue at hand decides what goes to S3, and how a dead letter is kept."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery

import servers
from balog_celery import SQSHandler, install
from balog_celery.consumers import consumer_config
from balog_celery.dead_letters.reader import DeadLetter
from balog_celery.dead_letters.writer import DeadLetters, Outcome
from balog_celery.events.decoders import auto, reader_of
from balog_celery.operations.checks.run import check
from balog_celery.sqs.messages import Message, OutgoingMessage, TypedValue
from balog_celery.sqs.queues import SQSQueue
from sample_events import event_text

SMALL = 262_144
TOPIC = f"sized-{uuid.uuid4().hex[:8]}"


@consumer_config(TOPIC)
def consume(event: Any) -> None: ...


@pytest.fixture
def name(sqs: servers.Sqs) -> Iterator[str]:
    """A queue that takes 256 KiB, and its dead-letter queue, which does too."""
    name = f"small-{uuid.uuid4().hex[:8]}"
    with closing(sqs.client()) as client:
        for queue in (name, f"{name}-dead"):
            client.create_queue(QueueName=queue, Attributes={"MaximumMessageSize": str(SMALL)})
        yield name


def test_a_body_that_the_queue_does_not_take_goes_to_the_bucket(name: str) -> None:
    """As one beyond a threshold does; the receiver reads it from there."""
    bucket = f"bucket-{name}"
    queue = SQSQueue(name, payload_buckets=[bucket])
    queue.payloads.create_buckets()
    assert queue.max_message_bytes == SMALL
    assert queue.send([OutgoingMessage("x" * 300_000), OutgoingMessage("y" * 200_000)]) == []
    picky = SQSQueue(name, payload_buckets=[bucket], payload_threshold=100)
    assert picky.send([OutgoingMessage("z" * 101)]) == []
    plain = {message.body[0]: message for message in SQSQueue(name).read(10, 0, 0)}
    assert {first: message.problem != "" for first, message in plain.items()} == {"[": True, "y": False}
    assert sorted(message.body[0] for message in queue.receive(10, 0, 30)) == ["x", "y", "z"]


def test_a_handler_has_a_threshold_too(name: str) -> None:
    """A handler's larger records go to the bucket, and smaller ones stay in their messages."""
    bucket = f"bucket-{name}"
    queue = SQSQueue(name, payload_buckets=[bucket])
    queue.payloads.create_buckets()
    handler = SQSHandler(name, bucket=bucket, payload_threshold=2000)
    handler.setFormatter(logging.Formatter())
    with closing(handler):
        for text in ("s" * 1999, "l" * 2001):
            handler.handle(logging.makeLogRecord({"name": "app", "msg": text}))
        assert handler.flush(30)
    plain = {message.body[0] for message in SQSQueue(name).read(10, 0, 0)}
    assert plain == {"s", "["}
    assert {message.body[0] for message in queue.receive(10, 0, 30)} == {"s", "l"}


def test_without_a_bucket_the_queue_refuses_it(name: str) -> None:
    """And says so of that message alone, or of the batch."""
    assert DeadLetters(SQSQueue, "{topic}-dead").send("x" * (SMALL + 1), name, "failed") is Outcome.REFUSED


@pytest.mark.parametrize("size", [SMALL, SMALL - 150, SMALL - 3000, SMALL + 1])
def test_a_dead_letter_is_kept_whatever_its_size(name: str, size: int) -> None:
    """With a bucket for what the queue does not take; a body that just fits is worth more than what is added."""
    bucket = f"bucket-{name}"
    queue = SQSQueue(f"{name}-dead", payload_buckets=[bucket])
    queue.payloads.create_buckets()
    body = event_text("large", "order", text="")
    body = event_text("large", "order", text="x" * (size - len(body)))
    message = Message(body, "h", "m1", 0.0, attributes={"mine": "1"}, typed={"n": TypedValue("Binary", b"\xff")})
    letters = DeadLetters(lambda _: queue, "{topic}-dead")
    assert letters.send_received(message, body, name, "failed", consumer="c", error="e" * 900, event_id="large")
    (kept,) = queue.read(10, 0, 30)
    letter = DeadLetter.read(kept, reader_of(auto), name)
    assert (letter.message.body, letter.problem) == (body, "")
    if size not in (SMALL, SMALL - 150):
        assert letter.attributes["n"] == TypedValue("Binary", b"\xff")
        assert (letter.attributes["mine"], letter.consumer, letter.original_id) == ("1", "c", "m1")


@pytest.mark.parametrize(("of_topic", "of_dead", "warns"), [(1_048_576, SMALL, True), (SMALL, SMALL, False)])
def test_check_warns_of_a_dead_letter_queue_that_takes_less(
    sqs: servers.Sqs, of_topic: int, of_dead: int, warns: bool
) -> None:
    """Then a failed event of the topic might be kept nowhere."""
    with closing(sqs.client()) as client:
        for queue, size in ((TOPIC, of_topic), (f"{TOPIC}-dead", of_dead)):
            url = client.create_queue(QueueName=queue)["QueueUrl"]
            client.set_queue_attributes(QueueUrl=url, Attributes={"MaximumMessageSize": str(size)})
    app = install(Celery("sizes", broker="memory://", set_as_current=False), packages=[__name__])
    texts = [finding.text for finding in check(app) if finding.about == f"topic {TOPIC}, dead letters"]
    expected = f"{TOPIC}-dead takes {of_dead} bytes, less than the topic's {of_topic}: make its MaximumMessageSize"
    assert any(expected in text for text in texts) is warns
    app.close()
