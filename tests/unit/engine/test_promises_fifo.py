"""A FIFO topic whose order cannot be kept is an error, and is not served in disorder."""

from __future__ import annotations

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.engine import Engine
from balog_celery.errors import ConfigurationError
from engines import Queues, Recorder
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue


@pytest.mark.parametrize("count", [1, 2])
def test_a_fifo_message_without_a_group_ends_the_engine(count: int) -> None:
    """As of servers that know only ``AttributeNames``: nothing of the receive is run, and all of it is released."""
    queue = ObservedQueue("topic.fifo", [event_text(str(number)) for number in range(count)])
    queue.store.ignored.add("MessageSystemAttributeNames")
    recorder, hub = Recorder(), ConsumerHub()
    hub.add_consumer(Consumer(recorder.process, "topic.fifo"))
    with pytest.raises(ConfigurationError, match="messages come without a MessageGroupId"):
        Engine(hub, Queues({"topic.fifo": queue}).__getitem__).run()
    assert recorder.ids == []
    assert queue.released == [f"m{number + 1}" for number in range(count)]
