"""``balog up``: everything for development, in one."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

import click
from celery import Celery

from ..dev import local_stack
from ..errors import ConfigurationError
from ..sqs.messages import DEFAULT_GROUP
from ..text import count_of
from ..worker.commands import celery_command
from . import output
from .group import balog, command, stop_on_interrupt
from .reload import WorkerProcess, python_changes
from .send import message_options, send_file


@command(balog)
@click.option(
    "--send", "file", metavar="FILE", type=click.File("r", encoding="utf-8"), help="Send the bodies in FILE first."
)
@click.option("--topic", help="The topic to send to; default: that of the consumers, if they have only one.")
@message_options
@click.option("--reload", is_flag=True, help="Restart the worker when a Python file in this folder, or below, changes.")
def up(app: Celery, file: IO[str] | None, reload: bool, **sending: Any) -> None:
    """Run everything that development needs.

    The local broker and SQS, a worker, and Flower if it is installed. Ctrl-C stops them all. With --reload, which
    needs `balog_celery[reload]`, the worker stops and starts again when Python files change: as at any stop, it
    finishes its tasks first, or within its drain limit, and loses no event.

    \b
    Example:
        celery -A balog_celery balog up --send events.jsonl --reload
        celery -A balog_celery balog up --send push.json --attribute X-GitHub-Event=push
    """
    if file is None and (given := [name for name, value in sending.items() if value and value != DEFAULT_GROUP]):
        raise click.UsageError(f"--{given[0].removesuffix('s')} goes with --send")
    if not app.balog.local:
        raise ConfigurationError(
            f"this app has no local broker and SQS (balog_local = {app.balog.settings.local!r}), which `celery -A "
            "balog_celery` has if no broker and no SQS endpoint is configured: set balog_local = True, or start a "
            "worker with `celery worker`"
        )
    celery = celery_command(app)
    worker = WorkerProcess([*celery, "worker", "-l", "INFO"])
    changes = python_changes(worker) if reload else None
    local_stack.hold(app.balog.state_dir)
    if file is not None:
        queue, count = send_file(app, file, **sending)
        done = f"sent {count_of(count, 'message')} to {queue.name}"
        output.echo(done, done=done)
    flower = _start_flower(celery)
    signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
    try:
        with stop_on_interrupt(worker.stop):
            code = worker.run() if changes is None else worker.run_with(changes)
    finally:
        if flower is not None:
            flower.terminate()
            flower.wait()
    sys.exit(code)


def _start_flower(celery: Sequence[str]) -> subprocess.Popen[bytes] | None:
    """Start Flower if it is installed and its port is free.

    :param celery: the command line of Celery with the app.
    """
    if importlib.util.find_spec("flower") is None:
        return None
    port = int(os.environ.get("FLOWER_PORT", "5555"))  # Flower's own variable
    if not _is_free(port):
        output.echo(f"Flower is not started: port {port} is in use (set FLOWER_PORT to another)")
        return None
    output.echo(f"Flower: http://127.0.0.1:{port}")
    # The arguments say which event it is; Flower does not show them unless it is asked to.
    columns = "--tasks_columns=name,uuid,state,args,received,runtime,worker"
    return subprocess.Popen([*celery, "flower", "--address=127.0.0.1", f"--port={port}", "--logging=error", columns])


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
