"""Answers how many workers a load needs, what bounds them, and how many calls to SQS they make."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .costs import HAND_OFF, Costs
from .quotas import IN_FLIGHT, MONTH, VISIBILITY
from .simulation import Scenario, simulate
from .sizes import ANY, Size, Wish, choose_size
from .worker import Function

#: What to change first where a part is the limit.
ADVICE = {
    "children": "raise -c, or make the function quicker; a function that only waits is cheaper in a pool of threads",
    "engine": "gather events: batch= or chunk= of the consumer; or start more workers",
    "main process": "gather events: batch= or chunk= of the consumer; or set worker_send_task_events = False",
    "pollers": "raise balog_pollers, or move closer to SQS",
    "acknowledgers": "raise balog_pollers, or move closer to SQS",
    "cores": "give each worker more cores",
    "messages in flight": "split the topic into several queues, or make the function quicker",
}


@dataclass(frozen=True)
class Question:
    """What is asked.

    :param rate: events per second, which arrive at random times.
    :param function: the consumer's.
    :param distance: the round trip to SQS, in seconds.
    :param share: how much of what a worker can do it shall do, 0 to 1.
    :param wish: what is decided of the workers' size.
    :param costs: what an event takes.
    """

    rate: float
    function: Function
    distance: float = 0.0
    share: float = 0.8
    wish: Wish = ANY
    costs: Costs = HAND_OFF


@dataclass(frozen=True)
class Calls:
    """Calls to SQS per second, of all workers."""

    receives: float
    deletes: float
    extensions: float

    @property
    def per_second(self) -> float:
        """Return all of them."""
        return self.receives + self.deletes + self.extensions

    @property
    def per_month(self) -> float:
        """Return how many they are in 30 days."""
        return self.per_second * MONTH


@dataclass(frozen=True)
class Plan:
    """The answer.

    :param workers: how many.
    :param size: the size of each.
    :param capacity: events per second that each can do.
    :param bound: the part that limits them: one of :data:`ADVICE`.
    :param full: the share of its time that each part of a worker is busy when events never end.
    :param busy: the same at the rate that was asked.
    :param latencies: 50, 95 and 99 percent of the events are done after this, in seconds.
    :param in_flight: how many messages are in flight on average, of all workers.
    :param calls: the calls to SQS.
    """

    workers: int
    size: Size
    capacity: float
    bound: str
    full: dict[str, float]
    busy: dict[str, float]
    latencies: tuple[float, float, float]
    in_flight: float
    calls: Calls

    @property
    def advice(self) -> str:
        """Return what to change first."""
        return ADVICE[self.bound]

    @property
    def queues(self) -> int:
        """Return how many queues the messages in flight need."""
        return math.ceil(self.in_flight / IN_FLIGHT)


def make_plan(question: Question, *, events: int = 10_000, seed: int = 1) -> Plan:
    """Answer *question* by two simulations of one worker: of what it can do, and of its share of the rate.

    :param events: how many events each simulation has.
    :param seed: draws the same numbers each time.
    """
    function, costs = question.function, question.costs
    size = choose_size(question.rate, function, costs, question.distance, question.share, question.wish)
    endless = Scenario(
        function,
        costs,
        concurrency=size.concurrency,
        pollers=size.pollers,
        cores=size.cores,
        distance=question.distance,
    )
    full = simulate(endless, events=events, seed=seed)
    workers = math.ceil(question.rate / (question.share * full.throughput))
    found = simulate(replace(endless, rate=question.rate / workers), events=events, seed=seed)
    in_flight = found.in_flight * workers
    # As long as it is in flight, a message needs one of ten entries of a call after each third of its timeout.
    held = found.in_flight / found.throughput
    extensions = in_flight / 10 / (VISIBILITY / 3) if held > VISIBILITY / 3 else 0.0
    bound = max(full.busy, key=full.busy.__getitem__)
    return Plan(
        workers=workers,
        size=size,
        capacity=full.throughput,
        bound="messages in flight" if in_flight > IN_FLIGHT else bound,
        full=full.busy,
        busy=found.busy,
        latencies=(found.percentile(50), found.percentile(95), found.percentile(99)),
        in_flight=in_flight,
        calls=Calls(found.receives * workers, found.deletes * workers, extensions),
    )
