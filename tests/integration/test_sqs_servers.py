"""SQS servers of other projects: a queue and an engine keep their promises on each, also under faults."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import sqs_servers
from balog_celery.engine.engine import Engine
from balog_celery.pytest_plugin import missing
from balog_celery.sqs.messages import OutgoingMessage
from balog_celery.sqs.queues import SQSQueue
from engines import Recorder, hub_of, running
from sample_events import event_text
from scripted_sqs.errors import ApiError
from scripted_sqs.script import Fault
from scripted_sqs.server import RunningSqs, serving_sqs
from servers import wait_until

KEYS = {"region": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}


@pytest.fixture(scope="module", params=["scripted", "moto", "MiniStack", "Fauxqs"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """The server's endpoint."""
    if request.param == "moto":
        yield request.getfixturevalue("sqs_server").endpoint_url
    elif request.param == "scripted":
        with serving_sqs() as sqs:
            yield sqs.endpoint
    else:
        kind: type[sqs_servers.ForeignSqs] = getattr(sqs_servers, request.param)
        if not kind.available():
            missing(f"{request.param} is not installed: .ci/run installs it into .servers")
        with kind() as server:
            yield server.endpoint_url


@pytest.fixture
def proxy(endpoint: str, own_clients: None) -> Iterator[RunningSqs]:
    """A proxy before the server, whose script lets calls go wrong."""
    with serving_sqs(sqs_servers.Upstream(endpoint)) as running_proxy:
        yield running_proxy


