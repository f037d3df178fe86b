"""Engines whose status folder cannot be used."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from celery import Celery

from balog_celery import install
from balog_celery.consumers import Consumer
from balog_celery.errors import ConfigurationError
from balog_celery.operations.checks.run import check


def app_with(**settings: str) -> Celery:
    app = Celery("status", broker="memory://", set_as_current=False)
    install(app, region="eu-west-1", **settings)
    app.balog.hub.add_consumer(Consumer(print, "topic"))
    return app


def shared(folder: Path) -> Path:
    """Return a folder to which others may write."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


def test_an_engine_does_not_start_with_a_status_folder_that_is_not_its_own(tmp_path: Path) -> None:
    """Health and the worker would know nothing of it: whoever named the folder is told which, why, and the way out."""
    # Given a folder that is not for this user alone
    folder = shared(tmp_path / "status")
    app = app_with(status_dir=str(folder))
    # Then
    for use in (app.balog.check_engine, app.balog.statuses):
        with pytest.raises(ConfigurationError) as error:
            use()
        for part in (f"balog_status_dir = '{folder}'", "other users can write to", "only this user can write to"):
            assert part in str(error.value)
    assert [finding.about for finding in check(app) if finding.level == "FAIL"] == ["settings"]


def test_an_engine_starts_without_its_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that can only be read. `balog check` warns."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    app = app_with()
    app.balog.check_engine()
    (finding,) = [finding for finding in check(app) if finding.about == "settings"]
    assert finding.level == "WARN"
    assert "set balog_status_dir" in finding.text


def test_a_full_disk_does_not_keep_an_engine_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has room again one day, and events come now."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    app = app_with(status_dir=str(tmp_path / "status"))
    monkeypatch.setattr(Path, "mkdir", full)
    app.balog.check_engine()
