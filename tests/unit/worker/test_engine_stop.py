"""How long a stopping worker waits for its engine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals

from balog_celery.consumers import Consumer
from balog_celery.integration import install
from balog_celery.worker import bootsteps, child, commands


class CeleryWorker:
    timer = SimpleNamespace(call_repeatedly=lambda *_: None)
    loglevel = logfile = None
    hostname = "w@h"


class Clock:
    """Shows the time that has passed in waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("drain", [0, 5, 90])
def test_an_engine_is_not_killed_while_it_may_still_wait(
    drain: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It waits for its drain limit, but for no long poll, and then makes the pending calls."""
    clock, killed = Clock(), list[float]()

    class HungEngine:
        """A process that never ends by itself."""

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def poll(self) -> None:
            pass

        def terminate(self) -> None:
            pass

        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                return -9
            clock.now += timeout
            raise subprocess.TimeoutExpired("engine", timeout)

        def kill(self) -> None:
            killed.append(clock.now)

    # Given
    app = Celery("stops", broker="memory://", set_as_current=False)
    app.conf.update(balog_drain=drain, balog_dispatch="publish")
    install(app, local=False, region="eu-west-1", status_dir=str(tmp_path))
    app.balog.hub.add_consumer(Consumer(print, "topic"))
    app.balog.load()
    worker: Any = CeleryWorker()
    worker.app = app
    monkeypatch.setattr(subprocess, "Popen", HungEngine)
    monkeypatch.setattr(commands, "celery_command", lambda _: ["celery"])
    monkeypatch.setattr(child, "time", clock)
    step = bootsteps.EngineStep(worker)
    step.start(worker)
    # When
    step.close(worker)
    signals.worker_shutdown.send(sender=worker)
    # Then
    (at,) = killed
    assert drain + 10 <= at <= drain + 15
    app.close()
