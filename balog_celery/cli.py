"""``celery -A app balog ...``: the commands that this package adds to Celery's."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import billiard
import click
from celery import Celery
from celery.bin.base import LOG_LEVEL, CeleryCommand, handle_preload_options

from . import local
from .consumers.consumer import Consumer
from .consumers.engine import Engine
from .consumers.status import problems
from .errors import BalogError, DecodeError
from .link import Link
from .queues import BATCH_SIZE, MAX_MESSAGE_BYTES, OutgoingMessage, Queue, size_in_batch
from .records import decode
from .worker import EX_CONFIG, app_path


@click.group()
@click.pass_context
def balog(ctx: click.Context) -> None:
    """Consume JSON events from Amazon SQS as Celery tasks."""
    if not hasattr(ctx.obj.app, "balog"):
        raise click.ClickException(
            f"balog_celery is not installed in {ctx.obj.app!r}: call balog_celery.install(app, packages=[...])"
        )


@contextmanager
def _told() -> Iterator[None]:
    """Tell an error of ours in one line."""
    try:
        yield
    except BalogError as error:
        raise click.ClickException(str(error)) from error


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
    """Run an engine: receive events, and put a task for each consumer on the broker.

    A worker runs one by itself; this is for engines apart from workers (started with --no-engine). Several may listen
    to the same topics. SIGTERM or Ctrl-C stop it when what is in flight is settled.
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
        running.run()
    except BalogError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(EX_CONFIG)


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


@balog.command(cls=CeleryCommand)
@click.pass_context
@handle_preload_options
def health(ctx: click.Context) -> None:
    """Say whether the engines on this machine are well; exit with 1, and why, if one is not or there is none."""
    with _told():
        statuses = ctx.obj.app.balog.statuses()
    if not statuses:
        raise click.ClickException("no engine of this app runs on this machine")
    sick = [problem for status in statuses for problem in problems(status)]
    if sick:
        raise click.ClickException("; ".join(sick))
    for status in statuses:
        for topic, state in status["topics"].items():
            click.echo(
                f"engine {status['pid']}, topic {topic}: {state['doing']}, polled {state['last_poll']:.0f} s ago, "
                f"{state['in_flight']} in flight (the oldest for {state['oldest']:.0f} s), {state['owed']} deletes owed"
            )


@balog.command(cls=CeleryCommand)
@click.pass_context
@handle_preload_options
def consumers(ctx: click.Context) -> None:
    """List the consumers: what each wants, and where its tasks go.

    DISPATCH is how they get there from an engine beside a worker: a worker without an event loop of its own (a pool of
    threads, gevent, eventlet or solo) is sent all of them by the broker.
    """
    app: Celery = ctx.obj.app
    with _told():
        app.loader.import_default_modules()
        rows = [_row(app, consumer) for consumer in app.balog.hub]
    _table(("TASK", "TOPIC", "CLS_TYPE", "VERSION", "QUEUE", "DISPATCH", "OPTIONS"), rows)


