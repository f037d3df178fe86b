"""``balog health``: the state of the engines and outbox relays on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from celery import Celery

from ..engine.status import problems
from ..text import count_of, duration
from ..wiring.status_dir import runs_with_any_broker
from . import output
from .group import balog, command, json_option


@command(balog, load=False)
@click.option("--outbox", "outbox_only", is_flag=True, help="Only outbox relays, on a machine without a worker.")
@json_option
def health(app: Celery, outbox_only: bool, as_json: bool) -> None:
    """Show the state of engines and relays on this machine.

    Exits with 1, and prints the problems, if one has some, or none runs.

    \b
    Example:
        celery -A proj balog health
    """
    engines = [] if outbox_only else app.balog.statuses()
    relays = app.balog.statuses("relay")
    found = [problem for status in (*engines, *relays) for problem in problems(status)]
    if not engines and not outbox_only:
        found.append(_missing(app, "engine", "engine"))
    if not relays and (outbox_only or app.balog.settings.outbox_relay):
        found.append(_missing(app, "outbox relay", "relay"))
    if as_json:
        output.document({"healthy": not found, "problems": found, "engines": engines, "relays": relays})
    if found:
        raise click.ClickException("; ".join(found))
    for status in () if as_json else engines:
        for topic, state in status["topics"].items():
            output.paragraph(described(status["pid"], topic, state))
    for status in () if as_json else relays:
        output.paragraph(relay_described(status))


def _missing(app: Celery, what: str, kind: str) -> str:
    if runs_with_any_broker(app, app.balog.settings, kind):
        return (
            f"no {what} of this app with its broker_url runs on this machine, but one with another does: give this "
            "command the same broker, with `celery -b` or in CELERY_BROKER_URL as there, or in the configuration"
        )
    return f"no {what} of this app runs on this machine, or it cannot write its status: see its log"


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


def relay_described(status: Mapping[str, Any]) -> str:
    """Return what the status of an outbox relay says."""
    topics = status["outbox"].values()
    oldest = max((topic["oldest"] for topic in topics), default=0.0)
    waiting, failed = sum(topic["waiting"] for topic in topics), sum(topic["failed"] for topic in topics)
    return (
        f"outbox relay {status['pid']}: {count_of(waiting, 'row')} pending"
        + (f" (the oldest for {duration(oldest)})" if waiting else "")
        + f", {failed} failed, {status['sent']} sent since it started"
    )
