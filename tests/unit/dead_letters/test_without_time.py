"""A broker that does not say when a message was sent: the events without a time are the same on every way back."""

from __future__ import annotations

import json
from typing import Any

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.dead_letters.reader import DeadLetter
from balog_celery.engine.engine import Engine
from balog_celery.events.decoders import auto, reader_of
from balog_celery.sqs.messages import Message
from engines import Queues, running, with_dead_letters
from scripted_sqs.observed import ObservedQueue

BODY = json.dumps({"specversion": "1.0", "type": "t", "source": "s", "id": "1"})


class Timeless(ObservedQueue):
    """A queue that does not say when a message was sent."""

    def receive(self, limit: int, wait: float, visibility: int | None = None) -> list[Message]:
        return [message._replace(sent=0) for message in super().receive(limit, wait, visibility)]


def test_an_event_without_a_time_keeps_that_of_its_first_receive() -> None:
    """Given no time, when the event fails and its dead letter is replayed, then it has the time it failed with."""
    seen: list[Any] = []

    def fail(event: Any) -> None:
        seen.append(event["header"]["timestamp"])
        raise ValueError("no")

    hub, queues = ConsumerHub(), Queues()
    hub.add_consumer(Consumer(fail, "topic"))
    dead = with_dead_letters(queues)
    queues["topic"] = Timeless("topic", [BODY])
    engine = Engine(hub, queues.__getitem__, wait_time=0)
    with running(engine):
        dead.wait_for(lambda: bool(dead.sent))
    (sent,) = dead.sent
    attributes: Any = sent.attributes
    letter = DeadLetter.read(Message(sent.body, "h", "m", 0.0, attributes=attributes), reader_of(auto), "topic")
    again = Message(sent.body, "h", "other", 0.0, attributes=letter.attributes_again())  # type: ignore[arg-type]
    ((replayed, _),) = reader_of(auto)(again)
    assert letter.event is not None
    assert [letter.event.header.timestamp, replayed.header.timestamp] == [seen[0], seen[0]]
