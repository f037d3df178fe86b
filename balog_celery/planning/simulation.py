"""Runs workers on one machine, reading one queue, until their averages are those of a long time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import simpy

from .broker import SimulatedBroker
from .engine import SimulatedEngine
from .machine import Cores
from .queue import Event, SimulatedFifoQueue, SimulatedQueue
from .scenario import Scenario
from .worker import SimulatedWorker, Task

#: Which part of the events is not counted, as queues and pools fill up meanwhile.
_WARM_UP = 0.2
#: How many full tasks each child has, at least.
_CALLS = 3


@dataclass(frozen=True)
class Outcome:
    """What a simulation has found, of all its workers together.

    :param throughput: events per second whose functions have ended.
    :param receives: receives per second.
    :param deletes: calls that delete, per second.
    :param in_flight: how many messages were in flight, on average.
    :param busy: the share of its time that each part was busy: ``children``, ``engine``, ``main process``,
        ``pollers``, ``acknowledgers``, ``cores``, and ``broker`` if there is one.
    :param latencies: sorted, of all events from their sending to the end of their functions, in seconds.
    """

    throughput: float
    receives: float
    deletes: float
    in_flight: float
    busy: dict[str, float]
    latencies: list[float]

    def percentile(self, percent: float) -> float:
        """Return the latency that *percent* of the events had at most, in seconds."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))]


def simulate(scenario: Scenario, *, events: int = 20_000, seed: int = 1) -> Outcome:
    """Simulate *scenario*.

    :param events: how many events to simulate; more if the pools are so large that these would be but a few tasks
        for each child.
    :param seed: draws the same numbers each time.
    """
    least = _CALLS * scenario.workers * scenario.concurrency * scenario.way.events(scenario.function)
    return _Run(scenario, random.Random(seed)).outcome(max(events, least))


class _Run:
    """One simulation.

    :param scenario: what is simulated.
    :param chance: draws numbers.
    """

    def __init__(self, scenario: Scenario, chance: random.Random) -> None:
        self._scenario, way = scenario, scenario.way
        self._env = env = simpy.Environment()
        self._cores = cores = Cores(env, scenario.cores)
        self._queue = (
            SimulatedFifoQueue(env, scenario.distance, cores, scenario.sqs_cpu, way.groups)
            if way.groups
            else SimulatedQueue(env, scenario.distance, cores, scenario.sqs_cpu)
        )
        self._broker: SimulatedBroker[Task] | None = None
        if way.broker:
            self._broker = SimulatedBroker(env, cores if scenario.is_broker_beside else Cores(env, 1), scenario.costs)
        self._latencies: list[float] = []
        self._milestone = (0, env.event())
        self._pairs: list[tuple[SimulatedEngine, SimulatedWorker]] = []
        for _ in range(scenario.workers):
            worker = SimulatedWorker(env, cores, scenario, chance, self._ended)
            engine = SimulatedEngine(env, cores, scenario, self._queue, worker.give, self._broker)
            if self._broker is None:
                env.process(worker.run(engine.answer))
            else:
                env.process(worker.run(lambda _ended: None))
                env.process(worker.fetch(self._broker))
            engine.start()
            self._pairs.append((engine, worker))
        if scenario.rate is None:
            self._queue.fill()
        else:
            env.process(self._queue.send(scenario.rate, chance))

    def outcome(self, events: int) -> Outcome:
        """Run until *events* have ended; return what was found after the warm-up."""
        self._run_until(int(events * _WARM_UP))
        first, began = len(self._latencies), self._env.now
        calls, before = self._queue.calls.copy(), self._seconds()
        self._run_until(events)
        seconds, after = self._env.now - began, self._seconds()
        spent = {part: (after[part] - before[part]) / seconds for part in after}
        done = self._queue.calls.since(calls)
        scenario = self._scenario
        sizes = {
            "children": scenario.workers * scenario.concurrency,
            "engine": scenario.workers,
            "main process": scenario.workers,
            "pollers": scenario.workers * scenario.pollers,
            "acknowledgers": scenario.workers * scenario.pollers,
            "cores": scenario.cores,
            **({} if self._broker is None else {"broker": 1}),
        }
        return Outcome(
            throughput=(len(self._latencies) - first) / seconds,
            receives=done.receives / seconds,
            deletes=done.deletes / seconds,
            in_flight=spent["messages"],
            busy={part: spent[part] / size for part, size in sizes.items()},
            latencies=sorted(self._latencies[first:]),
        )

    def _run_until(self, events: int) -> None:
        reached: Any = self._env.event()
        self._milestone = (events, reached)
        self._env.run(reached)

    def _ended(self, event: Event) -> None:
        self._latencies.append(self._env.now - event.sent)
        if len(self._latencies) == self._milestone[0]:
            self._milestone[1].succeed()

    def _seconds(self) -> dict[str, float]:
        """Return how long each part was busy until now, and messages in flight."""
        return {
            "children": sum(worker.busy for _, worker in self._pairs),
            "engine": sum(engine.interpreter.busy for engine, _ in self._pairs),
            "main process": sum(worker.main.busy for _, worker in self._pairs),
            "pollers": sum(engine.polling for engine, _ in self._pairs),
            "acknowledgers": sum(engine.deleting() for engine, _ in self._pairs),
            "cores": self._cores.busy,
            "broker": 0.0 if self._broker is None else self._broker.interpreter.busy,
            "messages": self._queue.message_seconds(),
        }
