"""``balog dead``: dead letters are listed, shown and replayed; ``drop`` deletes them."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import click
from celery import Celery

from ..dead_letters.grouping import error_kind
from ..dead_letters.reader import DeadLetter
from ..errors import DecodeError
from ..events.event_filter import EventFilter
from ..events.serialization import read_json
from ..text import count_of, printable
from . import output
from .dead_queues import (
    LetterFilter,
    dead_letter_queues,
    describe,
    note_unknown_cls_types,
    others_text,
    selected_letters,
)
from .events import filter_options
from .group import balog, command, json_option
from .native import replay_natively
from .replay import check_options, record_interruption, replay_options, replay_queue

#: How many letters are listed.
_LIMIT = 100

topic_option = click.option("--topic", help="Only dead letters of this topic; default: of all topics of the consumers.")
consumer_option = click.option(
    "--consumer", help="Only letters that failed for this consumer: the name of its task, or its own."
)


@balog.group()
def dead() -> None:
    """List, show, replay or drop dead letters.

    Dead letters are events that failed permanently, in the dead-letter queues of the topics (balog_dead_letter).
    SQS has no peek: a command receives the letters that it looks at, so they are invisible to others until it ends; if
    it is killed, for 15 minutes.

    \b
    Example:
        celery -A proj balog dead list
    """


@command(dead)
@topic_option
@consumer_option
@filter_options
@click.option("--limit", type=click.IntRange(min=1), help=f"The most letters to list; default: {_LIMIT}.")
@click.option("--group-by", type=click.Choice(["error"]), help="Count all letters by consumer and error instead.")
@json_option
def list_(
    app: Celery,
    topic: str | None,
    consumer: str | None,
    selection: EventFilter,
    limit: int | None,
    group_by: str | None,
    as_json: bool,
) -> None:
    """List dead letters.

    Each with its event, the time, the consumer and the error. Letters that SQS's own redrive policy moved name no
    consumer and no error. With --group-by error, errors that differ only in numbers and quoted texts are one.

    \b
    Example:
        celery -A proj balog dead list --cls-type metrics --since 1d
        celery -A proj balog dead list --group-by error
    """
    letters = LetterFilter.of(app, topic, consumer, selection)
    note_unknown_cls_types(app, selection)
    if group_by and limit is not None:
        raise click.UsageError("--group-by counts all letters: leave --limit out")
    limit = limit or _LIMIT
    if group_by:
        _list_groups(app, letters, as_json)
        return
    found: list[DeadLetter] = []
    others = 0
    with closing(selected_letters(app, letters)) as batches:
        for _, matching, rest in batches:
            found += matching
            others += rest
            if len(found) >= limit:
                break
    found = found[:limit]
    if as_json:
        output.document([describe(letter) for letter in found])
        return
    output.table(("ID", "CLS_TYPE", "DIED (UTC)", "TOPIC", "REASON", "CONSUMER", "ERROR"), [*map(_row, found)])
    more = " (--limit shows more)" if len(found) == limit else others_text(others)
    click.echo(f"{count_of(len(found), 'dead letter')}{more}", err=True)


def _row(letter: DeadLetter) -> tuple[str, ...]:
    return (
        printable(letter.id, 40),
        printable(letter.event.payload.cls_type if letter.event is not None else "", 30),
        letter.died.strftime("%Y-%m-%d %H:%M:%S") if letter.died else "",
        printable(letter.topic, 60),
        printable(letter.reason, 40),
        printable(letter.consumer, 80),
        printable(letter.error, 80),
    )


def _list_groups(app: Celery, letters: LetterFilter, as_json: bool) -> None:
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    with closing(selected_letters(app, letters)) as batches:
        for letter in (letter for _, matching, _ in batches for letter in matching):
            key = letter.consumer, error_kind(letter.error)
            group = groups.setdefault(key, {"count": 0, "consumer": key[0], "error": key[1], "first": "", "last": ""})
            died = letter.died.isoformat(timespec="seconds") if letter.died else ""
            group["count"] += 1
            group["first"] = min(filter(None, (group["first"], died)), default="")
            group["last"] = max(group["last"], died)
            group["example"] = letter.id
    rows = sorted(groups.values(), key=lambda group: -group["count"])
    if as_json:
        output.document(rows)
        return
    names = ("count", "consumer", "error", "first", "last", "example")
    output.table([*map(str.upper, names)], [[printable(row[name], 120) for name in names] for row in rows])


@command(dead)
@click.argument("id")
@topic_option
@json_option
def show(app: Celery, id: str, topic: str | None, as_json: bool) -> None:
    """Show the dead letters of one event.

    Everything that is known of them, and the body. ID is the id of the event, of its message, or of the task that
    failed: what a log line names. Exits with 1 if there is none.

    \b
    Example:
        celery -A proj balog dead show LGk37Fo3xLLVx9GrfnyTuvBd
    """
    letters = LetterFilter.of(app, topic, None, EventFilter.of(ids=[id]))
    found = [letter for _, matching, _ in selected_letters(app, letters) for letter in matching]
    if as_json:
        output.document([{**describe(letter), "body": letter.message.body} for letter in found])
    else:
        for letter in found:
            for name, value in describe(letter).items():
                output.echo(f"{click.style(name, bold=True)}: {printable(value, 2000)}")
            output.echo(_pretty(letter.message.body))
    if not found:
        raise click.ClickException(f"there is no dead letter of {printable(id)}")


def _pretty(body: str) -> str:
    """Return the body as indented JSON, or as one printable line if it cannot be read."""
    try:
        return json.dumps(read_json(body), indent=2)
    except DecodeError:
        return printable(body, len(body))


@command(dead, name="replay")
@topic_option
@consumer_option
@click.option("--native", is_flag=True, help="Let SQS move all dead letters back to their topics by itself.")
@replay_options
def replay_dead(app: Celery, topic: str | None, native: bool, **options: Any) -> None:
    """Process dead letters again.

    A letter that failed for one consumer goes to that consumer only, because the others have finished: as a task on the
    broker, with the same id as before. Any other letter is sent to its topic again; with --all-consumers all are.
    --consumer skips letters that SQS's redrive policy moved: they failed for no consumer. Replay them without it, or to
    one consumer by `balog replay QUEUE --consumer`.

    A letter is deleted only after its event has been sent, so a replay that stops half-way loses nothing: start it
    again. An event that fails again becomes a new dead letter. Exits with 1 if a selected letter could not be replayed.

    With --native SQS moves the letters itself, by a message move task, which suits large queues. It takes only --topic,
    --rate (a whole number up to 500) and --dry-run, and is refused if the queue holds letters that failed for a
    consumer: SQS moves only those that a redrive policy moved. Ctrl-C cancels the task; what was moved stays moved.

    \b
    Example:
        celery -A proj balog dead replay --consumer process_metrics --since 2h --dry-run
        celery -A proj balog dead replay --id LGk37Fo3xLLVx9GrfnyTuvBd
        celery -A proj balog dead replay --rate 20
        celery -A proj balog dead replay --native --topic myproj-events-prod --rate 100
    """
    topic, as_json, tally = check_options(app, topic, options)
    letters = LetterFilter(topic, options.pop("consumer"), options.pop("selection"))
    if native:
        replay_natively(app, letters, dry_run=tally.dry_run, as_json=as_json, **options)
        return
    note_unknown_cls_types(app, letters.events)
    with record_interruption(tally):
        for source in dead_letter_queues(app, topic):
            replay_queue(app, source.queue, source.home, source.topics, letters, tally, **options)
    tally.show(as_json)
