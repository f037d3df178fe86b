"""``balog explain``: which consumers get an event, and why others do not."""

from __future__ import annotations

from typing import IO, Any

import click
from celery import Celery

from ..consumers.explain import explain as verdicts
from ..errors import DecodeError
from ..events.decoders import DECODERS, reader_of
from ..events.limits import check_limits
from ..events.records import FacilityRecord
from ..sqs.messages import Message
from ..text import printable
from . import output
from .dead_queues import read_letter
from .events import some_bodies
from .export import read_line
from .group import balog, command, json_option


@command(balog)
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--topic", help="The topic of the events; default: events of any topic.")
@json_option
def explain(app: Celery, file: IO[str], topic: str | None, as_json: bool) -> None:
    """Show which consumers get the events in FILE.

    For each event, the decoder that reads it, the consumers that get it, and for each other consumer why it does not:
    topic, cls_type, version, content. Nothing is sent.

    FILE (- is standard input) holds one JSON document, or one on each line: bodies that the topic's decoder reads, or
    dead letters that `balog dead drop --export` wrote.
    Exits with 1 if a body cannot be decoded, or no consumer gets an event.

    \b
    Example:
        celery -A proj balog explain event.json
        echo '{"schema": ...}' | celery -A proj balog explain - --topic myproj-events-prod
    """
    found = [one for number, body in some_bodies(file) for one in explain_body(app, number, body, topic)]
    if as_json:
        output.document(found)
    else:
        for one in found:
            _print(one, with_topic=topic is None)
        _print_sum(found)
    if not all(one.get("consumers") or "events" in one for one in found):
        raise SystemExit(1)


def explain_body(app: Celery, line: int, body: str, topic: str | None) -> list[dict[str, Any]]:
    """Return for each event in a body its decoder, the consumers that get it, and why the others do not."""
    settings = app.balog.settings
    if letter := read_line(body, line):
        return _explain_letter(app, line, *letter, topic)
    # Without a topic, bodies are read like those of the only topic.
    topics = list(app.balog.topics())
    home = topic or (topics[0] if len(topics) == 1 else "")
    decoder = app.balog.decoder_name(home)
    about = {"line": line, "decoder": decoder}
    try:
        check_limits(body, settings.max_depth, settings.max_body_bytes)
        events = app.balog.reader(home)(body)
    except DecodeError as error:
        return [{**about, "error": error.reason}]
    if not events:
        return [{**about, "events": 0}]
    if decoder == "auto":
        about["decoder"] = f"auto: {_format_of(body)}"
    return [{**about, **_verdict(app, event, topic)} for event, _ in events]


def _explain_letter(app: Celery, line: int, message: Message, home: str, topic: str | None) -> list[dict[str, Any]]:
    """Return the same for a dead letter of an export, read as a replay reads it."""
    letter = read_letter(app, message, home)
    about = {"line": line, "decoder": app.balog.decoder_name(letter.topic)}
    if letter.event is None:
        return [{**about, "error": letter.problem}]
    return [{**about, **_verdict(app, letter.event, topic)}]


def _format_of(body: str) -> str:
    """Return the format that the decoder ``auto`` recognized in *body*: the only one of its decoders that reads it."""
    for name, decoder in DECODERS.items():
        if name not in ("auto", "json"):
            try:
                if reader_of(decoder)(body):
                    return name
            except DecodeError:
                continue
    return "balog"


def _verdict(app: Celery, event: FacilityRecord, topic: str | None) -> dict[str, Any]:
    reasons = {
        consumer.task_name: [reason._asdict() for reason in found]
        for consumer, found in verdicts(event, app.balog.topics(), topic).items()
    }
    matching = [name for name, why in reasons.items() if not why]
    return {
        "id": event.header.id,
        "cls_type": event.payload.cls_type,
        "schema": event.schema_version,
        "consumers": matching,
        "concurrency": {
            one.task_name: str(one.limit)
            for one in app.balog.hub
            if one.limit is not None and one.task_name in matching
        },
        "topics": {name: app.tasks[name].topic for name in matching},
        "others": {name: why for name, why in reasons.items() if why},
    }


def _print(one: dict[str, Any], *, with_topic: bool) -> None:
    if "error" in one:
        failed = click.style("cannot be decoded", fg="red")
        output.echo(f"line {one['line']} {failed} ({printable(one['decoder'])}): {one['error']}")
        return
    if "events" in one:
        output.echo(f"line {one['line']} holds no event")
        return
    about = f"cls_type {printable(one['cls_type'])}, schema {printable(one['schema'])}"
    unwanted = "" if one["consumers"] else click.style(": no consumer gets it", fg="red")
    output.echo(f"event {printable(one['id'])} ({about}){unwanted}")
    output.echo(f"  decoder  {printable(one['decoder'])}")
    width = max(map(len, (*one["consumers"], *one["others"])), default=0)
    for name in one["consumers"]:
        topic = f"  of topic {printable(one['topics'][name])}" if with_topic else ""
        limit = f"  ({one['concurrency'][name]})" if name in one["concurrency"] else ""
        output.echo(f"  {click.style('gets it', fg='green')}  {name.ljust(width) if topic else name}{topic}{limit}")
    for name, why in one["others"].items():
        text = "; ".join(reason["text"] for reason in why)
        output.echo(f"  {click.style('not', fg='yellow')}      {name.ljust(width)}  {text}")


def _print_sum(found: list[dict[str, Any]]) -> None:
    """Print on stderr how many events there were, if there were several."""
    if len(found) == 1:
        return
    bad = sum("error" in one for one in found)
    wanted = sum(bool(one.get("consumers")) for one in found)
    unwanted = len(found) - bad - wanted - sum("events" in one for one in found)
    click.echo(f"{wanted} with consumers, {unwanted} without, {bad} that cannot be decoded", err=True)
