"""The pytest plugin, in a project that uses it: each test here runs another pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CONFTEST = 'pytest_plugins = ["balog_celery.pytest_plugin"]\n'

TESTS = """
import os
import subprocess
import sys

import boto3
from balog_celery import get_logger
from balog_celery.queues import OutgoingMessage, SQSQueue
from celery import Celery

names = []


def test_records(balog_records):
    get_logger("a").info("done", payload={"cls_type": "null"})
    assert [record.header.channel for record in balog_records] == ["a.done"]


def test_the_broker_takes_tasks(balog_broker):
    app = Celery(broker=balog_broker)
    app.send_task("nobody", queue="left-behind")
    with app.connection_for_read() as connection:
        assert connection.default_channel.client.llen("left-behind") == 1


def test_the_broker_is_empty_again(balog_broker):
    with Celery(broker=balog_broker).connection_for_read() as connection:
        assert connection.default_channel.client.keys("*") == []


def test_a_queue_and_its_dead_letter_queue(balog_queue):
    names.append(balog_queue.name)
    assert balog_queue.send([OutgoingMessage("body")]) == []
    assert [message.body for message in balog_queue.receive(10, 0)] == ["body"]
    assert SQSQueue(balog_queue.name + "-dead").exists()
    assert "AWS_PROFILE" not in os.environ


def test_sqs_is_empty_again_and_other_processes_find_it(balog_sqs):
    SQSQueue("mine").create()
    code = "import boto3; print(boto3.client('sqs').list_queues()['QueueUrls'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert balog_sqs in done.stdout and "/mine" in done.stdout and names[0] not in done.stdout
"""

#: Makes this machine one that lacks the local stack.
LACKING = """
import balog_celery.dev.local_stack
balog_celery.dev.local_stack.available = lambda: "the local stack needs moto: pip install it"
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest on those tests, where AWS is configured in another way."""

    def run(conftest: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "conftest.py").write_text(CONFTEST + conftest)
        (tmp_path / "test_it.py").write_text(TESTS)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "PYTEST_"))}
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider"],
            cwd=tmp_path,
            env={**inherited, "AWS_PROFILE": "mine", "AWS_DEFAULT_REGION": "eu-north-1", **env},
            capture_output=True,
            text=True,
            timeout=150,
        )

    return run


def test_the_fixtures_are_real_and_each_test_finds_them_empty(run: Run) -> None:
    """The fixtures provide records, a broker, an SQS and a queue, empty for each test."""
    done = run()
    assert "5 passed" in done.stdout, done.stdout + done.stderr


def test_without_the_local_stack_they_skip_and_say_why(run: Run) -> None:
    """Without the local stack the plugin's tests are skipped with the reason; tests without a server run."""
    done = run(LACKING)
    assert "1 passed, 4 skipped" in done.stdout, done.stdout + done.stderr
    assert "the local stack needs moto: pip install it" in done.stdout
    assert done.returncode == 0


def test_in_ci_they_fail(run: Run) -> None:
    """With ``CI=true`` a missing server fails the tests."""
    done = run(LACKING, CI="true")
    assert "1 passed, 4 errors" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
