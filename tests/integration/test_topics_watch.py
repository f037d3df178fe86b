"""``balog topics --watch`` on a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from terminals import Terminal

import servers

PROJ = """
from celery import Celery
import balog_celery

app = Celery("watched", broker="memory://")
balog_celery.install(app, packages=["consumers"])
"""
CONSUMER = """
@consumer_config("{topic}")
def consume_{number}(event): ...
"""
TOPICS = ["orders", "parcels"]

Write = Callable[[list[str]], Path]


@pytest.fixture
def client(sqs: servers.Sqs) -> Iterator[Any]:
    """A client of SQS, with two topics; only one has its dead-letter queue."""
    with closing(sqs.client()) as client:
        for name in (*TOPICS, "orders-dead"):
            client.create_queue(QueueName=name)
        yield client


@pytest.fixture
def project(tmp_path: Path) -> Write:
    """Writes an app with consumers of some topics, and returns its folder."""

    def write(topics: list[str]) -> Path:
        (tmp_path / "proj.py").write_text(PROJ)
        consumers = [CONSUMER.format(topic=topic, number=number) for number, topic in enumerate(topics)]
        imports = "from balog_celery.consumers import consumer_config\n"
        (tmp_path / "consumers.py").write_text(imports + "".join(consumers))
        return tmp_path

    return write


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "proj", "balog", "topics", "--watch", "--interval", "1", *options]


def send(client: Any, queue: str, count: int) -> None:
    url = client.get_queue_url(QueueName=queue)["QueueUrl"]
    for _ in range(count):
        client.send_message(QueueUrl=url, MessageBody="x")


def row(lines: list[str], topic: str) -> list[str]:
    """The words of the row of *topic*."""
    (line,) = [line for line in lines if line.startswith(topic)]
    return line.split()


def test_the_table_renews_itself_until_ctrl_c(client: Any, project: Write) -> None:
    """New messages appear, those with most first; Ctrl-C ends with 130, and leaves the terminal as it was."""
    send(client, "orders", 3)
    with Terminal(command(), project(TOPICS)) as terminal:
        lines = terminal.wait_for("WAITING", "DEAD LETTERS", "Ctrl-C ends")
        assert lines[0].startswith("2 topics at ")
        assert row(lines, "orders")[1:3] == ["1", "3"]
        assert lines.index(next(line for line in lines if line.startswith("orders"))) == 2
        send(client, "parcels", 14)
        send(client, "orders-dead", 2)
        lines = terminal.wait_for("14", "2 (orders-")
        assert row(lines, "parcels")[1:3] == ["1", "14"]
        assert next(line for line in lines[2:]).startswith("parcels")
        assert terminal.interrupt() == 130
        assert b"Traceback" not in terminal.written
        assert terminal.written.count(b"\x1b[?1049h") == terminal.written.count(b"\x1b[?1049l") == 1  # its own screen
        assert terminal.written.rindex(b"\x1b[?25h") > terminal.written.rindex(b"\x1b[?25l")  # the cursor is visible


def test_narrow_and_low_terminals_show_what_matters(client: Any, project: Write) -> None:
    """At 40 columns each topic is one line with its waiting messages; a low terminal says how many it does not show."""
    send(client, "orders", 3)
    with Terminal(command(), project([*TOPICS, *(f"missing-{number}" for number in range(9))]), 40, 8) as terminal:
        lines = terminal.wait_for("missing-0: ", "WAITING", "7 more, with fewer")
        assert len(lines) == 7
        assert sum(line.startswith("missing-") and "?" in line for line in lines) == 4
        assert all(len(line) <= 40 for line in lines)
        assert "IN FLIGHT" not in lines[1]
        terminal.resize(140, 30)
        lines = terminal.wait_for("IN FLIGHT", "CONSUMERS", "OLDEST", "there is no queue", "\norders ")
        assert row(lines, "orders")[1:3] == ["1", "3"]
        assert terminal.interrupt() == 130


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_it_needs_a_terminal(client: Any, project: Write, options: list[str]) -> None:
    """Without a terminal it is refused with one line and exit code 2."""
    done = subprocess.run(command(*options), cwd=project(TOPICS), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: --watch needs a terminal: elsewhere, run")
    assert done.stdout == ""


def test_rich_is_needed(client: Any, project: Write) -> None:
    """Without rich, one line says what to install, with exit code 78."""
    folder = project(TOPICS)
    (folder / "rich.py").write_text("raise ImportError(name='rich')")
    with Terminal(command(), folder) as terminal:
        terminal.wait_for("--watch needs rich: pip install 'balog_celery[watch]'")


def test_the_table_without_watch_is_the_same(client: Any, project: Write) -> None:
    """`balog topics` prints the same numbers once."""
    send(client, "orders", 3)
    argv = [part for part in command("--json") if part not in ("--watch", "--interval", "1")]
    done = subprocess.run(argv, cwd=project(TOPICS), capture_output=True, text=True, timeout=120)
    assert [(one["topic"], one["waiting"]) for one in json.loads(done.stdout)] == [("orders", 3), ("parcels", 0)]
