"""Real workers: events from SQS to the consumers' functions, over real brokers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
from project import CELERY, QUICK_RESTORE, Project, Start, Topic, engine_pids, inspect, stop

import servers
from sample_events import event_text


@pytest.mark.parametrize("dispatch", ["publish", "hand-off"])
@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_events_reach_every_consumer_and_leave_the_queue(
    start: Start, project: Project, topic: Topic, pool: str, dispatch: str
) -> None:
    """Each event reaches every matching consumer once and leaves the queue, in every pool and dispatch mode."""
    project.add(f"balog_dispatch = {dispatch!r}")
    topic.send(*(event_text(f"e{number}", values=[{"name": "n", "value": "1.5"}]) for number in range(12)))
    worker = start("worker", "-l", "INFO", "-P", pool, "-c", "2")
    events = [f"e{number}" for number in range(12)]
    project.wait_for(lambda runs: len(runs) == 24)
    assert project.runs() == {(name, event): 1 for name in ("first", "typed") for event in events}
    assert {entry["value"] for entry in project.entries() if entry["consumer"] == "first"} == {1.5}
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert stop(worker) == 0
    assert "Traceback" not in worker.output


@pytest.mark.parametrize(
    ("pool", "dispatch"),
    [
        ("threads", "publish"),
        ("threads", "hand-off"),
        ("solo", "publish"),
        ("solo", "hand-off"),
        ("gevent", "publish"),
        ("gevent", "hand-off"),
    ],
)
def test_a_worker_on_rabbitmq_does_the_same(
    start: Start, project: Project, topic: Topic, rabbitmq: servers.RabbitMQ, pool: str, dispatch: str
) -> None:
    """On RabbitMQ each event reaches every consumer, with tasks published in a transaction or handed over."""
    project.add(f"balog_dispatch = {dispatch!r}\nbroker_url = {rabbitmq.url!r}\ntask_default_queue = {topic.name!r}\n")
    topic.send(*(event_text(f"e{number}", values=[{"name": "n", "value": 1}]) for number in range(12)))
    worker = start("worker", "-l", "INFO", "-P", pool, "-c", "2")
    project.wait_for(lambda runs: len(runs) == 24)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert stop(worker) == 0


@pytest.mark.parametrize("dispatch", ["publish", "hand-off"])
def test_celery_retries_and_what_fails_for_good_is_a_dead_letter(
    start: Start, project: Project, topic: Topic, dispatch: str
) -> None:
    """Tasks retry by their own options; a permanent failure becomes a dead letter with consumer and error."""
    project.add(f"balog_dispatch = {dispatch!r}")
    topic.send(event_text("f", "flaky"), event_text("d", "doomed"), "not json", event_text("l", "long"))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: runs["flaky", "f"] == 3 and runs["doomed", "d"] == 1 and runs["too_long", "l"] == 1)
    letters: dict[str, dict[str, Any]] = {}

    def all_dead() -> bool:
        letters.update({letter["body"]: letter for letter in topic.dead()})
        return len(letters) == 3

    servers.wait_until(all_dead, what="the dead letters")
    doomed = letters[event_text("d", "doomed")]
    assert doomed["consumer"] == "proj.consumers.doomed"
    assert doomed["error"] == "ValueError('never works')"
    assert doomed["topic"] == topic.name
    assert letters["not json"]["reason"] == "undecodable"
    assert "TimeLimitExceeded" in letters[event_text("l", "long")]["error"]
    for letter in letters.values():
        assert letter["receive_count"] == "1"
        received = datetime.fromisoformat(letter["first_received"])
        assert abs((datetime.now(timezone.utc) - received).total_seconds()) < 600
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert "(<Event d cls_type=doomed topic=" in worker.output or "failed permanently on event d" in worker.output
    assert stop(worker) == 0


def test_a_consumers_queue_is_where_its_tasks_go(start: Start, project: Project, topic: Topic) -> None:
    """Tasks of a consumer with its own queue are executed by a worker that serves it."""
    topic.send(event_text("e", "elsewhere"))
    start("worker", "-l", "INFO", "-c", "1", "-n", "one@h")
    other = start("worker", "-l", "INFO", "-c", "1", "-Q", "other", "-n", "two@h", "--no-engine")
    project.wait_for(lambda runs: runs["elsewhere", "e"] == 1)
    assert "engine started" not in other.output


def test_inspect_shows_the_tasks_and_which_event_they_run(start: Start, project: Project, topic: Topic) -> None:
    """`inspect active` shows which event a task has, not its content."""
    topic.send(event_text("e", "slow", seconds=300))
    start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["slow", "e"] == 1)

    registered = inspect(project, "registered")
    assert {"proj.consumers.first", "proj.consumers.slow"} <= {name.split()[0] for name in registered}
    (task,) = inspect(project, "active")
    assert task["name"] == "proj.consumers.slow"
    assert task["args"] == f"(<Event e cls_type=slow topic={topic.name}>,)"


def test_a_stop_gives_the_engine_up_first_and_finishes_what_runs(start: Start, project: Project, topic: Topic) -> None:
    """At SIGTERM a running task finishes, and unstarted events stay in SQS."""
    topic.send(event_text("s", "slow", seconds=3))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["slow", "s"] == 1)
    assert stop(worker) == 0
    assert project.runs()["slow-done", "s"] == 1
    assert "engine stopped" in worker.output


def test_a_killed_engine_is_started_anew(start: Start, project: Project, topic: Topic) -> None:
    """A killed engine is restarted, and events are processed."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("engine started")
    (pid,) = engine_pids(worker)
    os.kill(pid, signal.SIGKILL)
    worker.wait_for("the engine ended with exit code -9")
    topic.send(event_text("e", values=[{"name": "n", "value": 1}]))
    project.wait_for(lambda runs: runs["first", "e"] == 1)
    assert worker.running