def _row(app: Celery, consumer: Consumer) -> tuple[str, ...]:
    task = app.tasks[consumer.task_name]
    route = app.amqp.router.route({"queue": None}, task.name, (), {}, task)
    # A worker serves the default queue unless it is told otherwise, and has a loop where the transport works in one.
    served = route["queue"].name == app.conf.task_default_queue
    in_loop = app.connection_for_read().transport.implements.asynchronous
    options = " ".join(f"{name}={value!r}" for name, value in consumer.options.items() if name != "queue")
    return (
        consumer.task_name,
        task.topic,
        ",".join(sorted(consumer.cls_types or ("*",))),
        str(consumer.condition or "*"),
        route["queue"].name,
        app.balog.dispatch if served and in_loop else "publish",
        options,
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    for row in (headings, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@balog.command(cls=CeleryCommand)
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--topic", help="Where to; default: the topic of the consumers, if they have but one.")
@click.pass_context
@handle_preload_options
def send(ctx: click.Context, file: IO[str], topic: str | None) -> None:
    """Send the records in FILE, one a line (- is standard input), to a topic; none if a line is no record."""
    app: Celery = ctx.obj.app
    with _told():
        app.loader.import_default_modules()
        _send(app, file, topic)


@balog.command(cls=CeleryCommand)
@click.option("--send", "file", type=click.File("r", encoding="utf-8"), help="Send these records first.")
@click.pass_context
@handle_preload_options
def up(ctx: click.Context, file: IO[str] | None) -> None:
    """Run the embedded broker and SQS, a worker, and Flower if it is installed: for development. Ctrl-C stops all."""
    app: Celery = ctx.obj.app
    with _told():
        app.loader.import_default_modules()
        if not app.balog.local:
            raise click.ClickException("a broker or an SQS endpoint is configured: start a worker with `celery worker`")
        local.hold(app.balog.state_dir)
        if file is not None:
            _send(app, file, None)
    celery = [sys.executable, "-m", "celery", "-A", app_path(app)]
    others = []
    if importlib.util.find_spec("flower"):
        port = int(os.environ.get("FLOWER_PORT", "5555"))  # Flower's own variable
        if _is_free(port):
            click.echo(f"Flower: http://127.0.0.1:{port}")
            command = [*celery, "flower", "--address=127.0.0.1", f"--port={port}", "--logging=error"]
            # The arguments say which event it is; Flower does not show them unless it is asked to.
            command.append("--tasks_columns=name,uuid,state,args,received,runtime,worker")
            others.append(subprocess.Popen(command))
        else:
            click.echo(f"Flower is not started: port {port} is in use (set FLOWER_PORT to another)")
    worker = subprocess.Popen([*celery, "worker", "-l", "INFO"])
    # Ctrl-C reaches the worker as well, which knows what to do; this waits for it.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
    code = worker.wait()
    for other in others:
        other.terminate()
        other.wait()
    sys.exit(code)


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def _send(app: Celery, file: IO[str], topic: str | None) -> None:
    lines = _records(file, has_bucket=bool(app.balog.settings.payload_bucket))
    queue: Queue = app.balog.connect(topic or _only_topic(app))
    if app.balog.local:
        queue.create()
    for batch in _batches(lines):
        failures = queue.send(batch)
        if failures:
            raise click.ClickException(f"{len(failures)} records were not sent: {failures[0].message}")
    click.echo(f"sent {len(lines)} records to {queue.name}")


def _records(file: IO[str], *, has_bucket: bool) -> list[str]:
    lines = []
    try:
        for number, line in enumerate(file, 1):
            if text := line.strip():
                try:
                    decode(text)
                except DecodeError as error:
                    raise click.ClickException(f"line {number} of {file.name} is no record: {error}") from error
                if not has_bucket and OutgoingMessage(text).size() > MAX_MESSAGE_BYTES:
                    raise click.ClickException(
                        f"line {number} of {file.name} is larger than a message may be, {MAX_MESSAGE_BYTES} bytes: "
                        "set balog_payload_bucket to an S3 bucket to put such records into"
                    )
                lines.append(text)
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file.name} is not UTF-8 text: {error}") from error
    return lines


def _only_topic(app: Celery) -> str:
    topics = sorted({app.tasks[consumer.task_name].topic for consumer in app.balog.hub})
    if len(topics) != 1:
        known = ", ".join(topics) or "there are no consumers"
        raise click.ClickException(f"say which --topic to send to ({known})")
    return str(topics[0])


def _batches(lines: Sequence[str]) -> Iterator[list[OutgoingMessage]]:
    batch: list[OutgoingMessage] = []
    size = 0
    for line in lines:
        message = OutgoingMessage(line)
        taken = size_in_batch(message.size())
        if batch and (len(batch) == BATCH_SIZE or size + taken > MAX_MESSAGE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += taken
    if batch:
        yield batch
