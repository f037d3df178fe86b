"""``balog send``: sends the bodies in a file to a topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO, Any

import click
from celery import Celery

from ..errors import BalogError, QueueNotFound
from ..sqs.addresses import topics_named
from ..sqs.messages import DEFAULT_GROUP, NO_ATTRIBUTES, OutgoingMessage, send_batches
from ..sqs.protocols import Queue
from ..text import count_of, printable
from . import output
from .events import only_topic, read_body, some_bodies, text_of
from .group import balog, command, json_option


def _attributes(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Read the values of ``--attribute``."""
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not (name and equals and text):
            raise click.BadParameter(f"{printable(value)!r} is not NAME=VALUE")
        found[name] = text
    return found


def message_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about the messages that a file is sent as."""
    options = (
        click.option("--raw", is_flag=True, help="Send all of FILE as the body of one message, unread."),
        click.option(
            "--attribute",
            "attributes",
            multiple=True,
            callback=_attributes,
            metavar="NAME=VALUE",
            help="A message attribute of each message; may be repeated.",
        ),
        click.option("--group", default=DEFAULT_GROUP, show_default=True, help="The message group, for a FIFO topic."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command(balog)
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--topic", help="The topic; default: that of the consumers, if they have only one.")
@message_options
@json_option
def send(
    app: Celery, file: IO[str], topic: str | None, raw: bool, attributes: dict[str, str], group: str, as_json: bool
) -> None:
    """Send the bodies in FILE to a topic.

    FILE (- is standard input) holds one JSON document, or one on each line, of any kind that the topic's decoder reads.
    If it does not read one, none is sent; --raw does not ask it.

    \b
    Example:
        celery -A proj balog send events.jsonl --topic myproj-events-develop
        celery -A proj balog send push.json --attribute X-GitHub-Event=push
    """
    queue, count = send_file(app, file, topic, attributes, group, raw=raw)
    done = f"sent {count_of(count, 'message')} to {queue.name}"
    if as_json:
        output.document({"topic": queue.name, "sent": count}, done=done)
    else:
        output.echo(done, done=done)


def send_file(
    app: Celery,
    file: IO[str],
    topic: str | None = None,
    attributes: Mapping[str, str] = NO_ATTRIBUTES,
    group: str = DEFAULT_GROUP,
    *,
    raw: bool = False,
) -> tuple[Queue, int]:
    """Send the bodies in *file*, one message each; return the queue and their number.

    :param raw: send all of the file as one body, without asking the topic's decoder.
    :raises BalogError: there is none, the decoder does not read one, or it is too large, so none was sent; or there is
        no such queue; or SQS did not take some.
    """
    topic = topic or only_topic(app)
    queue: Queue = app.balog.connect(topic)
    found = [(1, _raw_text(file))] if raw else some_bodies(file)
    for number, body in [] if raw else found:
        read_body(app, topic, body, f"line {number} of {file.name}", attributes)
    if not queue.exists():
        # The queues of the local SQS are gone when it stops, so those of the app's topics are created again.
        if not app.balog.local or not topics_named(topic, app.balog.topics()):
            raise QueueNotFound(f"there is no queue {printable(queue.name)!r}: create it, or correct --topic")
        queue.create()
    messages = [OutgoingMessage(body, attributes, group) for _, body in found]
    for (number, _), message in zip(found, messages, strict=True):
        _check_size(app, queue, message, f"line {number} of {file.name}")
    sent = 0
    with output.progress(len(messages), "sending") as advance:
        for batch in send_batches(messages):
            failures = queue.send(batch)
            sent += len(batch) - len(failures)
            if failures:
                raise BalogError(f"{sent} of {len(found)} messages were sent, then: {printable(failures[0].message)}")
            advance(len(batch))
    return queue, sent


def _raw_text(file: IO[str]) -> str:
    if not (text := text_of(file)):
        raise BalogError(f"{printable(file.name)} is empty, and a message is not")
    return text


def _check_size(app: Celery, queue: Queue, message: OutgoingMessage, where: str) -> None:
    if not app.balog.settings.payload_bucket and message.size() > queue.max_message_bytes:
        raise BalogError(
            f"{where} is larger than a message to {queue.name} may be, {queue.max_message_bytes} bytes: "
            "set balog_payload_bucket to an S3 bucket to put such bodies into"
        )
