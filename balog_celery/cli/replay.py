"""``balog replay``: processes events again, from a file or a queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click
from celery import Celery

from ..dead_letters.scan import QueueScan
from ..errors import BalogError, QueueNotFound
from ..events.mark import text_in
from ..operations.replay import CannotReplay, Destination, Item, RateLimiter, Refused, Replay
from ..sqs.addresses import queue_name
from ..sqs.messages import Message
from ..sqs.protocols import ReadableQueue
from ..text import plain_topic, printable
from . import output
from .dead_queues import LetterFilter, note_unknown_cls_types, read_letter
from .events import bodies, filter_options, only_topic, read_body, resolve_names
from .export import read_line
from .group import FiniteRange, balog, command, json_option
from .tally import INTERRUPTED, Tally


@contextmanager
def record_interruption(tally: Tally) -> Iterator[None]:
    """Record in *tally* why the block ended early, so that the command still reports what was done."""
    try:
        yield
    except KeyboardInterrupt:
        tally.stopped = INTERRUPTED
    except BalogError as error:
        tally.stopped = str(error)


def replay_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that replays share."""
    for option in (
        json_option,
        click.option("--dry-run", is_flag=True, help="Only print what would be replayed, and where to."),
        click.option(
            "--rate",
            type=FiniteRange(min=0.01),
            help="The most events a second; default: no limit.",
        ),
        click.option(
            "--all-consumers",
            is_flag=True,
            help="Send letters that failed for one consumer to the topic too: all consumers get them.",
        ),
    ):
        function = option(function)
    return filter_options(function)


@command(balog)
@click.argument("source", metavar="FILE|QUEUE")
@click.option(
    "--topic", help="The topic of the events; default: the one that a dead letter names, or the consumers' only topic."
)
@click.option(
    "--consumer",
    help="Only this consumer gets the events: the name of its task, or its own. Skips dead letters of others.",
)
@replay_options
def replay(app: Celery, source: str, topic: str | None, **options: Any) -> None:
    """Process events again.

    FILE (- is standard input) holds one JSON document, or one on each line: bodies that the topic's decoder reads, or
    dead letters that `balog dead drop --export` wrote. QUEUE is a queue that no other program reads, such as the target
    of a redrive policy; see also `balog dead replay`.

    An event is sent to its topic again, and all consumers there that want it get it. With --consumer only that consumer
    gets it: as a task on the broker, with the id that it always has for this event. A dead letter that failed for one
    consumer goes to that consumer only, unless --all-consumers is given. A consumer with once= still skips events that
    it has finished.

    An event is deleted from QUEUE only after it has been sent, so a replay that stops half-way loses nothing: start it
    again. Exits with 1 if a selected event could not be replayed.

    \b
    Example:
        celery -A proj balog replay events.jsonl --consumer process_metrics --since 2h
        celery -A proj balog replay myproj-events-dlq --topic myproj-events-prod --rate 50
    """
    topic, as_json, tally = check_options(app, topic, options)
    letters = LetterFilter(None, options.pop("consumer"), options.pop("selection"))
    note_unknown_cls_types(app, letters.events)
    with record_interruption(tally):
        if source == "-" or Path(source).is_file():
            with _opened(source) as file:
                _replay_file(app, file, topic, letters, tally, **options)
        else:
            source = plain_topic(source)
            if queue_name(source) in map(queue_name, app.balog.topics()):
                raise click.UsageError(
                    f"{source} is a topic, which workers read: replay a file, or a queue that no other program reads"
                )
            queue = app.balog.connect(source)
            if not queue.exists():
                raise QueueNotFound(f"there is no file {printable(source)}, and no queue of that name")
            default = topic or (next(iter(app.balog.topics())) if len(app.balog.topics()) == 1 else "")
            replay_queue(app, queue, default, None, letters, tally, adopt=True, **options)
    tally.show(as_json)


