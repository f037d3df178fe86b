"""Published tasks count only if a queue has them: queues are deleted, flushed and unbound while tasks are published."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.exceptions import Reject, Retry
from kombu import Connection, Exchange, Queue
from kombu.common import Broadcast
from project import Project, Start, Topic

import servers
from balog_celery.brokers import connections
from balog_celery.consumers import Consumer, ConsumerOperator
from balog_celery.consumers.delivery import Delivery, Job
from balog_celery.dead_letters.writer import DeadLetters
from balog_celery.dispatch import back_pressure
from balog_celery.dispatch.dispatcher import DispatchError
from balog_celery.dispatch.publish import PublishDispatcher
from balog_celery.errors import QueueError
from balog_celery.events.records import decode
from balog_celery.sqs.messages import Message
from balog_celery.tasks.consumer import ConsumerTask
from balog_celery.tasks.routes import register, register_dead_letter_task
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

METRIC = [{"name": "n", "value": 1}]
QUORUM = {"x-queue-type": "quorum"}


class Site:
    """An app on a broker, with a consumer for each of some queues, and what became of its jobs."""

    def __init__(self, url: str, *queues: Queue, **config: Any) -> None:
        self.url = url
        self.app = Celery("routing", broker=url, set_as_current=False)
        self.app.conf.update(
            task_queues=queues,
            task_default_queue=queues[0].name,
            task_default_exchange=queues[0].exchange.name,
            task_default_exchange_type=queues[0].exchange.type,
            task_default_routing_key=queues[0].routing_key,
            **config,
        )
        self.dead = ObservedQueue("topic-dead")
        letters = DeadLetters(lambda _name: self.dead, "{topic}-dead")
        self.consumers = [Consumer(lambda event: None, "topic", name=f"proj.{queue.name}") for queue in queues]
        self.app.conf.task_routes = {
            consumer.task_name: queue.name for consumer, queue in zip(self.consumers, queues, strict=True)
        }
        self.tasks: list[ConsumerTask] = [
            register(self.app, consumer, ConsumerOperator(), "topic", letters, None) for consumer in self.consumers
        ]
        register_dead_letter_task(self.app, letters)
        self.dispatcher = PublishDispatcher(self.app, 10.0, 10_000)
        self.settled: list[str] = []

    def dispatch(self, *events: str) -> None:
        """Dispatch the events of one receive, to all consumers."""
        jobs = []
        for event in events:
            text = event_text(event)
            message = Message(text, event, event, time.monotonic())
            delivery = Delivery(message, len(self.consumers), self._settle)
            jobs += [Job(delivery, decode(text), text, consumer, {}) for consumer in self.consumers]
        self.dispatcher.dispatch(jobs)

    def _settle(self, deliveries: Any) -> None:
        self.settled += [one.message.handle for one in deliveries if not one.settlement]

    def retry(self, countdown: int = 1, **delivery_info: Any) -> None:
        """Publish a retry, as a worker does for a task that came from the broker."""
        task = self.tasks[0]
        context = Context(
            id=uuid.uuid4().hex,
            args=(event_text("retried"),),
            kwargs={},
            retries=0,
            called_directly=False,
            is_eager=False,
            delivery_info=delivery_info,
        )
        task.request_stack.push(context)
        try:
            task.retry(countdown=countdown)
        except Retry:
            return
        finally:
            task.request_stack.pop()

    def bury(self) -> None:
        """Have a dead letter made later, as if SQS did not take it now."""

        def down(_: Any) -> None:
            raise QueueError("down")

        self.dead.on["send"] = down
        self.tasks[0].dead_letter((event_text("buried"),), ValueError("no"))

    def operator(self, *calls: Callable[[Any], Any]) -> None:
        """Run *action* on the broker over a connection of its own, as an operator would."""
        with Connection(self.url) as connection:
            for call in calls:
                call(connection.default_channel)

    def tasks_in(self, queue: str) -> list[str]:
        """The ids of the events in a queue, whose tasks are taken out."""
        found = []
        with Connection(self.url) as connection:
            while (message := connection.default_channel.basic_get(queue, no_ack=True)) is not None:
                body = json.loads(message.body) if isinstance(message.body, str | bytes) else message.body
                found.append(decode(body[0][0]).header.id)
        return found


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSite]:
    monkeypatch.setattr(connections._local, "key", None, raising=False)
    sites: list[Site] = []

    def make(url: str, *queues: Queue, **config: Any) -> Site:
        sites.append(Site(url, *queues, **config))
        return sites[-1]

    yield make
    for site in sites:
        site.dispatcher.close()
        site.app.close()


@pytest.fixture
def name() -> str:
    """The name of a queue of this test's own."""
    return f"q-{uuid.uuid4().hex[:12]}"


