"""Shows why a worker or a command cannot start: one line, exit code 78, no traceback of Celery's."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click
from celery import Celery
from celery.utils.nodenames import gethostname, nodename

from ..errors import BalogError, PackageImportError
from .broker import require_backend, require_broker

logger = logging.getLogger(__name__)

#: The exit code of a program that cannot start because of its configuration: EX_CONFIG of sysexits.h.
EX_CONFIG = 78
#: How much of a reason is told to a worker, in bytes: a pipe holds as much, so that writing it never waits.
LONGEST_REASON = 4096


class StartError(click.ClickException):
    """Ends a command of Celery's with one line and :data:`EX_CONFIG`.

    :param error: why it cannot start.
    :param logged: whether the terminal shows the line already.
    """

    exit_code = EX_CONFIG

    def __init__(self, error: BalogError, *, logged: bool = False) -> None:
        super().__init__(str(error))
        self._frames = error.frames if isinstance(error, PackageImportError) else ""
        self._logged = logged

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line, and the last frames of a failed import."""
        if self._frames:
            click.echo(self._frames.rstrip(), err=True)
        if not self._logged:
            super().show(file)


@contextmanager
def worker_start_errors() -> Iterator[None]:
    """Log an error of this package that keeps a ``celery worker`` from starting, and end it with exit code 78.

    Where no such command runs, as with a worker inside a test, the error is raised as it is.
    """
    try:
        yield
    except BalogError as error:
        if (context := _worker_command()) is None:
            raise
        log_start_error(context.obj.app, error, "worker", context.params)
        # app.worker_main() would show another exception with its traceback.
        raise _exit(StartError(error, logged=not context.params.get("logfile"))) from error


@contextmanager
def app_load_errors(app: Celery) -> Iterator[None]:
    """End a command of Celery's with one line and exit code 78 if *app* cannot be made.

    Celery would print that one with its traceback and all of its own attempts to find the app. The line is logged as
    well if a program is to start: its command has not been called yet, so its options are read here.
    """
    try:
        yield
    except BalogError as error:
        if not is_command():
            raise
        options, words = _log_options().parse_known_args(sys.argv[1:])
        if program := next((word for word in words if word in ("worker", "engine", "outbox")), None):
            log_start_error(app, error, program, vars(options))
        raise _exit(StartError(error, logged=program is not None and options.logfile is None)) from error


def _exit(error: StartError) -> SystemExit:
    error.show()
    return SystemExit(error.exit_code)


def _log_options() -> argparse.ArgumentParser:
    """Return what reads the options of the log out of a command line. click would find ``-f`` in ``-Ofair``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-f", "--logfile")
    parser.add_argument("-n", "--hostname", default=nodename("celery", gethostname()))
    return parser


def is_command() -> bool:
    """Return whether a command of Celery's runs in this thread."""
    return click.get_current_context(silent=True) is not None


def check_worker_servers(app: Celery) -> None:
    """Check ``broker_url`` and ``result_backend`` if a ``celery worker`` starts.

    :raises ConfigurationError: one cannot be used.
    """
    if _worker_command() is not None:
        require_broker(app)
        require_backend(app)


def log_start_error(app: Celery, error: BalogError, program: str, options: dict[str, Any]) -> None:
    """Log why *program* cannot start, in the log's own place and format.

    :param options: those of its command line, of which ``loglevel``, ``logfile`` and ``hostname`` are used.
    """
    # Celery sets logging up later than it imports the app's modules. A second call does nothing.
    app.log.setup(
        options.get("loglevel") or logging.WARNING,
        options.get("logfile"),
        redirect_stdouts=False,
        hostname=options.get("hostname"),
    )
    logger.critical("the %s cannot start: %s", program, error)


def start_error(app: Celery, error: BalogError, program: str, logfile: str | None, reason_fd: int | None) -> StartError:
    """Log why *program* cannot start, or tell the worker that has started it, and return what ends its command.

    :param reason_fd: the pipe to that worker, which logs the reason as its own log's last line.
    """
    if reason_fd is None:
        log_start_error(app, error, program, {})
    else:
        os.write(reason_fd, str(error).encode()[:LONGEST_REASON])
    return StartError(error, logged=logfile is None)


def _worker_command() -> click.Context | None:
    context = click.get_current_context(silent=True)
    return context if context is not None and context.info_name == "worker" else None
