"""Hand-off in workers of every pool: each executes as many events at once as it has room for."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from project import CELERY, ONLY_WORKER, Project, Start, Topic, engine_pids, inspect, stop

import servers
from sample_events import event_text

#: How much slower than a machine of its own the one may be that runs the tests.
SLOWNESS = 2

MEET = """

@consumer_config(topic=TOPIC, cls_type="meet")
def meet(event):
    note("meet", event["header"]["id"])
    deadline = time.monotonic() + 60
    while sum("meet" in line for line in open(os.environ["LEDGER"])) < event["payload"]["parties"]:
        if time.monotonic() > deadline:
            raise TimeoutError("the others do not run")
        time.sleep(0.05)
    note("met", event["header"]["id"])
"""


@pytest.mark.parametrize(
    ("pool", "concurrency"),
    [("prefork", 3), ("threads", 30), ("gevent", 100), ("eventlet", 100), ("solo", 1), ("custom", 1)],
    ids=["prefork", "threads", "gevent", "eventlet", "solo", "celery-aio-pool"],
)
def test_a_pool_executes_as_many_events_at_once_as_it_can(
    start: Start,
    project: Project,
    topic: Topic,
    broker: servers.Valkey,
    monkeypatch: pytest.MonkeyPatch,
    pool: str,
    concurrency: int,
) -> None:
    """They are handed over, and each waits until all of them run; celery-aio-pool executes one at a time."""
    # Given
    project.add_consumer(MEET)
    monkeypatch.setenv("CELERY_CUSTOM_WORKER_POOL", "celery_aio_pool.pool:AsyncIOPool")
    with broker.client() as client:
        client.config_resetstat()
    topic.send(*(event_text(f"m{number}", "meet", parties=concurrency) for number in range(concurrency)))
    # When
    worker = start("worker", "-l", "INFO", "-P", pool, "-c", str(concurrency))
    # Then
    project.wait_for(lambda runs: sum(name == "met" for name, _ in runs) == concurrency, 120)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert set(project.runs().values()) == {1}
    with broker.client() as client:
        assert "cmdstat_lpush" not in client.info("commandstats")
    assert stop(worker) == 0


def control(project: Project, *arguments: str) -> None:
    """Run ``celery control`` until the worker has answered."""
    command, env = [*CELERY, "control", *arguments, *ONLY_WORKER], {**os.environ, **project.env}

    def done() -> bool:
        return subprocess.run(command, cwd=project.folder, env=env, capture_output=True, timeout=60).returncode == 0

    servers.wait_until(done, what=f"the answer to {arguments}")


def most_at_once(project: Project) -> int:
    """The most runs of ``slow`` that were under way at a time."""
    now = most = 0
    for entry in project.entries():
        now += {"slow": 1, "slow-done": -1}.get(entry["consumer"], 0)
        most = max(most, now)
    return most


def test_autoscale_grows_to_its_maximum_for_events(start: Start, project: Project, topic: Topic) -> None:
    """As many events run at once as it allows, though the pool begins with one process."""
    project.add_consumer(MEET)
    topic.send(*(event_text(f"m{number}", "meet", parties=14) for number in range(14)))
    start("worker", "-l", "INFO", "--autoscale=14,1")
    project.wait_for(lambda runs: sum(name == "met" for name, _ in runs) == 14, 120)


@pytest.mark.parametrize("command", [["pool_grow", "3"], ["autoscale", "4", "4"]])
def test_the_pool_may_grow_while_the_worker_runs(
    start: Start, project: Project, topic: Topic, command: list[str]
) -> None:
    """The new processes get events as well, with a prefetch limit that leaves no others."""
    project.add_consumer(MEET)
    project.add("worker_disable_prefetch = True")
    size = ["-c", "1"] if command[0] == "pool_grow" else ["--autoscale=1,1"]
    start("worker", "-l", "INFO", *size)
    topic.send(*(event_text(f"m{number}", "meet", parties=4) for number in range(4)))
    project.wait_for(lambda runs: sum(name == "meet" for name, _ in runs) == 1)
    control(project, *command)
    project.wait_for(lambda runs: sum(name == "met" for name, _ in runs) == 4, 120)


def test_a_worker_takes_no_more_events_than_its_prefetch_limit(start: Start, project: Project, topic: Topic) -> None:
    """The others stay visible for idle workers."""
    project.add("worker_prefetch_multiplier = 1")
    topic.send(*(event_text(f"s{number}", "slow", seconds=600) for number in range(12)))
    start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: sum(name == "slow" for name, _ in runs) == 2)
    counts = topic.client.get_queue_attributes(QueueUrl=topic.url, AttributeNames=["All"])["Attributes"]
    assert counts["ApproximateNumberOfMessages"] == "10"
    assert most_at_once(project) == 2


def test_a_worker_obeys_cancel_consumer_and_add_consumer(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """Meanwhile the events are in SQS, for the engines of other workers, and the worker is healthy."""
    # Given
    start("worker", "-l", "INFO", "-c", "1")
    topic.send(event_text("a", "slow", seconds=0))
    project.wait_for(lambda runs: runs["slow-done", "a"] == 1)
    # When
    control(project, "cancel_consumer", "celery")
    servers.wait_until(lambda: inspect(project, "active_queues") == [], what="no queue")

    def is_paused() -> bool:
        command = [*CELERY, "balog", "health"]
        done = subprocess.run(
            command, cwd=project.folder, env={**os.environ, **project.env}, capture_output=True, text=True, timeout=60
        )
        return done.returncode == 0 and "no longer consumes" in done.stdout

    servers.wait_until(is_paused, what="the pause")
    topic.send(*(event_text(f"b{number}", "slow", seconds=0) for number in range(20)))
    # Then they stay there
    time.sleep(3)
    assert topic.left() == 20
    with broker.client() as client:
        assert client.llen("celery") == 0
    # And when
    control(project, "add_consumer", "celery")
    # Then
    project.wait_for(lambda runs: all(runs["slow-done", f"b{number}"] == 1 for number in range(20)))


def test_an_idle_worker_stops_at_once(start: Start, project: Project, topic: Topic) -> None:
    """Though a long poll of 20 s is under way."""
    project.add("balog_wait_time = 20")
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("engine started")
    topic.send(event_text("a", "slow", seconds=0))
    project.wait_for(lambda runs: runs["slow-done", "a"] == 1)
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    (engine,) = engine_pids(worker)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    servers.wait_until(lambda: not servers.alive(engine), what="the engine's end")
    assert time.monotonic() - began < 3 * SLOWNESS
    assert worker.wait(60) == 0


def test_an_engine_that_hangs_is_replaced(start: Start, project: Project, topic: Topic) -> None:
    """Its process is there, and does nothing."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("engine started")
    (hung,) = engine_pids(worker)
    os.kill(hung, signal.SIGSTOP)
    worker.wait_for("hangs: it has not written its status", 120)
    topic.send(event_text("a", "slow", seconds=0))
    project.wait_for(lambda runs: runs["slow-done", "a"] == 1, 120)
    assert not servers.alive(hung)
