"""What a worker knows of the engine beside it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from celery import Celery

from balog_celery.integration import install
from balog_celery.worker.bootsteps import EngineStep


def test_a_worker_with_an_unusable_status_folder_goes_on(tmp_path: Path) -> None:
    """A worker that cannot read the status of its engine has none to judge by, and raises nothing."""
    # Given a file where the folder should be
    path = tmp_path / "status"
    path.touch()
    app = Celery("status", broker="memory://", set_as_current=False)
    app.conf.update(balog_status_dir=str(path), balog_dispatch="publish")
    install(app, local=False)
    worker: Any = SimpleNamespace(app=app)

    # Then
    assert EngineStep(worker).status(worker) is None
