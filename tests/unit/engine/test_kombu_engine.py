"""KombuQueue and KombuEngine without a server, on kombu's broker in memory; real ones are in tests/integration."""

from __future__ import annotations

import threading
import uuid
from contextlib import closing
from typing import Any

import pytest
from celery import Celery
from celery.app.utils import filter_hidden_settings
from kombu import Connection

import balog_celery
from balog_celery.brokers.kombu_queue import KombuQueue
from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.kombu_engine import KombuEngine
from balog_celery.errors import ConfigurationError
from balog_celery.sqs.messages import OutgoingMessage
from sample_events import event_text

BAD_URLS = ["nonsense://guest:hush@host", "amqp://guest:hush/hush@host:hush/", "os.path://guest:hush@host"]


@pytest.fixture
def name() -> str:
    """The name of a queue of this test's own: the broker in memory is one for all."""
    return f"q-{uuid.uuid4().hex}"


def test_a_queue_in_memory_is_a_queue(name: str) -> None:
    """A KombuQueue works over any kombu transport, such as the one in memory."""
    queue = KombuQueue(name, "memory://")
    assert not queue.exists()
    queue.create()
    assert queue.exists()
    assert queue.send([OutgoingMessage("a"), OutgoingMessage("b")]) == []
    one, two = queue.receive(10, 1)
    assert queue.change_visibility([one.handle], 0) == []
    assert [failure.index for failure in queue.delete([two.handle, one.handle])] == [1]
    (again,) = queue.receive(10, 1)
    assert (again.body, again.message_id) == ("a", one.message_id)
    assert queue.delete([again.handle]) == []
    queue.close()


@pytest.mark.parametrize("named", ["i" * 256, 10**4299, ["a"], [[[{}]]], ""])
@pytest.mark.parametrize("count", [10**4300 - 1, 2**31, -1, "3", 1.5, None, [1]])
def test_what_a_publisher_claims_of_a_message_is_not_believed_blindly(name: str, named: Any, count: Any) -> None:
    """A malformed id or delivery count of a publisher is replaced."""
    with closing(KombuQueue(name, "memory://")) as queue, Connection("memory://") as connection:
        queue.create()
        producer = connection.Producer()
        for number in range(2):
            producer.publish(f"b{number}", routing_key=name, message_id=named, headers={"x-delivery-count": count})
        messages = queue.receive(10, 1)
        assert [message.receive_count for message in messages] == [1, 1]
        assert len({message.message_id for message in messages}) == 2
        assert all(0 < len(message.message_id) <= 255 for message in messages)
        assert queue.delete([message.handle for message in messages]) == []


@pytest.mark.parametrize("named", ["i" * 255, "1", 7])
def test_what_a_broker_says_of_a_message_is(name: str, named: Any) -> None:
    """A message's id, receive count and attributes are those that the broker reports."""
    with closing(KombuQueue(name, "memory://")) as queue, Connection("memory://") as connection:
        queue.create()
        connection.Producer().publish("b", routing_key=name, message_id=named, headers={"x-delivery-count": 2})
        (message,) = queue.receive(10, 1)
        assert (message.message_id, message.receive_count) == (str(named), 3)
        assert queue.delete([message.handle]) == []


def test_an_engine_in_memory_processes_events(name: str) -> None:
    """An engine on a broker in memory processes events, and keeps failed ones as dead letters."""
    queue, dead = KombuQueue(name, "memory://"), KombuQueue(f"{name}-dead", "memory://")
    queue.create()
    dead.create()
    queue.send([OutgoingMessage(event_text("a")), OutgoingMessage("bad")])
    ids: list[str] = []
    hub = ConsumerHub()
    engine = KombuEngine(hub=hub, url="memory://")

    def process(event: dict[str, Any]) -> None:
        ids.append(event["header"]["id"])

    hub.add_consumer(Consumer(process, name))
    thread = threading.Thread(target=engine.run)
    thread.start()
    letters = []
    for _ in range(20):
        letters += dead.receive(10, 1)
        if letters and ids:
            break
    engine.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert ids == ["a"]
    assert [letter.body for letter in letters] == ["bad"]
    assert queue.receive(10, 0) == []
    assert dead.delete([letter.handle for letter in letters]) == []
    for one in (queue, dead):
        one.close()


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_url_is_an_error_at_once_without_the_password(url: str) -> None:
    """A bad URL is an error at once that says how to write one, without the password."""
    with pytest.raises(ConfigurationError, match="kombu cannot use the URL of the broker") as error:
        KombuEngine(ConsumerHub(), url)
    assert "hush" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_missing_queue_is_an_error_at_start(name: str) -> None:
    """A missing queue is an error at start, as on SQS."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(print, name))
    with pytest.raises(ConfigurationError, match=f"there is no queue '{name}' on the broker"):
        KombuEngine(hub, "memory://").run()


def test_queues_are_created_if_asked_for(name: str) -> None:
    """With create_queues the queue of the topic and its dead-letter queue are created."""
    hub = ConsumerHub()
    hub.add_consumer(Consumer(print, name))
    engine = KombuEngine(hub, "memory://", create_queues=True)
    engine.stop()
    engine.run()
    assert all(KombuQueue(queue, "memory://").exists() for queue in (name, f"{name}-dead"))


def test_an_app_listens_to_the_broker_that_its_setting_names(name: str) -> None:
    """With balog_event_broker_url topics and dead letters are on that broker, without a local stack."""
    app = Celery("proj", set_as_current=False)
    balog_celery.install(app, event_broker_url="memory://")
    assert isinstance(app.balog.connect(name), KombuQueue)
    assert app.balog.dead_letters.name("team/events") == "team/events-dead"
    assert not app.balog.local


def test_the_password_is_shown_nowhere() -> None:
    """Neither the settings nor ``celery report`` and ``inspect conf`` show the password."""
    url = "redis://:hush@host:6379/0"
    app = Celery("proj", set_as_current=False)
    app.conf.update(
        balog_event_broker_url=url, balog_event_broker_transport_options={"sentinel_kwargs": {"password": "hush"}}
    )
    balog_celery.install(app)
    queue = app.balog.connect("events")
    assert "hush" not in repr(app.balog.settings) + repr(queue)
    assert "hush" not in repr(filter_hidden_settings(dict(app.conf)))
    assert queue._session.connection.password == "hush"
