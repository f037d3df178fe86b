"""The folder in which the engines of an app keep their status."""

from __future__ import annotations

import errno
from pathlib import Path

from celery import Celery

from ..engine.status import read_statuses, status_folders
from ..errors import ConfigurationError
from ..settings import Settings
from .configuration import app_identity

#: A disk that is full is no error in the configuration, and has room again one day.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def status_dirs(given: str | None) -> list[Path]:
    """Return the folders in which status files may be, the best first.

    :param given: the setting ``balog_status_dir``.
    :raises ConfigurationError: none can be used.
    """
    try:
        return status_folders(given)
    except OSError as error:
        if given is None:
            message = f"no folder can be used for the status of engines ({error}): set balog_status_dir to one that"
        else:
            message = f"balog_status_dir = {given!r} cannot be used ({error}): name a folder that"
        raise ConfigurationError(f"{message} only this user can write to") from error


def runs_with_any_broker(app: Celery, settings: Settings, kind: str) -> bool:
    """Return whether an engine, or a relay, of *app* runs on this machine, with its broker or another.

    :param kind: ``"engine"`` or ``"relay"``.
    """
    identity = app_identity(app, settings).rpartition("-")[0]
    return any(read_statuses(status_dirs(settings.status_dir), identity, kind))


def check_status_dir(given: str | None) -> None:
    """Check the folder that an app names; without a name an engine starts all the same, and logs what is wrong.

    :param given: the setting ``balog_status_dir``.
    :raises ConfigurationError: it cannot be used.
    """
    if given is not None:
        try:
            status_dirs(given)
        except ConfigurationError as error:
            if getattr(error.__cause__, "errno", None) not in _FULL:
                raise
