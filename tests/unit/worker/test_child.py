"""A process beside a worker, with real processes: it is started again, stopped, and killed if it does not stop."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import servers
from balog_celery.wiring.start_errors import EX_CONFIG
from balog_celery.worker.child import ChildProcess

WAITS = "print('ready', flush=True); import time; time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITS


class Worker:
    """A worker whose timer the test fires."""

    def __init__(self) -> None:
        self.timer = self
        self.fire: Callable[[], None] = lambda: None

    def call_repeatedly(self, _: float, call: Callable[[], None]) -> None:
        self.fire = call


class Programs:
    """Starts a program, one after another."""

    def __init__(self, *programs: str) -> None:
        self.programs = list(programs)
        self.started: list[subprocess.Popen[bytes]] = []

    def __call__(self, reasons: int) -> subprocess.Popen[bytes]:
        program = self.programs.pop(0) if len(self.programs) > 1 else self.programs[0]
        command = [sys.executable, "-c", program, str(reasons)]
        self.started.append(subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[reasons]))
        return self.started[-1]

    def ready(self) -> None:
        """Wait until the latest process runs."""
        assert self.started[-1].stdout is not None
        assert self.started[-1].stdout.readline() == b"ready\n"


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., tuple[Programs, ChildProcess, Worker]]]:
    """Start a supervised process of these programs."""
    caplog.set_level(logging.INFO)
    made: list[Programs] = []

    def start(*texts: str) -> tuple[Programs, ChildProcess, Worker]:
        programs, worker = Programs(*texts), Worker()
        made.append(programs)
        child = ChildProcess("the helper", programs)
        child.start(worker)
        return programs, child, worker

    yield start
    for programs in made:
        for process in programs.started:
            process.kill()
            process.communicate()


def test_another_process_starts_when_one_has_ended(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A process that ends is logged once with its exit code, and another one starts."""
    programs, child, worker = run("raise SystemExit(3)", WAITS)
    programs.started[0].wait()

    def restarted() -> bool:
        worker.fire()
        return len(programs.started) == 2

    servers.wait_until(restarted)
    programs.ready()
    assert child.pid == programs.started[1].pid
    assert child.is_running
    assert sum("the helper ended with exit code 3: a new one starts in" in line for line in caplog.messages) == 1


def test_a_stopped_process_is_not_started_again(run: Any) -> None:
    """A process that was asked to stop ends by SIGTERM, and no other starts."""
    programs, child, worker = run(WAITS)
    programs.ready()
    child.stop()
    child.end(60, "never")
    for _ in range(3):
        worker.fire()
    assert [process.returncode for process in programs.started] == [-signal.SIGTERM]
    assert not child.is_running


def test_a_process_that_does_not_stop_is_killed(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A process that ignores SIGTERM is killed when the time is over; meanwhile the caller's work goes on."""
    programs, child, _ = run(STUBBORN)
    programs.ready()
    child.stop()
    calls: list[None] = []
    child.end(0.5, "its work is done later", lambda: calls.append(None))
    assert programs.started[0].returncode == -signal.SIGKILL
    assert calls
    assert "the helper did not stop within 0 s and is killed: its work is done later" in caplog.messages


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (f"import os, sys; os.write(int(sys.argv[1]), b'no x: set x'); sys.exit({EX_CONFIG})", "no x: set x"),
        (f"raise SystemExit({EX_CONFIG})", "it says why above"),
    ],
)
def test_a_process_that_cannot_start_stops_the_worker(
    run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, program: str, reason: str
) -> None:
    """A process that ends at once because of its configuration stops the worker, which logs the reason, once."""
    codes: list[int] = []
    monkeypatch.setattr("balog_celery.worker.child.stop_warmly", codes.append)
    programs, _, worker = run(program)
    programs.started[0].wait()
    for _ in range(3):
        worker.fire()
    assert codes == [EX_CONFIG]
    assert len(programs.started) == 1
    assert caplog.messages == [f"this worker stops, as the helper cannot start: {reason}"]


def test_a_killed_process_is_replaced(run: Any) -> None:
    """A process that hangs can be killed, and another one starts."""
    programs, child, worker = run(WAITS)
    programs.ready()
    child.kill()
    programs.started[0].wait()

    def restarted() -> bool:
        worker.fire()
        return len(programs.started) == 2

    servers.wait_until(restarted)
