"""What became of every event: the account at the end of a run with faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_project import WANTED_BY, event_id_of

#: A consumer's name, and an event's id.
Pair = tuple[str, str]


@dataclass
class Account:
    """Which pairs of consumer and event are expected, and which ended, how often and how.

    :param ledger: the file to which the consumers add a line for each event they finished.
    """

    ledger: Path
    expected: set[Pair] = field(default_factory=set)
    finished: Counter[Pair] = field(default_factory=Counter)
    dead: Counter[Pair] = field(default_factory=Counter)
    sent: int = 0
    _read: int = 0

    def send(self, event_id: str, kind: str) -> None:
        """An event is about to be sent."""
        self.sent += 1
        self.expected.update((name, event_id) for name in WANTED_BY[kind])

    def read_ledger(self) -> None:
        """Count what the consumers noted since the last time."""
        with self.ledger.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._read += len(complete)
        for line in complete.decode().splitlines():
            name, event_id = line.split()
            self.finished[name, event_id] += 1

    def read_dead(self, letters: Iterable[Any]) -> None:
        """Count the dead letters: all there are."""
        self.dead.clear()
        for letter in letters:
            attributes = {name: value["StringValue"] for name, value in letter["attributes"].items()}
            # Whoever gave up is named; a body that is no record has but a reason.
            name = attributes.get("consumer", attributes["reason"]).rpartition(".")[2]
            self.dead[name, event_id_of(letter["body"])] += 1

    @property
    def open(self) -> set[Pair]:
        """The pairs that have not ended."""
        return self.expected - self.finished.keys() - self.dead.keys()

    @property
    def unexpected(self) -> set[Pair]:
        """The pairs that ended and never should have been."""
        return (self.finished.keys() | self.dead.keys()) - self.expected

    @property
    def duplicates(self) -> int:
        """How often a pair ended once more than it should."""
        return sum((self.finished + self.dead).values()) - len(self.finished.keys() | self.dead.keys())

    def figures(self, remaining: set[Pair], fallen_through: set[Pair]) -> dict[str, Any]:
        """The result.

        :param remaining: is still in the queue or the broker, and so neither ended nor lost.
        :param fallen_through: was accepted by the broker, and lost between it and the worker: lost all the same.
        """
        return {
            "sent": self.sent,
            "expected": len(self.expected),
            "finished": dict(sorted(Counter(name for name, _ in self.finished).items())),
            "lost": len(self.open - remaining),
            "duplicates": self.duplicates,
            "dead": len(self.dead),
            "dead_by": dict(sorted(Counter(name for name, _ in self.dead).items())),
            "lost_in_transport": len((self.open - remaining) & fallen_through),
            "lost_by": dict(sorted(Counter(name for name, _ in self.open - remaining).items())),
            "remaining": len(self.open & remaining),
            "unexpected": len(self.unexpected),
        }
