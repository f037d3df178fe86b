"""Replays that run in the background, with their progress."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from celery import Celery

from ..cli.tally import Tally
from ..dead_letters.reader import DeadLetter
from ..errors import BalogError
from .dead_letters import replay, search_budget

logger = logging.getLogger(__name__)

#: How many jobs run at a time, and how many are kept.
_MAX_RUNNING, _KEPT = 4, 50


class Job:
    """One replay.

    :param number: its number, for its address.
    :param user: who started it.
    :param selected: the dead letters.
    :param rate: the most events per second; None: no limit.
    :param dry_run: whether it only counts what it would do.
    """

    def __init__(
        self, number: int, user: str, selected: Sequence[DeadLetter], rate: float | None, *, dry_run: bool
    ) -> None:
        self.number = number
        self.user = user
        self.message_ids = frozenset(one.message.message_id for one in selected)
        self._events = frozenset((one.consumer, one.id) for one in selected)
        self.rate = rate
        self.tally = Tally(dry_run=dry_run)
        self.budget = search_budget(self.message_ids)
        self.started = datetime.now(timezone.utc)
        self.ended: datetime | None = None

    @property
    def replayed(self) -> int:
        """How many events were sent, or would be."""
        return self.tally.replayed.total()

    @property
    def kept(self) -> dict[str, int]:
        """How many dead letters could not be replayed, by reason."""
        reasons = dict(self.tally.left)
        if self.tally.again:
            reasons["repeats the event and consumer of another: replay again for it"] = self.tally.again
        return reasons

    @property
    def missing(self) -> int:
        """How many dead letters were not found: they are invisible, deleted, or too far back in the queue."""
        return max(0, len(self.message_ids) - self.replayed - sum(self.kept.values()))

    def is_of(self, dead: DeadLetter) -> bool:
        """Return whether it replays the event of *dead*, which may have died again since, in another message."""
        return (dead.consumer, dead.id) in self._events

    def run(self, app: Celery) -> None:
        """Replay, and keep the reason if that fails."""
        try:
            replay(app, self.message_ids, self.tally, self.budget, self.rate)
        except BalogError as error:
            self.tally.stopped = str(error)
        except Exception as error:
            logger.exception("unexpected error in replay %d", self.number)
            self.tally.stopped = f"unexpected error: {type(error).__name__}"
        finally:
            self.ended = datetime.now(timezone.utc)

    def stop(self) -> None:
        """Have it end after the events that it is sending."""
        if self.ended is None:
            self.tally.stopped = "stopped by a user"
            self.budget.stopped = True


class Jobs:
    """The replays of this process.

    :param app: the app whose dead letters they replay.
    :param on_end: called with each job that has ended.
    """

    def __init__(self, app: Celery, on_end: Callable[[Job], None]) -> None:
        self._app = app
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._jobs: OrderedDict[int, Job] = OrderedDict()

    def start(self, user: str, selected: Sequence[DeadLetter], rate: float | None, *, dry_run: bool) -> Job:
        """Start a replay in a thread.

        :raises BalogError: too many run already.
        """
        with self._lock:
            if sum(job.ended is None for job in self._jobs.values()) >= _MAX_RUNNING:
                raise BalogError(f"{_MAX_RUNNING} replays run already: wait for one to end")
            job = Job(next(self._numbers), user, selected, rate, dry_run=dry_run)
            self._jobs[job.number] = job
            while len(self._jobs) > _KEPT:
                self._jobs.popitem(last=False)
        threading.Thread(target=self._run, args=(job,), name=f"replay-{job.number}", daemon=True).start()
        return job

    def _run(self, job: Job) -> None:
        job.run(self._app)
        self._on_end(job)

    def get(self, number: int) -> Job | None:
        """Return the job of that number."""
        return self._jobs.get(number)

    def all(self) -> list[Job]:
        """Return all jobs that are kept, the newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))
