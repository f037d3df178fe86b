"""Chooses the size of a worker for a load, by the same costs as the simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..consumers.consumer import BATCH_WAIT
from ..sqs.messages import BATCH_SIZE
from .costs import Costs
from .scenario import Function, Way

#: The most children and pollers that are chosen; more may be asked for.
MAX_CHILDREN, MAX_POLLERS = 100, 32
#: How often the engine and the main process of a busy worker wake up for a task: most of the time it is for several.
_WAKES = 0.5
#: The same of the main process for a published task: it takes each from the broker by itself.
_WAKES_FOR_PUBLISHED = 2.0


@dataclass(frozen=True)
class Size:
    """The size of a worker.

    :param concurrency: its ``-c``.
    :param pollers: ``balog_pollers``.
    :param cores: how many cores it has.
    """

    concurrency: int
    pollers: int
    cores: int


@dataclass(frozen=True)
class GivenSize:
    """What a user gives of a worker's size; None: what the load needs."""

    concurrency: int | None = None
    pollers: int | None = None
    cores: int | None = None


ANY = GivenSize()


@dataclass(frozen=True)
class _Event:
    """What an event takes of each process, in seconds; of a child ``call`` with what it waits, ``child`` without."""

    engine: float
    main: float
    child: float
    call: float


def choose_size(
    rate: float, function: Function, costs: Costs, distance: float, share: float, given: GivenSize, way: Way
) -> Size:
    """Return a size with which the engine or the worker's main process limits the worker, if the rate needs that.

    :param rate: events per second of all workers.
    :param distance: the round trip to SQS, in seconds.
    :param share: how busy a part may be, 0 to 1.
    """
    event = _event(function, costs, way, way.events(function))
    # A FIFO topic has one poller for all of its groups.
    pollers = 1 if way.groups else given.pollers
    cycle = distance + costs.receive + BATCH_SIZE * (costs.gathered if way.gathers else costs.event)
    fetched = (pollers or MAX_POLLERS) * BATCH_SIZE / cycle
    aimed = min(rate, share * fetched, share / max(event.engine, event.main))
    # At a low rate a batch has the events of a moment.
    few = min(way.most, max(1, math.ceil(aimed * BATCH_WAIT))) if way.batch else way.events(function)
    call = _event(function, costs, way, few).call
    concurrency = given.concurrency or min(MAX_CHILDREN, max(2, math.ceil(aimed * call / share)))
    if way.groups and not given.concurrency:  # one message of a group at a time
        concurrency = min(concurrency, max(2, way.groups))
    aimed = min(aimed, share * concurrency / event.call)
    pollers = pollers or min(MAX_POLLERS, max(1, math.ceil(aimed * cycle / BATCH_SIZE / share)))
    # Cores may be busier than each of the processes, between which they move.
    cores = given.cores or max(1, math.ceil(aimed * (event.engine + event.main + event.child) / ((1 + share) / 2)))
    return Size(concurrency, pollers, cores)


def _event(function: Function, costs: Costs, way: Way, together: int) -> _Event:
    """Return what an event costs if *together* events share a task."""
    waking = 0.0 if function.seconds <= function.cpu else costs.read if way.chunk else costs.woken
    calls = 1 / together if way.batch else 1.0
    gathered, carried, read = (costs.gathered, costs.carried, costs.read) if way.gathers else (0.0, 0.0, 0.0)
    # FIFO messages are often deleted alone.
    sqs = (costs.receive + costs.delete) / BATCH_SIZE if not way.groups else costs.receive / BATCH_SIZE + costs.delete
    engine = (costs.event + costs.answer + _WAKES * costs.wake) / together + gathered + sqs
    wakes = _WAKES_FOR_PUBLISHED if way.broker else _WAKES
    main = (costs.task + wakes * costs.turn + costs.broker_wait) / together + carried
    child = costs.child / together + read + calls * (waking + function.cpu)
    call = calls * (function.seconds + waking) + costs.child / together + read + main
    return _Event(engine, main, child, call)
