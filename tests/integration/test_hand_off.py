"""The hand-off in real workers: tasks finish before their message is deleted, and behave like any Celery task."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time

import pytest
from project import CELERY, ONLY_WORKER, QUICK_RESTORE, Project, Start, Topic, engine_pids, inspect, stop

import servers
from balog_celery.tasks.naming import task_id
from balog_celery.worker.task_events import LINGER, TOGETHER
from sample_events import event_text

METRIC = [{"name": "n", "value": 1}]


def test_a_message_is_deleted_only_when_its_task_has_finished(start: Start, project: Project, topic: Topic) -> None:
    """A message stays in flight until its task finishes, four visibility timeouts later, and the task runs once."""
    # So long that a machine which stands still for a while does not miss an extension.
    project.add("balog_visibility_timeout = 6")
    topic.send(event_text("s", "slow", seconds=24))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["slow", "s"] == 1)
    assert topic.left() == 1
    project.wait_for(lambda runs: runs["slow-done", "s"] == 1, 120)
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    assert project.runs() == {("slow", "s"): 1, ("slow-done", "s"): 1}
    assert stop(worker) == 0
    assert "extended" in worker.output


def test_the_events_of_tasks_come_in_few_messages_and_all_of_them(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """Task events are sent in few messages, and keep their order for each task."""
    with broker.client() as client, client.pubsub() as watched:
        watched.psubscribe("*celeryev*")
        started = time.monotonic()
        start("worker", "-l", "INFO", "-c", "2")
        topic.send(*[event_text(f"e{number}", values=METRIC) for number in range(100)])
        happened: dict[str, list[str]] = {}
        messages = 0
        deadline = time.monotonic() + 60
        while sum(events[-1] == "task-succeeded" for events in happened.values()) < 200:
            assert time.monotonic() < deadline, happened
            message = watched.get_message(timeout=1.0)
            if message is None or message["type"] != "pmessage":
                continue
            events = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
            if isinstance(events, list):
                messages += 1
                for event in events:
                    happened.setdefault(event["uuid"], []).append(event["type"])
    assert [*happened.values()] == [["task-received", "task-started", "task-succeeded"]] * 200
    # As many as there are within a tenth of a second.
    assert messages <= 600 / TOGETHER + (time.monotonic() - started) / LINGER + 1


def test_nothing_passes_the_broker(start: Start, project: Project, topic: Topic, broker: servers.Valkey) -> None:
    """Handed-over tasks bypass the broker; tasks for a queue that this worker does not serve are published."""
    topic.send(event_text("e", values=METRIC), event_text("o", "elsewhere"))
    start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["first", "e"] == 1 and runs["typed", "e"] == 1)
    with broker.client() as client:
        servers.wait_until(lambda: client.llen("other") == 1, what="the published task")
        assert client.llen("celery") == 0
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")


def test_several_pollers_hand_over_each_event_once(start: Start, project: Project, topic: Topic) -> None:
    """Several pollers hand over each event once; a stop releases unstarted events at once."""
    project.add("balog_pollers = 4")
    project.add("balog_visibility_timeout = 600")
    topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(120)))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "first") == 120)
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    topic.send(*(event_text(f"s{number}", "slow", seconds=0.5) for number in range(40)))
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "slow") >= 2)
    assert stop(worker) == 0
    begun = {event for name, event in project.runs() if name == "slow"}
    assert topic.left() == 40 - len(begun)
    start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "slow-done") == 40)
    assert set(project.runs().values()) == {1}


def published(broker: servers.Valkey) -> int:
    """How many tasks were put on the broker."""
    with broker.client() as client:
        return int(client.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"])


def test_a_retry_stays_with_the_worker_and_a_failure_becomes_a_dead_letter(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """Retries and dead letters bypass the broker, also after a time limit or a lost child."""
    with broker.client() as client:
        client.config_resetstat()
    topic.send(event_text("f", "flaky"), event_text("d", "doomed"), event_text("l", "long"), event_text("c", "crash"))
    start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: runs["flaky", "f"] == 3 and runs["crash", "c"] == 3)
    dead: set[str] = set()

    def all_dead() -> bool:
        dead.update(letter["consumer"].rpartition(".")[2] for letter in topic.dead())
        return dead == {"doomed", "too_long", "crash"}

    servers.wait_until(all_dead, what="the dead letters")
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert (project.runs()["flaky", "f"], project.runs()["crash", "c"]) == (3, 3)
    assert published(broker) == 0


def retries_of(project: Project, event: str) -> list[int]:
    return [entry["retries"] for entry in project.entries() if entry["event"] == event]


def test_a_task_that_waits_for_its_retry_keeps_its_message_and_no_place(
    start: Start, project: Project, topic: Topic
) -> None:
    """Tasks that wait for a retry are shown by `inspect scheduled` and use no credit, however many they are."""
    project.add("balog_visibility_timeout = 8")
    topic.send(*(event_text(f"p{number}", "patient", seconds=900) for number in range(30)))
    worker = start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: sum(runs["patient", f"p{number}"] for number in range(30)) == 30)
    topic.send(event_text("e", values=METRIC))
    project.wait_for(lambda runs: runs["first", "e"] == 1 and runs["typed", "e"] == 1)
    shown = {f"(<Event p{number} cls_type=patient topic={topic.name}>,)" for number in range(30)}
    servers.wait_until(
        lambda: {entry["request"]["args"] for entry in inspect(project, "scheduled")} == shown, what="all of them"
    )
    assert topic.left() >= 30
    assert stop(worker) == 0
    assert topic.left() == 30
    assert all(retries_of(project, f"p{number}") == [0] for number in range(30))


def test_tasks_that_wait_for_their_rate_limit_hold_up_no_other_consumer(
    start: Start, project: Project, topic: Topic
) -> None:
    """More rate-limited tasks than the credit do not delay other consumers; a stop releases them."""
    topic.send(*(event_text(f"r{number}", "rare") for number in range(20)))
    worker = start("worker", "-l", "INFO", "-c", "1")
    servers.wait_until(lambda: len(re.findall(r"consumers\.rare\[\S+ received", worker.output)) == 20, what="all")
    topic.send(event_text("e", values=METRIC))
    project.wait_for(lambda runs: runs["first", "e"] == 1 and runs["typed", "e"] == 1)
    ran = sum(name == "rare" for name, _ in project.runs())
    assert ran <= 3
    assert stop(worker) == 0
    assert topic.left() >= 17


@pytest.mark.parametrize("options", [{"queue": "celery"}, {"eta": None, "throw": False}, {"headers": {"a": "b"}}])
def test_a_retry_that_asks_for_more_than_time_is_done_as_asked(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey, options: dict[str, object]
) -> None:
    """A retry with other options than the first attempt is published, also if the function does not raise it."""
    with broker.client() as client:
        client.config_resetstat()
    topic.send(event_text("p", "patient", seconds=0, times=2, options=options))
    start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["patient", "p"] == 3)
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    assert retries_of(project, "p") == [0, 1, 2]
    # Once it has left the worker it is a task of the broker's.
    assert published(broker) == (0 if "throw" in options else 2)


def test_a_retry_with_a_long_countdown_is_left_to_the_broker(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """A retry with a long countdown is published, so its message is not held for hours."""
    topic.send(event_text("p", "patient", seconds=3700))
    start("worker", "-l", "INFO", "-c", "1")
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    assert published(broker) >= 1


def test_a_stop_gives_back_what_waits_for_its_retry(start: Start, project: Project, topic: Topic) -> None:
    """A stop releases tasks that wait for a retry, so the next worker gets them at once."""
    project.add("balog_visibility_timeout = 600")
    topic.send(event_text("p", "patient", seconds=300))
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("retry: Retry in 300")
    assert stop(worker) == 0
    assert topic.left() == 1
    start("worker", "-l", "INFO", "-c", "1")
    project.wait_for(lambda runs: runs["patient", "p"] == 2)


def test_a_lost_broker_neither_loses_nor_doubles_a_retry(start: Start, project: Project, topic: Topic) -> None:
    """After a lost broker, which makes Celery forget waiting tasks, each retry still runs once."""
    with servers.Valkey() as own:
        project.add(f"broker_url = {own.url!r}")
        worker = start("worker", "-l", "INFO", "-c", "1")
        topic.send(*(event_text(f"p{number}", "patient", seconds=8) for number in range(3)))
        project.wait_for(lambda runs: sum(runs["patient", f"p{number}"] for number in range(3)) == 3)
        own.kill()
        worker.wait_for("consumer: Connection to broker lost")
        own.start()
        project.wait_for(lambda runs: sum(runs["patient", f"p{number}"] for number in range(3)) == 6)
        servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert [retries_of(project, f"p{number}") for number in range(3)] == [[0, 1]] * 3


UNREACHABLE = """
import pathlib

