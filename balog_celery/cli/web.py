"""``balog web``: pages for people on call."""

from __future__ import annotations

import logging
import signal
from importlib import import_module
from typing import Any

import click
from celery import Celery
from celery.bin.base import LOG_LEVEL

from ..errors import ConfigurationError
from .group import FiniteRange, balog, command, set_up_log


@command(balog)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5577, show_default=True, help="The port to listen on.")
@click.option(
    "--auth",
    multiple=True,
    metavar="WAY",
    help="Who may use it: basic:USER:env:VARIABLE, basic:USER:file:PATH, header:NAME (which a proxy sets) or "
    "module:callable; may be repeated.",
)
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="[USER=]ROLE",
    help="What a user, or each other user, may do: viewer, reader (sees events) or operator (replays, deletes and "
    "pauses). Default: viewer; without --auth on this machine: operator.",
)
@click.option("--read-only", is_flag=True, help="Allow no replays, deletes, pauses or resumes.")
@click.option(
    "--trusted-proxy",
    "proxies",
    multiple=True,
    default=("127.0.0.1", "::1"),
    show_default=True,
    help="The address of a proxy whose header is trusted, or a network; may be repeated.",
)
@click.option("--allow-host", "hosts", multiple=True, help="A name under which it is served; may be repeated.")
@click.option("--flower", metavar="URL", help="The address of Flower, for tasks.")
@click.option(
    "--interval",
    type=FiniteRange(1, 600),
    default=30.0,
    show_default=True,
    help="The time between samples of queues and workers, in seconds.",
)
@click.option("-l", "--loglevel", default="INFO", type=LOG_LEVEL, help="Logging level.")
@click.option("-f", "--logfile", default=None, help="Log to this file; default: stderr.")
def web(app: Celery, loglevel: int, logfile: str | None, **options: Any) -> None:
    """Serve a page that shows topics and dead letters.

    It shows queues and engines with the last hour, consumers and which of them get an event, dead letters by error, and
    where an event is; it replays, deletes and exports dead letters. Every action is logged. It listens on this machine
    only, unless it has --auth or --read-only. Needs balog_celery[web].

    \b
    Example:
        celery -A proj balog web
        celery -A proj balog web --host 10.0.0.5 --auth basic:ana:env:WEB_PASSWORD --role ana=operator
    """
    try:
        # By name: the page calls the code of the other commands, and what it needs may not be installed.
        access = import_module("balog_celery.web.access")
        server = import_module("balog_celery.web.server")
    except ImportError as error:
        raise ConfigurationError(f"the page needs more packages: pip install 'balog_celery[web]' ({error})") from error
    auth, roles, proxies = options.pop("auth"), options.pop("roles"), options.pop("proxies")
    read_only = options.pop("read_only")
    try:
        users = access.read_access(auth, roles, proxies, options["host"], read_only=read_only)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    set_up_log(app, loglevel, logfile)
    # At INFO it logs for every client where its credentials are from.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # uvicorn raises a signal again after its stop: SIGTERM would then kill this process.
        signal.signal(signal.SIGTERM, lambda *_: None)
    server.serve(app, users, **options)
