"""The arguments of commands about events: files, topics, consumers, and the options of a filter."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import click
from celery import Celery

from ..consumers.consumer import Consumer
from ..errors import BalogError, DecodeError
from ..events.event_filter import EventFilter
from ..events.limits import check_limits
from ..events.records import FacilityRecord, decode
from ..settings import Settings
from ..sqs.addresses import queue_name, topics_named
from ..sqs.messages import NO_ATTRIBUTES, Message
from ..text import plain_topic, printable

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def bodies(file: IO[str]) -> list[tuple[int, str]]:
    """Return the bodies in *file*, each with the number of its first line: one JSON document, or one on each line.

    :raises BalogError: as :func:`text_of`.
    """
    text = text_of(file).removeprefix("\ufeff")
    # Not splitlines(): U+2028 and its like may be in a JSON string.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and not _is_json(lines[0][1]) and _is_json(text):
        return [(lines[0][0], text.strip())]
    return lines


def text_of(file: IO[str]) -> str:
    """Return what is in *file*.

    :raises BalogError: it cannot be read, or is not UTF-8.
    """
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise BalogError(f"{printable(file.name)} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise BalogError(f"{printable(file.name)} cannot be read: {error.strerror}") from error


def some_bodies(file: IO[str]) -> list[tuple[int, str]]:
    """Return the bodies in *file*, as :func:`bodies`.

    :raises BalogError: there is none; or as :func:`text_of`.
    """
    if not (found := bodies(file)):
        raise BalogError(f"{printable(file.name)} holds no body: it is empty, or all of its lines are")
    return found


def read_body(
    app: Celery, topic: str, body: str, where: str, attributes: Mapping[str, str] = NO_ATTRIBUTES
) -> Sequence[tuple[FacilityRecord, str]]:
    """Return the events in *body*, as an engine reads them in *topic*, each with the text that its tasks are given.

    :param where: names the line, for an error.
    :param attributes: its message attributes.
    :raises BalogError: the decoder of the topic does not read it, or takes a record for a plain document.
    """
    settings: Settings = app.balog.settings
    try:
        check_limits(body, settings.max_depth, settings.max_body_bytes)
        events: Sequence[tuple[FacilityRecord, str]] = app.balog.reader(topic)(
            Message(body, "", "", 0.0, attributes=attributes)
        )
    except DecodeError as error:
        raise BalogError(f"{where} cannot be decoded by the decoder of {printable(topic)}: {error}") from error
    record = _record_in(body)
    if record is not None and all(event.header.id != record.header.id for event, _ in events):
        raise BalogError(
            f"{where} is a record of balog, which the decoder of {printable(topic)} takes for a plain document: "
            "give that topic the decoder 'auto' or 'balog' in balog_decoders"
        )
    return events


def _record_in(body: str) -> FacilityRecord | None:
    try:
        return decode(body)
    except DecodeError:
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):  # the latter is for arrays in arrays without end
        return False
    return True


def only_topic(app: Celery) -> str:
    """Return the topic of the consumers.

    :raises click.UsageError: they have several topics, or none.
    """
    topics = sorted(app.balog.topics())
    if len(topics) != 1:
        raise click.UsageError(f"name the --topic ({', '.join(topics) or 'there are no consumers'})")
    return str(topics[0])


def topic_named(app: Celery, name: str) -> str:
    """Return the topic of that name or URL, as consumers have it.

    :raises click.UsageError: no consumer has it, or several topics have that name.
    """
    topics: list[str] = list(app.balog.topics())
    name = plain_topic(name)
    found = topics_named(name, topics)
    if not found:
        known = {queue_name(topic): topic for topic in topics} | {topic: topic for topic in topics}
        raise click.UsageError(f"no consumer listens to {_shown(name)}: {hint_for(name, known)}")
    if len(found) > 1:
        raise click.UsageError(f"several topics are called {_shown(name)}: name one of {', '.join(found)}")
    return found[0]


def consumer_named(app: Celery, name: str) -> Consumer:
    """Return the consumer of that name: its task's, or its own if no other consumer has it.

    :raises click.UsageError: there is none, or several.
    """
    consumers: list[Consumer] = list(app.balog.hub)
    found = [consumer for consumer in consumers if consumer.task_name == name]
    found = found or [consumer for consumer in consumers if consumer.name == name]
    if len(found) != 1:
        known = {str(one.name): one.task_name for one in consumers} | {
            one.task_name: one.task_name for one in consumers
        }
        hint = f"name one of {', '.join(sorted(one.task_name for one in found))}" if found else hint_for(name, known)
        many = "there are several consumers" if found else "there is no consumer"
        raise click.UsageError(f"{many} {_shown(name)}: {hint}")
    return found[0]


def resolve_names(app: Celery, topic: str | None, consumer: str | None) -> tuple[str | None, str | None]:
    """Return the topic and the task's name that the options ``--topic`` and ``--consumer`` select.

    :raises click.UsageError: there is no such topic or consumer, or several.
    """
    return (
        None if topic is None else topic_named(app, topic),
        None if consumer is None else consumer_named(app, consumer).task_name,
    )


def _shown(name: str) -> str:
    return printable(name) or "''"


def hint_for(name: str, known: Mapping[str, str]) -> str:
    """Return a hint for a name that does not exist: similar names, else all.

    :param known: what each name that exists stands for.
    """
    near = sorted({known[one] for one in difflib.get_close_matches(name, known)})
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"the known ones are {', '.join(sorted(set(known.values())))}" if known else "there are no consumers"


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select events to *command*, which gets them as ``selection``: an :class:`EventFilter`."""
    options = (
        click.option("--cls-type", "cls_types", multiple=True, help="Only events of this type: 'a', 'a*'; repeatable."),
        click.option("--version", help="Only events whose schema version meets this: '<1.0', '>=1.0,<2.0'."),
        click.option(
            "--since", help="Only events with this timestamp or a later one: ISO 8601, or 90s, 30m, 2h, 7d ago."
        ),
        click.option("--until", help="Only events with an earlier timestamp than this."),
        click.option(
            "--id",
            "ids",
            multiple=True,
            help="Only the event, the message or the task of this id; may be repeated.",
        ),
    )

    def with_filter(
        *args: Any,
        cls_types: tuple[str, ...],
        version: str | None,
        since: str | None,
        until: str | None,
        ids: tuple[str, ...],
        **more: Any,
    ) -> None:
        try:
            selection = EventFilter.of(cls_types, version, since, until, ids)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        command(*args, selection=selection, **more)

    with_filter.__name__, with_filter.__doc__ = command.__name__, command.__doc__
    decorated: Callable[..., None] = with_filter
    decorated.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
