"""The log of a real worker, shipped by one line in its app, without a loop, with the id of each event."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from project import Project, Start, Topic, stop

import servers
from sample_events import event_text

CONSUMER = """
import contextvars, logging, threading
from concurrent.futures import ThreadPoolExecutor
from balog_celery import SQSHandler, caused_by, get_logger
from celery.utils.log import get_task_logger


@consumer_config(topic=TOPIC, cls_type="shipping")
def shipping(event):
    get_logger(__name__).info("done", payload={"cls_type": "shipped", "of": event["header"]["id"]})
    logging.getLogger(__name__).warning("plain")
    get_task_logger(__name__).warning("of the task")
    threaded = lambda: get_logger(__name__).info("thread", payload={"cls_type": "shipped"})
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(threaded,))
    thread.start()
    thread.join()
    note("shipping", event["header"]["id"])


@consumer_config(topic=TOPIC, cls_type=["shipped", "log"])
def own(event):
    note("own", event["header"]["id"])
"""


@pytest.fixture
def out(topic: Topic) -> str:
    """The URL of a queue for the worker's log."""
    return topic.client.create_queue(QueueName=f"{topic.name}-out")["QueueUrl"]  # type: ignore[no-any-return]


def records(topic: Topic, url: str) -> list[dict[str, Any]]:
    """Return all records in a queue."""
    found = []
    while messages := topic.client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        found += [json.loads(message["Body"]) for message in messages]
    return found


def add_consumer(project: Project) -> None:
    with (project.folder / "proj" / "consumers.py").open("a") as file:
        file.write(CONSUMER)


ONE_LINE = "balog_ship_logs_to = {topic!r}"
SIGNAL = """
from celery import signals
from balog_celery import SQSHandler
handler = SQSHandler({topic!r})

@signals.after_setup_logger.connect
@signals.after_setup_task_logger.connect
def ship(logger, **_):
    logger.addHandler(handler)
"""


@pytest.mark.parametrize("hijack", [True, False])
@pytest.mark.parametrize("recipe", [ONE_LINE, SIGNAL], ids=["setting", "signal"])
def test_a_worker_ships_its_log(
    start: Start, project: Project, topic: Topic, out: str, recipe: str, hijack: bool
) -> None:
    """A worker ships the records of consumers, Celery and the engine, whether Celery hijacks root or not."""
    add_consumer(project)
    project.add(recipe.format(topic=f"{topic.name}-out") + f"\nworker_hijack_root_logger = {hijack}")
    topic.send(*(event_text(f"e{number}", "shipping") for number in range(12)))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: len(runs) == 12)
    stop(worker)
    shipped = records(topic, out)
    events = [record for record in shipped if record["payload"]["cls_type"] == "shipped"]
    assert sorted(event["payload"]["of"] for event in events if "of" in event["payload"]) == sorted(
        f"e{number}" for number in range(12)
    )
    lines = [record["payload"]["message"] for record in shipped if record["payload"]["cls_type"] == "log"]
    assert lines.count("plain") == lines.count("of the task") == 12
    assert sum("succeeded in" in line for line in lines) == 12
    assert any(line.startswith("engine started") for line in lines)
    assert len({record["header"]["id"] for record in shipped}) == len(shipped)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_everything_about_an_event_carries_its_id(
    start: Start, project: Project, topic: Topic, out: str, pool: str
) -> None:
    """Follow-up events carry their cause and first cause, log lines the id, type, topic and consumer."""
    add_consumer(project)
    project.add(ONE_LINE.format(topic=f"{topic.name}-out") + f"\nworker_pool = {pool!r}")
    first, second = json.loads(event_text("e1", "shipping")), json.loads(event_text("e2", "shipping"))
    second["header"]["context"]["correlation_id"] = "e0"
    topic.send(json.dumps(first), json.dumps(second))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: len(runs) == 2)
    stop(worker)
    shipped = records(topic, out)
    for event_id, first_id in [("e1", "e1"), ("e2", "e0")]:
        ids = {"causation_id": event_id, "correlation_id": first_id}
        about = [one for one in shipped if one["header"]["context"].get("causation_id") == event_id]
        events = [one for one in about if one["payload"]["cls_type"] == "shipped"]
        assert len(events) == 2  # the thread's, too
        assert all(one["header"]["context"] == ids for one in events)
        lines = {one["payload"]["message"]: one["header"]["context"] for one in about if one not in events}
        (succeeded,) = [line for line in lines if "succeeded in" in line]
        for line in ("plain", "of the task", succeeded):
            fields = {"event_id": event_id, "cls_type": "shipping", "topic": topic.name}
            assert lines[line].items() >= {**ids, **fields, "consumer": "proj.consumers.shipping"}.items()
    started = [one for one in shipped if one["payload"].get("message", "").startswith("engine started")]
    assert started[0]["header"]["context"] == {}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_does_not_feed_itself(start: Start, project: Project, topic: Topic, pool: str) -> None:
    """A worker that ships its log to a topic that it consumes does not feed itself."""
    add_consumer(project)
    project.add(ONE_LINE.format(topic=topic.name) + f"\nworker_pool = {pool!r}")
    topic.send(event_text("e1", "shipping"))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: ("shipping", "e1") in runs)
    servers.wait_until(lambda: topic.left() == 0)
    time.sleep(3)  # nothing to wait for: nothing must come
    stop(worker)
    assert project.runs() == {("shipping", "e1"): 1}
    assert topic.left() == 0
    assert "log: set feedback=True to ship it" in worker.output


def test_a_worker_feeds_itself_if_it_is_asked_to(start: Start, project: Project, topic: Topic) -> None:
    """With ``feedback=True`` the records of consumers come back to their topic as events."""
    add_consumer(project)
    # Of this logger, because get_task_logger makes Celery's its parent.
    handler = "logging.getLogger('proj.consumers').addHandler(SQSHandler(TOPIC, feedback=True, linger=0))\n"
    with (project.folder / "proj" / "consumers.py").open("a") as file:
        file.write(handler + "logging.getLogger('proj.consumers').setLevel(logging.INFO)\n")
    topic.send(event_text("e1", "shipping"))
    start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: sum(runs[key] for key in runs if key[0] == "own") >= 3)
