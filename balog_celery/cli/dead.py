"""``balog dead``: dead letters are listed, shown, replayed and dropped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import click
from celery import Celery

from ..errors import BalogError, QueueNotFound
from ..letters import Letter
from ..queues import Message, ReadableQueue
from ..selection import Selection
from ..text import printable
from ..walk import Walk
from . import output
from .events import selecting
from .group import EX_INTERRUPTED, balog, command, json_option
from .replay import checked, counted, replay_queue, replaying

topic_option = click.option(
    "--topic", help="Only dead letters of this topic; default: of every topic of the consumers."
)
consumer_option = click.option("--consumer", help="Only letters that failed for this consumer: its task's name.")


@balog.group()
def dead() -> None:
    """List, show, replay or drop dead letters.

    Dead letters are events that ended in failure. They are in the dead-letter queues of the topics (setting
    balog_dead_letter). SQS has no peek: to look at letters is to receive them, and while a command looks they are
    invisible to others. They go back when it ends; if it is killed, 15 minutes later.

    \b
    Example:
        celery -A proj balog dead list
    """


@command(dead)
@topic_option
@consumer_option
@selecting
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="List so many at most.")
@json_option
def list_(
    app: Celery, topic: str | None, consumer: str | None, selection: Selection, limit: int, as_json: bool
) -> None:
    """List dead letters.

    Which event died, when, for which consumer, and of what. What SQS's own redrive policy moved there is listed too,
    without these.

    \b
    Example:
        celery -A proj balog dead list --cls-type metrics --since 1d
    """
    found = list(islice(_letters(app, topic, consumer, selection), limit))
    if as_json:
        output.document([_described(letter) for letter in found])
        return
    rows = [
        (
            printable(letter.id, 40),
            printable(letter.event.payload.cls_type if letter.event is not None else "", 30),
            letter.died.strftime("%Y-%m-%d %H:%M:%S") if letter.died else "",
            printable(letter.topic, 60),
            letter.reason,
            printable(letter.consumer, 80),
            printable(letter.error, 80),
        )
        for letter in found
    ]
    output.table(("ID", "CLS_TYPE", "DIED (UTC)", "TOPIC", "REASON", "CONSUMER", "ERROR"), rows)
    click.echo(f"{len(found)} dead letters{' (--limit shows more)' if len(found) == limit else ''}", err=True)


@command(dead)
@click.argument("id")
@topic_option
@json_option
def show(app: Celery, id: str, topic: str | None, as_json: bool) -> None:
    """Show the dead letters of one event.

    All that is known of them; exits with 1 if there is none. ID is the event's id, or what `dead list` shows as the
    id of a body that cannot be decoded.

    \b
    Example:
        celery -A proj balog dead show LGk37Fo3xLLVx9GrfnyTuvBd
    """
    found = list(_letters(app, topic, None, Selection.of(ids=[id])))
    if as_json:
        output.document([{**_described(letter), "body": letter.message.body} for letter in found])
    else:
        for letter in found:
            for name, value in _described(letter).items():
                click.echo(f"{click.style(name, bold=True)}: {printable(value, 2000)}")
            click.echo(_pretty(letter.message.body))
    if not found:
        raise click.ClickException(f"there is no dead letter of {printable(id)}")


@command(dead, name="replay")
@topic_option
@replaying
def replay_dead(app: Celery, topic: str | None, **options: Any) -> None:
    """Have dead letters processed again.

    A letter that failed for one consumer goes to that one only, for the others have finished: as a task on the broker,
    with the id that it always has. One that failed otherwise is sent to its topic again; with --all-consumers all are.
    A letter is deleted only after its event is safe there, so a replay that is stopped half-way loses nothing: start it
    again. What fails again is a new dead letter. Exits with 1 if something that was meant could not be replayed.

    \b
    Example:
        celery -A proj balog dead replay --consumer process_metrics --since 2h --dry-run
        celery -A proj balog dead replay --id LGk37Fo3xLLVx9GrfnyTuvBd
        celery -A proj balog dead replay --rate 20
    """
    as_json, tally = checked(app, options)
    with counted(tally):
        for queue, topics in _queues(app, topic):
            replay_queue(app, queue, topics[0] if len(topics) == 1 else "", topics, tally, **options)
    tally.show(as_json)


@command(dead)
@topic_option
@consumer_option
@selecting
@click.option("--dry-run", is_flag=True, help="Only say how many would be dropped.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def drop(
    app: Celery,
    topic: str | None,
    consumer: str | None,
    selection: Selection,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters for good.

    \b
    Example:
        celery -A proj balog dead drop --cls-type metrics --until 30d --dry-run
        celery -A proj balog dead drop --id LGk37Fo3xLLVx9GrfnyTuvBd --yes
    """
    if not (yes or dry_run):
        which = (
            "the dead letters that these options mean" if selection != Selection() or consumer else "ALL dead letters"
        )
        click.confirm(f"Delete {which}, of {topic or 'every topic'}?", abort=True, err=True)
    count = 0
    stopped = False
    try:
        for queue, topics in _queues(app, topic):
            with Walk(queue) as walk:
                for messages in walk:
                    letters = [_read(app, message, topics) for message in messages]
                    meant = [one.message for one in letters if one.is_meant(selection, consumer, topics)]
                    count += len(meant) - (0 if dry_run else walk.delete(meant))
    except KeyboardInterrupt:
        stopped = True
    if as_json:
        output.document({"dry_run": dry_run, "dropped": count})
    else:
        click.echo(f"{'would drop' if dry_run else 'dropped'} {count} dead letters")
    if stopped:
        raise SystemExit(EX_INTERRUPTED)


