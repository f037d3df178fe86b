"""``balog dead drop``: deletes dead letters."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import click
from celery import Celery

from ..dead_letters.reader import DeadLetter
from ..dead_letters.scan import VISIBILITY, QueueScan
from ..errors import BalogError
from ..events.event_filter import EventFilter
from ..sqs.messages import BATCH_SIZE, Message
from ..text import count_of, printable
from . import output
from .dead import consumer_option, dead, topic_option
from .dead_queues import LetterFilter, dead_letter_queues, note_unknown_cls_types, others_text, read_letter
from .events import filter_options
from .export import write_letter
from .group import EX_INTERRUPTED, command, json_option

#: How long the letters may be held before the deletes, in seconds: their receipt handles must still be valid.
_HOLD = VISIBILITY - 120


class Drop:
    """The letters that one ``drop`` has received, and how many of them it deleted."""

    def __init__(self) -> None:
        self.found: list[tuple[QueueScan, Message]] = []
        self.groups: Counter[tuple[str, str]] = Counter()
        self.others = 0
        self.dropped = 0
        self.began = time.monotonic()

    def add(self, scan: QueueScan, letter: DeadLetter) -> None:
        """Take note of a letter to delete; its body is not kept."""
        self.found.append((scan, letter.message._replace(body="")))
        self.groups[letter.consumer or "no consumer", letter.reason or "moved by SQS"] += 1

    def show(self) -> None:
        """Print on stderr what will be deleted."""
        for (consumer, reason), count in sorted(self.groups.items()):
            text = f"{count_of(count, 'dead letter')} of {printable(consumer)}: {printable(reason)}"
            click.echo(f"  {text}", err=True)

    def delete(self) -> None:
        """Delete the letters.

        :raises BalogError: they were received too long ago.
        """
        if time.monotonic() - self.began > _HOLD:
            raise BalogError(f"the letters were held for more than {_HOLD} s, and nothing was deleted: start again")
        for scan in dict.fromkeys(scan for scan, _ in self.found):
            messages = [message for its_scan, message in self.found if its_scan is scan]
            for start in range(0, len(messages), BATCH_SIZE):
                batch = messages[start : start + BATCH_SIZE]
                self.dropped += len(batch) - scan.delete(batch)


@command(dead)
@topic_option
@consumer_option
@filter_options
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--export", type=click.Path(dir_okay=False), help="First write the letters to this new file, which `replay` takes."
)
@json_option
def drop(
    app: Celery,
    topic: str | None,
    consumer: str | None,
    selection: EventFilter,
    dry_run: bool,
    yes: bool,
    export: str | None,
    as_json: bool,
) -> None:
    """Delete dead letters permanently.

    It first prints what it will delete, by consumer and reason, and asks. A letter of which an option cannot be told is
    not deleted: one that does not name its consumer with --consumer, one that holds no event with --cls-type,
    --version, --since or --until. With --export the deletion can be undone: `balog replay FILE` replays each letter to
    the consumer that it failed for.

    \b
    Example:
        celery -A proj balog dead drop --cls-type metrics --until 30d --dry-run
        celery -A proj balog dead drop --consumer process_metrics --export letters.jsonl
    """
    letters = LetterFilter.of(app, topic, consumer, selection)
    note_unknown_cls_types(app, selection)
    work, interrupted = Drop(), False
    with ExitStack() as scans:
        file = None if export is None or dry_run else scans.enter_context(_new_file(export))
        try:
            _find(app, letters, work, scans, file)
            work.show()
            if work.found and not dry_run and (yes or _confirmed(len(work.found))):
                work.delete()
        except KeyboardInterrupt:
            interrupted = True
        except BalogError:
            if work.dropped:
                _report(work, dry_run=dry_run, as_json=as_json)
            raise
    _report(work, dry_run=dry_run, as_json=as_json)
    if interrupted:
        raise SystemExit(EX_INTERRUPTED)
    if work.found and not dry_run and not work.dropped:
        raise SystemExit(1)


def _find(app: Celery, letters: LetterFilter, work: Drop, scans: ExitStack, file: IO[str] | None) -> None:
    """Receive the letters to delete, and keep them invisible to others until *scans* ends."""
    for source in dead_letter_queues(app, letters.topic):
        scan = scans.enter_context(QueueScan(source.queue))
        for messages in scan:
            for letter in (read_letter(app, message, source.home) for message in messages):
                if not letters.matches(app, letter, source.topics):
                    work.others += 1
                    continue
                if file is not None:
                    _written(letter, file)
                work.add(scan, letter)
    if file is not None:
        _written(None, file)


def _written(letter: DeadLetter | None, file: IO[str]) -> None:
    """Write *letter*, or what is left to write.

    :raises BalogError: the file cannot be written.
    """
    try:
        if letter is None:
            file.flush()
        else:
            write_letter(letter, file)
    except OSError as error:
        with suppress(OSError):  # it would be written once more
            file.close()
        raise BalogError(
            f"--export {printable(file.name)} cannot be written: {error.strerror}: nothing was deleted"
        ) from error


def _new_file(name: str) -> IO[str]:
    """Create a file for this user only: it will hold events.

    :raises click.UsageError: it exists, or cannot be created.
    """
    if name == "-":
        raise click.UsageError("--export -: name a file: it must hold the letters before they are deleted")
    path = Path(name)
    try:
        path.touch(mode=0o600, exist_ok=False)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--export {printable(name)}: {error.strerror}") from error


def _confirmed(count: int) -> bool:
    """Ask whether to delete.

    :raises KeyboardInterrupt: the answer is Ctrl-C.
    """
    try:
        return click.confirm(f"Delete {count_of(count, 'dead letter')}?", err=True)
    except click.Abort as error:
        # click turns both Ctrl-C and the end of the input into an Abort.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return False


def _report(work: Drop, *, dry_run: bool, as_json: bool) -> None:
    count = len(work.found) if dry_run else work.dropped
    verb = "would drop" if dry_run else "dropped"
    text = f"{verb} {count_of(count, 'dead letter')}{others_text(work.others)}"
    done = "" if dry_run else text
    if as_json:
        groups = [
            {"consumer": consumer, "reason": reason, "count": number}
            for (consumer, reason), number in sorted(work.groups.items())
        ]
        found = {"dry_run": dry_run, "dropped": count, "not_meant": work.others, "groups": groups}
        output.document(found, done=done)
    else:
        output.echo(text, done=done)
