"""What the harness reports: the runs of consumers, dead letters, and events that no consumer wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery.exceptions import Retry

from ..consumers.existing import unwrapped
from ..errors import BalogError, DecodeError
from ..events.records import FacilityRecord


@dataclass(frozen=True)
class Run:
    """What one consumer did with one event, or with one batch."""

    #: The name of its task.
    consumer: str
    #: The event, or the first one of a batch.
    event: FacilityRecord
    #: Celery's state of the task: ``"SUCCESS"``, ``"FAILURE"``, ``"REJECTED"`` or ``"IGNORED"``.
    state: str
    #: What the function returned, or the exception with which it failed permanently.
    result: Any
    #: One for each retry: ``.exc`` is the exception, ``.when`` the countdown in seconds, or the time.
    retries: tuple[Retry, ...] = ()
    #: True if the function was not called, because the consumer has ``once`` and had finished the event before.
    skipped: bool = False
    func: Callable[..., Any] | None = field(default=None, repr=False)
    #: All events of the batch.
    events: tuple[FacilityRecord, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class DeadLetter:
    """An event that ended in failure, as it would be in a dead-letter queue."""

    #: The name of the dead-letter queue.
    queue: str
    body: str
    #: ``"failed"``, ``"undecodable"`` or ``"default_event_handler"``.
    reason: str
    #: The name of the task that failed, or "".
    consumer: str
    #: The exception in one line.
    error: str


@dataclass
class Report:
    """The result of a feed; ``report[consumer]`` is the only run of that consumer."""

    #: The runs of all consumers, in order.
    runs: list[Run] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    #: The bodies of the events that no consumer wants.
    unwanted: list[str] = field(default_factory=list)

    @property
    def ran(self) -> list[str]:
        """The names of the tasks whose functions were called, in order."""
        return [run.consumer for run in self.runs if not run.skipped]

    def of(self, consumer: str | Callable[..., Any]) -> list[Run]:
        """Return the runs of one consumer.

        :param consumer: its function, or its name, with or without the module.
        """
        if callable(consumer):
            return [run for run in self.runs if unwrapped(run.func) is unwrapped(consumer)]
        return [run for run in self.runs if run.consumer == consumer or run.consumer.endswith(f".{consumer}")]

    def __getitem__(self, consumer: str | Callable[..., Any]) -> Run:
        found = self.of(consumer)
        if len(found) != 1:
            runs = ", ".join(run.consumer for run in self.runs) or "no consumer ran"
            name = consumer if isinstance(consumer, str) else consumer.__qualname__
            raise AssertionError(f"{name} ran {len(found)} times, not once ({runs})")
        return found[0]

    def raise_first(self) -> None:
        """Raise the first failure in it, if there is one."""
        for run in self.runs:
            if isinstance(run.result, BaseException) and run.state in ("FAILURE", "REJECTED"):
                raise run.result
        for letter in self.dead_letters:
            if letter.reason == "undecodable":
                raise DecodeError(letter.error)
            raise BalogError(f"the default event handler failed: {letter.error}")
