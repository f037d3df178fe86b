"""``balog engine``: an engine apart from workers; also what a worker starts beside itself."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time

import billiard
import click
from celery import Celery
from celery.bin.base import LOG_LEVEL, CeleryCommand, handle_preload_options

from .. import local
from ..consumers.engine import Engine
from ..errors import BalogError
from ..link import Link
from ..worker import EX_CONFIG
from .group import balog


@balog.command(cls=CeleryCommand)
@click.option("-l", "--loglevel", default="INFO", type=LOG_LEVEL, help="Logging level.")
@click.option("-f", "--logfile", default=None, help="Log to this file; default: stderr.")
@click.option("--worker-pid", type=int, hidden=True, help="The worker beside which it runs, and with which it ends.")
@click.option("--hand-off-fd", type=int, hidden=True, help="The socket over which that worker takes tasks.")
@click.pass_context
@handle_preload_options
def engine(
    ctx: click.Context, loglevel: int, logfile: str | None, worker_pid: int | None, hand_off_fd: int | None
) -> None:
    """Run an engine apart from workers.

    It receives events, and puts a task for each consumer on the broker. A worker runs one by itself; this is for
    engines apart from workers (started with --no-engine). Several may listen to the same topics. SIGTERM or Ctrl-C
    stop it when what is in flight is settled. Exits with 78 if it cannot start because of what is configured.

    \b
    Example:
        celery -A proj balog engine -l INFO
    """
    app: Celery = ctx.obj.app
    # What log lines show as the process's name.
    multiprocessing.current_process().name = billiard.current_process().name = "Engine"
    app.log.setup(loglevel, logfile, redirect_stdouts=False, colorize=False if ctx.obj.no_color else None)
    # At INFO it tells of every client where its credentials are from.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        app.loader.import_default_modules()
        if app.balog.local:
            # Its worker may be killed; then the engine still has deletes to make.
            local.hold(app.balog.state_dir)
        running = app.balog.engine(Link(socket.socket(fileno=hand_off_fd)) if hand_off_fd is not None else None)
        if worker_pid is not None:
            _stop_with(worker_pid, running)
        running.run(ready=keep_what_is_there)
    except BalogError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EX_CONFIG)


def keep_what_is_there() -> None:
    """Have the garbage collector look no more at what was imported and made at start: boto3's models, above all.

    All of it stays until the end, and to look at it whenever a batch of events has been in flight for a while takes a
    fifth of the engine's time. What is new it looks for after the objects of some 300 events, not of 12, which takes
    another 7 % and finds nothing: no event leaves a cycle behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def _stop_with(worker_pid: int, running: Engine) -> None:
    """Stop when the worker does, or is gone."""
    # Ctrl-C and a closed terminal reach all of the worker's group; the worker says when to stop.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == worker_pid:
            time.sleep(0.5)
        logging.getLogger(__name__).warning("the worker is gone: stopping")
        running.stop()

    threading.Thread(target=watch, name="worker-watch", daemon=True).start()
