"""Faults of production.

Brokers that hang, fill up or die, functions that kill their child, duplicates, frozen pollers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from project import CELERY, QUICK_RESTORE, Project, Start, Topic, engine_pids, inspect, stop

import servers
from sample_events import event_text

METRIC = [{"name": "n", "value": 1}]


@pytest.fixture
def own_broker(project: Project) -> Iterator[servers.Valkey]:
    """A Valkey for this test's faults, which the project uses."""
    with servers.Valkey() as server:
        project.add(f"broker_url = {server.url!r}")
        project.add("balog_publish_timeout = 2")
        project.add(QUICK_RESTORE)
        yield server


def wait_for_outage(engine: servers.Program) -> None:
    """Wait until it cannot publish, or has found before it tried that its broker does not answer."""
    signs = ("dispatching failed", "the broker does not answer")
    servers.wait_until(lambda: any(sign in engine.output for sign in signs), what="the outage")


@pytest.mark.parametrize("trouble", ["freeze", "kill"])
def test_a_broker_that_hangs_or_dies_loses_nothing(
    start: Start, project: Project, topic: Topic, own_broker: servers.Valkey, trouble: str
) -> None:
    """While the broker hangs or is down, publishing fails in bounded time and nothing is deleted; then it goes on."""
    engine = start("balog", "engine", ready="engine started")
    topic.send(event_text("before", values=METRIC))
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    getattr(own_broker, trouble)()
    topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(12)))
    wait_for_outage(engine)
    assert topic.left() == 12
    if trouble == "freeze":
        own_broker.thaw()
    else:
        own_broker.start()
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    start("worker", "-l", "INFO", "-c", "1", "--no-engine")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 13)


def test_a_frozen_rabbitmq_gets_no_credit_for_what_it_did_not_take(
    start: Start, project: Project, topic: Topic, rabbitmq: servers.RabbitMQ
) -> None:
    """A frozen RabbitMQ confirms nothing, so no message is deleted."""
    project.add(f"broker_url = {rabbitmq.url!r}\ntask_default_queue = {topic.name!r}\nbalog_publish_timeout = 2")
    engine = start("balog", "engine", ready="engine started")
    topic.send(event_text("before", values=METRIC))
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    rabbitmq.freeze()
    try:
        topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(12)))
        wait_for_outage(engine)
        assert topic.left() == 12
    finally:
        rabbitmq.thaw()
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    start("worker", "-l", "INFO", "-c", "1", "--no-engine")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 13)


def test_a_task_that_is_too_large_for_its_broker_holds_up_no_other(
    start: Start, project: Project, topic: Topic, rabbitmq: servers.RabbitMQ
) -> None:
    """A task that is too large for its broker becomes a dead letter and does not hold up others."""
    project.add(f"broker_url = {rabbitmq.url!r}\ntask_default_queue = {topic.name!r}")
    # SQS counts a quotation mark as two bytes, and as a task's argument it takes four.
    large = event_text("large", values=METRIC, filler='"' * 300_000)
    assert len(large) < rabbitmq.MAX_MESSAGE_BYTES < 1.9 * len(large)
    topic.send(event_text("before", values=METRIC), large, event_text("after", values=METRIC))
    engine = start("balog", "engine", ready="engine started")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    dead = topic.dead()
    assert sorted(letter["consumer"].rpartition(".")[2] for letter in dead) == ["first", "typed"]
    for letter in dead:
        assert (letter["body"], letter["reason"], letter["receive_count"]) == (large, "failed", "1")
        assert "too large for the broker" in letter["error"]
    assert "dispatching failed" not in engine.output
    start("worker", "-l", "INFO", "-c", "1", "--no-engine")
    project.wait_for(lambda runs: runs["first", "before"] == runs["first", "after"] == 1)


def test_a_full_broker_loses_nothing(start: Start, project: Project, topic: Topic, own_broker: servers.Valkey) -> None:
    """While Redis is full nothing is deleted, and it goes on when there is room."""
    engine = start("balog", "engine", ready="engine started")
    with own_broker.client() as client:
        client.config_set("maxmemory", "1")
        topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(12)))
        engine.wait_for("dispatching failed")
        assert topic.left() == 12
        client.config_set("maxmemory", "0")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    start("worker", "-l", "INFO", "-c", "1", "--no-engine")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 12)


