"""The app that ``celery -A balog_celery`` finds.

It reads ``celeryconfig.py`` in the current folder, or the module that ``--config`` or ``CELERY_CONFIG_MODULE`` names:
Celery's settings and ours, those with the prefix ``balog_``.
"""

from __future__ import annotations

import importlib.util
import os

from celery import Celery
from celery.utils.imports import cwd_in_path

from .errors import ConfigurationError
from .integration import install_default


def _make_app() -> Celery:
    app = Celery("balog_celery")
    named = os.environ.get("CELERY_CONFIG_MODULE")
    with cwd_in_path():
        # Looked for first, because Celery's own silent=True would also hide an ImportError inside of it.
        if named or importlib.util.find_spec("celeryconfig") is not None:
            try:
                app.config_from_object(named or "celeryconfig", force=True)
            except ImportError as error:
                # Celery's search for the app takes an ImportError for "not here" and says nothing of its cause.
                raise ConfigurationError(f"{named or 'celeryconfig'} cannot be imported: {error}") from error
    return install_default(app)


app = _make_app()
