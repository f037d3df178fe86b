"""What commands about events take: files of them, topics, and which are meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO, Any

import click
from celery import Celery

from ..consumers.consumer import Consumer
from ..errors import BalogError, DecodeError
from ..queues import MAX_MESSAGE_BYTES, OutgoingMessage
from ..records import FacilityRecord, decode
from ..selection import Selection
from ..settings import Settings
from ..text import printable

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def bodies(file: IO[str]) -> list[tuple[int, str]]:
    """The bodies in *file*, each with the number of its first line: one JSON document, or one a line.

    :raises BalogError: it is not UTF-8.
    """
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        raise BalogError(f"{file.name} is not UTF-8 text: {error}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > 1 and not _is_json(lines[0][1]) and _is_json(text):
        return [(lines[0][0], text.strip())]
    return lines


def records(file: IO[str], settings: Settings) -> list[tuple[str, FacilityRecord]]:
    """The bodies in *file*, and the events in them.

    :raises BalogError: one is none, or too large to be sent; it is told which.
    """
    found = []
    for number, body in bodies(file):
        try:
            found.append((body, decode(body)))
        except DecodeError as error:
            raise BalogError(f"line {number} of {file.name} is no record: {error}") from error
        if not settings.payload_bucket and OutgoingMessage(body).size() > MAX_MESSAGE_BYTES:
            raise BalogError(
                f"line {number} of {file.name} is larger than a message may be, {MAX_MESSAGE_BYTES} bytes: "
                "set balog_payload_bucket to an S3 bucket to put such records into"
            )
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def only_topic(app: Celery) -> str:
    """The topic of the consumers.

    :raises click.UsageError: they have several, or none.
    """
    topics = sorted(app.balog.topics())
    if len(topics) != 1:
        raise click.UsageError(f"say which --topic ({', '.join(topics) or 'there are no consumers'})")
    return str(topics[0])


def consumer_named(app: Celery, name: str) -> Consumer:
    """The consumer of that name: its task's, or its own if no other has it.

    :raises click.UsageError: there is none, or there are several.
    """
    consumers: list[Consumer] = list(app.balog.hub)
    found = [consumer for consumer in consumers if consumer.task_name == name]
    found = found or [consumer for consumer in consumers if consumer.name == name]
    if len(found) != 1:
        known = ", ".join(sorted(consumer.task_name for consumer in found or consumers)) or "there are none"
        many = "there are several consumers" if found else "there is no consumer"
        raise click.UsageError(f"{many} {printable(name)}: say one of {known}")
    return found[0]


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options that say which events are meant; it gets a :class:`Selection`, ``selection``."""
    options = (
        click.option("--cls-type", "cls_types", multiple=True, help="Only events of this type; may be repeated."),
        click.option("--version", help="Only events whose schema version meets this: '<1.0', '>=1.0,<2.0'."),
        click.option(
            "--since", help="Only events with this timestamp or a later one: ISO 8601, or 90s, 30m, 2h, 7d ago."
        ),
        click.option("--until", help="Only events with an earlier timestamp than this."),
        click.option("--id", "ids", multiple=True, help="Only the event of this id; may be repeated."),
    )

    def select(
        *args: Any,
        cls_types: tuple[str, ...],
        version: str | None,
        since: str | None,
        until: str | None,
        ids: tuple[str, ...],
        **more: Any,
    ) -> None:
        try:
            selection = Selection.of(cls_types, version, since, until, ids)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        command(*args, selection=selection, **more)

    select.__name__, select.__doc__ = command.__name__, command.__doc__
    decorated: Callable[..., None] = select
    decorated.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
