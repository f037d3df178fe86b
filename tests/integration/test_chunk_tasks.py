"""Consumers with ``chunk`` in real workers: each event has its own end, and chunks are as large as they may be."""

from __future__ import annotations

import json

import pytest
from project import Project, Start, Topic, stop

import servers
from sample_events import event_text

CHUNKS = """

import logging, sys
from celery import current_task

log = logging.getLogger("proj.chunks")


def ran(name, event_id):
    return sum(f'"{name}", "event": "{event_id}"' in line for line in open(os.environ["LEDGER"]))


def size():
    return len(current_task.request.args[0])


@consumer_config(topic=TOPIC, cls_type="many", chunk=50, once=True, bind=True, max_retries=2, default_retry_delay=0)
def many(self, event):
    event_id, fails = event["header"]["id"], event["payload"].get("fails", 0)
    log.warning("processing")
    note("many", event_id, of=size())
    if fails < 0:
        raise ValueError("never works")
    if ran("many", event_id) <= fails:
        raise self.retry(exc=OSError("again"))


@consumer_config(topic=TOPIC, cls_type="slow-many", chunk=50, chunk_wait=0.5)
def slow_many(event):
    time.sleep(0.3)
    note("slow-many", event["header"]["id"], of=size())


@consumer_config(topic=TOPIC, cls_type="crash-many", chunk=50, max_retries=2, default_retry_delay=0)
def crash_many(event):
    note("crash-many", event["header"]["id"], of=size())
    if event["payload"]["crashes"]:
        os._exit(7)


@consumer_config(topic=TOPIC, cls_type="async-many", chunk=50, autoretry_for=(OSError,), default_retry_delay=0)
async def async_many(event):
    import asyncio

    event_id = event["header"]["id"]
    await asyncio.sleep(0.2)
    note("async-many", event_id, of=size())
    if ran("async-many", event_id) <= event["payload"].get("fails", 0):
        raise OSError("again")
"""

LOGGING = """
from celery.signals import after_setup_logger

@after_setup_logger.connect
def name_events(logger, **_):
    import logging
    for handler in logger.handlers:
        handler.setFormatter(logging.Formatter("%(message)s of %(event_id)s"))
"""


@pytest.mark.parametrize("dispatch", ["hand-off", "publish"])
def test_each_event_of_a_chunk_ends_by_itself(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey, dispatch: str
) -> None:
    """Done, retried, or a dead letter, plain or async; chunks grow, but not those of a slow function."""
    # Given
    project.once_url = broker.url
    project.add(f"balog_dispatch = {dispatch!r}\n{LOGGING}")
    project.add_consumer(CHUNKS)
    fails = {"many-7": 2, "many-11": 99, "many-13": -1, "async-many-3": 1}
    names = [f"{kind}-{number}" for kind, count in (("many", 60), ("async-many", 20)) for number in range(count)]
    names += [f"slow-many-{number}" for number in range(3)]
    texts = {name: event_text(name, name.rpartition("-")[0], fails=fails.get(name, 0)) for name in names}
    topic.send(*texts.values())
    # When
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: len(runs) == len(texts) and runs["many", "many-11"] == 3)
    servers.wait_until(lambda: len(topic.dead()) == 2, what="the dead letters")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    # Then
    assert stop(worker) == 0
    expected = {"many-7": 3, "many-11": 3, "async-many-3": 2}
    assert project.runs() == {(name.rpartition("-")[0], name): expected.get(name, 1) for name in names}
    assert {json.loads(letter["body"])["header"]["id"]: letter["error"] for letter in topic.dead()} == {
        "many-11": "OSError('again')",
        "many-13": "ValueError('never works')",
    }
    sizes = {
        kind: [one["of"] for one in project.entries() if one["consumer"] == kind]
        for kind in ("many", "slow-many", "async-many")
    }
    assert 1 < max(sizes["many"]) <= 50
    assert max(sizes["async-many"]) > 1
    if dispatch == "hand-off":
        assert max(sizes["slow-many"]) == 1
    assert all(f"processing of {name}" in worker.output for name in names if name.startswith("many"))


def test_an_event_that_ends_its_child_is_the_only_dead_letter(start: Start, project: Project, topic: Topic) -> None:
    """The others of its chunk come again alone, and so does it until its retries are exhausted."""
    # Given chunks with more than one event: those before have made them grow
    project.add_consumer(CHUNKS)
    topic.send(*[event_text(f"c{number}", "crash-many", crashes=number == 29) for number in range(40)])
    # When
    worker = start("worker", "-l", "INFO", "-c", "1")
    servers.wait_until(topic.dead, what="the dead letter")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    project.wait_for(lambda runs: len(runs) == 40)
    # Then
    assert stop(worker) == 0
    (letter,) = topic.dead()
    assert (json.loads(letter["body"])["header"]["id"], "WorkerLostError" in letter["error"]) == ("c29", True)
    crashed = [entry["of"] for entry in project.entries() if entry["event"] == "c29"]
    assert crashed[-1] == 1
