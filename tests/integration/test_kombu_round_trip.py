"""On RabbitMQ and Redis, too, a dead letter is the message as it came, and every way back gives the same event."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kombu import Connection, Producer

from balog_celery.brokers.kombu_queue import KombuQueue
from balog_celery.consumers.context import EventContext
from balog_celery.dead_letters.original import OriginalMessage
from balog_celery.dead_letters.reader import DeadLetter
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.events.decoders import Message as Decoded
from balog_celery.events.decoders import auto, reader_of
from balog_celery.events.records import as_event
from balog_celery.sqs.messages import Message, OutgoingMessage
from decoder_cases import CASES
from servers import wait_until

#: Headers of all kinds.
HEADERS = {"mine": "1", "n": 1, "f": 1.5, "yes": True, "nothing": None, "list": ["a", 1], "deep": {"a": [None]}}


class Stage:
    """A topic and its dead-letter queue on one broker."""

    def __init__(self, url: str) -> None:
        self.url = url
        name = f"events-{uuid.uuid4().hex[:8]}"
        self.topic, self.dead = KombuQueue(name, url), KombuQueue(f"{name}-dead", url)
        for queue in (self.topic, self.dead):
            queue.create()
        self.letters = DeadLetters(lambda _name: self.dead, "{topic}-dead")

    def publish(self, body: str, headers: dict[str, Any], content_type: str = "application/json") -> Message:
        """Publish a message to the topic, as another program does, and take it."""
        with Connection(self.url) as connection:
            Producer(connection.channel()).publish(
                body.encode(),
                routing_key=self.topic.name,
                content_type=content_type,
                content_encoding="utf-8",
                headers=headers,
                message_id=uuid.uuid4().hex,
                timestamp=1_700_000_000,
            )
        return take(self.topic)

    def close(self) -> None:
        for queue in (self.topic, self.dead):
            queue.close()


def take(queue: KombuQueue) -> Message:
    (message,) = wait_until(lambda: queue.receive(1, 1), what="a message")
    assert queue.delete([message.handle]) == []
    return message


@pytest.fixture(params=["redis", "rabbitmq"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A topic on each broker."""
    server = request.getfixturevalue({"redis": "valkey_server"}.get(request.param, request.param))
    with closing(Stage(server.url)) as one:
        yield one


@pytest.mark.parametrize("group", range(4))
def test_every_way_back_gives_the_same_event(stage: Stage, group: int) -> None:
    """Given an event that failed, when its dead letter is replayed or sent back, then it is the same event."""
    for case in sorted(CASES)[group::4]:
        decoder, body, attributes = CASES[case]
        headers = {**HEADERS, **attributes}
        reader = reader_of(decoder, stage.topic.name)
        for position in range(len(reader(stage.publish(body, headers)))):
            message = stage.publish(body, headers)
            event, text = reader(message)[position]
            context = EventContext(
                event.header.id, "", {}, original=OriginalMessage.of(message, text, len(reader(message)))
            )
            original = EventContext.from_headers(json.loads(json.dumps(context.to_headers()))).original
            failed = {"consumer": "f", "event_id": event.header.id, "original": original}
            assert stage.letters.send(text, stage.topic.name, "failed", **failed), case
            # What `dead replay` gives to the consumer
            letter = DeadLetter.read(take(stage.dead), reader, stage.topic.name)
            assert (letter.event, letter.text, letter.consumer) == (event, text, "f"), case
            assert (letter.message.body, letter.original_id) == (body, message.message_id), case
            assert letter.attributes == message.all_attributes, case
            # What `replay` gives to the topic, and what any other program that moves messages does
            for again in (letter.attributes_again(), letter.message.all_attributes):
                assert stage.topic.send([OutgoingMessage(body, again)]) == []
                moved = take(stage.topic)
                assert any(one == event for one, _ in reader(moved)), case
                assert OriginalMessage.of(moved, text, 1).attributes == message.all_attributes, case


def test_headers_of_all_kinds_come_as_attributes(stage: Stage) -> None:
    """Given headers of all kinds, when a message is read, then texts, numbers and lists are as on SQS."""
    expected = {"mine": "1", "n": "1", "f": "1.5", "yes": "true", "nothing": "null", "list": ["a", 1]}
    assert Decoded.of(stage.publish("{}", HEADERS)).attributes == {**expected, "deep": '{"a": [null]}'}


@pytest.mark.parametrize(("content_type", "data"), [("text/plain", "3"), ("application/json", 3)])
def test_the_content_type_of_a_cloudevent_is_the_messages(stage: Stage, content_type: str, data: Any) -> None:
    """Given a CloudEvent in binary mode, as AMQP has it, then the message's content type decides what its data is."""
    event_of = {"specversion": "1.0", "type": "t", "source": "s", "id": "1", "time": "2024-01-01T00:00:00Z"}
    headers = {f"cloudEvents:{name}": value for name, value in event_of.items()}
    message = stage.publish("3", headers, content_type)
    ((event, _),) = reader_of(auto)(message)
    payload = as_event(event)["payload"]
    assert (payload["data"], payload["datacontenttype"]) == (data, content_type)
    # Sent again, it is the same.
    assert stage.topic.send([OutgoingMessage(message.body, message.all_attributes)]) == []
    assert reader_of(auto)(take(stage.topic))[0][0] == event
