"""``balog replay``: has events processed again, out of a file or a queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import click
from celery import Celery

from ..errors import BalogError
from ..letters import Letter
from ..queues import ReadableQueue
from ..replay import CannotReplay, Destination, Item, Pace, Replay
from ..selection import Selection
from ..settings import queue_name
from ..walk import Walk
from . import output
from .events import consumer_named, only_topic, records, selecting
from .group import EX_INTERRUPTED, balog, command, json_option


class Tally:
    """What became of the events of one replay, and how that is told."""

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.replayed: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.not_meant = 0
        self.again = 0
        self.stopped = ""

    def show(self, as_json: bool) -> None:
        """Print it; exit with 1 if something that was meant was left, with 130 after Ctrl-C."""
        if as_json:
            output.document(
                {
                    "dry_run": self.dry_run,
                    "replayed": dict(self.replayed),
                    "left": dict(self.left),
                    "not_meant": self.not_meant,
                    "again": self.again,
                    "stopped": self.stopped,
                }
            )
        else:
            self._print()
        if self.stopped:
            raise SystemExit(EX_INTERRUPTED if self.stopped == _INTERRUPTED else 1)
        if self.left:
            raise SystemExit(1)

    def _print(self) -> None:
        would = "would replay" if self.dry_run else "replayed"
        left = self.left.total() + self.not_meant + self.again
        click.echo(f"{would} {self.replayed.total()}, {'leave' if self.dry_run else 'left'} {left}")
        for destination, count in sorted(self.replayed.items()):
            click.echo(f"  {click.style(str(count), fg='green')} to {destination}")
        for reason, count in sorted(self.left.items()):
            click.echo(f"  {click.style(str(count), fg='yellow')} left: {reason}")
        if self.not_meant:
            click.echo(f"  {self.not_meant} left: not meant by the options")
        if self.again:
            click.echo(f"  {self.again} left: died again meanwhile, or there twice for the same consumer")
        if self.stopped:
            click.echo(
                f"{click.style('stopped', fg='red')}: {self.stopped}; what was not replayed is where it was", err=True
            )


_INTERRUPTED = "interrupted"


@contextmanager
def counted(tally: Tally) -> Iterator[None]:
    """Note in *tally* why the block ended early, so that what was done is told all the same."""
    try:
        yield
    except KeyboardInterrupt:
        tally.stopped = _INTERRUPTED
    except BalogError as error:
        tally.stopped = str(error)


def replaying(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that replays have in common."""
    for option in (
        json_option,
        click.option("--dry-run", is_flag=True, help="Only say what would be replayed, and where to."),
        click.option(
            "--rate", type=click.FloatRange(min=0.01), help="At most so many events a second; default: no limit."
        ),
        click.option(
            "--all-consumers",
            is_flag=True,
            help="Send to the topic again also what failed for one consumer: all that want it get it.",
        ),
        click.option("--consumer", help="Only for this consumer: its task's name, or its own."),
    ):
        function = option(function)
    return selecting(function)


@command(balog)
@click.argument("source", metavar="FILE|QUEUE")
@click.option(
    "--topic", help="The topic that the events belong to; default: what a dead letter says, or the consumers' only one."
)
@replaying
def replay(app: Celery, source: str, topic: str | None, **options: Any) -> None:
    """Have events processed again.

    FILE (- is standard input) holds one JSON document, or one a line. QUEUE is a queue that nobody else reads, such as
    one to which a redrive policy moves messages; see also `balog dead replay`.

    An event is sent to its topic again, and all consumers there that want it get it. With --consumer only that one
    does: its task is put on the broker, with the id that it always has for the event. A dead letter that failed for one
    consumer goes to that one only, unless you say --all-consumers. A consumer with once= still skips what it has
    finished.

    An event leaves QUEUE only after it is safe where it goes, so a replay that is stopped half-way loses nothing: start
    it again. Exits with 1 if something that was meant could not be replayed.

    \b
    Example:
        celery -A proj balog replay events.jsonl --consumer process_metrics --since 2h
        celery -A proj balog replay myproj-events-dlq --topic myproj-events-prod --rate 50
    """
    as_json, tally = checked(app, options)
    with counted(tally):
        if source == "-" or Path(source).is_file():
            with click.open_file(source, "r", encoding="utf-8") as file:
                options.pop("all_consumers")  # they are what an event of a file is for
                _replay_file(app, file, topic, tally, **options)
        else:
            if queue_name(source) in map(queue_name, app.balog.topics()):
                raise click.UsageError(
                    f"{source} is a topic, which workers read: replay a file, or a queue that nobody else reads"
                )
            default = topic or (next(iter(app.balog.topics())) if len(app.balog.topics()) == 1 else "")
            replay_queue(app, app.balog.connect(source), default, None, tally, **options)
    tally.show(as_json)