def test_a_queue_that_no_worker_serves_is_reported(start: Start, project: Project, topic: Topic) -> None:
    """A queue that no worker serves is logged with advice."""
    topic.send(event_text("e", "elsewhere"))
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("tasks wait in other, which no worker serves: start one with -Q other")


def status(project: Project, topic: Topic) -> dict[str, Any]:
    """Return the status of the topic from the project's only engine."""
    (file,) = (project.folder / "status").glob("engine-*.json")
    return dict(json.loads(file.read_text())["topics"][topic.name])


def test_the_backlog_stays_in_sqs(start: Start, project: Project, topic: Topic, broker: servers.Valkey) -> None:
    """Above the high-water mark nothing is received until the workers have caught up."""
    project.add("balog_high_water = 20")
    engine = start("balog", "engine", ready="engine started")
    topic.send(*(event_text(f"a{number}", values=METRIC) for number in range(30)))
    engine.wait_for("receiving nothing for it until some have run")

    def at_rest() -> bool:
        """Return whether the current poll has ended and its messages are deleted."""
        now = status(project, topic)
        return now["doing"] == "paused" and now["in_flight"] == 0

    servers.wait_until(at_rest, what="the pause")
    before = topic.left()
    topic.send(*(event_text(f"b{number}", values=METRIC) for number in range(10)))
    servers.wait_until(lambda: status(project, topic)["last_poll"] > 5, what="some seconds without a poll")
    assert topic.left() == before + 10
    start("worker", "-l", "INFO", "-c", "1", "--no-engine")
    engine.wait_for("receiving again")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 40)


def test_an_event_that_kills_its_child_is_not_run_for_ever(start: Start, project: Project, topic: Topic) -> None:
    """An event that kills its pool child becomes a dead letter after its retries, and other events are processed."""
    topic.send(event_text("c", "crash"))
    start("worker", "-l", "INFO", "-c", "1")
    servers.wait_until(lambda: topic.dead(), what="the dead letter")
    (letter,) = topic.dead()
    assert letter["consumer"] == "proj.consumers.crash"
    assert "WorkerLostError" in letter["error"]
    topic.send(event_text("e", values=METRIC))
    project.wait_for(lambda runs: runs["first", "e"] == 1)
    assert project.runs()["crash", "c"] == 3


def test_once_skips_what_was_finished(start: Start, project: Project, topic: Topic) -> None:
    """`once` skips a finished event in whichever worker gets it again."""
    topic.send(event_text("s", "single"))
    one = start("worker", "-l", "INFO", "-c", "1", "-n", "one@h")
    project.wait_for(lambda runs: runs["single-done", "s"] == 1)
    assert stop(one) == 0
    topic.send(event_text("s", "single"))
    two = start("worker", "-l", "INFO", "-c", "1", "-n", "two@h")
    two.wait_for("has finished event s before: skipped")
    assert project.runs()["single", "s"] == 1


def test_once_lets_no_two_attempts_run_at_a_time(start: Start, project: Project, topic: Topic) -> None:
    """With `once` a second attempt waits for the first."""
    topic.send(event_text("s", "single", seconds=10))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: runs["single", "s"] == 1)
    topic.send(event_text("s", "single", seconds=10))
    worker.wait_for("is processing event s elsewhere: trying again later")
    worker.wait_for("has finished event s before: skipped")
    assert project.runs() == {("single", "s"): 1, ("single-done", "s"): 1}


def health(project: Project, command: str = "health") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **project.env}
    argv = [*CELERY, "balog", command]
    return subprocess.run(argv, cwd=project.folder, env=env, capture_output=True, text=True, timeout=60)


def test_health_tells_a_running_engine_from_none_and_from_a_frozen_one(
    start: Start, project: Project, topic: Topic
) -> None:
    """`balog health` tells a running engine from none and from a frozen one, by exit code and text."""
    assert health(project).returncode == 1
    assert "no engine of this app runs" in health(project).stderr
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("engine started")
    # Before the worker says that it takes tasks the engine is starting, or paused; it is well all the same.
    assert health(project).returncode == 0
    servers.wait_until(lambda: f"topic {topic.name}: polling" in health(project).stdout, what="the first poll")
    (pid,) = engine_pids(worker)
    assert f"OK    engine {pid}: " in health(project, "check").stdout
    frozen: set[int] = set()

    def verdict() -> str:
        # On a slow machine its worker may have replaced it before this has looked.
        for running in set(engine_pids(worker)) - frozen:
            os.kill(running, signal.SIGSTOP)
            frozen.add(running)
        done = health(project)
        return done.stderr if done.returncode and "hangs" in done.stderr else ""

    try:
        said = servers.wait_until(verdict, what="the verdict")
    finally:
        for one in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)
    assert any(f"the engine (pid {one}) hangs" in said for one in frozen)


