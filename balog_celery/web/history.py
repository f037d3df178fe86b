"""What happened to the event of a dead letter, in order of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import NamedTuple

from ..dead_letters.reader import DeadLetter
from .activity import Step
from .jobs import Job


class Entry(NamedTuple):
    """One thing that happened.

    :param time: None: not known.
    :param job: the number of the replay, if it was one.
    """

    time: datetime | None
    text: str
    job: int | None = None


def history_of(dead: DeadLetter, steps: Iterable[Step], jobs: Iterable[Job]) -> list[Entry]:
    """Return what is known.

    :param steps: those of the event's tasks.
    :param jobs: the replays of the event.
    """
    entries = [*_from_message(dead)]
    entries += [
        Entry(step.time, f"Task {step.state} by {step.worker}") for step in steps if step.consumer == dead.consumer
    ]
    entries += [
        Entry(job.started, f"{'Dry run' if job.tally.dry_run else 'Replayed'} by {job.user}", job.number)
        for job in jobs
    ]
    return sorted(entries, key=lambda entry: entry.time or datetime.max.replace(tzinfo=timezone.utc))


def _from_message(dead: DeadLetter) -> Iterator[Entry]:
    if dead.event is not None:
        yield Entry(dead.event.header.timestamp, "Emitted")
    received, count = dead.failure.get("first_received"), dead.failure.get("receive_count")
    if received:
        times = "" if not count else f", received {count} {'time' if str(count) == '1' else 'times'}"
        yield Entry(_time(received), f"First received{times}")
    yield Entry(dead.died, "Became a dead letter")


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(timezone.utc)
    except ValueError:
        return None
