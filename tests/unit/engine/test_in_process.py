"""An engine over the scripted SQS without HTTP: SQS's rules, with faults."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.consumers.delivery import Job
from balog_celery.engine.engine import Engine
from balog_celery.errors import AccessDenied, QueueError, QueueNotFound
from balog_celery.sqs.messages import OutgoingMessage
from engines import Recorder, ScriptedDispatcher, running
from sample_events import event_text
from scripted_sqs.errors import ApiError
from scripted_sqs.in_process import InProcessQueue
from scripted_sqs.script import Fault
from scripted_sqs.store import SqsStore
from servers import wait_until


class Queues(dict[str, InProcessQueue]):
    """The queues of one SQS, by name."""

    def __init__(self, *names: str) -> None:
        self.store = SqsStore()
        super().__init__()
        for name in names:
            self[name].create()

    def __missing__(self, name: str) -> InProcessQueue:
        self[name] = InProcessQueue(name, self.store)
        return self[name]


def hub_of(function: object, topic: str) -> ConsumerHub:
    hub = ConsumerHub()
    hub.add_consumer(Consumer(function, topic))  # type: ignore[arg-type]
    return hub


def test_every_event_is_served_whatever_goes_wrong_with_a_call() -> None:
    """Every event is processed with lost and foreign answers, errors, and failures of single entries."""
    queues = Queues("topic", "topic-dead")
    topic, recorder = queues["topic"], Recorder()
    topic.send([OutgoingMessage(event_text(f"e{number}")) for number in range(10)])
    topic.script.add(Fault("ReceiveMessage", hang_up=True))
    topic.script.fail("ReceiveMessage", "RequestThrottled", status=403)
    topic.script.add(Fault("ReceiveMessage", answer=b"<html>"))
    topic.script.add(Fault("DeleteMessageBatch", hang_up=True, carried_out=True))
    topic.script.add(Fault("DeleteMessageBatch", error=ApiError("InternalError"), entries={0}))
    with running(Engine(hub_of(recorder.process, "topic"), queues.__getitem__, wait_time=1)):
        wait_until(lambda: len(queues.store.queues["topic"]) == 0)
    assert sorted(recorder.ids) == [f"e{number}" for number in range(10)]


def test_a_message_that_an_engine_holds_is_extended_and_not_given_to_another() -> None:
    """A message is extended, and not received by another engine, while the clock passes its visibility timeout."""
    queues = Queues("topic")
    topic, began, goes_on = queues["topic"], threading.Event(), threading.Event()
    topic.send([OutgoingMessage(event_text("a"))])

    def slow(event: object) -> None:
        began.set()
        assert goes_on.wait(60)

    with running(Engine(hub_of(slow, "topic"), queues.__getitem__, wait_time=1, visibility_timeout=2)):
        assert began.wait(60)
        wait_until(lambda: topic.script.calls_of("ChangeMessageVisibilityBatch"))
        assert InProcessQueue("topic", queues.store).receive(10, 0) == []
        goes_on.set()
        wait_until(lambda: len(queues.store.queues["topic"]) == 0)


def test_the_rest_of_a_group_waits_for_its_first() -> None:
    """The second event of a group is dispatched when the first one is deleted."""
    queues = Queues("topic.fifo")
    topic, dispatcher = queues["topic.fifo"], ScriptedDispatcher()
    topic.send([OutgoingMessage(event_text(name), group="g") for name in ("a", "b")])

    def taken() -> Sequence[Job]:
        return list(dispatcher.taken)

    with running(
        Engine(hub_of(Recorder().process, "topic.fifo"), queues.__getitem__, wait_time=1, dispatcher=dispatcher)
    ):
        wait_until(taken)
        assert [job.event.header.id for job in taken()] == ["a"]
        taken()[0].acknowledge()
        wait_until(lambda: len(taken()) == 2)
        assert [job.event.header.id for job in taken()] == ["a", "b"]
        taken()[1].acknowledge()
        wait_until(lambda: len(queues.store.queues["topic.fifo"]) == 0)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("ReceiveMessage", error=ApiError("AccessDenied", status=403)), AccessDenied),
        (Fault("ReceiveMessage", error=ApiError("QueueDoesNotExist")), QueueNotFound),
        (Fault("ReceiveMessage", error=ApiError("RequestThrottled", status=403)), QueueError),
        (Fault("ReceiveMessage", hang_up=True), QueueError),
        (Fault("ReceiveMessage", answer=b"[]"), QueueError),
    ],
)
def test_a_queue_fails_as_the_one_of_http_does(fault: Fault, kind: type[QueueError]) -> None:
    """The in-process queue raises the errors of SQSQueue, by the code and not by the status."""
    queue = Queues("topic")["topic"]
    queue.script.add(fault)
    with pytest.raises(QueueError) as failure:
        queue.receive(10, 0)
    assert type(failure.value) is kind
    assert queue.receive(10, 0) == []
