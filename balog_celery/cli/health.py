"""``balog health``: the state of the engines and outbox relays on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from celery import Celery

from ..engine.status import problems
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
    missing = {"engine": not engines and not outbox_only}
    missing["outbox relay"] = not relays and (outbox_only or app.balog.settings.outbox_relay)
    found += [
        f"no {what} of this app runs on this machine, or it cannot write its status: see its log"
        for what, is_missing in missing.items()
        if is_missing
    ]
    if as_json:
        output.document({"healthy": not found, "problems": found, "engines": engines, "relays": relays})
    if found:
        raise click.ClickException("; ".join(found))
    for status in () if as_json else engines:
        for topic, state in status["topics"].items():
            click.echo(_engine_line(status, topic, state))
    for status in () if as_json else relays:
        click.echo(_relay_line(status))


def _engine_line(status: Mapping[str, Any], topic: str, state: Mapping[str, Any]) -> str:
    return (
        f"engine {status['pid']}, topic {topic}: {state['doing']}"
        + (f" for {state['doing_for']:.0f} s ({state['reason']})" if state["reason"] else "")
        + f", polled {state['last_poll']:.0f} s ago, "
        f"{state['in_flight']} in flight (the oldest for {state['oldest']:.0f} s), "
        f"{state['owed']} deletes pending"
        + (f", {state['held']} messages wait for paused {', '.join(state['paused'])}" if state["paused"] else "")
        + "".join(
            f", the last event {stage} {lag['last']:.1f} s before it was received (at most {lag['max']:.1f} s)"
            for stage, lag in state["lag"].items()
        )
    )


def _relay_line(status: Mapping[str, Any]) -> str:
    topics = status["outbox"].values()
    oldest = max((topic["oldest"] for topic in topics), default=0.0)
    return (
        f"outbox relay {status['pid']}: {sum(topic['waiting'] for topic in topics)} rows wait "
        f"(the oldest for {oldest:.0f} s), {sum(topic['failed'] for topic in topics)} failed, "
        f"{status['sent']} sent since it started"
    )
