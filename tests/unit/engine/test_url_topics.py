"""Topics given as URLs: their dead letters are in the same account and region."""

from __future__ import annotations

from typing import Any

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.engine import Engine
from engines import Queues, running
from sample_events import event_text, mark_of
from scripted_sqs.observed import ObservedQueue

#: Queues with the same name in another account, in another region and in an emulator.
TOPICS = [
    "https://sqs.eu-west-1.amazonaws.com/210987654321/orders",
    "https://sqs.ap-south-1.amazonaws.com/123456789012/orders",
    "https://vpce-1a-2b.sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders",
    "http://localhost:4566/000000000000/orders",
]


def failing(_event: Any) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("topic", TOPICS)
def test_dead_letters_of_a_url_are_in_its_region_and_account(topic: str) -> None:
    """Dead letters of a URL's topic go to its region and account, and name the topic by its URL."""
    queues = Queues({topic: ObservedQueue("orders", ["not json", event_text("unmatched")])})
    beside = queues[f"{topic}-dead"] = ObservedQueue("orders-dead")
    own = queues["orders-dead"] = ObservedQueue("orders-dead")
    hub = ConsumerHub()
    hub.add_consumer(Consumer(failing, topic, cls_type="log"))
    with running(Engine(hub, queues.__getitem__, linger=0.0, default_event_handler=failing)):
        queues[topic].wait_for(lambda: sorted(queues[topic].deleted) == ["m1", "m2"])
    assert sorted(mark_of(message)["reason"] for message in beside.sent) == ["default_event_handler", "undecodable"]
    assert {mark_of(message)["topic"] for message in beside.sent} == {topic}
    assert not own.sent
