"""Engines whose status folder cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from balog_celery import install
from balog_celery.consumers import Consumer
from balog_celery.errors import ConfigurationError


def test_an_unusable_status_folder_does_not_stop_an_engine(tmp_path: Path) -> None:
    """A folder that others can write to, or no disk space for one, is no reason not to process events."""
    # Given a folder that is not for this user alone
    folder = tmp_path / "status"
    folder.mkdir()
    folder.chmod(0o777)
    app = Celery("status", broker="memory://", set_as_current=False)
    app.conf.balog_status_dir = str(folder)
    install(app, region="eu-west-1")
    app.balog.hub.add_consumer(Consumer(print, "topic"))

    # Then an engine can be made, and who reads statuses learns why there are none
    app.balog.check_engine()
    with pytest.raises(ConfigurationError, match="other users can write to"):
        app.balog.statuses()
