"""``celery control balog_pause`` and ``balog_resume`` with real workers: what waits, is remembered, and is not lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

import pytest
from project import CELERY, ONLY_WORKER, Project, Start, Topic, engine_pids, inspect, stop

import servers
from sample_events import event_text

METRIC = [{"name": "n", "value": 1}]


def celery(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CELERY, *arguments],
        cwd=project.folder,
        env={**os.environ, **project.env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def control(project: Project, *arguments: str) -> dict[str, str]:
    """Return what the only worker answers to ``celery control``."""

    def answer() -> Any:
        done = celery(project, "control", "--json", *ONLY_WORKER, *arguments)
        return json.loads(done.stdout) if done.returncode == 0 else None

    replies = servers.wait_until(answer, what=f"the answer to {arguments}")
    found: dict[str, str] = next(iter(replies[0].values() if isinstance(replies, list) else replies.values()))
    return found


def engine_state(project: Project, topic: Topic) -> dict[str, Any]:
    status = inspect(project, "balog")["engine"]
    found: dict[str, Any] = status["topics"][topic.name] if status else {"doing": "", "paused": [], "held": 0}
    return found


@pytest.mark.parametrize("dispatch", ["hand-off", "publish"])
def test_a_paused_topic_waits_in_sqs_and_all_is_well(
    start: Start, project: Project, topic: Topic, sqs: servers.Sqs, dispatch: str
) -> None:
    """Nothing runs until the resume; health, inspect and topics show the pause and its reason."""
    # Given
    project.add(f"balog_dispatch = {dispatch!r}")
    worker = start("worker", "-l", "INFO", "-c", "1")
    # When
    assert control(project, "balog_pause", topic.name) == {"ok": f"paused {topic.name}; paused: {topic.name}"}
    servers.wait_until(lambda: engine_state(project, topic)["doing"] == "paused", what="the pause")
    topic.send(event_text("e", values=METRIC))
    # Then
    health = celery(project, "balog", "health")
    assert health.returncode == 0, health.stderr
    assert "by `celery control balog_pause`, until `balog_resume`" in health.stdout
    assert inspect(project, "balog")["paused"] == [topic.name]
    (row,) = json.loads(celery(project, "balog", "topics", "--json").stdout)
    assert row["paused"] == [topic.name]
    assert "did you mean" in control(project, "balog_pause", topic.name[:-1])["error"]
    assert topic.left() == 1
    assert not project.runs()
    # When its engine is killed, the pause is the next one's as well
    (before,) = engine_pids(worker)
    os.kill(before, signal.SIGKILL)
    servers.wait_until(lambda: engine_pids(worker) not in ([], [before]), what="another engine")
    servers.wait_until(lambda: engine_state(project, topic)["doing"] == "paused", what="the pause")
    assert not project.runs()
    # When
    control(project, "balog_resume", topic.name)
    # Then
    project.wait_for(lambda runs: runs["first", "e"] == runs["typed", "e"] == 1)
    servers.wait_until(lambda: topic.left() == 0, what="the delete")
    assert stop(worker) == 0


def test_events_of_a_paused_consumer_wait_and_come_once(start: Start, project: Project, topic: Topic) -> None:
    """Its events wait for all their consumers, others go on, and a killed worker loses none."""
    # Given a consumer that is paused, and one more of the same events
    project.add("balog_visibility_timeout = 5")
    project.add("balog_remember_pauses = True")
    worker = start("worker", "-l", "INFO", "-c", "2")
    control(project, "balog_pause", "typed")
    servers.wait_until(lambda: engine_state(project, topic)["paused"] == ["proj.consumers.typed"], what="the pause")
    # When
    topic.send(event_text("e1", values=METRIC), event_text("s", "slow", seconds=0), event_text("e2", values=METRIC))
    # Then
    project.wait_for(lambda runs: runs["slow-done", "s"] == 1)
    servers.wait_until(lambda: engine_state(project, topic)["held"] == 2, what="the messages that wait")
    assert set(project.runs()) == {("slow", "s"), ("slow-done", "s")}
    assert topic.left() == 2
    # When
    worker.signal(signal.SIGKILL)
    worker.wait(60)
    worker = start("worker", "-l", "INFO", "-c", "2")
    # Then it remembers
    servers.wait_until(lambda: engine_state(project, topic)["held"] == 2, what="the messages that wait")
    assert ("first", "e1") not in project.runs()
    # When
    control(project, "balog_resume")
    # Then
    project.wait_for(lambda runs: all(runs[name, event] for name in ("first", "typed") for event in ("e1", "e2")))
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert set(project.runs().values()) == {1}
    assert stop(worker) == 0


def test_a_pause_outlasts_the_loss_of_the_broker(
    start: Start, project: Project, topic: Topic, broker: servers.Valkey
) -> None:
    """The engine knows it from its worker, not from the broker; a worker that stops meanwhile releases what waits."""
    worker = start("worker", "-l", "INFO", "-c", "1")
    control(project, "balog_pause", "typed")
    servers.wait_until(lambda: engine_state(project, topic)["paused"] != [], what="the pause")
    topic.send(event_text("e1", values=METRIC))
    servers.wait_until(lambda: engine_state(project, topic)["held"] == 1, what="the message that waits")
    with broker.client() as client:
        client.client_kill_filter(skipme=True, _type="normal")
    servers.wait_until(lambda: engine_state(project, topic)["held"] == 1, what="the worker's answer")
    assert not project.runs()
    assert stop(worker) == 0

    def visible() -> str:
        name = "ApproximateNumberOfMessages"
        return str(topic.client.get_queue_attributes(QueueUrl=topic.url, AttributeNames=[name])["Attributes"][name])

    # Hidden until the long poll is surely over that the stop has ended, and not for the visibility timeout.
    servers.wait_until(lambda: visible() == "1", 20, "the message that was released")
