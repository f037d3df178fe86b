"""``balog check``: checks whether the app can run."""

from __future__ import annotations

import click
from celery import Celery

from ..operations.checks.run import check as checks
from . import output
from .group import balog, command, json_option

_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


@command(balog, load=False)
@json_option
def check(app: Celery, as_json: bool) -> None:
    """Check whether the app can run.

    One line each about settings, consumers, the engine's start, credentials, queues and their settings, broker, result
    backend, workers and running engines, with what to do. It neither receives nor sends messages. Permissions to delete
    and to extend are tried with a receipt handle that no message has; those to receive and to send cannot be tried.
    Exits with 1 if something FAILs; a WARN is no failure.

    \b
    Example:
        celery -A proj balog check
    """
    found = []
    for finding in checks(app):
        found.append(finding)
        if not as_json:
            level = click.style(finding.level.ljust(4), fg=_COLOURS[finding.level], bold=True)
            output.echo(f"{level}  {finding.about}: {finding.text}")
    if as_json:
        output.document([finding._asdict() for finding in found])
    if any(finding.level == "FAIL" for finding in found):
        raise SystemExit(1)