def test_an_engine_does_not_outlive_its_worker(start: Start, project: Project) -> None:
    """An engine ends with its worker, even a killed one."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("engine started")
    (pid,) = engine_pids(worker)
    os.kill(worker.pid, signal.SIGKILL)
    servers.wait_until(lambda: not servers.alive(pid), what="the end of the engine")


def test_ctrl_c_stops_worker_and_engine(start: Start, project: Project) -> None:
    """Ctrl-C stops worker and engine, with Celery's exit code."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("engine started")
    (pid,) = engine_pids(worker)
    worker.signal_group(signal.SIGINT)
    assert worker.wait(60) in (0, 1)
    assert not servers.alive(pid)
    assert "engine stopped" in worker.output


def test_a_killed_worker_loses_nothing(start: Start, project: Project, topic: Topic) -> None:
    """The unacknowledged task of a killed worker runs again in the next one."""
    project.add(QUICK_RESTORE)
    project.add("balog_visibility_timeout = 5")
    topic.send(event_text("s", "slow", seconds=2))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["slow", "s"] == 1)
    worker.kill_group()
    start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["slow-done", "s"] == 1)


@contextmanager
def failing(start: Start, *arguments: str) -> Iterator[servers.Program]:
    program = start(*arguments, ready=None)
    assert program.wait(60) != 0
    yield program


def test_a_missing_queue_stops_the_worker_at_start(start: Start, project: Project) -> None:
    """A missing queue stops the worker at start, with an error that names it."""
    project.topic = "no-such-queue"
    with failing(start, "worker", "-l", "INFO", "-c", "1") as worker:
        (line,) = [line for line in worker.output.splitlines() if "CRITICAL/MainProcess] this worker stops" in line]
        assert "as the engine cannot start: there is no queue 'no-such-queue'" in line


def test_missing_credentials_stop_the_worker_at_start(project: Project, sqs: servers.Sqs) -> None:
    """Missing credentials stop the worker at start, with one line of boto3's reason and the permission."""
    lacking = dict.fromkeys(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"])
    env = {**project.env, **sqs.env, **lacking}
    with servers.Program([*CELERY, "worker", "-c", "1"], env=env, cwd=project.folder) as worker:
        assert worker.wait() != 0
        (line,) = [line for line in worker.output.splitlines() if "the engine cannot start: " in line]
        assert f"access to queue '{project.topic}' was refused for sqs:GetQueueUrl" in line
        assert "NoCredentialsError" in line
        assert "Traceback" not in worker.output


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("balog_regoin = 'x'", "unknown setting balog_regoin: did you mean balog_region?"),
        ("balog_wait_time = 'soon'", "bad value 'soon' for setting balog_wait_time"),
        ("balog_operator = 'proj.nothing:operator'", "balog_operator = 'proj.nothing:operator' cannot be imported"),
        ("balog_packages = ['no_such_package']", "names 'no_such_package', and there is no such package"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_a_wrong_configuration_stops_the_worker_with_its_cause(
    start: Start, project: Project, config: str, message: str
) -> None:
    """A wrong configuration stops the worker with its cause, instead of falling back to another broker."""
    project.add(config)
    with failing(start, "worker", "-l", "INFO", "-c", "1") as worker:
        assert message in worker.output


def test_consumers_are_listed_with_what_they_want(start: Start, project: Project) -> None:
    """`balog consumers` prints a table with a line for each consumer."""
    listing = start("balog", "consumers", ready=None)
    assert listing.wait(60) == 0
    (line,) = [line for line in listing.output.splitlines() if line.startswith("proj.consumers.first")]
    assert line.split()[1:6] == [project.topic, "metrics", "<1.0", "celery", "hand-off"]
    assert "rate_limit=1000/s" in line


def test_send_sends_the_records_of_a_file(start: Start, project: Project, topic: Topic) -> None:
    """`balog send` sends all records of a file, or none if one is not a record."""
    file = project.folder / "events.jsonl"
    file.write_text("".join(event_text(f"e{number}") + "\n" for number in range(25)))
    assert start("balog", "send", str(file), ready=None).wait(60) == 0
    assert topic.left() == 25
    file.write_text(event_text() + "\n{}\n")
    with failing(start, "balog", "send", str(file)) as program:
        assert "line 2" in program.output
    file.write_bytes(b"\xff\n")
    with failing(start, "balog", "send", str(file)) as program:
        assert "Error: " in program.output
        assert "is not UTF-8 text" in program.output
    assert topic.left() == 25
