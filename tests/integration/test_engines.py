"""Promises of every engine: the same tests for SQS, Redis and RabbitMQ."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from project import KombuTopic, Project, Start, Topic, stop

import servers
from balog_celery.consumers import Consumer, ConsumerHub
from balog_celery.engine.kombu_engine import KombuEngine
from balog_celery.engine.sqs_engine import SQSEngine
from sample_events import event_text

METRIC = [{"name": "n", "value": 1}]

AnyTopic = Topic | KombuTopic


@pytest.fixture(scope="module")
def event_valkey() -> Iterator[servers.Valkey]:
    """A Valkey for events, which is not Celery's broker."""
    with servers.Valkey() as server:
        yield server


@pytest.fixture(params=["sqs", "redis", "rabbitmq"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of source."""
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Any:
    """The server that holds the queues."""
    return request.getfixturevalue({"redis": "event_valkey"}.get(kind, kind))


@pytest.fixture
def topic(kind: str, server: Any, request: pytest.FixtureRequest) -> Iterator[AnyTopic]:
    """The topic of this test."""
    if kind == "sqs":
        with closing(server.client()) as client:
            yield Topic(client, request.getfixturevalue("queue_name"))
    else:
        yield KombuTopic(server.url, f"events-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def project(project: Project, topic: AnyTopic) -> Project:
    """A project that listens to it; Celery's own broker is another."""
    project.add(topic.config)
    return project


@pytest.mark.parametrize("dispatch", ["publish", "hand-off"])
def test_each_event_has_its_fate(start: Start, project: Project, topic: AnyTopic, dispatch: str) -> None:
    """Good events reach every consumer once, others become dead letters, and the queue ends empty."""
    project.add(f"balog_dispatch = {dispatch!r}")
    topic.send(
        "not json", event_text("d", "doomed"), *(event_text(f"e{number}", values=METRIC) for number in range(12))
    )
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: len(runs) == 25)
    letters = servers.wait_until(lambda: len(dead := topic.dead()) >= 2 and dead, what="the dead letters")
    assert {letter["body"]: letter["reason"] for letter in letters} == {
        "not json": "undecodable",
        event_text("d", "doomed"): "failed",
    }
    assert {letter.get("error") for letter in letters} >= {"ValueError('never works')"}
    assert {letter["topic"] for letter in letters} == {topic.name}
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert stop(worker) == 0
    assert topic.left() == 0
    expected = {(name, f"e{number}"): 1 for name in ("first", "typed") for number in range(12)}
    assert project.runs() == {**expected, ("doomed", "d"): 1}


def test_a_stop_gives_back_what_was_not_started(start: Start, project: Project, topic: AnyTopic) -> None:
    """A stop releases events that have not started; running ones finish, and none runs twice."""
    topic.send(*(event_text(f"s{number}", "slow", seconds=1) for number in range(4)))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: any(name == "slow" for name, _ in runs))
    assert stop(worker) == 0
    begun = {event for name, event in project.runs() if name == "slow"}
    assert begun == {event for name, event in project.runs() if name == "slow-done"}
    servers.wait_until(lambda: topic.left() == 4 - len(begun), what="what was given back")
    start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "slow-done") == 4)
    assert set(project.runs().values()) == {1}


def test_a_killed_worker_loses_nothing(start: Start, project: Project, topic: AnyTopic) -> None:
    """Events of a killed worker and its engine are delivered again."""
    project.add("balog_visibility_timeout = 5")
    topic.send(*(event_text(f"s{number}", "slow", seconds=1) for number in range(4)))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: any(name == "slow" for name, _ in runs))
    worker.kill_group()
    last = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: all(runs["slow-done", f"s{number}"] for number in range(4)))
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert stop(last) == 0
    assert topic.left() == 0


@pytest.mark.timeout(300)  # the back-off has grown to half a minute when a slow RabbitMQ is up again
def test_a_lost_connection_interrupts_nothing_for_long(
    start: Start, project: Project, topic: AnyTopic, server: Any, kind: str
) -> None:
    """After a lost connection, events in flight finish and later events are processed."""
    topic.send(event_text("before", values=METRIC))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["first", "before"] == 1 and runs["typed", "before"] == 1)
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    topic.send(event_text("s", "slow", seconds=2))
    project.wait_for(lambda runs: runs["slow", "s"] == 1)
    server.kill()
    worker.wait_for(f"polling {topic.name} failed")
    server.start()
    if isinstance(topic, Topic):  # a restart of this SQS is the end of its queues
        topic = Topic(topic.client, topic.client.create_queue(QueueName=topic.name)["QueueUrl"].rpartition("/")[2])
    worker.wait_for(f"polling {topic.name} works again", 120)
    topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(12)))
    project.wait_for(
        lambda runs: all(runs["first", f"e{number}"] for number in range(12)) and runs["slow-done", "s"], 60
    )
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert stop(worker) == 0
    assert topic.left() == 0


def test_the_command_sends_records_to_it(start: Start, project: Project, topic: AnyTopic) -> None:
    """``balog send`` publishes records to any kind of source."""
    file = project.folder / "events.jsonl"
    file.write_text("".join(event_text(f"e{number}") + "\n" for number in range(12)))
    assert start("balog", "send", str(file), ready=None).wait(60) == 0
    assert topic.left() == 12


def test_it_runs_in_a_plain_script(kind: str, server: Any, topic: AnyTopic) -> None:
    """In a script without Celery a failing consumer stops neither the loop nor the other consumers."""
    done: list[tuple[str, str]] = []

    def good(event: Any) -> None:
        done.append(("good", event["header"]["id"]))

    def bad(event: Any) -> None:
        done.append(("bad", event["header"]["id"]))
        raise ValueError("never works")

    hub = ConsumerHub()
    for func in (good, bad):
        hub.add_consumer(Consumer(func, topic.name, cls_type="metrics"))
    topic.send("not json", event_text("a"), event_text("b"))
    engine = SQSEngine(hub, wait_time=1) if kind == "sqs" else KombuEngine(hub=hub, url=server.url)
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        servers.wait_until(lambda: len(done) == 4, what="the calls")
        servers.wait_until(lambda: len(topic.dead()) >= 3, what="the dead letters")
        servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    finally:
        engine.stop()
        thread.join(60)
    assert not thread.is_alive()
    assert sorted(done) == [("bad", "a"), ("bad", "b"), ("good", "a"), ("good", "b")]
    assert topic.left() == 0
