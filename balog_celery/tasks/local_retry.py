"""Local retries: a task that was handed over waits in its worker for its next attempt, and SQS keeps its message.

The pool's child asks for one with :class:`LocalRetry`. The worker's main process then keeps the task, in one of these
states::

    GIVEN ──────────► RATE_LIMITED      Celery has it for its first attempt. Behind a rate limit it needs no credit.
      │                    │
      ▼                    ▼
    PARKED ◄────────► SCHEDULED         It waits for its retry: without a broker PARKED, else the timer has it.
      ▲                    │
      └──── RETRYING ◄─────┘            Celery has it again.

Every state leads to ``ENDED``: the engine knows the task's outcome, or is gone. :data:`MOVES` lists the allowed moves.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

from celery import Signature
from celery.exceptions import Retry

#: The longest countdown of a local retry, in seconds. A longer one is published.
MAX_COUNTDOWN = 3600.0
#: The same for a task that holds its message group, and cannot be published.
MAX_GROUP_COUNTDOWN = 6 * 3600.0


class LocalState(enum.Enum):
    """Where a task is that was handed to this worker."""

    GIVEN = "Celery has it for its first attempt"
    RATE_LIMITED = "it waits for its rate limit, and needs no credit"
    PARKED = "it waits for its retry, and no timer has it"
    SCHEDULED = "it waits for its retry in the timer"
    RETRYING = "Celery has it for a retry"
    ENDED = "the engine knows its outcome, or is gone"

    @property
    def is_retry(self) -> bool:
        """Whether the task has failed at least once."""
        return self in (LocalState.PARKED, LocalState.SCHEDULED, LocalState.RETRYING)


#: The states that may follow each state.
MOVES: Mapping[LocalState, frozenset[LocalState]] = {
    LocalState.GIVEN: frozenset({LocalState.RATE_LIMITED, LocalState.PARKED, LocalState.ENDED}),
    LocalState.RATE_LIMITED: frozenset({LocalState.PARKED, LocalState.ENDED}),
    LocalState.PARKED: frozenset({LocalState.SCHEDULED, LocalState.ENDED}),
    LocalState.SCHEDULED: frozenset({LocalState.RETRYING, LocalState.PARKED, LocalState.ENDED}),
    LocalState.RETRYING: frozenset({LocalState.PARKED, LocalState.ENDED}),
    LocalState.ENDED: frozenset(),
}


class Remainder(NamedTuple):
    """The events of a batch that are still to be processed; the others are done.

    :param positions: their positions in the batch.
    :param argsrepr: the ``argsrepr`` of their task.
    :param calls: of a chunk that took too long, how many calls were made.
    :param seconds: how long those took together.
    """

    positions: list[int]
    argsrepr: str
    calls: int = 0
    seconds: float = 0.0


class LocalRetry(Retry):  # type: ignore[misc]
    """A retry that is not published: the worker that was handed the task executes it again.

    :param when: in how many seconds.
    :param retries: how often the task will have been retried then.
    :param failure: why it failed permanently, if only its dead letter remains to be made.
    :param remainder: the events of a batch that remain; None: all.
    """

    def __init__(
        self,
        message: Any = None,
        exc: Any = None,
        when: Any = None,
        retries: int = 0,
        failure: str | None = None,
        remainder: Remainder | None = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.retries = retries
        self.failure = failure
        self.remainder = remainder

    def __reduce__(self) -> tuple[Any, ...]:
        # The pool's child pickles it for the worker's main process.
        return type(self), (self.message, self.exc, self.when, self.retries, self.failure, self.remainder)


class LocalSignature(Signature):  # type: ignore[misc]
    """The signature of a local retry."""

    def apply_async(self, *_: Any, **__: Any) -> None:
        """Publish nothing."""