def direct(name: str, **options: Any) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name, **options)


def topical(name: str, **options: Any) -> Queue:
    return Queue(name, Exchange(f"{name}-x", type="topic"), routing_key=f"{name}.key", **options)


def deleted(queue: Queue) -> Callable[[Any], Any]:
    return lambda channel: channel.queue_delete(queue.name)


def unbound(queue: Queue) -> Callable[[Any], Any]:
    return lambda channel: channel.queue_unbind(queue.name, queue.exchange.name, queue.routing_key)


def without_exchange(queue: Queue) -> Callable[[Any], Any]:
    return lambda channel: channel.exchange_delete(queue.exchange.name)


def made_otherwise(queue: Queue) -> Callable[[Any], Any]:
    """Have its exchange be of another type, so that it cannot be declared."""

    def make(channel: Any) -> None:
        without_exchange(queue)(channel)
        channel.exchange_declare(queue.exchange.name, "fanout", durable=True, auto_delete=False)

    return make


@pytest.mark.parametrize("confirm", [False, True], ids=["in a transaction", "confirmed one by one"])
@pytest.mark.parametrize(
    ("kind", "trouble"),
    [
        (direct, deleted),
        (topical, deleted),
        (topical, unbound),
        (topical, without_exchange),
        (lambda name: direct(name, queue_arguments=QUORUM), deleted),
    ],
    ids=["deleted", "deleted from a topic", "unbound", "without its exchange", "quorum queue deleted"],
)
def test_what_rabbitmq_has_no_queue_for_is_published_again(
    make_site: MakeSite,
    rabbitmq: servers.RabbitMQ,
    name: str,
    confirm: bool,
    kind: Callable[[str], Queue],
    trouble: Callable[[Queue], Callable[[Any], Any]],
) -> None:
    """A task whose queue is gone from RabbitMQ is published again after a declaration, in every confirm mode."""
    # given
    options = {"confirm_publish": True} if confirm else {}
    site = make_site(rabbitmq.url, kind(name), broker_transport_options=options)
    site.dispatch("before")
    assert site.tasks_in(name) == ["before"]
    # when
    site.operator(trouble(kind(name)))
    site.dispatch("a", "b")
    site.dispatch("c")
    # then
    assert site.tasks_in(name) == ["a", "b", "c"]
    assert site.settled == ["before", "a", "b", "c"]


def test_a_receive_is_settled_when_each_of_its_queues_has_its_tasks(
    make_site: MakeSite, rabbitmq: servers.RabbitMQ, name: str
) -> None:
    """Jobs of one receive for two queues are acknowledged when both queues have their tasks, possibly twice."""
    one, two = direct(f"{name}-1"), direct(f"{name}-2")
    site = make_site(rabbitmq.url, one, two)
    site.dispatch("before")
    site.operator(deleted(two))
    site.dispatch("a", "b")
    assert site.settled == ["before", "a", "b"]
    assert set(site.tasks_in(one.name)) == {"before", "a", "b"}
    assert site.tasks_in(two.name) == ["a", "b"]


@pytest.mark.parametrize("confirm", [False, True], ids=["in a transaction", "confirmed one by one"])
def test_what_keeps_a_queue_from_being_declared_is_told(
    make_site: MakeSite, rabbitmq: servers.RabbitMQ, name: str, confirm: bool
) -> None:
    """An error that keeps a queue from being declared is logged in the broker's words."""
    foreign = Queue(name, Exchange(f"{name}-x", type="topic", no_declare=True), routing_key="k")
    site = make_site(rabbitmq.url, foreign, broker_transport_options={"confirm_publish": True} if confirm else {})
    with pytest.raises(DispatchError, match=f"no exchange .*{name}-x.*Queue.bind"):
        site.dispatch("a")
    with pytest.raises(Reject, match=f"no exchange '{name}-x'"):
        site.retry(exchange=foreign.exchange.name, routing_key="k")
    assert site.settled == []


