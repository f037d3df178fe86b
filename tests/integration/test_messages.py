"""Message attributes and forwarded pointers over a real SQS."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest

import servers
from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.decoders import At, Attribute, JSONMapping
from balog_celery.engine.sqs_engine import SQSEngine
from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from engines import running, sample

CLOUDEVENT = {"ce-specversion": "1.0", "ce-type": "placed", "ce-source": "/shop", "ce-id": "1", "ce-tenant": "a"}


class Consumed:
    """The types and ids of the events that consumers got."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.hub = ConsumerHub()
        self.events: dict[str, list[tuple[str, str]]] = {}

    def add(self, name: str, **wanted: Any) -> None:
        """Add a consumer of that name."""
        self.events[name] = []

        def func(event: dict[str, Any]) -> None:
            self.events[name].append((event["payload"]["cls_type"], event["header"]["id"]))

        self.hub.add_consumer(Consumer(func, self.topic, name=name, **wanted))

    def run_until(self, count: int, **options: Any) -> None:
        """Run an engine until that many events were consumed."""
        with running(SQSEngine(self.hub, wait_time=1, **options)):
            servers.wait_until(lambda: sum(map(len, self.events.values())) >= count, 60, "the events")


def test_cloudevents_in_binary_mode_come_with_their_attributes(queue_name: str) -> None:
    """Consumers select CloudEvents in binary mode by attributes; only attributes that are read are received."""
    consumed = Consumed(queue_name)
    consumed.add("any")
    consumed.add("b", where={"attributes.ce-tenant": ["b"]})
    consumed.add("a", where={"attributes.ce-tenant": [{"prefix": "a"}], "payload.data.n": [1]})
    SQSQueue(queue_name).send([OutgoingMessage('{"n": 1}', CLOUDEVENT)])
    consumed.run_until(2)
    assert consumed.events == {"any": [("placed", "/shop 1")], "b": [], "a": [("placed", "/shop 1")]}


def test_a_webhook_is_mapped_by_an_attribute(queue_name: str) -> None:
    """A webhook is mapped by an attribute, and two equal ones are two events by their message ids."""
    consumed = Consumed(queue_name)
    consumed.add("any")
    mapping = JSONMapping(cls_type=Attribute("X-GitHub-Event"), channel=At("repository"))
    SQSQueue(queue_name).send([OutgoingMessage('{"repository": "r"}', {"X-GitHub-Event": "push"})] * 2)
    consumed.run_until(2, decoders={queue_name: mapping})
    assert [cls_type for cls_type, _ in consumed.events["any"]] == ["push", "push"]
    assert len(set(consumed.events["any"])) == 2


@pytest.mark.parametrize("indent", [None, 2])
def test_a_pointer_in_an_envelope_of_sns_is_followed(queue_name: str, sqs: servers.Sqs, indent: int | None) -> None:
    """A payload in S3 to which an SNS envelope points is read as if it were in the envelope."""
    place = {"s3BucketName": "payloads", "s3Key": "k"}
    pointer = json.dumps(["software.amazon.payloadoffloading.PayloadS3Pointer", place], indent=indent)
    with closing(sqs.client("s3")) as s3:
        s3.create_bucket(Bucket="payloads")
        s3.put_object(Bucket="payloads", Key="k", Body=sample("eventbridge-ec2").encode())
    SQSQueue(queue_name).send([OutgoingMessage(json.dumps({**json.loads(sample("sns")), "Message": pointer}))])
    consumed = Consumed(queue_name)
    consumed.add("any", where={"header.context.sns.TopicArn": [{"suffix": ":MyTopic"}]})
    consumed.run_until(1, payload_bucket="payloads")
    ((cls_type, event_id),) = consumed.events["any"]
    assert (cls_type, event_id) == (
        "aws.events.aws.ec2.EC2 Instance State-change Notification",
        "7bf73129-1428-4cd3-a780-95db273d1602",
    )