def checked(app: Celery, options: dict[str, Any]) -> tuple[bool, Tally]:
    """Check *options*, and take out of them whether to print JSON, and what to count with."""
    if options["consumer"] and options["all_consumers"]:
        raise click.UsageError("--consumer and --all-consumers exclude each other")
    if options["consumer"]:
        options["consumer"] = consumer_named(app, options["consumer"]).task_name
    return options.pop("as_json"), Tally(dry_run=options.pop("dry_run"))


def _replay_file(
    app: Celery,
    file: IO[str],
    topic: str | None,
    tally: Tally,
    *,
    selection: Selection,
    consumer: str | None,
    rate: float | None,
) -> None:
    found = records(file, app.balog.settings)
    topic = topic or ("" if consumer else only_topic(app))
    items = [Item(body, event, body, topic, consumer or "") for body, event in found if selection(event)]
    tally.not_meant += len(found) - len(items)
    again = Replay(app, app.balog.topics(), app.balog.connect, app.balog.reader)
    pace, waiting = Pace(rate), iter(items)
    with output.progress(len(items), "replaying") as advance:
        while batch := list(islice(waiting, pace.batch)):
            ready = [(item, to) for item in batch if (to := _destination(again, item, tally))]
            delivered: list[Item] = []
            _deliver(again, ready, tally, delivered)
            advance(len(batch))
            pace.passed(len(delivered))


def replay_queue(
    app: Celery,
    queue: ReadableQueue,
    topic: str,
    mine: Collection[str] | None,
    tally: Tally,
    *,
    selection: Selection,
    consumer: str | None,
    rate: float | None,
    all_consumers: bool,
) -> None:
    """Replay what is in *queue*, deleting each message once its event is safe where it goes.

    :param topic: the topic of messages that do not say theirs.
    :param mine: leave letters of other topics than these alone; None: take all.
    :raises BalogError: something could not be delivered; *tally* has what was.
    """
    again = Replay(app, app.balog.topics(), app.balog.connect, app.balog.reader)
    pace = Pace(rate)
    seen: set[tuple[str, str]] = set()
    about = int(queue.attributes().get("ApproximateNumberOfMessages", 0))
    with output.progress(about, "replaying") as advance, Walk(queue, pace.batch) as walk:
        for messages in walk:
            ready = []
            for message in messages:
                letter = Letter.read(message, app.balog.reader(message.attributes.get("topic") or topic))
                if not letter.is_meant(selection, consumer, mine):
                    tally.not_meant += 1
                    continue
                if letter.key in seen:
                    # It has died again meanwhile, or had died twice: to replay it as well might never end.
                    tally.again += 1
                    continue
                target = "" if all_consumers else consumer or letter.consumer
                group = message.attributes.get("group", "")
                item = Item(message.body, letter.event, letter.text, letter.topic or topic, target, message, group)
                if to := _destination(again, item, tally):
                    seen.add(letter.key)
                    ready.append((item, to))
            delivered: list[Item] = []
            try:
                _deliver(again, ready, tally, delivered)
            finally:
                if walk.delete([item.origin for item in delivered]):
                    tally.left[f"replayed, but still in {queue.name}: SQS did not delete it"] += 1
            advance(len(messages))
            pace.passed(len(delivered))


def _deliver(again: Replay, ready: Sequence[tuple[Item, Destination]], tally: Tally, delivered: list[Item]) -> None:
    """Deliver what is *ready*, adding to *delivered* what is safe where it goes, if it is not a dry run."""

    def safe(item: Item, to: Destination) -> None:
        delivered.append(item)
        tally.replayed[str(to)] += 1

    if tally.dry_run:
        tally.replayed.update(str(to) for _, to in ready)
    else:
        again.deliver(ready, safe)


def _destination(again: Replay, item: Item, tally: Tally) -> Destination | None:
    try:
        return again.destination(item)
    except CannotReplay as reason:
        tally.left[str(reason)] += 1
        return None
