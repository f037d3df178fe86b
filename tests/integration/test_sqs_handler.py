"""SQSHandler with an SQS server."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from typing import Any

import servers
from balog_celery import SQSHandler, get_logger
from balog_celery.events.records import decode


def received(sqs: servers.Sqs, queue_name: str, count: int) -> list[str]:
    """*count* bodies from the queue, and no more than there are."""
    found: list[str] = []
    with closing(sqs.client()) as client:
        url = client.get_queue_url(QueueName=queue_name)["QueueUrl"]
        while len(found) < count:
            answer: dict[str, Any] = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5)
            assert answer.get("Messages"), f"only {len(found)} messages came"
            found += [message["Body"] for message in answer["Messages"]]
        assert not client.receive_message(QueueUrl=url, WaitTimeSeconds=0).get("Messages")
    return found


def test_records_reach_the_queue(sqs: servers.Sqs, queue_name: str) -> None:
    """Records of this package's loggers and of plain ones reach the queue, each once."""
    logger = logging.getLogger("test.shipping")
    handler = SQSHandler(queue_name)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        for number in range(23):
            get_logger("test.shipping").info("done", payload={"cls_type": "test-ship", "number": number, "text": "é\0"})
        logger.error("plain")
        assert handler.flush(60)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert handler.stats() == {"sent": 24, "dropped": 0, "refused": 0, "withheld": 0, "waiting": 0}
    records = [decode(body) for body in received(sqs, queue_name, 24)]
    numbers = sorted(record.payload.number for record in records if record.payload.cls_type == "test-ship")  # type: ignore[attr-defined]
    assert numbers == list(range(23))
    assert len({record.header.id for record in records}) == 24


def test_a_queue_that_is_made_later_gets_what_was_logged_before(sqs: servers.Sqs) -> None:
    """Records that were logged while the queue was missing are sent when it exists."""
    handler = SQSHandler("test-later", linger=3600)
    handler.handle(logging.LogRecord("app", logging.INFO, __file__, 1, "early", (), None))
    assert not handler.flush(0.2)
    with closing(sqs.client()) as client:
        client.create_queue(QueueName="test-later")
    assert handler.flush(60)
    handler.close()
    (body,) = received(sqs, "test-later", 1)
    assert json.loads(body)["payload"]["message"] == "early"
