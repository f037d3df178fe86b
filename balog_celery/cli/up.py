"""``balog up``: everything for development, in one."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from typing import IO

import click
from celery import Celery

from .. import local
from ..worker import app_path
from .group import balog, command
from .send import send_file


@command(balog)
@click.option("--send", "file", type=click.File("r", encoding="utf-8"), help="Send these records first.")
def up(app: Celery, file: IO[str] | None) -> None:
    """Run everything that development needs.

    The embedded broker and SQS, a worker, and Flower if it is installed. Ctrl-C stops all.

    \b
    Example:
        celery -A balog_celery balog up --send events.jsonl
    """
    if not app.balog.local:
        raise click.ClickException("a broker or an SQS endpoint is configured: start a worker with `celery worker`")
    local.hold(app.balog.state_dir)
    if file is not None:
        queue, count = send_file(app, file, None)
        click.echo(f"sent {count} records to {queue.name}")
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
