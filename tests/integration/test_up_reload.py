"""``balog up --reload``: the worker starts again when a Python file of the project changes."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import Shell

import servers
from sample_events import event_text

CONSUMER = """
import pathlib
import time

from balog_celery.consumers import consumer_config

VERSION = {version!r}
ROOT = pathlib.Path({root!r})


@consumer_config("orders", "order")
def book(event):
    name = event["header"]["id"]
    (ROOT / f"started-{{name}}").touch()
    while name == "slow" and not (ROOT / "go").exists():
        time.sleep(0.05)
    with (ROOT / "ledger").open("a") as ledger:
        ledger.write(f"{{name}} {{VERSION}}\\n")
"""
UP = "celery -A balog_celery balog up --reload"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A project with one consumer, and without Flower."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "celeryconfig.py").write_text(
        "balog_packages = ['shop']\nbalog_wait_time = 1\nworker_concurrency = 2\n"
    )
    write(tmp_path, "one")
    with Shell(tmp_path, {"FLOWER_PORT": str(servers.free_port())}) as shell:
        yield shell


def write(folder: Path, version: str) -> None:
    (folder / "shop" / "consumers.py").write_text(CONSUMER.format(version=version, root=str(folder)))


def send(shell: Shell, *ids: str) -> None:
    (shell.folder / "events.jsonl").write_text("\n".join(event_text(one, "order") for one in ids))
    shell.run("celery -A balog_celery balog send events.jsonl")


def ledger(shell: Shell) -> list[str]:
    path = shell.folder / "ledger"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(shell: Shell, *lines: str) -> None:
    servers.wait_until(lambda: set(lines) <= set(ledger(shell)), 60, f"{lines}")


def test_a_change_restarts_the_worker_and_loses_nothing(shell: Shell) -> None:
    """Given a task that runs, when its file changes, then it finishes, once, and later events meet the new code."""
    running = shell.start(UP, ready="engine started")
    send(shell, "slow")
    servers.wait_until((shell.folder / "started-slow").exists, 60, "the task")
    write(shell.folder, "two")
    running.wait_for("shop/consumers.py changed: restarting the worker")
    waiting = [f"e{number}" for number in range(20)]
    send(shell, *waiting)
    (shell.folder / "go").touch()
    wait_for(shell, "slow one", *(f"{one} two" for one in waiting))
    assert Counter(line.split()[0] for line in ledger(shell)) == Counter(["slow", *waiting])
    running.signal_group(signal.SIGINT)
    assert running.wait(60) == 130
    servers.wait_until(lambda: not shell.left_over(), what="the end of all of it")


def test_a_broken_file_is_waited_for(shell: Shell) -> None:
    """Given a syntax error, then the worker ends, and the next change starts another."""
    # The file that `up` sends first may be one body, with attributes that say what event it is.
    (shell.folder / "body.json").write_text('{\n  "n": 1\n}\n')
    attributes = " ".join(
        f"--attribute ce-{name}={value}"
        for name, value in {"specversion": "1.0", "type": "order", "source": "shop", "id": "7"}.items()
    )
    running = shell.start(f"{UP} --send body.json --raw {attributes}", ready="engine started")
    wait_for(shell, "shop 7 one")
    (shell.folder / "shop" / "consumers.py").write_text("def broken(:\n")
    running.wait_for("the worker ended with exit code 78: waiting for a change")
    (shell.folder / "notes.txt").write_text("no Python file")
    write(shell.folder, "mended")
    servers.wait_until(lambda: running.output.count("engine started") == 2, 60, "the second worker")
    send(shell, "a")
    wait_for(shell, "a mended")
    assert "notes.txt" not in running.output
    running.signal(signal.SIGTERM)
    assert running.wait(60) == 0


def test_ctrl_c_ends_it_while_it_restarts(shell: Shell) -> None:
    """Given a worker that is stopping for a restart, when Ctrl-C comes, then no other worker starts."""
    running = shell.start(UP, ready="engine started")
    send(shell, "slow")
    servers.wait_until((shell.folder / "started-slow").exists, 60, "the task")
    write(shell.folder, "two")
    running.wait_for("restarting the worker")
    running.signal_group(signal.SIGINT)
    (shell.folder / "go").touch()
    assert running.wait(60) == 130
    assert running.output.count("engine started") == 1
    assert ledger(shell) in (["slow one"], [])
    servers.wait_until(lambda: not shell.left_over(), what="the end of all of it")


def test_watchfiles_is_needed(shell: Shell) -> None:
    """Without watchfiles, one line says what to install, with exit code 78, and nothing starts."""
    (shell.folder / "without").mkdir()
    (shell.folder / "without" / "watchfiles.py").write_text("raise ImportError(name='watchfiles')")
    running = shell.start(f"env PYTHONPATH=without {UP}")
    assert running.wait(60) == 78
    assert "Error: --reload needs watchfiles: pip install 'balog_celery[reload]'" in running.output
    assert not shell.left_over()
