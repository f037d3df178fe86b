"""A message that the broker puts into no queue was not published: on a broker in memory; integration/ has real ones."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Ignore, Retry, WorkerLostError
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Exchange
from kombu import Queue as BrokerQueue

from balog_celery.brokers import connections
from balog_celery.brokers.connections import RoutedProducer, Unroutable
from balog_celery.brokers.kombu_compat import batch
from balog_celery.celery_compat.worker import HookedRequest
from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.consumers.delivery import Delivery, Job
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.errors import QueueError
from balog_celery.events.records import decode
from balog_celery.operations.replay import Destination, Item, Replay
from balog_celery.sqs.messages import Message
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.idempotency import InProgress
from balog_celery.tasks.routes import register, register_dead_letter_task
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

WORDS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(".".join)
PATTERNS = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=3).map(".".join)


@given(
    kind=st.sampled_from(["direct", "topic"]),
    bindings=st.lists(PATTERNS, max_size=3),
    key=WORDS,
    mandatory=st.booleans(),
    batched=st.booleans(),
)
def test_a_mandatory_message_is_in_a_queue_or_is_an_error(
    kind: str, bindings: list[str], key: str, mandatory: bool, batched: bool
) -> None:
    """A mandatory message is stored in a queue or is an error, for each kind of exchange; others may go nowhere."""
    name = uuid.uuid4().hex
    with Connection("memory://") as connection:
        exchange = Exchange(name, type=kind, durable=False)(connection.default_channel)
        exchange.declare()
        queues = [BrokerQueue(f"{name}-{i}", exchange, pattern) for i, pattern in enumerate(bindings)]
        bound = [queue(connection.default_channel) for queue in queues]
        for queue in bound:
            queue.declare()
        producer = RoutedProducer(connection, auto_declare=False)

        def publish() -> None:
            producer.publish("x", exchange=name, routing_key=key, mandatory=mandatory)

        error = ""
        try:
            with batch(producer) if batched else nullcontext():
                publish()
        except Unroutable as unroutable:
            error = str(unroutable)
        taken = sum(queue.get(no_ack=True) is not None for queue in bound)
        assert bool(error) == (mandatory and not taken)
        assert not error or (name in error and key in error)


def test_a_producer_goes_on_to_complain_when_kombu_has_connected_again() -> None:
    """A producer still reports unroutable messages after kombu has reconnected in the middle of a publish."""
    with Connection("memory://") as connection:
        producer = RoutedProducer(connection, auto_declare=False)
        for _ in range(2):
            with pytest.raises(Unroutable):
                producer.publish("x", exchange=uuid.uuid4().hex, routing_key="k", mandatory=True)
            producer.revive(connection.channel())


class Site:
    """An app whose consumer's queue is bound to a topic exchange, on a broker in memory."""

    def __init__(self) -> None:
        name = f"routing-{uuid.uuid4().hex}"
        self.app = Celery("routing", broker="memory://", set_as_current=False)
        self.queue = BrokerQueue(name, Exchange(name, type="topic"), "tasks")
        self.app.conf.update(
            task_queues=[self.queue],
            task_default_queue=name,
            task_default_exchange=name,
            task_default_exchange_type="topic",
            task_default_routing_key="tasks",
        )
        self.dead = ObservedQueue("topic-dead")
        dead_letters = DeadLetters(lambda _name: self.dead, "{topic}-dead")
        self.consumer = Consumer(self.call, "topic", name="proj.f", once=True)
        marks: Any = SimpleNamespace(attempt=self.attempt)
        self.task: ConsumerTask = register(self.app, self.consumer, ConsumerOperator(), "topic", dead_letters, marks)
        register_dead_letter_task(self.app, dead_letters)
        self.dispatcher = PublishDispatcher(self.app, 5.0, 1000)
        self.settled: list[bool] = []

    def call(self, event: Any) -> None:
        raise AssertionError("nobody runs it")

    def attempt(self, key: str, remember: float) -> Any:
        raise InProgress

    def forget(self) -> None:
        """Make the broker forget the binding of its queue, as an emptied Redis does."""
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_unbind(self.queue.name, self.queue.exchange.name, "tasks")

    def tasks(self) -> list[Any]:
        """Take the tasks out of the queue; return their names."""
        found = []
        with self.app.connection_for_write() as connection:
            queue = self.queue(connection.default_channel)
            while (message := queue.get(no_ack=True)) is not None:
                found.append(message.headers["task"])
        return found

    def context(self) -> Context:
        """The request of a task that came from the broker."""
        return Context(
            id=uuid.uuid4().hex,
            task=self.task.name,
            args=(event_text("e"),),
            kwargs={},
            retries=0,
            called_directly=False,
            is_eager=False,
            delivery_info={"exchange": self.queue.exchange.name, "routing_key": "tasks"},
        )

    def run(self, call: Callable[[], Any]) -> Any:
        """Call a function as if a worker ran the task."""
        self.task.request_stack.push(self.context())
        try:
            return call()
        finally:
            self.task.request_stack.pop()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(connections._local, "key", None, raising=False)
    site = Site()
    yield site
    site.dispatcher.close()
    site.app.close()


def dispatch(site: Site) -> None:
    text = event_text("e")
    message = Message(text, "h", "m", time.monotonic())
    delivery = Delivery(message, 1, lambda settled: site.settled.extend(not one.settlement for one in settled))
    site.dispatcher.dispatch([Job(delivery, decode(text), text, site.consumer, {})])


def retry(site: Site) -> None:
    with pytest.raises(Retry):
        site.run(lambda: site.task.retry(countdown=1))


def retry_after_a_lost_child(site: Site) -> None:
    # The worker's main process has Celery's own code do it.
    request = SimpleNamespace(
        task=site.task,
        _context=site.context(),
        store_errors=False,
        acknowledge=lambda: None,
        send_event=lambda *_, **__: None,
        id="i",
        args=(),
        kwargs={},
        task_name=site.task.name,
    )
    info = SimpleNamespace(traceback="")
    assert HookedRequest.__base__._retry_worker_lost(request, WorkerLostError("gone"), info)


def look_again_at_what_is_in_progress(site: Site) -> None:
    with pytest.raises(Ignore):
        site.run(lambda: site.task(event_text("e")))


def make_a_dead_letter_later(site: Site) -> None:
    def down(_: Any) -> None:
        raise QueueError("down")

    site.dead.on["send"] = down
    site.run(lambda: site.task.dead_letter((event_text("e"),), ValueError("no")))


def replay(site: Site) -> None:
    text = event_text("e")
    one = Item(text, decode(text), text, "topic", site.task.name)
    Replay(site.app, [], ObservedQueue, lambda _: lambda _body: []).deliver(
        [(one, Destination("topic", site.task))], lambda *_: None
    )


@pytest.mark.parametrize(
    "publish",
    [
        dispatch,
        retry,
        retry_after_a_lost_child,
        look_again_at_what_is_in_progress,
        make_a_dead_letter_later,
        replay,
    ],
)
def test_what_the_broker_has_no_queue_for_is_published_again(
    site: Site, publish: Callable[[Site], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Each way of publishing a task declares a missing queue and publishes again, on a used connection."""
    publish(site)
    assert len(site.tasks()) == 1
    site.forget()
    publish(site)
    assert len(site.tasks()) == 1
    said = f"exchange '{site.queue.exchange.name}' leads to no queue for routing key 'tasks'"
    assert [said in record.getMessage() for record in caplog.records].count(True) == 1
