"""``balog health``: the state of the engines on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from celery import Celery

from ..engine.status import problems
from ..text import count_of, duration
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
            output.paragraph(described(status["pid"], topic, state))


def described(pid: int, topic: str, state: Mapping[str, Any]) -> str:
    """Return what the status of an engine says of a topic."""
    parts = [
        f"engine {pid}, topic {topic}: {state['doing']}"
        + (f" for {duration(state['doing_for'])} ({state['reason']})" if state["reason"] else ""),
        f"polled {duration(state['last_poll'])} ago",
        f"{state['in_flight']} in flight"
        + (f" (the oldest for {duration(state['oldest'])})" if state["in_flight"] else ""),
        f"{count_of(state['owed'], 'delete')} pending",
    ]
    if state["paused"]:
        parts.append(f"{count_of(state['held'], 'message')} held for paused {', '.join(state['paused'])}")
    parts += [
        f"the last event {stage} {duration(lag['last'])} before it was received (at most {duration(lag['max'])})"
        for stage, lag in state["lag"].items()
    ]
    return ", ".join(parts)