def _opened(source: str) -> AbstractContextManager[IO[str]]:
    try:
        return click.open_file(source, "r", encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{printable(source)} cannot be read: {error.strerror}") from error


def check_options(app: Celery, topic: str | None, options: dict[str, Any]) -> tuple[str | None, bool, Tally]:
    """Check *topic* and *options*.

    :returns: the topic, whether to print JSON, and the tally of the replay; the last two are taken out of *options*.
    :raises click.UsageError: there is no such topic or consumer, or two options exclude each other.
    """
    if options["consumer"] is not None and options["all_consumers"]:
        raise click.UsageError("--consumer and --all-consumers exclude each other")
    topic, options["consumer"] = resolve_names(app, topic, options["consumer"])
    return topic, options.pop("as_json"), Tally(dry_run=options.pop("dry_run"))


def _replay_file(
    app: Celery,
    file: IO[str],
    topic: str | None,
    letters: LetterFilter,
    tally: Tally,
    *,
    rate: float | None,
    all_consumers: bool,
) -> None:
    items: list[Item] = []
    for number, body in bodies(file):
        if found := read_line(body, number):
            message, home = found
            item = _letter_item(app, message, topic or home, letters, tally, all_consumers=all_consumers, adopt=False)
            items += [] if item is None else [item]
        else:
            items += _file_items(app, body, f"line {number} of {file.name}", topic, letters, tally)
    again = Replay(app, app.balog.topics(), app.balog.connect, app.balog.reader)
    limiter, waiting = RateLimiter(rate), iter(items)
    with output.progress(len(items), "replaying") as advance:
        while batch := list(islice(waiting, limiter.batch)):
            ready = [(item, to) for item in batch if (to := _destination(again, item, tally))]
            delivered: list[Item] = []
            _deliver(again, ready, tally, delivered)
            advance(len(batch))
            limiter.passed(len(delivered))


def _file_items(
    app: Celery, body: str, where: str, topic: str | None, letters: LetterFilter, tally: Tally
) -> list[Item]:
    """Return what to replay of a body in a file: each event for one consumer, or all of it for its topic.

    An option on events, without a consumer, selects no body that holds several; what is not selected is counted.
    """
    topic = topic or (app.tasks[letters.consumer].topic if letters.consumer else only_topic(app))
    readings = read_body(app, topic, body, where)
    if letters.consumer:
        found = [
            Item(body, event, text, topic, letters.consumer, chosen=True)
            for event, text in readings
            if letters.events(event)
        ]
        tally.not_meant += len(readings) - len(found)
        return found
    event, text = readings[0] if len(readings) == 1 else (None, body)
    if letters.events(event):
        return [Item(body, event, text, topic)]
    tally.not_meant += 1
    return []


def _letter_item(
    app: Celery,
    message: Message,
    home: str,
    letters: LetterFilter,
    tally: Tally,
    *,
    topics: frozenset[str] | None = None,
    all_consumers: bool,
    adopt: bool,
) -> Item | None:
    """Return the item of a dead letter; None, and count it, if the options do not select it.

    :param home: the topic of letters that do not name theirs.
    :param topics: the topics that are selected; None: any.
    :param adopt: give letters that failed for no consumer to the one that is selected.
    """
    letter = read_letter(app, message, home)
    of_any = replace(letters, consumer=None)
    unassigned = not letter.consumer and of_any.matches(app, letter, topics)
    if not letters.matches(app, letter, topics) and not (adopt and unassigned):
        tally.not_meant += 1
        tally.no_consumer += unassigned
        return None
    if letter.key in tally.seen:
        # The event has failed again meanwhile, or failed twice: replaying that as well might never end.
        tally.again += 1
        return None
    tally.seen.add(letter.key)
    target = "" if all_consumers else letters.consumer or letter.consumer
    return Item(
        message.body,
        letter.event,
        letter.text,
        letter.topic,
        target,
        message,
        group=text_in(letter.failure, "group"),
        attributes=letter.attributes_again(),
        chosen=bool(letters.consumer),
    )


def replay_queue(
    app: Celery,
    queue: ReadableQueue,
    home: str,
    topics: frozenset[str] | None,
    letters: LetterFilter,
    tally: Tally,
    *,
    rate: float | None,
    all_consumers: bool,
    adopt: bool = False,
) -> None:
    """Replay the messages of *queue*, and delete each once its event has been sent.

    :param home: the topic of letters that do not name theirs.
    :param topics: the topics that are selected; None: any.
    :param letters: the letters that are selected.
    :param adopt: give letters that failed for no consumer to the one that is selected.
    :raises BalogError: an event could not be delivered; *tally* has the others.
    """
    again = Replay(app, app.balog.topics(), app.balog.connect, app.balog.reader)
    limiter = RateLimiter(rate)
    about = int(queue.attributes().get("ApproximateNumberOfMessages", 0))
    with output.progress(about, "replaying") as advance, QueueScan(queue, limiter.batch) as scan:
        for messages in scan:
            ready = []
            for message in messages:
                item = _letter_item(
                    app, message, home, letters, tally, topics=topics, all_consumers=all_consumers, adopt=adopt
                )
                if item is not None and (to := _destination(again, item, tally)):
                    ready.append((item, to))
            delivered: list[Item] = []
            try:
                _deliver(again, ready, tally, delivered)
            finally:
                if scan.delete([item.origin for item in delivered]):
                    tally.left[f"replayed, but still in {queue.name}: SQS did not delete it"] += 1
            advance(len(messages))
            limiter.passed(len(delivered))


def _deliver(again: Replay, ready: Sequence[tuple[Item, Destination]], tally: Tally, delivered: list[Item]) -> None:
    """Deliver the *ready* items, unless it is a dry run. Add those that have been sent to *delivered*."""

    def sent(item: Item, to: Destination) -> None:
        delivered.append(item)
        tally.replayed[str(to)] += 1

    if tally.dry_run:
        tally.replayed.update(str(to) for _, to in ready)
        return
    try:
        again.deliver(ready, sent)
    except Refused as refused:
        tally.left.update(refused.reasons)


def _destination(again: Replay, item: Item, tally: Tally) -> Destination | None:
    try:
        return again.destination(item)
    except CannotReplay as reason:
        tally.left[str(reason)] += 1
        return None
