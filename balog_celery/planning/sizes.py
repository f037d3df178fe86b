"""Chooses the size of a worker for a load, by the same costs as the simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..sqs.messages import BATCH_SIZE
from .costs import Costs
from .worker import Function

#: The most children and pollers that are chosen; more may be asked for.
MAX_CHILDREN, MAX_POLLERS = 100, 32


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
class Wish:
    """What a user has decided of a worker's size; None: what suits the load."""

    concurrency: int | None = None
    pollers: int | None = None
    cores: int | None = None


ANY = Wish()


def choose_size(rate: float, function: Function, costs: Costs, distance: float, share: float, wish: Wish) -> Size:
    """Return a size with which the engine or the worker's main process limits the worker, if the rate needs that.

    :param rate: events per second of all workers.
    :param distance: the round trip to SQS, in seconds.
    :param share: how busy a part may be, 0 to 1.
    """
    engine = costs.event + costs.answer + costs.wake + (costs.receive + costs.delete) / BATCH_SIZE
    main = costs.task + costs.turn
    child = costs.child * (2 if function.seconds > function.cpu else 1)
    call = function.seconds + child + main
    aimed = min(rate, share / max(engine, main))
    concurrency = wish.concurrency or min(MAX_CHILDREN, max(2, math.ceil(aimed * call / share)))
    aimed = min(aimed, share * concurrency / call)
    cycle = distance + costs.receive + BATCH_SIZE * costs.event
    pollers = wish.pollers or min(MAX_POLLERS, max(1, math.ceil(aimed * cycle / BATCH_SIZE / share)))
    cores = wish.cores or max(1, math.ceil(aimed * (engine + main + child + function.cpu) / share))
    return Size(concurrency, pollers, cores)
