"""``balog_topics`` in real workers."""

from __future__ import annotations

import pytest
from project import Project, Start, Topic, stop

import servers
from sample_events import event_text


def test_a_topic_has_its_own_settings_in_a_worker(start: Start, project: Project, topic: Topic) -> None:
    """A worker receives, and makes dead letters, as the topic's settings say, and no more than its share at a time."""
    # Given
    dead = topic.client.create_queue(QueueName=f"{topic.name}-special")["QueueUrl"]
    own = {"dead_letter": f"{topic.name}-special", "max_in_flight": 3, "wait_time": 1, "visibility_timeout": 30}
    project.add(f"balog_topics = {{{topic.name!r}: {own!r}}}")
    topic.send(event_text("d", "doomed"), *(event_text(f"s{number}", "slow", seconds=1) for number in range(8)))
    # When
    worker = start("worker", "-l", "INFO", "-c", "8")
    project.wait_for(lambda runs: sum(name == "slow-done" for name, _ in runs) == 8)
    # Then
    servers.wait_until(lambda: topic.left() == 0, what="the deletes")
    assert topic.count(topic.client, dead) == 1
    assert topic.count(topic.client, topic.dead_url) == 0
    now = most = 0
    for entry in project.entries():
        now += {"slow": 1, "slow-done": -1}.get(entry["consumer"], 0)
        most = max(most, now)
    assert most <= 3
    assert stop(worker) == 0


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"pollerz": 3}, "unknown key 'pollerz' in balog_topics['{topic}']: did you mean pollers?"),
        ({"pollers": 0}, "bad value 0 for balog_topics['{topic}']['pollers']: "),
    ],
)
def test_a_worker_with_a_wrong_setting_of_a_topic_does_not_start(
    start: Start, project: Project, topic: Topic, own: dict[str, int], told: str
) -> None:
    """It exits with 78, and one line says which key of which topic is wrong."""
    project.add(f"balog_topics = {{{topic.name!r}: {own!r}}}")
    worker = start("worker", "-l", "INFO", ready=None)
    assert worker.wait(60) == 78
    assert told.format(topic=topic.name) in worker.output
    assert "Traceback" not in worker.output


def test_a_worker_with_settings_of_an_unknown_topic_does_not_start(start: Start, project: Project) -> None:
    """It exits with 78, and one line names the topics that there are."""
    project.add("balog_topics = {'misspelt': {'pollers': 2}}")
    worker = start("worker", "-l", "INFO", ready=None)
    assert worker.wait(60) == 78
    assert "balog_topics['misspelt'] = {'pollers': 2} is for no consumer's topic: " in worker.output
    assert "Traceback" not in worker.output