from balog_celery.errors import QueueError
from balog_celery.queues import SQSQueue

send = SQSQueue.send


def unreachable(self, messages):
    # SQS itself does not fail on demand.
    if not pathlib.Path(os.environ["LEDGER"]).with_name("reachable").exists():
        raise QueueError("it cannot be reached")
    return send(self, messages)


SQSQueue.send = unreachable
"""


def test_a_dead_letter_that_cannot_be_made_yet_keeps_its_message(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """While a dead letter cannot be made, the message is kept and the function is not called again."""
    with broker.client() as client:
        client.config_resetstat()
    with (project.folder / "proj" / "consumers.py").open("a") as file:
        file.write(UNREACHABLE)
    topic.send(event_text("d", "doomed"))
    worker = start("worker", "-l", "INFO", "-c", "1")
    worker.wait_for("retry: Retry in 5")
    assert topic.left() == 1
    (project.folder / "reachable").touch()
    servers.wait_until(topic.dead, what="the dead letter")
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    (letter,) = topic.dead()
    assert letter["error"] == "ValueError('never works')"
    assert project.runs()["doomed", "d"] == 1
    assert published(broker) == 0


def test_a_stop_finishes_what_runs_and_gives_back_the_rest_at_once(
    start: Start, project: Project, topic: Topic
) -> None:
    """A stop finishes running tasks and releases the others: nothing runs twice or waits for a visibility timeout."""
    project.add("balog_visibility_timeout = 600")
    topic.send(*(event_text(f"s{number}", "slow", seconds=2) for number in range(8)))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "slow") >= 2)
    assert stop(worker) == 0
    begun = {event for name, event in project.runs() if name == "slow"}
    assert begun == {event for name, event in project.runs() if name == "slow-done"}
    assert topic.left() == 8 - len(begun)
    start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "slow-done") == 8)
    assert set(project.runs().values()) == {1}


@pytest.mark.parametrize("victim", ["engine", "worker"])
def test_a_killed_engine_or_worker_loses_nothing(start: Start, project: Project, topic: Topic, victim: str) -> None:
    """After a kill, events in flight come again.

    At once if the engine can release them, else after the visibility timeout.
    """
    project.add("balog_visibility_timeout = 5")
    project.add(QUICK_RESTORE)
    topic.send(*(event_text(f"s{number}", "slow", seconds=1) for number in range(6)))
    worker = start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "slow") >= 2)
    if victim == "engine":
        (pid,) = engine_pids(worker)
        os.kill(pid, signal.SIGKILL)
    else:
        os.kill(worker.pid, signal.SIGKILL)
        start("worker", "-l", "INFO", "-c", "2")
    project.wait_for(lambda runs: all(runs["slow-done", f"s{number}"] for number in range(6)))
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")


def test_a_broker_that_is_restarted_interrupts_nothing_for_long(start: Start, project: Project, topic: Topic) -> None:
    """While its broker restarts the worker gets no tasks, and then it goes on."""
    with servers.Valkey() as own:
        project.add(f"broker_url = {own.url!r}")
        worker = start("worker", "-l", "INFO", "-c", "1")
        topic.send(event_text("before", values=METRIC))
        project.wait_for(lambda runs: runs["first", "before"] == 1)
        own.kill()
        worker.wait_for("consumer: Connection to broker lost")
        topic.send(*(event_text(f"e{number}", values=METRIC) for number in range(12)))
        own.start()
        project.wait_for(lambda runs: all(runs["first", f"e{number}"] for number in range(12)))
        servers.wait_until(lambda: topic.left() == 0, what="the deletes")


def told(project: Project, *arguments: str, answer: str) -> bool:
    """Tell the worker by remote control, until it has answered: it may be slow to."""
    command, env = [*CELERY, "control", *ONLY_WORKER, *arguments], {**os.environ, **project.env}

    def answered() -> bool:
        done = subprocess.run(command, cwd=project.folder, env=env, capture_output=True, text=True, timeout=60)
        return answer in done.stdout

    return servers.wait_until(answered, what=answer)


def test_a_revoked_task_is_not_run(start: Start, project: Project, topic: Topic) -> None:
    """A revoked task does not run and its message is deleted; rate limits can still be changed remotely."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    revoked = task_id("r", "proj.consumers.slow")
    assert told(project, "revoke", revoked, answer="flagged as revoked")
    topic.send(event_text("r", "slow", seconds=0), event_text("e", values=METRIC))
    worker.wait_for(f"Discarding revoked task: proj.consumers.slow[{revoked}]")
    project.wait_for(lambda runs: runs["first", "e"] == 1)
    assert runs_of(project, "slow") == 0
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert told(project, "rate_limit", "proj.consumers.slow", "1/h", answer="new rate limit set")
    topic.send(*(event_text(f"q{number}", "slow", seconds=0) for number in range(3)))
    project.wait_for(lambda runs: sum(1 for name, _ in runs if name == "slow") == 1)
    topic.send(event_text("last", values=METRIC))
    project.wait_for(lambda runs: runs["first", "last"] == 1 and runs["typed", "last"] == 1)
    servers.wait_until(lambda: topic.left() == 2, what="the deletes")
    assert runs_of(project, "slow") == 1
    assert stop(worker) == 0
    assert topic.left() == 2


def runs_of(project: Project, name: str) -> int:
    return sum(1 for consumer, _ in project.runs() if consumer == name)
