"""Settings of Celery for which the workers of the compatibility table have no place, in each of its columns."""

from __future__ import annotations

import signal
from contextlib import closing

import pytest
from celery import Celery
from project import Project, Start, Topic

import servers
from sample_events import event_text

CONSUMERS = """
import logging


class Noting(logging.Handler):
    def emit(self, record):
        if record.name == "own":
            note("logged", record.getMessage())


logging.getLogger().addHandler(Noting())
logging.getLogger().addHandler(logging.StreamHandler())


@consumer_config(topic=TOPIC, cls_type="answers", bind=True, ignore_result=False)
def answers(self, event):
    logging.getLogger("own").warning("of the application")
    note("answers", event["header"]["id"], task=self.request.id)
    return 42
"""


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest, broker: servers.Valkey) -> str:
    """The URL of a broker of each kind."""
    return broker.url if request.param == "redis" else str(request.getfixturevalue("rabbitmq").url)


def waiting(app: Celery, queue: str) -> int:
    """Return how many tasks the broker has, delivered ones as well where it can tell: when no worker is left, all."""
    with app.connection_for_read() as connection, closing(connection.channel()) as channel:
        if app.conf.broker_url.startswith("redis"):
            return int(channel.client.llen(queue) + channel.client.hlen("unacked"))
        return int(channel.queue_declare(queue, passive=True).message_count)


@pytest.mark.parametrize("dispatch", ["hand-off", "publish"])
def test_settings_that_no_other_worker_has(
    start: Start, project: Project, topic: Topic, broker_url: str, dispatch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root logger stays the application's, results are files, nothing is fetched ahead, SIGTERM ends coldly."""
    # Given
    monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")
    results = project.folder / "results"
    results.mkdir()
    project.add_consumer(CONSUMERS)
    project.add(
        f"balog_dispatch = {dispatch!r}\nbroker_url = {broker_url!r}\ntask_default_queue = {topic.name!r}\n"
        f"result_backend = 'file://{results}'\nworker_hijack_root_logger = False\nworker_disable_prefetch = True\n"
    )
    topic.send(event_text("a", "answers"))
    worker = start("worker", "-l", "INFO", "-c", "2")
    with closing(Celery("results", broker=broker_url, backend=f"file://{results}", set_as_current=False)) as app:
        # Then
        project.wait_for(lambda runs: {("answers", "a"), ("logged", "of the application")} <= runs.keys())
        (answer,) = [entry for entry in project.entries() if entry["consumer"] == "answers"]
        assert app.AsyncResult(answer["task"]).get(timeout=60) == 42
        servers.wait_until(lambda: topic.left() == 0, what="the delete")
        # When more events come than can run
        topic.send(*(event_text(f"s{number}", "slow", seconds=600) for number in range(6)))
        project.wait_for(lambda runs: sum(name == "slow" for name, _ in runs) == 2)
        # Then
        if dispatch == "hand-off":
            counts = topic.client.get_queue_attributes(QueueUrl=topic.url, AttributeNames=["All"])["Attributes"]
            assert counts["ApproximateNumberOfMessages"] == "4"
        elif broker_url.startswith("redis"):  # Celery has the setting for Redis alone
            servers.wait_until(lambda: waiting(app, topic.name) == 6, what="the tasks on the broker")
            with app.connection_for_read() as connection:
                assert connection.default_channel.client.llen(topic.name) == 4
        # When
        worker.signal(signal.SIGTERM)
        worker.wait(60)
        # Then
        assert "Warm shutdown" not in worker.output
        assert sum(name == "slow-done" for name, _ in project.runs()) == 0
        kept = topic.left if dispatch == "hand-off" else lambda: waiting(app, topic.name)
        servers.wait_until(lambda: kept() == 6, what="the events that were not done")
