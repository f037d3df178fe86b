"""The hand-off protocol: the messages of an engine and the worker beside it, over their ``channel``.

Each message is a line of JSON, ``[kind, field, ...]``, and a class here. The engine sends :class:`Task`; all other
messages come from the worker. A job of the engine is known by its number from :class:`Task` until the worker answers
with :class:`Done` or :class:`Released`::

    engine                                  worker
       │ ◄──────────────── Version, Open │   a new channel
       │ Task ─────────────────────────► │   while fewer tasks than the credit are in flight
       │ ◄──────────────────── Waiting   │   it waits for a retry or its rate limit, and needs no credit
       │ ◄─────────────── Done, Released │   its end
       │ ◄──────────────────────── Pace  │   how long the calls of a chunk took
       │ ◄────── Alive, each second      │   while the worker's event loop runs
       │ ◄───────────── Closed, Publish  │   no credit now; none ever

A reader skips kinds that it does not know and fields beyond those that it knows, and new fields have defaults: engine
and worker may be of different releases while an upgrade is under way. :data:`VERSION` is raised if that is not enough.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from ..sqs.messages import BATCH_SIZE

#: The version of the protocol that this release speaks.
VERSION = 1


class Availability(enum.Enum):
    """Whether a worker can be handed tasks."""

    #: It serves the queues that it has named, up to its credit.
    OPEN = "open"
    #: Not now: it has not spoken yet, has lost its broker, or stops.
    CLOSED = "closed"
    #: Never again: the worker has ended, and its engine ends, too.
    GONE = "gone"
    #: Never: its pool is prefork or solo, and it has no event loop. All tasks are published.
    PUBLISH = "publish"


class Task(NamedTuple):
    """Execute a task."""

    number: int
    task_id: str
    name: str
    argsrepr: str
    #: An event's JSON text; for a batch a list of them.
    argument: str | list[str]
    headers: dict[str, Any]


class Version(NamedTuple):
    """The worker speaks this version."""

    version: int


class Open(NamedTuple):
    """Hand me tasks of these queues, up to this many at a time."""

    credit: int
    queues: Sequence[str]
    #: Those that I have consumed and that were cancelled.
    cancelled: Sequence[str] = ()
    #: How many my pool executes at once, as it may grow; 0: unknown.
    size: int = 0

    @property
    def enough(self) -> int:
        """For how many tasks there must be room before the engine's next receive.

        Smaller receives cost as much as one of ten, so there is one when there is room for ten. But no part of the pool
        is idle meanwhile, with long tasks and a prefetch limit that leaves no others.
        """
        idle = self.credit - self.size + 1 if self.size else BATCH_SIZE
        return min(BATCH_SIZE, max(1, self.credit // 2), max(1, idle))


class Closed(NamedTuple):
    """Hand me no tasks now."""


class Publish(NamedTuple):
    """I cannot be handed tasks."""


class Waiting(NamedTuple):
    """The task waits here for a retry or for its rate limit, so it uses no credit."""

    number: int


class Remaining(NamedTuple):
    """Of the batch, only the events at these positions remain; the others are done."""

    number: int
    positions: Sequence[int]


class Done(NamedTuple):
    """The task has ended, and its message may be acknowledged."""

    number: int


class Released(NamedTuple):
    """The task was not executed to its end, and its message must come again."""

    number: int


class Pace(NamedTuple):
    """That number of calls of a consumer's function, one after the other, took this many seconds."""

    name: str
    calls: int
    seconds: float


class Alive(NamedTuple):
    """The worker's event loop runs."""


Message: TypeAlias = Task | Version | Open | Closed | Publish | Waiting | Remaining | Done | Released | Pace | Alive

#: The messages by their kinds on the wire.
KINDS: dict[str, type[Message]] = {
    "task": Task,
    "version": Version,
    "open": Open,
    "closed": Closed,
    "publish": Publish,
    "waiting": Waiting,
    "left": Remaining,
    "done": Done,
    "refused": Released,
    "pace": Pace,
    "alive": Alive,
}
KIND_OF = {message: kind for kind, message in KINDS.items()}
