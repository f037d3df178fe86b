"""Answers how many workers a load needs, what bounds them, and how many calls to SQS they make."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from ..errors import ConfigurationError
from .costs import COSTS
from .quotas import IN_FLIGHT, MONTH, VISIBILITY
from .scenario import SINGLE, Function, Scenario, Way
from .simulation import Outcome, simulate
from .sizes import ANY, GivenSize, Size, choose_size

#: What to change first where a part is the limit.
ADVICE = {
    "children": "raise -c, or make the function quicker; a function that only waits is cheaper in a pool of threads",
    "engine": "gather events: batch= or chunk= of the consumer; or start more workers",
    "main process": "gather events: batch= or chunk= of the consumer; or set worker_send_task_events = False",
    "pollers": "raise balog_pollers, or move closer to SQS",
    "acknowledgers": "raise balog_pollers, or move closer to SQS",
    "cores": "give each worker more cores",
    "messages in flight": "split the topic into several queues, or make the function quicker",
    "broker": "spread consumers over queues on several brokers, gather events, or hand tasks over",
    "message groups": "use more message groups, or make the function quicker",
}
#: The same where it would say something that a worker has already, or cannot have.
_ADVICE_GATHERING = {
    "engine": "start more workers",
    "main process": "gather more events, or set worker_send_task_events = False",
}
_ADVICE_FIFO = {
    "engine": "start more workers",
    "main process": "start more workers, or set worker_send_task_events = False",
    "pollers": "start more workers, or move closer to SQS: a FIFO topic has one poller in each",
    "acknowledgers": "start more workers, or move closer to SQS: a FIFO topic has one acknowledger in each",
}
#: How busy a part of a worker is at least that limits it; if none is, message groups wait for their own events.
_LIMITING = 0.9
#: By how much a worker grows that turned out too small for a rate.
_GROWTH = 1.25


@dataclass(frozen=True)
class Question:
    """What is asked.

    :param rate: events per second, which arrive at random times.
    :param function: the consumer's.
    :param distance: the round trip to SQS, in seconds.
    :param share: the load to plan for, as a fraction of what a worker can do.
    :param given: what the user gives of the workers' size.
    :param way: how events get to the function.
    """

    rate: float
    function: Function
    distance: float = 0.0
    share: float = 0.8
    given: GivenSize = ANY
    way: Way = SINGLE


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
    :param advice: what to change first.
    :param full: the share of its time that each part of a worker is busy when events never end.
    :param busy: the same at the rate that was asked.
    :param latencies: 50, 95 and 99 percent of the events are done after this, in seconds.
    :param in_flight: how many messages are in flight on average, of all workers.
    :param calls: the calls to SQS.
    :param simulated: events per second of the one worker whose latencies and calls these are.
    :param broker_cores: how many cores published tasks need of their broker; 0 if none are published.
    """

    workers: int
    size: Size
    capacity: float
    bound: str
    advice: str
    full: dict[str, float]
    busy: dict[str, float]
    latencies: tuple[float, float, float]
    in_flight: float
    calls: Calls
    simulated: float
    broker_cores: int

    @property
    def queues(self) -> int:
        """Return how many queues the messages in flight need."""
        return math.ceil(self.in_flight / IN_FLIGHT)