def _queues(app: Celery, topic: str | None) -> Iterator[tuple[ReadableQueue, list[str]]]:
    """The dead-letter queues that exist, each with the topics of which it has letters.

    :raises BalogError: there is none.
    """
    by_name: dict[str, list[str]] = {}
    for one in [topic] if topic else sorted(app.balog.topics()):
        if name := app.balog.dead_letters.name(one):
            by_name.setdefault(name, []).append(one)
    if not by_name:
        raise BalogError("there are no dead-letter queues: balog_dead_letter is None, or there are no consumers")
    found = [(queue, topics) for name, topics in by_name.items() if (queue := app.balog.connect(name)).exists()]
    if not found:
        raise QueueNotFound(f"there is no dead-letter queue: create {', '.join(sorted(by_name))}")
    yield from found


def _letters(app: Celery, topic: str | None, consumer: str | None, selection: Selection) -> Iterator[Letter]:
    for queue, topics in _queues(app, topic):
        with Walk(queue) as walk:
            for messages in walk:
                for message in messages:
                    letter = _read(app, message, topics)
                    if letter.is_meant(selection, consumer, topics):
                        yield letter


def _read(app: Celery, message: Message, topics: list[str]) -> Letter:
    return Letter.read(message, app.balog.reader(message.attributes.get("topic") or topics[0]))


def _described(letter: Letter) -> dict[str, Any]:
    event = letter.event
    return {
        "id": letter.id,
        "cls_type": event.payload.cls_type if event is not None else None,
        "schema": event.schema_version if event is not None else None,
        "timestamp": event.header.timestamp.isoformat() if event is not None else None,
        "died": letter.died.isoformat() if letter.died else None,
        "topic": letter.topic,
        "reason": letter.reason,
        "consumer": letter.consumer,
        "error": letter.error,
        "first_received": letter.message.attributes.get("first_received", ""),
        "receive_count": letter.message.attributes.get("receive_count", ""),
        "message_id": letter.message.message_id,
    }


def _pretty(body: str) -> str:
    """The body as indented JSON; as one printable line where it is none."""
    try:
        return json.dumps(json.loads(body), indent=2)
    except ValueError:
        return printable(body, len(body))
