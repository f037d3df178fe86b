"""Batch consumers in real workers: events that fail are retried and dead-lettered one by one, and none is lost."""

from __future__ import annotations

import os
import signal

import pytest
from project import QUICK_RESTORE, Project, Start, Topic, engine_pids, inspect, stop

import servers
from sample_events import event_text

BULK = """

from balog_celery.consumers import BatchFailure


def ran(event_id):
    return sum(f'"bulk", "event": "{event_id}"' in line for line in open(os.environ["LEDGER"]))


@consumer_config(topic=TOPIC, cls_type="bulk", batch=25, batch_wait=WAIT, max_retries=2, default_retry_delay=DELAY)
def bulk(events):
    for event in events:
        note("bulk", event["header"]["id"], of=len(events))
    raise BatchFailure([
        index for index, event in enumerate(events) if ran(event["header"]["id"]) <= event["payload"].get("fails", 0)
    ])


@consumer_config(topic=TOPIC, cls_type="slow-bulk", batch=4, batch_wait=0.5)
def slow_bulk(events: list[FacilityRecord]):
    for event in events:
        note("slow-bulk", event.header.id)
    time.sleep(2)
    for event in events:
        note("slow-bulk-done", event.header.id)


@consumer_config(topic=TOPIC, cls_type="crash-bulk", batch=2, batch_wait=60, max_retries=1, default_retry_delay=0)
def crash_bulk(events):
    for event in events:
        note("crash-bulk", event["header"]["id"])
    os._exit(7)


@consumer_config(topic=TOPIC, cls_type="long-bulk", batch=2, batch_wait=60, time_limit=3)
def long_bulk(events):
    time.sleep(300)
"""


@pytest.fixture
def bulk(project: Project) -> Project:
    """The project with consumers that take batches, wait for full ones, and retry at once."""
    return with_bulk(project, wait=60, delay=0)


def with_bulk(project: Project, *, wait: int, delay: int) -> Project:
    with (project.folder / "proj" / "consumers.py").open("a") as file:
        file.write(f"\nWAIT, DELAY = {wait}, {delay}\n{BULK}")
    return project


def published(broker: servers.Valkey) -> int:
    """Return how many tasks were put on the broker."""
    with broker.client() as client:
        return int(client.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"])


@pytest.mark.parametrize("dispatch", ["hand-off", "publish"])
def test_only_what_failed_is_retried_and_then_a_dead_letter(
    start: Start, bulk: Project, topic: Topic, broker: servers.Valkey, dispatch: str
) -> None:
    """Only failed events are retried.

    One works at the third attempt, one becomes a dead letter. Hand-off bypasses the broker.
    """
    bulk.add(f"balog_dispatch = {dispatch!r}")
    with broker.client() as client:
        client.config_resetstat()
    fails = {"e7": 2, "e11": 99}
    texts = {f"e{number}": event_text(f"e{number}", "bulk", fails=fails.get(f"e{number}", 0)) for number in range(25)}
    topic.send(*texts.values())
    worker = start("worker", "-l", "INFO", "-c", "2")
    bulk.wait_for(lambda runs: len(runs) == 25 and all(runs["bulk", event] == 3 for event in fails))
    servers.wait_until(topic.dead, what="the dead letter")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert bulk.runs() == {("bulk", event): 3 if event in fails else 1 for event in texts}
    (letter,) = topic.dead()
    assert (letter["body"], letter["consumer"]) == (texts["e11"], "proj.consumers.bulk")
    assert stop(worker) == 0
    # Three receives came together.
    assert max(entry["of"] for entry in bulk.entries()) == 25
    if dispatch == "hand-off":
        assert published(broker) == 0


def test_what_is_done_is_deleted_while_the_rest_waits(start: Start, project: Project, topic: Topic) -> None:
    """Events that are done are deleted while the others wait for a retry; a stop releases only the others."""
    bulk = with_bulk(project, wait=1, delay=900)
    bulk.add("balog_visibility_timeout = 600")
    topic.send(*(event_text(f"e{number}", "bulk", fails=int(number < 3)) for number in range(12)))
    worker = start("worker", "-l", "INFO", "-c", "1")
    bulk.wait_for(lambda runs: len(runs) == 12)
    servers.wait_until(lambda: topic.left() == 3, what="the deletes")
    shown = [entry["request"]["args"] for entry in inspect(bulk, "scheduled")]
    assert shown
    assert all(args.startswith("(<Batch of ") and f"cls_type=bulk topic={topic.name}" in args for args in shown)
    assert stop(worker) == 0
    assert topic.left() == 3
    start("worker", "-l", "INFO", "-c", "1")
    bulk.wait_for(lambda runs: all(runs["bulk", f"e{number}"] == 2 for number in range(3)))
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert sum(bulk.runs().values()) == 15


def test_a_lost_child_and_a_time_limit_make_each_event_a_dead_letter(start: Start, bulk: Project, topic: Topic) -> None:
    """A lost child or a time limit makes each event of the batch a dead letter, once its retries are exhausted."""
    texts = {event_text(event, f"{kind}-bulk") for kind in ("crash", "long") for event in (f"{kind}1", f"{kind}2")}
    topic.send(*texts)
    start("worker", "-l", "INFO", "-c", "2")
    dead: dict[str, str] = {}

    def all_dead() -> bool:
        dead.update({letter["body"]: letter["error"] for letter in topic.dead()})
        return dead.keys() == texts

    servers.wait_until(all_dead, what="the dead letters")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert bulk.runs() == {("crash-bulk", "crash1"): 2, ("crash-bulk", "crash2"): 2}
    assert sum("TimeLimitExceeded" in error for error in dead.values()) == 2
    assert sum("WorkerLostError" in error for error in dead.values()) == 2


# On Redis, Celery may lose a task that a killed worker was just fetching: see README.
@pytest.mark.parametrize(
    ("victim", "dispatch"), [("engine", "hand-off"), ("engine", "publish"), ("worker", "hand-off")]
)
def test_a_kill_loses_nothing(start: Start, bulk: Project, topic: Topic, victim: str, dispatch: str) -> None:
    """A kill loses neither collected events nor a running batch."""
    bulk.add(f"balog_visibility_timeout = 5\nbalog_dispatch = {dispatch!r}")
    bulk.add(QUICK_RESTORE)
    events = [f"s{number}" for number in range(30)]
    topic.send(*(event_text(event, "slow-bulk") for event in events))
    worker = start("worker", "-l", "INFO", "-c", "2")
    bulk.wait_for(lambda runs: sum(name == "slow-bulk" for name, _ in runs) >= 4)
    if victim == "engine":
        (pid,) = engine_pids(worker)
        os.kill(pid, signal.SIGKILL)
    else:
        os.kill(worker.pid, signal.SIGKILL)
        start("worker", "-l", "INFO", "-c", "2")
    bulk.wait_for(lambda runs: all(runs["slow-bulk-done", event] for event in events), timeout=120)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert topic.dead() == []