def make_plan(question: Question, *, events: int = 10_000, seed: int = 1) -> Plan:
    """Answer *question* by simulations of one worker: of what it can do, and of its share of the rate.

    :param events: how many events each simulation has.
    :param seed: draws the same numbers each time.
    :raises ConfigurationError: no number of workers can do it.
    """
    planner = _Planner(question, events, seed)
    endless, full = planner.worker()
    workers = math.ceil(question.rate / (question.share * full.throughput))
    part = 1 / workers
    if workers > 1 and question.way.groups:
        workers, endless = planner.share_groups(workers, endless)
        full, part = planner.simulate(endless), endless.way.groups / question.way.groups
    found = planner.simulate(replace(endless, rate=question.rate * part))
    in_flight = found.in_flight / part
    # As long as it is in flight, a message needs one of ten entries of a call after each third of its timeout.
    held = found.in_flight / found.throughput
    extensions = in_flight / 10 / (VISIBILITY / 3) if held > VISIBILITY / 3 else 0.0
    broker_cores = math.ceil(found.busy.get("broker", 0.0) / part / question.share)
    bound = max(full.busy, key=full.busy.__getitem__)
    if question.way.groups and full.busy[bound] < _LIMITING:
        bound = "message groups"
    if in_flight > IN_FLIGHT:
        bound = "messages in flight"
    elif broker_cores > 1 and question.way.broker == "redis":  # which has one; RabbitMQ uses several
        bound = "broker"
    return Plan(
        workers=workers,
        size=Size(endless.concurrency, endless.pollers, endless.cores),
        capacity=full.throughput,
        bound=bound,
        advice=_advice(bound, question.way),
        full=full.busy,
        busy=found.busy,
        latencies=(found.percentile(50), found.percentile(95), found.percentile(99)),
        in_flight=in_flight,
        calls=Calls(found.receives / part, found.deletes / part, extensions),
        simulated=question.rate * part,
        broker_cores=broker_cores,
    )


def _advice(bound: str, way: Way) -> str:
    own = _ADVICE_FIFO if way.groups else _ADVICE_GATHERING if way.gathers else {}
    return own.get(bound, ADVICE[bound])


class _Planner:
    """Finds a worker and its capacity.

    :param question: what is asked.
    :param events: how many events each simulation has.
    :param seed: draws the same numbers each time.
    """

    def __init__(self, question: Question, events: int, seed: int) -> None:
        self._question, self._events, self._seed = question, events, seed

    def simulate(self, scenario: Scenario) -> Outcome:
        """Simulate *scenario*."""
        return simulate(scenario, events=self._events, seed=self._seed)

    def worker(self) -> tuple[Scenario, Outcome]:
        """Return the smallest worker that can do the rate, or the largest one, with events that never end."""
        question, rate = self._question, self._question.rate
        largest = self._size(math.inf)
        while True:
            scenario = self._scenario(size := self._size(rate))
            full = self.simulate(scenario)
            if size == largest or question.share * full.throughput >= question.rate:
                return scenario, full
            rate *= _GROWTH

    def share_groups(self, least: int, worker: Scenario) -> tuple[int, Scenario]:
        """Return how many workers can do the rate if they share message groups, and one that has the most groups.

        :param least: how many could if each had all of them.
        :param worker: one of these.
        :raises ConfigurationError: the groups are too few.
        """
        question, groups = self._question, self._question.way.groups

        @cache
        def one_does(count: int) -> float:
            way = replace(question.way, groups=count)
            return question.share * self.simulate(replace(worker, way=way)).throughput if count else 0.0

        def all_do(workers: int) -> float:
            few, more = divmod(groups, workers)
            return (workers - more) * one_does(few) + more * (one_does(few + 1) if more else 0.0)

        if all_do(groups) < question.rate:
            needed = math.ceil(question.rate / one_does(1))
            raise ConfigurationError(
                f"{question.rate:,g} events/s are too many for {groups:,} message groups, each of which handles one "
                f"event at a time: with --share {question.share:g} any number of workers reaches "
                f"{all_do(groups):,.4g} at most; use {needed:,} groups or more, or make the function quicker"
            )
        low = high = min(least, groups)
        while all_do(high) < question.rate:
            low, high = high + 1, min(2 * high, groups)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if all_do(middle) >= question.rate else (middle + 1, high)
        return high, replace(worker, way=replace(question.way, groups=math.ceil(groups / high)))

    def _size(self, rate: float) -> Size:
        asked = self._question
        costs = COSTS[asked.way.broker]
        return choose_size(rate, asked.function, costs, asked.distance, asked.share, asked.given, asked.way)

    def _scenario(self, size: Size) -> Scenario:
        asked = self._question
        return Scenario(
            asked.function,
            COSTS[asked.way.broker],
            concurrency=size.concurrency,
            pollers=size.pollers,
            cores=size.cores,
            distance=asked.distance,
            way=asked.way,
        )
