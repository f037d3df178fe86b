"""``balog health``: whether the engines on this machine are well."""

from __future__ import annotations

import click
from celery import Celery

from ..consumers.status import problems
from . import output
from .group import balog, command, json_option


@command(balog, load=False)
@json_option
def health(app: Celery, as_json: bool) -> None:
    """Say whether the engines here are well.

    Exits with 1, and says why, if one on this machine is not, or there is none.

    \b
    Example:
        celery -A proj balog health
    """
    statuses = app.balog.statuses()
    sick = [problem for status in statuses for problem in problems(status)]
    if not statuses:
        sick = ["no engine of this app runs on this machine"]
    if as_json:
        output.document({"healthy": not sick, "problems": sick, "engines": statuses})
    if sick:
        raise click.ClickException("; ".join(sick))
    for status in () if as_json else statuses:
        for topic, state in status["topics"].items():
            click.echo(
                f"engine {status['pid']}, topic {topic}: {state['doing']}, polled {state['last_poll']:.0f} s ago, "
                f"{state['in_flight']} in flight (the oldest for {state['oldest']:.0f} s), {state['owed']} deletes owed"
                + "".join(
                    f", the last event {stage} {lag['last']:.1f} s before it was received (at most {lag['max']:.1f} s)"
                    for stage, lag in state["lag"].items()
                )
            )
