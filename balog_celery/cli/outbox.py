"""``balog outbox``: sends the events of a transactional outbox, and shows those that SQS can never take."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from typing import Any

import click
from celery import Celery
from celery.bin.base import LOG_LEVEL, handle_preload_options
from celery.utils.nodenames import gethostname, nodename
from click.core import ParameterSource

from ..errors import BalogError, ConfigurationError
from ..metrics.opening import open_metrics
from ..outbox.relay import Relay
from ..outbox.report import RelayReport
from ..outbox.store import Store
from ..text import count_of
from ..wiring.start_errors import start_error
from . import output
from .group import FiniteRange, balog, command, handle_errors, json_option, set_up_log, stop_on_interrupt

logger = logging.getLogger(__name__)

store_option = click.option("--store", help="The outbox's dotted name; default: setting balog_outbox.")
ids_argument = click.argument("ids", nargs=-1, type=int)
all_option = click.option("--all", "all_rows", is_flag=True, help="All failed rows.")


@balog.group(invoke_without_command=True)
@store_option
@click.option(
    "--interval", type=FiniteRange(min=0.01), default=1.0, show_default=True, help="Seconds between idle polls."
)
@click.option("-l", "--loglevel", default="INFO", type=LOG_LEVEL, help="Logging level.")
@click.option("-f", "--logfile", default=None, help="Log to this file; default: stderr.")
@click.option("--worker-pid", type=int, hidden=True, help="The worker that it runs beside, and ends with.")
@click.option("--reason-fd", type=int, hidden=True, help="The pipe in which that worker reads why it cannot start.")
@click.option("--hostname", default=nodename("outbox", gethostname()), hidden=True, help="For %n and the like in -f.")
@click.pass_context
@handle_preload_options
def outbox(
    ctx: click.Context,
    store: str | None,
    interval: float,
    loglevel: int,
    logfile: str | None,
    worker_pid: int | None,
    reason_fd: int | None,
    hostname: str,
) -> None:
    """Send the events of the outbox to SQS.

    Rows that the application's transactions have committed are sent in batches, and deleted when SQS has confirmed
    them. Several relays may run at once. SIGTERM or Ctrl-C stop it after the call to SQS that is under way.

    \b
    Example:
        celery -A proj balog outbox -l INFO
    """
    if (name := ctx.invoked_subcommand) is not None:
        for option in ctx.command.params:
            if option.name in ctx.params and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{option.opts[-1]} is before {name}, where it has no effect: put it behind")
        return
    app: Celery = ctx.obj.app
    colorize = False if ctx.obj.no_color else None
    set_up_log(app, loglevel, logfile, colorize=colorize, hostname=hostname)
    with handle_errors():
        rows = _store(app, store, logfile, reason_fd)
        relay = Relay(rows, app.balog.connect, interval=interval)
        signal.signal(signal.SIGTERM, lambda *_: relay.stop())
        if worker_pid is not None:
            # Ctrl-C reaches all of a worker's process group; the worker asks for the stop.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            threading.Thread(target=_stop_with, args=(worker_pid, relay), name="worker-end", daemon=True).start()
        else:
            _serve_metrics(app)
        report = RelayReport(relay, rows, app.balog.status_file("relay"), app.balog.telemetry, worker_pid)
        click.echo("outbox relay started", err=True)
        with stop_on_interrupt(relay.stop), report:
            relay.run()


def _store(app: Celery, name: str | None, logfile: str | None, reason_fd: int | None) -> Store:
    """Load the app, and return its outbox; log what is wrong with its configuration."""
    try:
        app.loader.import_default_modules()
        found: Store = app.balog.outbox(name)
        return found
    except BalogError as error:
        raise start_error(app, error, "outbox relay", logfile, reason_fd) from error


def _serve_metrics(app: Celery) -> None:
    """Serve the metrics of the relay of this process, if ``balog_metrics_port`` names a port.

    A worker of the same app on this host may have the port: no reason not to send events.
    """
    if app.balog.settings.metrics_port is None:
        return
    own = os.getpid()
    try:
        server, _ = open_metrics(
            app.balog.settings,
            lambda: [status for status in app.balog.statuses("relay") if status["pid"] == own],
            runs_engine=False,
        )
    except ConfigurationError as error:
        if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
            raise
        logger.warning("the relay runs without metrics: %s", error)
    else:
        server.start()


def _stop_with(worker_pid: int, relay: Relay) -> None:
    """Stop the relay when its worker has ended without asking for it."""
    while os.getppid() == worker_pid:
        time.sleep(0.5)
    relay.stop()


@command(outbox)
@store_option
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="List at most this many.")
@json_option
def failed(app: Celery, store: str | None, limit: int, as_json: bool) -> None:
    """List the rows that SQS can never take.

    Each holds back the later rows of its message group until it is retried or dropped.

    \b
    Example:
        celery -A proj balog outbox failed
    """
    rows = app.balog.outbox(store).failed(limit)
    if as_json:
        output.document([{**row._asdict(), **_times(row)} for row in rows])
        return
    output.table(
        ("ID", "TOPIC", "GROUP", "CREATED", "FAILED", "REASON"),
        [(str(row.id), row.topic, row.group, *_times(row).values(), row.reason) for row in rows],
    )


@command(outbox)
@ids_argument
@all_option
@store_option
@json_option
def retry(app: Celery, ids: tuple[int, ...], all_rows: bool, store: str | None, as_json: bool) -> None:
    """Send failed rows again.

    \b
    Example:
        celery -A proj balog outbox retry 1041
    """
    _check_selection(ids, all_rows)
    _report("retried", app.balog.outbox(store).retry(ids), as_json)


@command(outbox)
@ids_argument
@all_option
@store_option
@json_option
def drop(app: Celery, ids: tuple[int, ...], all_rows: bool, store: str | None, as_json: bool) -> None:
    """Delete failed rows permanently.

    \b
    Example:
        celery -A proj balog outbox drop 1041
    """
    _check_selection(ids, all_rows)
    _report("dropped", app.balog.outbox(store).drop(ids), as_json)


def _check_selection(ids: tuple[int, ...], all_rows: bool) -> None:
    if bool(ids) == all_rows:
        raise click.UsageError("give either the ids of rows, as `balog outbox failed` lists them, or --all")


def _report(done: str, count: int, as_json: bool) -> None:
    text = f"{done} {count_of(count, 'row')}"
    if as_json:
        output.document({done: count}, done=text)
    else:
        output.echo(text, done=text)


def _times(row: Any) -> dict[str, str]:
    return {"created_at": row.created_at.isoformat(), "failed_at": row.failed_at.isoformat()}
