"""``balog engine``: an engine without a worker; a worker runs the same command beside itself."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path

import click
from celery import Celery
from celery.bin.base import LOG_LEVEL, handle_preload_options
from celery.utils.nodenames import gethostname, nodename

from ..celery_compat.tasks import name_process
from ..celery_compat.versions import untested
from ..dev import local_stack
from ..dispatch.channel import Channel
from ..engine.engine import Engine
from ..engine.pauses import Pauses
from ..engine.status import is_of
from ..errors import BalogError
from ..metrics.opening import open_metrics
from ..wiring.broker import require_broker
from ..wiring.start_errors import start_error
from .group import EX_INTERRUPTED, Command, balog, set_up_log, stop_on_interrupt


@balog.command(cls=Command)
@click.option("-l", "--loglevel", default="INFO", type=LOG_LEVEL, help="Logging level.")
@click.option("-f", "--logfile", default=None, help="Log to this file; default: stderr.")
@click.option("--worker-pid", type=int, hidden=True, help="The worker that it runs beside, and ends with.")
@click.option("--hand-off-fd", type=int, hidden=True, help="The socket over which that worker takes tasks.")
@click.option("--reason-fd", type=int, hidden=True, help="The pipe in which that worker reads why it cannot start.")
@click.option("--pauses", type=click.Path(path_type=Path), hidden=True, help="What that worker has paused.")
@click.option("--hostname", default=nodename("engine", gethostname()), hidden=True, help="For %n and the like in -f.")
@click.pass_context
@handle_preload_options
def engine(
    ctx: click.Context,
    loglevel: int,
    logfile: str | None,
    worker_pid: int | None,
    hand_off_fd: int | None,
    reason_fd: int | None,
    pauses: Path | None,
    hostname: str,
) -> None:
    """Run an engine without a worker.

    It receives events, and puts a task for each consumer on the broker. Each worker runs an engine unless it is started
    with --no-engine. Several engines may poll the same topics. SIGTERM or Ctrl-C stop it after the messages in flight
    have been handled: with exit code 0, or 130 after Ctrl-C. Exits with 78 if the configuration keeps it from starting.

    \b
    Example:
        celery -A proj balog engine -l INFO
    """
    app: Celery = ctx.obj.app
    # What log lines show as the process's name.
    name_process("Engine")
    colorize = False if ctx.obj.no_color else None
    set_up_log(app, loglevel, logfile, colorize=colorize, hostname=hostname)
    # At INFO it logs for every client where its credentials are from.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    for warning in untested():
        logging.getLogger(__name__).warning("%s", warning)
    try:
        app.loader.import_default_modules()
        require_broker(app)
        if app.balog.local:
            # If its worker is killed, the engine still has messages to delete.
            local_stack.hold(app.balog.state_dir)
        channel = Channel(socket.socket(fileno=hand_off_fd)) if hand_off_fd is not None else None
        running = app.balog.engine(channel, pauses=Pauses(pauses))
        if worker_pid is not None:
            _stop_with(worker_pid, running)
        elif app.balog.settings.metrics_port is not None:
            own = os.getpid()
            server, _ = open_metrics(
                app.balog.settings, lambda: [status for status in app.balog.statuses() if is_of(status, own)]
            )
            server.start()
        with stop_on_interrupt(running.stop):
            running.run(ready=freeze_startup_objects)
    except KeyboardInterrupt:
        raise SystemExit(EX_INTERRUPTED) from None
    except BalogError as error:
        raise start_error(app, error, "engine", logfile, reason_fd) from error


def freeze_startup_objects() -> None:
    """Exclude the objects of the start, mostly boto3's models, from garbage collection.

    They live until the end, and scanning them took a fifth of the engine's time. New objects are scanned after some 300
    events instead of 12, which saved another 7 % and loses nothing: no event leaves a reference cycle behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def _stop_with(worker_pid: int, running: Engine) -> None:
    """Stop the engine when its worker asks for it, or has ended."""
    # Ctrl-C and a closed terminal reach all of the worker's process group; the worker asks for the stop.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def wait_for_its_end() -> None:
        while os.getppid() == worker_pid:
            time.sleep(0.5)
        logging.getLogger(__name__).warning("the worker has ended: stopping")
        running.stop()

    threading.Thread(target=wait_for_its_end, name="worker-end", daemon=True).start()
