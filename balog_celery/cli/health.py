"""``balog health``: the state of the engines on this machine."""

from __future__ import annotations

import click
from celery import Celery

from ..engine.status import problems
from . import output
from .group import balog, command, json_option


@command(balog, load=False)
@json_option
def health(app: Celery, as_json: bool) -> None:
    """Show the state of the engines on this machine.

    Exits with 1, and prints the problems, if an engine has some, or none runs.

    \b
    Example:
        celery -A proj balog health
    """
    statuses = app.balog.statuses()
    found = [problem for status in statuses for problem in problems(status)]
    if not statuses:
        found = ["no engine of this app runs on this machine, or it cannot write its status: see its log"]
    if as_json:
        output.document({"healthy": not found, "problems": found, "engines": statuses})
    if found:
        raise click.ClickException("; ".join(found))
    for status in () if as_json else statuses:
        for topic, state in status["topics"].items():
            click.echo(
                f"engine {status['pid']}, topic {topic}: {state['doing']}"
                + (f" for {state['doing_for']:.0f} s ({state['reason']})" if state["reason"] else "")
                + f", polled {state['last_poll']:.0f} s ago, "
                f"{state['in_flight']} in flight (the oldest for {state['oldest']:.0f} s), "
                f"{state['owed']} deletes pending"
                + (
                    f", {state['held']} messages wait for paused {', '.join(state['paused'])}"
                    if state["paused"]
                    else ""
                )
                + "".join(
                    f", the last event {stage} {lag['last']:.1f} s before it was received (at most {lag['max']:.1f} s)"
                    for stage, lag in state["lag"].items()
                )
            )