class Queues(dict[str, SQSQueue]):
    """The queues of a proxy, by name."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint

    def __missing__(self, name: str) -> SQSQueue:
        self[name] = SQSQueue(name, endpoint_url=self._endpoint, **KEYS)
        return self[name]


@pytest.fixture
def queues(proxy: RunningSqs) -> Queues:
    """Queues on the server, behind the proxy."""
    return Queues(proxy.endpoint)


def make(queues: Queues, suffix: str = "") -> SQSQueue:
    """Create a queue."""
    queue = queues[f"t{uuid.uuid4().hex[:12]}{suffix}"]
    queue.create()
    return queue


def received(queue: SQSQueue, count: int) -> list[Any]:
    """*count* messages, received within some seconds."""
    messages: list[Any] = []

    def enough() -> bool:
        messages.extend(queue.receive(10, 0))
        return len(messages) >= count

    wait_until(enough, 20, f"{count} messages")
    return messages


def test_what_is_sent_is_received_extended_released_and_deleted(queues: Queues) -> None:
    """Messages are sent, received, extended, released and deleted, with success reported for each."""
    queue = make(queues)
    assert queue.send([OutgoingMessage(f"é{number}", {"a": "x"}) for number in range(3)]) == []
    first = received(queue, 3)
    assert sorted(message.body for message in first) == ["é0", "é1", "é2"]
    assert {message.receive_count for message in first} == {1}
    handles = [message.handle for message in first]
    assert queue.change_visibility(handles, 100) == []
    assert queue.receive(10, 0) == []
    assert queue.change_visibility(handles[:1], 0) == []
    (again,) = received(queue, 1)
    assert (again.message_id, again.receive_count) == (first[0].message_id, 2)
    assert queue.delete([again.handle, *handles[1:]]) == []
    assert queue.receive(10, 0, 0) == []


def test_a_message_group_is_blocked_while_one_of_its_messages_is_held(queues: Queues) -> None:
    """A message in flight blocks its group; after its release the group is delivered in order."""
    queue = make(queues, ".fifo")
    queue.send([OutgoingMessage(f"a{number}", group="a") for number in range(3)])
    first = received(queue, 1)  # one or more: a server may give one message of a group at a time
    wanted = [("a0", "a"), ("a1", "a"), ("a2", "a")]
    assert [(message.body, message.group) for message in first] == wanted[: len(first)]
    queue.send([OutgoingMessage("a3", group="a"), OutgoingMessage("b0", group="b")])
    assert [message.body for message in received(queue, 1)] == ["b0"]
    assert queue.delete([message.handle for message in first]) == []
    assert received(queue, 1)[0].body == ["a1", "a2", "a3"][len(first) - 1]


def go_wrong(proxy: RunningSqs) -> None:
    """Let some calls of each action fail in several ways."""
    script = proxy.script
    script.add(Fault("ReceiveMessage", hang_up=True, times=2))
    script.fail("ReceiveMessage", "RequestThrottled", status=403)
    script.add(Fault("ReceiveMessage", answer=b"<html>", times=1))
    script.add(Fault("DeleteMessageBatch", hang_up=True, carried_out=True))
    script.add(Fault("DeleteMessageBatch", answer=b"{}", times=1))
    script.add(Fault("DeleteMessageBatch", error=ApiError("InternalError", sender_fault=True), entries={0}, times=2))
    script.fail("DeleteMessageBatch", "InternalFailure", status=500)
    script.add(Fault("SendMessageBatch", answer=b'{"Successful": [], "Failed": null}', times=1))
    script.fail("SendMessageBatch", "ServiceUnavailable", status=503)


@pytest.mark.parametrize("faulty", [False, True], ids=["well", "faulty"])
def test_an_engine_serves_every_event_and_keeps_the_dead(proxy: RunningSqs, queues: Queues, faulty: bool) -> None:
    """Under faults, good events are processed, others become dead letters, and the queue ends empty."""
    topic = make(queues)
    dead = queues[f"{topic.name}-dead"]
    dead.create()
    recorder, hub = Recorder(), hub_of()
    hub.add_consumer(consumer(recorder.process, topic.name, "metrics"))
    hub.add_consumer(consumer(recorder.fail, topic.name, "doomed"))
    texts = [event_text(f"e{number}") for number in range(20)]
    for batch in (texts[:10], texts[10:], ["not json", event_text("d", "doomed")]):
        assert topic.send([OutgoingMessage(text) for text in batch]) == []
    if faulty:
        go_wrong(proxy)
    with running(Engine(hub, queues.__getitem__, wait_time=1, visibility_timeout=5)):
        wait_until(lambda: empty(topic) and len(seen(dead)) >= 2, 60, "an empty queue")
    assert set(recorder.ids) == {f"e{number}" for number in range(20)}
    assert set(seen(dead)) == {"not json", event_text("d", "doomed")}
    if not faulty:
        assert Counter(recorder.ids).most_common(1)[0][1] == 1


def test_an_engine_keeps_the_order_of_each_group(proxy: RunningSqs, queues: Queues) -> None:
    """Under faults, the first run of each event comes after those before it in its group."""
    topic = make(queues, ".fifo")
    recorder = Recorder()
    hub = hub_of()
    hub.add_consumer(consumer(recorder.process, topic.name, "metrics"))
    for number in range(0, 24, 8):
        texts = [(f"{group}{one}", group) for one in range(number // 4, number // 4 + 2) for group in "abcd"]
        assert topic.send([OutgoingMessage(event_text(event), group=group) for event, group in texts]) == []
    go_wrong(proxy)
    with running(Engine(hub, queues.__getitem__, wait_time=1, visibility_timeout=5)):
        wait_until(lambda: empty(topic), 60, "an empty queue")
    first = list(dict.fromkeys(recorder.ids))
    for group in "abcd":
        assert [event for event in first if event[0] == group] == [f"{group}{number}" for number in range(6)]


def consumer(function: Any, topic: str, cls_type: str) -> Any:
    """A consumer of one kind of event."""
    from balog_celery.consumers import Consumer

    return Consumer(function, topic, cls_type=cls_type)


def empty(queue: SQSQueue) -> bool:
    """Whether a queue holds nothing, visible or in flight."""
    attributes = queue.attributes()
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    return all(int(attributes[name]) == 0 for name in names)


def seen(queue: SQSQueue) -> list[str]:
    """The bodies that a queue holds, all of which stay there."""
    return [message.body for message in queue.read(10, 0, 0)]
