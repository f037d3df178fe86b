"""Commands that read or write files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from balog_celery import install
from balog_celery.cli import balog
from balog_celery.consumers import consumer_config
from sample_events import event_text
from scripted_sqs.observed import ObservedQueue

Run = Callable[..., Result]


@consumer_config("paths-topic", "metrics")
def first(event: Any) -> None: ...


@pytest.fixture
def dead() -> ObservedQueue:
    """The dead-letter queue, with one letter."""
    found = ObservedQueue("paths-topic-dead")
    found.put(event_text("LG1"), attributes={"reason": "default_event_handler", "topic": "paths-topic"})
    return found


@pytest.fixture
def run(dead: ObservedQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command; it must not end with a traceback."""
    monkeypatch.chdir(tmp_path)
    app = Celery("paths", broker="memory://", set_as_current=False)
    install(app, packages=[__name__], status_dir=str(tmp_path), region="eu-west-1")
    app.balog.connect = {"paths-topic": ObservedQueue("paths-topic"), "paths-topic-dead": dead}.__getitem__

    def invoke(*arguments: str, text: str = "") -> Result:
        found = CliRunner().invoke(balog, arguments, obj=SimpleNamespace(app=app, no_color=False), input=text)
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found

    return invoke


needs_proc = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="this system has no such file")


@needs_proc
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["send", "/proc/self/mem"], 1, "/proc/self/mem cannot be read: Input/output error"),
        (["send", "/proc/self/mem", "--raw"], 1, "/proc/self/mem cannot be read: Input/output error"),
        (["explain", "/proc/self/mem"], 1, "/proc/self/mem cannot be read: Input/output error"),
        (["replay", "/proc/self/mem"], 1, "/proc/self/mem cannot be read: Input/output error"),
        (["send", "/proc"], 2, "Is a directory"),
        (["dead", "drop", "--yes", "--export", "/proc/x"], 2, "--export /proc/x: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_a_line(run: Run, arguments: list[str], code: int, said: str) -> None:
    """It names the file and the reason."""
    result = run(*arguments)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    assert "Traceback" not in result.output


@needs_proc
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["schema", "--folder", "/proc/x"],
            1,
            "--folder /proc/x: No such file or directory: name a folder to write to",
        ),
        (["schema", "--check", "/proc/self/mem"], 2, "--check /proc/self/mem: it cannot be read as JSON: "),
        (["engine", "-f", "/proc/x"], 2, "--logfile /proc/x: No such file or directory: name a file to write to"),
        (["outbox", "-f", "/proc/x"], 2, "--logfile /proc/x: No such file or directory: name a file to write to"),
        (["web", "-f", "/proc/x"], 2, "--logfile /proc/x: No such file or directory: name a file to write to"),
    ],
)
def test_so_is_one_of_a_program(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    """In a process of its own: Celery sets logging up once, and other tests have payloads of their own."""
    command = [sys.executable, "-m", "celery", "-A", "balog_celery", "balog", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.returncode == code
    assert ended.stderr.splitlines()[-1].startswith(f"Error: {said}")
    assert "Traceback" not in ended.stderr


def test_an_export_that_cannot_be_written_deletes_nothing(run: Run, dead: ObservedQueue) -> None:
    """The letters are where they were."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        result = run("dead", "drop", "--yes", "--export", "letters.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 1
    assert "--export letters.jsonl cannot be written: File too large: nothing was deleted" in result.stderr
    assert dead.deleted == []


def test_explain_takes_an_export_of_dead_letters(run: Run, dead: ObservedQueue) -> None:
    """It reads each letter as `replay` does, by the decoder of the letter's topic."""
    dead.put("no JSON", name="m2", attributes={"reason": "undecodable", "topic": "paths-topic"})
    run("dead", "drop", "--yes", "--export", "letters.jsonl")
    event, other = json.loads(run("explain", "letters.jsonl", "--json").stdout)
    assert (event["id"], event["consumers"]) == ("LG1", [f"{__name__}.first"])
    assert other["error"].startswith("it is not JSON")
    assert "event LG1 (cls_type metrics" in run("explain", "letters.jsonl", "--topic", "paths-topic").stdout


def test_letters_are_not_exported_to_a_stream(run: Run, dead: ObservedQueue) -> None:
    """A `-` is a stream in all commands, and no file of that name is written."""
    result = run("dead", "drop", "--yes", "--export", "-")
    assert result.exit_code == 2
    assert "--export -: name a file" in result.stderr
    assert not Path("-").exists()
    assert dead.deleted == []


@pytest.mark.parametrize("text", ["", "\n", " \n\t\n", "\ufeff"])
@pytest.mark.parametrize("command", [["send"], ["explain"]])
def test_a_file_without_a_body_is_told(run: Run, command: list[str], text: str) -> None:
    """It is a mistake, such as a program that has written nothing; `send` has sent nothing."""
    result = run(*command, "-", text=text)
    assert result.exit_code == 1
    assert result.stderr == "Error: <stdin> holds no body: it is empty, or all of its lines are\n"


def test_an_empty_file_is_no_raw_body(run: Run) -> None:
    """SQS takes no empty message."""
    result = run("send", "-", "--raw")
    assert (result.exit_code, result.stderr) == (1, "Error: <stdin> is empty, and a message is not\n")