def test_a_worker_that_stands_still_is_given_nothing_and_told_of(start: Start, project: Project, topic: Topic) -> None:
    """A worker whose event loop is blocked gets no tasks, and health reports it."""
    topic.send(event_text("before", values=METRIC))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["first", "before"] == 1)
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(30)))
        servers.wait_until(lambda: "does not respond" in status(project, topic)["reason"], what="the reason")
        assert not status(project, topic)["back_pressure"]
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    project.wait_for(lambda runs: all(runs["first", f"e{number}"] for number in range(30)))
    servers.wait_until(lambda: status(project, topic)["doing"] == "polling", what="the next poll")


def test_inspect_shows_the_engines_counters(start: Start, project: Project, topic: Topic) -> None:
    """The engine's counters are shown by `inspect balog` and by `inspect stats`, which Flower's worker page shows."""
    topic.send(event_text("e", values=METRIC))
    start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["first", "e"] == 1)

    def counted() -> dict[str, Any]:
        stats = inspect(project, "stats")
        return dict(stats["balog"]["topics"][topic.name]) if stats["balog"] else {}

    servers.wait_until(lambda: counted().get("deleted") == 1, what="the counters")
    answer = inspect(project, "balog")
    assert answer["problems"] == []
    assert answer["engine"]["topics"][topic.name]["received"] == 1
    assert {"last_poll", "oldest", "owed"} <= answer["engine"]["topics"][topic.name].keys()


def test_no_secret_is_shown_by_any_command(start: Start, project: Project, topic: Topic) -> None:
    """No secret appears in the output of a command, in the log or on a command line."""
    secrets = ["s3cr3t-of-redis", "s3cr3t-of-aws", "s3cr3t-token"]
    project.add(f"balog_once_url = 'redis://:{secrets[0]}@127.0.0.1:1/0'")
    project.add(f"balog_aws_access_key_id = 'AKIA'\nbalog_aws_secret_access_key = {secrets[1]!r}")
    project.add(f"balog_aws_session_token = {secrets[2]!r}")
    topic.send(event_text("e", values=METRIC), event_text("s", "single"))
    worker = start("worker", "-l", "DEBUG", "-c", "1")
    project.wait_for(lambda runs: runs["first", "e"] == 1)
    worker.wait_for("the idempotency store cannot be read")
    report = start("report", ready=None)
    assert report.wait(60) == 0
    listing = subprocess.run(["ps", "-wweo", "args="], capture_output=True, text=True, check=True).stdout
    shown = [worker.output, report.output, json.dumps(inspect(project, "conf")), listing]
    assert "balog_once_url" in report.output
    assert not [text for text in shown for secret in secrets if secret in text]


