"""The app that ``celery -A balog_celery`` finds.

It reads ``celeryconfig.py`` in the current folder, or the module that ``--config`` or ``CELERY_CONFIG_MODULE`` names:
Celery's settings and ours, those with the prefix ``balog_``.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from celery import Celery
from celery.utils.imports import cwd_in_path

from .errors import ConfigurationError
from .integration import install_default


def _make_app() -> Celery:
    app = Celery("balog_celery")
    with cwd_in_path():
        if name := os.environ.get("CELERY_CONFIG_MODULE") or _celeryconfig():
            try:
                app.config_from_object(name, force=True)
            except ImportError as error:
                # Celery's search for the app takes an ImportError for "not here" and says nothing of its cause.
                raise ConfigurationError(f"{name} cannot be imported: {error}") from error
    return install_default(app)


def _celeryconfig() -> str | None:
    # Looked for first, because Celery's own silent=True would also hide an ImportError inside of it.
    spec = importlib.util.find_spec("celeryconfig")
    if spec is None:
        return None
    checkout = Path(__file__).resolve().parents[1]
    if spec.origin and Path(spec.origin).resolve().parent == checkout != Path.cwd().resolve():
        return None  # installed with -e, a checkout is on the path everywhere; its examples are not for other folders
    return "celeryconfig"


app = _make_app()
