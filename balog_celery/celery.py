"""The app that ``celery -A balog_celery`` finds.

It reads ``celeryconfig.py`` in the current folder, or the module that ``--config`` or ``CELERY_CONFIG_MODULE`` names.
That module holds Celery's settings, and those of this package with the prefix ``balog_``.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from celery import Celery
from celery.utils.imports import cwd_in_path

from .integration import install_default
from .wiring.imports import IMPORT_FAILURES, import_error
from .wiring.start_errors import app_load_errors


def _make_app() -> Celery:
    app = Celery("balog_celery")
    with cwd_in_path():
        if name := os.environ.get("CELERY_CONFIG_MODULE") or _celeryconfig():
            try:
                app.config_from_object(name, force=True)
            except IMPORT_FAILURES as error:
                with app_load_errors(Celery("balog_celery", set_as_current=False)):
                    raise import_error(name, error) from error
    return install_default(app)


def _celeryconfig() -> str | None:
    # Celery's silent=True would also hide an ImportError inside the module.
    spec = importlib.util.find_spec("celeryconfig")
    if spec is None:
        return None
    checkout = Path(__file__).resolve().parents[1]
    if spec.origin and Path(spec.origin).resolve().parent == checkout != Path.cwd().resolve():
        return None  # an editable checkout is on every path; its example configuration is not for other folders
    return "celeryconfig"


app = _make_app()
