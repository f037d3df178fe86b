"""``balog send``: puts the records of a file on a topic."""

from __future__ import annotations

from typing import IO

import click
from celery import Celery

from ..errors import BalogError
from ..queues import OutgoingMessage, Queue, send_batches
from ..text import printable
from . import output
from .events import only_topic, records
from .group import balog, command, json_option


@command(balog)
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--topic", help="Where to; default: the topic of the consumers, if they have but one.")
@json_option
def send(app: Celery, file: IO[str], topic: str | None, as_json: bool) -> None:
    """Send the records in FILE to a topic.

    FILE (- is standard input) holds one JSON document, or one a line. None is sent if one is no record.

    \b
    Example:
        celery -A proj balog send events.jsonl --topic myproj-events-develop
    """
    queue, count = send_file(app, file, topic)
    if as_json:
        output.document({"topic": queue.name, "sent": count})
    else:
        click.echo(f"sent {count} records to {queue.name}")


def send_file(app: Celery, file: IO[str], topic: str | None) -> tuple[Queue, int]:
    """Send the records in *file*; return where to, and how many.

    :raises BalogError: one is no record, and none was sent; or SQS did not take some.
    """
    found = records(file, app.balog.settings)
    queue: Queue = app.balog.connect(topic or only_topic(app))
    if app.balog.local:
        queue.create()
    sent = 0
    with output.progress(len(found), f"sending to {queue.name}") as advance:
        for batch in send_batches(OutgoingMessage(body) for body, _ in found):
            failures = queue.send(batch)
            sent += len(batch) - len(failures)
            if failures:
                raise BalogError(f"{sent} of {len(found)} records were sent, then: {printable(failures[0].message)}")
            advance(len(batch))
    return queue, sent
