"""Commands whose output cannot be written."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from balog_celery import install
from balog_celery.cli import balog, output
from balog_celery.consumers import consumer_config
from balog_celery.operations.tail import Tail, TaskEvent
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

Run = Callable[..., tuple[int, list[str]]]
pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no such device")
FULL = "standard output cannot be written: No space left on device"
CLI = Path(output.__file__).parent


@consumer_config("events", "metrics")
def first(event: Any) -> None: ...


@pytest.fixture
def queues() -> dict[str, ObservedQueue]:
    """A topic, and its dead-letter queue with one letter."""
    dead = ObservedQueue("events-dead")
    dead.put(event_text("LG1"), attributes={"reason": "default_event_handler", "topic": "events"})
    return {"events": ObservedQueue("events"), "events-dead": dead}


@pytest.fixture
def run(queues: dict[str, ObservedQueue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command whose standard output is a full disk; returns its exit code and its errors."""
    monkeypatch.chdir(tmp_path)
    app = Celery("full", broker="memory://", set_as_current=False)
    install(app, packages=[__name__], status_dir=str(tmp_path), region="eu-west-1")
    app.balog.connect = queues.__getitem__

    def invoke(*arguments: str) -> tuple[int, list[str]]:
        errors = io.StringIO()
        outside = pytest.raises(SystemExit)
        with outside as ended, open("/dev/full", "w") as full, redirect_stdout(full), redirect_stderr(errors):
            balog.main(arguments, obj=SimpleNamespace(app=app, no_color=False))
        return int(str(ended.value.code)), errors.getvalue().splitlines()

    yield invoke
    app.close()


COMMANDS = {
    ("check",): "",
    ("check", "--json"): "",
    ("consumers",): "",
    ("consumers", "--json"): "",
    ("explain", "event.json"): "",
    ("topics", "--terraform"): "",
    ("topics",): "",
    ("plan", "--rate", "1"): "",
    ("send", "event.json"): "sent 1 message to events, but ",
    ("send", "event.json", "--json"): "sent 1 message to events, but ",
    ("replay", "event.json"): "replayed 1, left 0, but ",
    ("replay", "event.json", "--json"): "replayed 1, left 0, but ",
    ("replay", "event.json", "--dry-run"): "",
    ("dead", "list"): "",
    ("dead", "list", "--group-by", "error"): "",
    ("dead", "show", "LG1"): "",
    ("dead", "replay"): "replayed 1, left 0, but ",
    ("dead", "replay", "--json"): "replayed 1, left 0, but ",
    ("dead", "drop", "--yes"): "dropped 1 dead letter, but ",
    ("dead", "drop", "--yes", "--json"): "dropped 1 dead letter, but ",
    ("dead", "drop", "--dry-run"): "",
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk_is_told_in_a_line_that_says_what_was_done(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """A script that sees a failure would do it again."""
    (tmp_path / "event.json").write_text(event_text("LG2"))
    code, errors = run(*command)
    assert code == 1
    assert errors[-1] == f"Error: {COMMANDS[command]}{FULL}"


def test_tail_ends_when_its_output_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the error for one of the broker, and try again for ever."""
    shown = TaskEvent(datetime.now(timezone.utc), "started", "LG1", "metrics", "first", "uuid", "worker", "", None, "")

    class Follower(Tail):
        """Sees one event, and then what stopped it."""

        def __init__(self, app: Celery, topic: str, show: Callable[[TaskEvent], None]) -> None:
            super().__init__(app, topic, show)
            self.show = show
            self.is_stopped = False

        def run(self, ready: Callable[[], None]) -> None:
            self.show(shown)
            assert self.is_stopped

        def stop(self) -> None:
            self.is_stopped = True

    monkeypatch.setattr("balog_celery.cli.tail.Tail", Follower)
    code, errors = run("tail", "events")
    assert (code, errors[-1]) == (1, f"Error: {FULL}")


def test_only_one_place_prints() -> None:
    """So that no command forgets what a full disk does."""
    for path in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "print", "click.secho"):
                to_stderr = any(one.arg == "err" for one in node.keywords)
                assert to_stderr or path.name == "output.py", f"{path.name}, line {node.lineno}: use output.echo"


WROTE = "wrote asyncapi.json and 3 schemas of payloads to contract"


@pytest.mark.parametrize(
    ("arguments", "done"),
    [([], ""), (["--folder", "contract"], f"{WROTE}, but ")],
)
def test_the_exit_code_survives_the_flush_at_exit(tmp_path: Path, arguments: list[str], done: str) -> None:
    """Python flushes what is left once more, and exits with 120 if that fails."""
    command = [sys.executable, "-m", "celery", "-A", "balog_celery", "balog", "schema", *arguments]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (1, f"Error: {done}{FULL}\n")
