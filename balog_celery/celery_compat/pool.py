"""Undocumented parts of Celery's pool of processes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from celery.concurrency.asynpool import SCHED_STRATEGY_FAIR, AsynPool


class JobWriter:
    """Writes a job to an idle child as soon as there is one, in the place of the pool's ``on_poll_start``.

    That only has the event loop poll for the pipes of idle children. They are empty, so the poll returns at once, and
    the job is written at the end of the turn. The second turn for each job takes a tenth of the main process's CPU.

    :param pool: gives a child a job only when it is idle, which is Celery's default.
    :param hub: the worker's event loop.
    """

    def __init__(self, pool: AsynPool, hub: Any) -> None:
        self._pool = pool
        self._hub = hub
        self._poll_for_children = pool.on_poll_start

    def __call__(self) -> None:
        """Write jobs, before the loop polls."""
        pool, hub = self._pool, self._hub
        jobs = pool.outbound_buffer
        # Without any of them, writable pipes would make each poll return at once.
        if jobs and (idle := pool._all_inqueues - pool._busy_workers - pool._active_writes):
            hub.consolidate_callback(list(idle)[: len(jobs)])
        # What the loop polls for is left to Celery: pipes that it polls for already, and jobs that are left.
        if hub.consolidate or (jobs and len(pool._busy_workers) < len(pool._all_inqueues)):
            self._poll_for_children()


def write_jobs_at_once(consumer: Any, hub: Any) -> None:
    """Have the pool of *consumer* write its jobs by a :class:`JobWriter`, if it is one of processes.

    Call it whenever the pool has been registered with *hub*, which happens at each connection to the broker. The pool
    adds its ``on_poll_start`` the first time; Celery 5.5 adds another one each time.
    """
    pool = getattr(consumer.pool, "_pool", None)
    if not isinstance(pool, AsynPool) or pool.sched_strategy != SCHED_STRATEGY_FAIR:
        return
    if pool.on_poll_start in hub.on_tick:
        hub.on_tick -= {pool.on_poll_start, *(call for call in hub.on_tick if isinstance(call, JobWriter))}
        hub.on_tick.add(JobWriter(pool, hub))


class ArgumentsFilter(logging.Filter):
    """Leaves arguments out of the line that a pool logs at DEBUG for each task: it has the first KiB of them.

    :param hides: returns whether it does so for the task with a name.
    """

    #: The name of the pools' logger.
    LOGGER = "celery.pool"
    #: The task's name and id.
    _BEGIN = re.compile(r"\('([^']+)', '[^']*', ")

    def __init__(self, hides: Callable[[str], bool]) -> None:
        super().__init__()
        self._hides = hides

    def filter(self, record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("TaskPool: Apply") and isinstance(record.args, tuple):
            function, *rest = record.args
            begin = self._BEGIN.match(str(rest[0])) if rest else None
            if begin is None or self._hides(begin[1]):
                record.args = (function, f"{begin[0] if begin else '('}...)", *rest[1:])
        return True
