"""FIFO topics under a real worker: the order within a group holds when tasks fail and processes end or are killed."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby, pairwise
from typing import Any

import pytest
from project import Project, Start, Topic, engine_pids, stop

import servers
from sample_events import event_text

CONSUMERS = """
import json, os, time
from celery import current_task
from balog_celery.consumers import consumer_config

TOPIC = os.environ["TOPIC"]


def note(what, event):
    # One write, so that processes do not mix their lines.
    line = json.dumps({"consumer": what, "event": event["header"]["id"]}) + "\\n"
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(line)


@consumer_config(topic=TOPIC, cls_type="step")
def step(event):
    note("begin", event)
    time.sleep(event["payload"]["seconds"])
    note("end", event)


@consumer_config(topic=TOPIC, cls_type="step", autoretry_for=(LookupError,), max_retries=2, default_retry_delay=5)
def other(event):
    note("other", event)
    if (failing := event["payload"].get("failing")) == "always":
        raise ValueError("never works")
    if failing == "once" and current_task.request.retries == 0:
        raise LookupError("not yet")
    note("other-end", event)
"""


#: With such a broker Celery's worker has no event loop.
NO_LOOP = """
broker_url = 'filesystem://'
broker_transport_options = dict.fromkeys(('data_folder_in', 'data_folder_out', 'control_folder'), 'broker')
os.makedirs('broker', exist_ok=True)
"""


class FifoTopic(Topic):
    """A FIFO topic; the group of an event is its id without the number: ``a1`` is of ``a``."""

    def __init__(self, client: Any, name: str) -> None:
        attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
        self.client = client
        self.name = name
        self.url = client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        dead = name.replace(".fifo", "-dead.fifo")
        self.dead_url = client.create_queue(QueueName=dead, Attributes=attributes)["QueueUrl"]

    def step(self, event_id: str, seconds: float = 0.0, **more: Any) -> None:
        """Send one event."""
        text = event_text(event_id, "step", seconds=seconds, **more)
        self.client.send_message(QueueUrl=self.url, MessageBody=text, MessageGroupId=event_id[0])


@pytest.fixture
def topic(sqs: servers.Sqs) -> Iterator[FifoTopic]:
    """The topic of this test."""
    with closing(sqs.client()) as client:
        yield FifoTopic(client, f"events-{uuid.uuid4().hex[:12]}.fifo")


@pytest.fixture(autouse=True)
def _consumers(project: Project) -> None:
    (project.folder / "proj" / "consumers.py").write_text(CONSUMERS)


def happened(project: Project, group: str) -> list[tuple[str, str]]:
    """Return what happened to the events of a group, in order."""
    return [(entry["consumer"], entry["event"]) for entry in project.entries() if entry["event"][0] == group]


def finished(project: Project, *events: str) -> None:
    """Wait until both consumers have finished with *events*."""
    project.wait_for(lambda runs: all(runs["end", event] and runs["other-end", event] for event in events), 120)


def assert_in_order(project: Project, group: str, count: int) -> None:
    """Assert that each event of a group starts after the one before it has finished."""
    events = [event for _, event in happened(project, group)]
    assert [event for event, _ in groupby(events)] == [f"{group}{number}" for number in range(count)]


def test_groups_run_beside_one_another_and_each_in_order(start: Start, project: Project, topic: FifoTopic) -> None:
    """Groups run in parallel, and the next event of a group starts when all consumers have finished the one before."""
    for number in range(4):
        for group in "abc":
            topic.step(f"{group}{number}", 0.5)
    worker = start("worker", "-l", "INFO", "-c", "3")
    finished(project, "a3", "b3", "c3")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    for group in "abc":
        assert_in_order(project, group, 4)
        assert len(happened(project, group)) == 16
    # While a step of one group is under way, one of another begins.
    begun = [
        (entry["consumer"], entry["event"]) for entry in project.entries() if entry["consumer"] in ("begin", "end")
    ]
    assert any(first[0] == second[0] == "begin" for first, second in pairwise(begun))
    assert stop(worker) == 0


def test_a_failure_holds_its_group_until_its_retry_or_its_dead_letter(
    start: Start, project: Project, topic: FifoTopic
) -> None:
    """A failing event blocks its group until it succeeds or is a dead letter; other groups go on."""
    for event, more in {"a0": {"failing": "once"}, "a1": {"failing": "always"}, "a2": {}, "b0": {}}.items():
        topic.step(event, **more)
    start("worker", "-l", "INFO", "-c", "2")
    finished(project, "a0", "a2", "b0")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert_in_order(project, "a", 3)
    runs = project.runs()
    assert (runs["other", "a0"], runs["other", "a1"], runs["begin", "a0"]) == (2, 1, 1)
    entries = [(entry["consumer"], entry["event"]) for entry in project.entries()]
    assert entries.index(("other-end", "b0")) < entries.index(("other-end", "a0"))
    assert [letter["group"] for letter in topic.dead()] == ["a"]


def test_a_failure_lets_its_group_go_on_if_told_so(start: Start, project: Project, topic: FifoTopic) -> None:
    """With ``balog_fifo_on_failure = 'continue'`` the group goes on, and the failed event is retried by the broker."""
    project.add("balog_fifo_on_failure = 'continue'")
    topic.step("a0", failing="once")
    topic.step("a1")
    start("worker", "-l", "INFO", "-c", "2")
    finished(project, "a0", "a1")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    what = happened(project, "a")
    assert what.index(("other-end", "a1")) < what.index(("other-end", "a0"))


@pytest.mark.parametrize("victim", ["worker", "engine"])
def test_nothing_overtakes_when_one_of_two_workers_is_killed(
    start: Start, project: Project, topic: FifoTopic, victim: str
) -> None:
    """After one of two workers is killed, its events run again in their order, and none overtakes another."""
    project.add("balog_visibility_timeout = 6")
    count = 8
    for number in range(count):
        for group in "abcd":
            topic.step(f"{group}{number}", 0.3)
    workers = [start("worker", "-l", "INFO", "-c", "2", "-n", f"w{number}@h") for number in range(2)]
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "end") >= 5)
    doomed = next((one for one in workers if "eceived" in one.output), workers[0])
    (engine,) = engine_pids(doomed)
    os.kill(doomed.pid if victim == "worker" else engine, signal.SIGKILL)
    finished(project, *(f"{group}{count - 1}" for group in "abcd"))
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    for group in "abcd":
        assert_in_order(project, group, count)


def test_a_stop_and_a_start_keep_the_order(start: Start, project: Project, topic: FifoTopic) -> None:
    """After a stop and a start, unstarted events follow those that had started, and none runs twice."""
    project.add("balog_visibility_timeout = 600")
    for number in range(5):
        topic.step(f"a{number}", 1.0)
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: bool(runs["begin", "a1"]))
    assert stop(worker) == 0
    start("worker", "-l", "INFO", "-c", "2")
    finished(project, "a4")
    assert_in_order(project, "a", 5)
    assert len(happened(project, "a")) == 20


@pytest.mark.parametrize(
    ("command", "config", "why"),
    [
        (["balog", "engine"], "", "an engine that puts tasks on the broker"),
        (["worker", "-c", "1"], "balog_dispatch = 'publish'", "an engine that puts tasks on the broker"),
        (["worker", "-c", "1"], NO_LOOP, "a worker that is handed no tasks"),
        (["worker", "-c", "1"], "task_routes = {'proj.consumers.other': 'elsewhere'}", "serve the queue 'elsewhere'"),
    ],
)
def test_where_completion_cannot_be_known_a_fifo_topic_is_refused(
    start: Start, project: Project, topic: FifoTopic, command: list[str], config: str, why: str
) -> None:
    """An app that cannot keep a FIFO topic's order is refused at start with advice, and receives nothing."""
    project.add(config)
    topic.step("a0")
    program = start(*command, ready=None)
    program.wait(60)
    assert f"topic {topic.name!r} is FIFO" in program.output
    assert why in program.output
    names = ["ApproximateNumberOfMessages"]
    assert topic.client.get_queue_attributes(QueueUrl=topic.url, AttributeNames=names)["Attributes"] == {names[0]: "1"}
    assert project.entries() == []
