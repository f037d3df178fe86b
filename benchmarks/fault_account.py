"""The account of a run with faults: the outcome of every event."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_project import Event, event_id_of

from balog_celery.events.mark import read_mark
from balog_celery.tasks.naming import task_id

#: The name under which the default event handler notes what it does.
DEFAULT_HANDLER = "unwanted"
#: A consumer's name, and an event's id.
Pair = tuple[str, str]


@dataclass
class Account:
    """Counts the runs and ends of each expected pair of consumer and event.

    :param ledger: the file to which the consumers add a line for each event that they begin, and that they finish.
    """

    ledger: Path
    expected: set[Pair] = field(default_factory=set)
    kinds: dict[str, str] = field(default_factory=dict)
    runs: Counter[Pair] = field(default_factory=Counter)
    finished: Counter[Pair] = field(default_factory=Counter)
    dead: Counter[Pair] = field(default_factory=Counter)
    ended: set[Pair] = field(default_factory=set)
    #: How many calls got several events.
    batches: int = 0
    #: When each pair was run or ended first and last, in seconds of Unix time.
    times: dict[Pair, tuple[float, float]] = field(default_factory=dict)
    #: The message group of each event that has one, and in which order its events ended.
    groups: dict[str, str] = field(default_factory=dict)
    order: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _read: int = 0

    def send(self, event: Event) -> None:
        """Note an event that is about to be sent."""
        self.kinds[event.id] = event.kind
        if event.group:
            self.groups[event.id] = event.group
        self.expected.update((name, event.id) for name in event.wanted_by)

    def read_ledger(self) -> None:
        """Count the lines that consumers have written since the last call."""
        with self.ledger.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.decode().splitlines():
            what, name, event_id, at = line.split()
            if what == "batch":
                self.batches += 1
                continue
            first, _ = self.times.get((name, event_id), (float(at), 0.0))
            self.times[name, event_id] = (first, float(at))
            if what == "done" and name == "ordered" and (name, event_id) not in self.ended:
                self.order[self.groups[event_id]].append(event_id)
            (self.finished if what == "done" else self.runs)[name, event_id] += 1
            if what == "done":
                self.ended.add((name, event_id))

    def read_dead(self, letters: Iterable[Any]) -> None:
        """Count all dead letters."""
        self.dead.clear()
        for letter in letters:
            attributes = {name: value.get("StringValue") for name, value in letter["attributes"].items()}
            mark = read_mark(attributes)
            # A dead letter names the consumer that failed, or else only a reason.
            name = (mark.get("consumer") or mark["reason"]).rpartition(".")[2]
            name = DEFAULT_HANDLER if name == "default_event_handler" else name
            self.dead[name, event_id_of(letter["body"])] += 1
        self.ended.update(self.dead)

    @property
    def moves(self) -> tuple[int, int]:
        """Return a value that changes whenever a consumer runs or a dead letter is made."""
        return self._read, self.dead.total()

    @property
    def open(self) -> set[Pair]:
        """Return the pairs that have not ended."""
        return self.expected - self.ended

    @property
    def unexpected(self) -> set[Pair]:
        """Return the pairs that should not have ended."""
        return self.ended - self.expected

    @property
    def duplicates(self) -> int:
        """Return how often a pair ended once more than it should."""
        return self.finished.total() + self.dead.total() - len(self.ended)

    @property
    def disordered(self) -> int:
        """Return how many events of the FIFO topic ended first after a later one of their group."""
        numbers = [[int(event_id[1:]) for event_id in order] for order in self.order.values()]
        return sum(later < earlier for group in numbers for earlier, later in itertools.pairwise(group))

    def figures(self, remaining: set[Pair], fallen_through: set[Pair]) -> dict[str, Any]:
        """Return the figures.

        :param remaining: is still in the queue or the broker, and so neither ended nor lost.
        :param fallen_through: was accepted by the broker, and lost between it and the worker: lost all the same.
        """
        lost = self.open - remaining
        return {
            "sent": len(self.kinds),
            "expected": len(self.expected),
            "finished": _by_consumer(self.finished),
            "dead": len(self.dead),
            "dead_by": _by_consumer(self.dead),
            "lost": len(lost),
            "lost_by": _by_consumer(lost),
            "lost_in_transport": len(lost & fallen_through),
            "remaining": len(self.open & remaining),
            "remaining_by": _by_consumer(self.open & remaining),
            "unexpected": len(self.unexpected),
            "duplicates": self.duplicates,
            "disordered": self.disordered,
            # Of one event with one consumer.
            "runs": self.runs.total(),
            "batches": self.batches,
            "most_runs": _most_by_consumer(self.runs),
            "letters": self.dead.total(),
            "most_letters": _most_by_consumer(self.dead),
        }

    def known_of(self, pairs: Sequence[Pair], deleted: Iterable[Any], otherwise: str, log: str) -> list[str]:
        """Return a line for each of *pairs* with what is known about it.

        :param deleted: the messages that were deleted from the topic.
        :param otherwise: where the message of an event is that was not.
        :param log: what the workers and their engines wrote.
        """
        receives = {event_id_of(message["body"]): message["receives"] for message in deleted} if pairs else {}
        tasks = {task_id(event_id, f"proj.consumers.{name}"): (name, event_id) for name, event_id in pairs}
        by_event = {event_id: name for name, event_id in pairs}
        last: dict[Pair, str] = {}
        for line in log.splitlines():
            for task in _TASK_ID.findall(line):
                if task in tasks:
                    last[tasks[task]] = line
            for event_id in _EVENT_ID.findall(line):
                # A line about a batch, a dead letter or a message names no task.
                if (name := by_event.get(event_id)) is not None and f"consumers.{name}" in line:
                    last[name, event_id] = line
        return [
            f"{name} of event {event_id} ({self.kinds[event_id]}): "
            + (
                f"received {receives[event_id]} times and deleted"
                if event_id in receives
                else "never deleted from SQS, or never there"
            )
            + f", run {self.runs[name, event_id]} times; the log's last line on it: "
            + last.get((name, event_id), "none")[:300]
            for name, event_id in pairs
        ]


_TASK_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_EVENT_ID = re.compile(r"\be\d+\b")


def _by_consumer(pairs: Iterable[Pair]) -> dict[str, int]:
    return dict(sorted(Counter(name for name, _ in pairs).items()))


def _most_by_consumer(counts: Counter[Pair]) -> dict[str, int]:
    most: dict[str, int] = {}
    for (name, _), count in sorted(counts.items()):
        most[name] = max(most.get(name, 0), count)
    return most
