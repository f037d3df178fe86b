"""Numbers that Python refuses to read or write block no message group and cost no other event."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.engine import Engine
from balog_celery.events.mark import MARK
from balog_celery.sqs.messages import EntryFailure, Message, TypedValue
from engines import running
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue
from servers import wait_until

#: Python's limit for an int is 4,300 digits; a float's is 1e308.
NUMBERS = ["9" * 5000, "-" + "9" * 5000, "0." + "1" * 5000, "1e400", "1e5000", "9" * 5000 + "e5000", "1" * 200]

#: A body with a place for a number.
BODIES = {
    "schema": event_text("bad").replace('"0.0.1"', '"@"'),
    "schema with points": event_text("bad").replace('"0.0.1"', '"1.@.2"'),
    "schema, no text": event_text("bad").replace('"0.0.1"', "@"),
    "id": event_text("@"),
    "id, no text": event_text("bad").replace('"bad"', "@"),
    "channel": event_text("bad").replace('"a.done"', "@"),
    "timestamp": event_text("bad").replace('"2014-10-07T15:06:51.641083+00:00"', "@"),
    "timestamp, a text": event_text("bad").replace("2014-10-07T15:06:51.641083+00:00", "@"),
    "year": event_text("bad").replace("2014-10-07", "@-10-07"),
    "fraction": event_text("bad").replace("641083", "@"),
    "context": event_text("bad").replace('"context": {}', '"context": {"n": @}'),
    "header": event_text("bad").replace('"context": {}', '"context": {}, "more": @'),
    "record": event_text("bad").replace('"schema"', '"more": [@], "schema"'),
    "payload": event_text("bad", "other", n="here").replace('"here"', "@"),
    "payload, deep": event_text("bad", "other", n="here").replace('"here"', '{"a": [{"b": @}]}'),
    "payload, a text": event_text("bad", "other", n="@"),
    "cls_type": event_text("bad").replace('"metrics"', "@"),
    "metric": event_text("bad", values=[{"name": "n", "value": "here"}]).replace('"here"', "@"),
    "metric, a text": event_text("bad", values=[{"name": "n", "value": "@"}]),
    "CloudEvent": '{"specversion": "1.0", "type": "t", "source": "s", "id": "bad", "data": {"n": @}}',
    "CloudEvent's time": '{"specversion": "1.0", "type": "t", "source": "s", "id": "bad", "time": "@"}',
    "CloudEvent's extension": '{"specversion": "1.0", "type": "t", "source": "s", "id": "bad", "more": @}',
    "EventBridge": '{"version": "0", "id": "bad", "source": "s", "account": "1", "time": "2020-01-01T00:00:00Z", '
    '"region": "r", "resources": [], "detail-type": "t", "detail": {"n": @}}',
    "SNS": json.dumps({"Type": "Notification", "MessageId": "m", "TopicArn": "a", "Message": '{"n": @}'}),
    "S3": '{"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", '
    '"eventTime": "2020-01-01T00:00:00Z", "s3": {"bucket": {"name": "b"}, "object": {"key": "k", "size": @}}}]}',
    "object": '{"n": @}',
    "number": "@",
}

#: The attributes of a message whose body is good.
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Number": {"typed": {"n": TypedValue("Number", "@")}},
    "text": {"attributes": {"n": "@"}},
    "mark": {"attributes": {MARK: '{"receive_count": @, "sent": @}'}},
    "mark, texts": {"attributes": {MARK: '{"first_received": "@", "sent": "@"}'}},
    "size of a body in S3": {"typed": {"ExtendedPayloadSize": TypedValue("Number", "@")}},
    "CloudEvents": {"attributes": {"ce_specversion": "1.0", "ce_id": "@", "ce_type": "t", "ce_source": "s"}},
}


def put(value: Any, number: str) -> Any:
    """Return *value* with *number* in the place of @."""
    if isinstance(value, TypedValue):
        return TypedValue(value.type, put(value.value, number))
    if isinstance(value, str):
        return value.replace("@", number)
    return {key: put(one, number) for key, one in value.items()}


class Given(ObservedQueue):
    """A queue that gives messages as no SQS would take them, and notes which are deleted."""

    def __init__(self, topic: str, given: list[Message]) -> None:
        super().__init__(topic)
        self._given = given
        self.done: list[str] = []

    def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
        taken, self._given = self._given, []
        if not taken:
            return super().receive(limit, wait, visibility)
        return [message._replace(received=time.monotonic()) for message in taken]

    def delete(self, handles: Sequence[str]) -> list[EntryFailure]:
        self.done += handles
        return []


def serve(topic: str, bad: list[Message]) -> tuple[Engine, list[str], ObservedQueue]:
    """Serve *bad*, each in a group of its own with a good event behind it; return what was processed."""
    hub, ids = ConsumerHub(), list[str]()

    def process(event: dict[str, Any]) -> None:
        ids.append(event["header"]["id"])

    hub.add_consumer(Consumer(process, topic, name="by_version", version=">=0.0.1"))
    hub.add_consumer(Consumer(process, topic, name="by_content", where={"payload": {"n": [{"numeric": [">", 5]}]}}))
    given: list[Message] = []
    for number, message in enumerate(bad):
        group = {"group": str(number)} if topic.endswith(".fifo") else {}
        behind = Message(event_text(f"behind {number}"), f"b{number}", f"b{number}", 0.0, **group)
        given += [message._replace(handle=f"a{number}", message_id=f"a{number}", **group), behind]
    expected, queue = len(given), Given(topic, given)
    dead = ObservedQueue(topic.replace("topic", "topic-dead"))
    engine = Engine(hub, {queue.name: queue, dead.name: dead}.__getitem__)
    with running(engine):
        wait_until(lambda: len(queue.done) == expected)
    return engine, ids, dead


@pytest.mark.parametrize("topic", ["topic", "topic.fifo"])
@pytest.mark.parametrize("where", [*BODIES, *ATTRIBUTES])
def test_a_number_costs_no_other_event(topic: str, where: str) -> None:
    """Its own event is processed, unmatched or a dead letter, and the engine has not failed with it."""
    if where in BODIES:
        bad = [Message(BODIES[where].replace("@", number), "", "", 0.0) for number in NUMBERS]
    else:
        bad = [Message(event_text("good"), "", "", 0.0, **put(ATTRIBUTES[where], number)) for number in NUMBERS]
    engine, ids, dead = serve(topic, bad)
    assert {f"behind {number}" for number in range(len(NUMBERS))} <= set(ids)
    counts = engine.stats.of(topic)
    assert "faults" not in counts
    assert "failed" not in counts
    assert len(dead.sent) == counts.get("undecodable", 0)
