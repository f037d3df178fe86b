"""Commands of this package that a worker runs beside itself, in processes of their own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from celery import Celery

from ..errors import ConfigurationError
from ..wiring.imports import main_module

#: The option of such a command that names its worker.
_WORKER_PID = "--worker-pid"


class Command(NamedTuple):
    """A command of Celery's.

    :param words: its words.
    :param env: its environment; None: that of this process.
    """

    words: list[str]
    env: dict[str, str] | None

    def start(self, *more: str, fds: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start it with *more* words and the file descriptors *fds*."""
        return subprocess.Popen([*self.words, *more], env=self.env, stdin=subprocess.DEVNULL, pass_fds=fds)


def beside(worker: Any, name: str) -> Command:
    """Return ``celery balog NAME``, which logs as *worker* does, and ends with it.

    :raises ConfigurationError: another process cannot find the app, or would start a worker with it.
    """
    if _WORKER_PID in sys.argv:  # each would start another one, without an end
        raise ConfigurationError(
            "the import of the app's module starts a worker: call app.worker_main() below `if __name__ == "
            '"__main__":`, or start the worker with `celery -A module worker`'
        )
    words = [*celery_command(worker.app), "balog", name]
    words += ["--loglevel", logging.getLevelName(worker.loglevel or logging.WARNING)]
    if worker.logfile:
        words += ["--logfile", worker.logfile, "--hostname", worker.hostname]
    # Celery adds the current folder only, and Python that of a script.
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    env = {**os.environ, "PYTHONPATH": path} if _given_path() is None else None
    return Command([*words, _WORKER_PID, str(os.getpid())], env)


def celery_command(app: Celery) -> list[str]:
    """Return how a command of Celery's for *app* begins.

    :raises ConfigurationError: another process cannot find the app.
    """
    return [sys.executable, "-m", "celery", "-A", _app_path(app)]


def _given_path() -> str | None:
    """Return what ``-A`` names."""
    context = click.get_current_context(silent=True)
    given = context.find_root().params.get("app") if context is not None else None
    return given if isinstance(given, str) else None


def _app_path(app: Celery) -> str:
    if (given := _given_path()) is not None:
        return given
    main = sys.modules.get("__main__")
    for name, module in list(sys.modules.items()):
        # Other processes do not know the script by this name (multiprocessing has it as __mp_main__ too), and Celery's
        # own modules only have this process's current app.
        if module is main or name.partition(".")[0] == "celery":
            continue
        if attribute := _attribute(module, app):
            return f"{name}:{attribute}"
    if (script := main_module()) and (attribute := _attribute(main, app)) and _may_be_imported(main):
        return f"{script}:{attribute}"
    raise ConfigurationError(
        f"the engine's process cannot find {app!r}: keep the app in a module that can be imported and call "
        'app.worker_main() below `if __name__ == "__main__":`, or start the worker with `celery -A module worker`, or '
        "run engines by themselves and set balog_engine = False"
    )


def _attribute(module: object, app: Celery) -> str | None:
    names = getattr(module, "__dict__", {})
    return next((attribute for attribute, value in list(names.items()) if value is app), None)


def _may_be_imported(main: Any) -> bool:
    """Return whether the script *main* seems to start nothing when it is imported."""
    try:
        return "__main__" in Path(main.__file__).read_text()
    except (OSError, ValueError):
        return False