def test_a_pickled_task_is_refused_whatever_is_on_the_broker(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """A pickled task on the broker is refused, because unpickling could run foreign code."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    with Celery("somebody", broker=broker.url, set_as_current=False) as app:
        app.conf.task_serializer = "pickle"
        app.send_task("proj.consumers.first", (event_text("p", values=METRIC),), serializer="pickle")
    worker.wait_for("Refusing to deserialize")
    topic.send(event_text("e", values=METRIC))
    project.wait_for(lambda runs: runs["first", "e"] == 1)
    assert project.runs()["first", "p"] == 0


def test_a_full_task_queue_stops_its_topic_with_hand_off_too(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """A full task queue that this worker does not serve stops its topic with hand-off, too."""
    project.add("balog_high_water = 20")
    worker = start("worker", "-l", "INFO", "-c", "1")
    topic.send(*(event_text(f"a{number}", "elsewhere") for number in range(30)))
    worker.wait_for("tasks wait in other, more than balog_high_water (20)")
    servers.wait_until(lambda: f"topic {topic.name}: paused" in health(project).stdout, what="the pause")
    topic.send(*(event_text(f"b{number}", "elsewhere") for number in range(10)))
    start("worker", "-l", "INFO", "-c", "1", "--no-engine", "-Q", "other", "-n", "two@h")
    worker.wait_for("fewer than 20 tasks wait in other: receiving again")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "elsewhere") == 40)


def test_a_wait_for_room_in_the_worker_is_no_illness(start: Start, project: Project, topic: Topic) -> None:
    """A poller that waits for room in the worker is healthy, and polls again afterwards."""
    project.add("balog_visibility_timeout = 5")
    # A receive of ten that two consumers want, behind as many slow ones.
    topic.send(*(event_text(f"s{number}", "slow", seconds=8) for number in range(4)))
    start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(
        lambda runs: runs["slow", "s0"] + runs["slow", "s1"] + runs["slow", "s2"] + runs["slow", "s3"] >= 1
    )
    topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(30)))
    seen = servers.wait_until(lambda: "dispatching" in (h := health(project)).stdout and h, what="the wait for room")
    assert seen.returncode == 0
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 30, 120)


def test_a_queue_that_is_deleted_and_made_anew_is_listened_to_again(
    start: Start, project: Project, topic: Topic
) -> None:
    """When a queue is deleted and created again, the engine logs what is missing and goes on."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("engine started")
    topic.client.delete_queue(QueueUrl=topic.url)
    worker.wait_for(f"there is no queue '{topic.name}'")
    topic.client.create_queue(QueueName=topic.name)
    topic.send(event_text("e", values=METRIC))
    project.wait_for(lambda runs: runs["first", "e"] == 1, 90)


OTHERS = """
@consumer_config(topic=TOPIC + "-{number}", cls_type="other")
def other{number}(event):
    pass
"""


def test_twenty_idle_and_broken_topics_do_not_slow_a_busy_one(start: Start, project: Project, topic: Topic) -> None:
    """Ten empty and ten missing queues do not slow a busy topic down."""
    names = [f"{topic.name}-{number}" for number in range(20)]
    urls = [topic.client.create_queue(QueueName=name)["QueueUrl"] for name in names]
    with (project.folder / "proj" / "consumers.py").open("a") as file:
        file.writelines(OTHERS.format(number=number) for number in range(20))
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("engine started: 21 topics")
    for url in urls[:10]:
        topic.client.delete_queue(QueueUrl=url)
    for name in names[:10]:
        worker.wait_for(f"there is no queue '{name}'")
    topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(100)))
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 100)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert stop(worker) == 0


@pytest.mark.parametrize(
    ("numbers", "config"),
    [
        ((signal.SIGQUIT,), ""),
        ((signal.SIGTERM, signal.SIGQUIT), ""),
        ((signal.SIGINT, signal.SIGINT), ""),
        ((signal.SIGTERM, signal.SIGQUIT), "balog_dispatch = 'publish'"),
        ((signal.SIGTERM,), "worker_soft_shutdown_timeout = 3"),
    ],
    ids=["cold", "warm-then-cold", "ctrl-c-twice", "warm-then-cold-publish", "soft-by-sigterm"],
)
def test_a_cold_shutdown_loses_nothing(
    start: Start, project: Project, topic: Topic, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...], config: str
) -> None:
    """Tasks that a cold shutdown killed run again in the next worker."""
    if numbers == (signal.SIGTERM,):
        monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")
    project.add(QUICK_RESTORE)
    project.add(config + "\nbalog_visibility_timeout = 5")
    topic.send(*(event_text(f"s{number}", "slow", seconds=2) for number in range(4)))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(
        lambda runs: runs["slow", "s0"] + runs["slow", "s1"] + runs["slow", "s2"] + runs["slow", "s3"] >= 1
    )
    for position, number in enumerate(numbers):
        if position:
            worker.wait_for("Warm shutdown")
        # Ctrl-C reaches the whole group.
        (worker.signal_group if number == signal.SIGINT else worker.signal)(number)
    worker.wait(60)
    assert ("Warm shutdown" in worker.output) == (len(numbers) == 2)
    start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: all(runs["slow-done", f"s{number}"] >= 1 for number in range(4)), 90)