@pytest.mark.parametrize("confirm", [False, True], ids=["in a transaction", "confirmed one by one"])
def test_nothing_is_settled_while_a_full_queue_refuses_tasks(
    make_site: MakeSite, rabbitmq: servers.RabbitMQ, name: str, confirm: bool
) -> None:
    """While RabbitMQ refuses tasks for a full queue, no job is acknowledged."""
    full = direct(name, queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    site = make_site(rabbitmq.url, full, broker_transport_options={"confirm_publish": True} if confirm else {})
    site.dispatch("before")
    with pytest.raises(DispatchError):
        site.dispatch("a", "b")
    assert site.settled == ["before"]


@pytest.mark.parametrize(
    "publish",
    [lambda site: site.retry(exchange="", routing_key=site.app.conf.task_default_queue), Site.bury],
    ids=["a retry", "a dead letter that is made later"],
)
def test_a_published_retry_and_a_late_dead_letter_declare_their_queue_again(
    make_site: MakeSite, rabbitmq: servers.RabbitMQ, name: str, publish: Callable[[Site], None]
) -> None:
    """A published retry and a late dead letter declare a missing queue before the event is acknowledged."""
    site = make_site(rabbitmq.url, direct(name))
    publish(site)
    (before,) = site.tasks_in(name)
    site.operator(deleted(direct(name)))
    publish(site)
    assert site.tasks_in(name) == [before]


@pytest.mark.parametrize("server", ["rabbitmq", "broker"])
def test_a_retry_goes_back_to_a_queue_that_is_not_the_tasks_own(
    make_site: MakeSite, request: pytest.FixtureRequest, server: str, name: str
) -> None:
    """A retry to another queue than the task's declares that queue, which Celery does not."""
    came_by = Queue(f"{name}-topic", Exchange(f"{name}-x", type="topic"), routing_key="task.#")
    site = make_site(request.getfixturevalue(server).url, direct(name), came_by)
    for _ in range(2):
        site.retry(exchange=came_by.exchange.name, routing_key="task.mail")
        assert site.tasks_in(came_by.name) == ["retried"]
        site.operator(unbound(came_by))


@pytest.mark.parametrize(
    ("came_by", "countdown", "goes_to"),
    [("", 1, "celery_delayed_27"), ("celery_delayed_delivery", 0, "celery_delayed_delivery")],
    ids=["with a delay", "after a delay"],
)
def test_a_retry_declares_what_delays_tasks_again(
    make_site: MakeSite, rabbitmq: servers.RabbitMQ, name: str, came_by: str, countdown: int, goes_to: str
) -> None:
    """A retry to a quorum queue declares RabbitMQ's delay queues again."""
    queue = topical(name, queue_arguments=QUORUM)
    site = make_site(rabbitmq.url, queue)
    delivery_info = {"exchange": came_by or queue.exchange.name, "routing_key": queue.routing_key}
    site.dispatch("before")
    assert site.tasks_in(name) == ["before"]
    for _ in range(2):
        site.operator(lambda channel: channel.exchange_delete(goes_to))
        site.retry(countdown, **delivery_info)
        assert servers.wait_until(lambda: site.tasks_in(name), what="the retry") == ["retried"]


def test_what_leads_to_a_queue_on_an_emptied_redis_is_declared_again(
    make_site: MakeSite, broker: servers.Valkey, name: str
) -> None:
    """After Redis was emptied, a queue is declared and bound again."""
    site = make_site(broker.url, topical(name))
    site.dispatch("before")
    broker.flush()
    site.dispatch("a", "b")
    site.dispatch("c")
    assert set(site.tasks_in(name)) == {"a", "b", "c"}
    assert site.settled == ["before", "a", "b", "c"]


def test_a_queue_that_keeps_nothing_gets_no_credit(
    make_site: MakeSite, broker: servers.Valkey, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A broadcast on Redis, which stores no tasks, does not count as a queue, so nothing is acknowledged."""
    site = make_site(broker.url, Broadcast(name, queue=name))
    for _ in range(3):
        with pytest.raises(DispatchError, match="leads to no queue"):
            site.dispatch("a")
    assert site.settled == []
    assert caplog.records == []  # the engine says it, once


def test_a_retry_whose_queue_cannot_be_declared_is_not_acknowledged(
    make_site: MakeSite, rabbitmq: servers.RabbitMQ, name: str
) -> None:
    """If its queue cannot be declared, a retry's message is requeued."""
    site = make_site(rabbitmq.url, direct(name))
    site.retry(exchange="", routing_key=name)
    site.operator(deleted(direct(name)), made_otherwise(direct(name)))
    with pytest.raises(Reject, match="inequivalent arg 'type'") as rejected:
        site.retry(exchange="", routing_key=name)
    assert rejected.value.requeue


def test_a_queue_that_is_gone_is_reported_once_and_holds_nothing_up(
    make_site: MakeSite,
    rabbitmq: servers.RabbitMQ,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A missing queue is logged once and does not count as full."""
    monkeypatch.setattr(back_pressure, "INTERVAL", 0.05)
    one, two, three = (direct(f"{name}-{number}") for number in range(3))
    site = make_site(rabbitmq.url, one, two, three)
    site.dispatch("before")

    def reports(queue: Queue) -> int:
        said = f"the task queue {queue.name} and its tasks are gone from the broker"
        return [record.levelname for record in caplog.records if said in record.getMessage()].count("WARNING")

    # While tasks wait in the third the watch goes on looking, so it has seen the first gone twice in the end.
    for queue in (one, two):
        site.operator(deleted(queue))
        servers.wait_until(lambda queue=queue: reports(queue), what="the warning")
    assert site.dispatcher.ready(frozenset({one.name, two.name}), 0)
    site.dispatch("after")
    assert [site.tasks_in(queue.name)[-1] for queue in (one, two)] == ["after", "after"]
    assert (reports(one), reports(two), reports(three)) == (1, 1, 0)


def test_a_worker_gets_all_that_is_published_to_an_emptied_redis(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """After Redis was emptied, a worker gets all tasks from the running engine."""
    project.add(
        "from kombu import Exchange, Queue\n"
        "task_queues = [Queue('tasks', Exchange('tasks-x', type='topic'), routing_key='tasks.#')]\n"
        "task_default_queue, task_default_exchange = 'tasks', 'tasks-x'\n"
        "task_default_exchange_type, task_default_routing_key = 'topic', 'tasks.all'\n"
    )
    engine = start("balog", "engine", ready="engine started")
    topic.send(event_text("before", values=METRIC))
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    broker.flush()
    topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(12)))
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert "dispatching failed" not in engine.output
    start("worker", "-l", "INFO", "-c", "1", "--no-engine")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 12)


def test_a_queue_that_cannot_be_declared_holds_its_events_and_says_so_once(
    start: Start, project: Project, topic: Topic, rabbitmq: servers.RabbitMQ
) -> None:
    """Events whose queue cannot be declared stay in SQS; the reason is logged once."""
    # given
    name = topic.name
    project.add(f"broker_url = {rabbitmq.url!r}\ntask_default_queue = {name!r}\nbalog_visibility_timeout = 60")
    engine = start("balog", "engine", ready="engine started")
    topic.send(event_text("before", values=METRIC))
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    refused = f"inequivalent arg 'type' for exchange '{name}'"

    def refusals() -> int:
        return sum(log.read_text().count(refused) for log in Path(rabbitmq.dir / "log").glob("*.log"))

    with Connection(rabbitmq.url) as connection:
        # when
        deleted(direct(name))(connection.default_channel)
        made_otherwise(direct(name))(connection.default_channel)
        topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(3)))
        # then
        servers.wait_until(lambda: refusals() >= 3, what="three attempts to declare it")
        assert topic.left() == 3
        assert engine.output.count("dispatching failed") == 1
        assert refused in engine.output
        without_exchange(direct(name))(connection.default_channel)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    start("worker", "-l", "INFO", "-c", "1", "--no-engine")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 3)
