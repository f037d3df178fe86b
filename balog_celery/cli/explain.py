"""``balog explain``: who gets an event, and who does not, and why."""

from __future__ import annotations

from typing import IO, Any

import click
from celery import Celery

from ..consumers.bounds import check_bounds
from ..consumers.explain import explain as verdicts
from ..errors import DecodeError
from ..records import FacilityRecord
from ..text import printable
from . import output
from .events import bodies
from .group import balog, command, json_option


@command(balog)
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--topic", help="The topic to which the events are sent; default: the topic is not looked at.")
@json_option
def explain(app: Celery, file: IO[str], topic: str | None, as_json: bool) -> None:
    """Say who gets the events in FILE, who not, and why.

    For each other consumer, every reason why it does not get an event: topic, cls_type, version. Nothing is sent.

    FILE (- is standard input) holds one JSON document, or one a line, in any form that the topic's decoder reads. Exits
    with 1 if one of them cannot be decoded, or an event is wanted by nobody.

    \b
    Example:
        celery -A proj balog explain event.json
        echo '{"schema": ...}' | celery -A proj balog explain - --topic myproj-events-prod
    """
    found = [one for number, body in bodies(file) for one in _explained(app, number, body, topic)]
    if as_json:
        output.document(found)
    else:
        for one in found:
            _print(one)
    if not all(one.get("consumers") for one in found):
        raise SystemExit(1)


def _explained(app: Celery, line: int, body: str, topic: str | None) -> list[dict[str, Any]]:
    """What is to be said of each event of a body."""
    settings = app.balog.settings
    try:
        check_bounds(body, settings.max_body_bytes, settings.max_depth)
        # Without a topic, as the only one would be read.
        topics = list(app.balog.topics())
        events = app.balog.reader(topic or (topics[0] if len(topics) == 1 else ""))(body)
    except DecodeError as error:
        return [{"line": line, "error": error.reason}]
    if not events:
        return [{"line": line, "error": "it holds no event"}]
    return [{"line": line, **_verdict(app, event, topic)} for event, _ in events]


def _verdict(app: Celery, event: FacilityRecord, topic: str | None) -> dict[str, Any]:
    reasons = {
        consumer.task_name: [reason._asdict() for reason in found]
        for consumer, found in verdicts(event, app.balog.topics(), topic).items()
    }
    return {
        "id": event.header.id,
        "cls_type": event.payload.cls_type,
        "schema": event.schema_version,
        "consumers": [name for name, why in reasons.items() if not why],
        "others": {name: why for name, why in reasons.items() if why},
    }


def _print(one: dict[str, Any]) -> None:
    if "error" in one:
        click.echo(f"line {one['line']} {click.style('cannot be decoded', fg='red')}: {one['error']}")
        return
    about = f"cls_type {printable(one['cls_type'])}, schema {printable(one['schema'])}"
    nobody = "" if one["consumers"] else click.style(": nobody gets it", fg="red")
    click.echo(f"event {printable(one['id'])} ({about}){nobody}")
    width = max(map(len, (*one["consumers"], *one["others"])), default=0)
    for name in one["consumers"]:
        click.echo(f"  {click.style('gets it', fg='green')}  {name}")
    for name, why in one["others"].items():
        text = "; ".join(reason["text"] for reason in why)
        click.echo(f"  {click.style('not', fg='yellow')}      {name.ljust(width)}  {text}")
